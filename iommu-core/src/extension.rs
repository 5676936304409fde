//! What user space asks of the interface to an IOMMU: its type and its features, by number.

use core::fmt;

/// A type of IOMMU, or a feature of one, as user-space drivers ask for it. Both share one space of numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extension(u32);

macro_rules! extensions {
    ($($name:ident = $number:literal, $word:literal, $text:literal;)*) => {
        impl Extension {
            $(#[doc = $text] pub const $name: Self = Self($number);)*

            const fn word(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($word),)*
                    _ => None,
                }
            }
        }
    };
}

extensions! {
    TYPE1 = 1, "type1", "The IOMMU of x86 and ARM; unmaps whole mappings, whatever was asked for.";
    SPAPR = 2, "spapr", "The IOMMU of POWER.";
    TYPE1_V2 = 3, "type1v2", "[`TYPE1`](Self::TYPE1) whose unmaps never cut a mapping.";
    DMA_CC = 4, "dma-cc", "All DMA is coherent with CPU caches.";
    EEH = 5, "eeh", "Error recovery of POWER.";
    NESTING = 6, "nesting", "Two stages of translation.";
    SPAPR_V2 = 7, "spaprv2", "[`SPAPR`](Self::SPAPR) with memory registered beforehand.";
    NO_IOMMU = 8, "noiommu", "No IOMMU at all: unsafe.";
    UNMAP_ALL = 9, "unmap-all", "One call can unmap everything.";
    UPDATE_VADDR = 10, "update-vaddr", "Mappings can move to another process.";
}

impl Extension {
    /// Creates the extension of this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.word() {
            Some(word) => f.write_str(word),
            None => write!(f, "extension {}", self.0),
        }
    }
}

impl fmt::Debug for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
