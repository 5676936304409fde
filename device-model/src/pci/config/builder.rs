//! Builder for configuration spaces.

use alloc::vec;

use super::{Acs, AcsBits, ConfigSpace, EXTENDED, LONGEST, PortType, at, write};

/// Where the builder puts the capabilities, each with room enough for the largest form.
const PCI_EXPRESS: u8 = 0x40;
const MSI: u8 = 0x80;
const MSIX: u8 = 0xa0;

const INTERRUPT_PIN: u16 = 0x3d;
/// Of the device capabilities of PCI Express.
const FUNCTION_LEVEL_RESET: u32 = 1 << 28;

/// Builds a [`ConfigSpace`]. Unset fields are zero: a conventional endpoint, alone in its slot.
#[derive(Clone, Debug, Default)]
pub struct ConfigBuilder {
    vendor: u16,
    device: u16,
    subsystem: Option<(u16, u16)>,
    class: u32,
    revision: u8,
    header_type: u8,
    buses: Option<(u8, u8)>,
    interrupt_pin: u8,
    port_type: Option<PortType>,
    function_level_reset: bool,
    msi: Option<u8>,
    msix: Option<(u16, u8)>,
    acs: Option<Acs>,
}

impl ConfigBuilder {
    /// Sets vendor and device id.
    #[must_use]
    pub const fn ids(mut self, vendor: u16, device: u16) -> Self {
        self.vendor = vendor;
        self.device = device;
        self
    }

    /// Sets subsystem vendor id and subsystem id. Ignored for a bridge, whose header has no such fields.
    #[must_use]
    pub const fn subsystem(mut self, vendor: u16, device: u16) -> Self {
        self.subsystem = Some((vendor, device));
        self
    }

    /// Sets the class, 24 bits; higher bits are cut off.
    #[must_use]
    pub const fn class(mut self, class: u32) -> Self {
        self.class = class;
        self
    }

    /// Sets the revision.
    #[must_use]
    pub const fn revision(mut self, revision: u8) -> Self {
        self.revision = revision;
        self
    }

    /// Sets the multifunction bit.
    #[must_use]
    pub const fn multifunction(mut self) -> Self {
        self.header_type |= at::MULTIFUNCTION;
        self
    }

    /// Turns it into a bridge (also its class, unless [`class`](Self::class) is called later) with secondary bus
    /// `secondary` and subordinate bus `subordinate`.
    #[must_use]
    pub const fn bridge(mut self, secondary: u8, subordinate: u8) -> Self {
        self.header_type |= 1;
        self.buses = Some((secondary, subordinate));
        self.class = 0x06_0400;
        self
    }

    /// Adds the PCI Express capability.
    #[must_use]
    pub const fn pcie(mut self, port_type: PortType) -> Self {
        self.port_type = Some(port_type);
        self
    }

    /// Adds a function-level reset to the PCI Express capability. Ignored without [`pcie`](Self::pcie).
    #[must_use]
    pub const fn function_level_reset(mut self) -> Self {
        self.function_level_reset = true;
        self
    }

    /// Sets the interrupt pin: 1 to 4 for INTA to INTD, 0 for none.
    #[must_use]
    pub const fn interrupt_pin(mut self, pin: u8) -> Self {
        self.interrupt_pin = pin;
        self
    }

    /// Adds the MSI capability with room for `vectors` interrupts, rounded up to a power of two; at most 32.
    #[must_use]
    pub const fn msi(mut self, vectors: u8) -> Self {
        self.msi = Some(vectors);
        self
    }

    /// Adds the MSI-X capability with a table of `vectors` interrupts, 1 to 2048, at the beginning of BAR `bar`; the
    /// pending bits follow the table.
    #[must_use]
    pub const fn msix(mut self, vectors: u16, bar: u8) -> Self {
        self.msix = Some((vectors, bar));
        self
    }

    /// Adds the ACS capability: services that are implemented, and those enabled.
    #[must_use]
    pub const fn acs(mut self, capability: AcsBits, control: AcsBits) -> Self {
        self.acs = Some(Acs { capability, control });
        self
    }

    /// Builds the configuration space: 4096 bytes with PCI Express or ACS, else 256.
    pub fn build(self) -> ConfigSpace {
        let length = if self.port_type.is_some() || self.acs.is_some() { LONGEST } else { 256 };
        let mut bytes = vec![0; length];
        write(&mut bytes, 0x00, &self.vendor.to_le_bytes());
        write(&mut bytes, 0x02, &self.device.to_le_bytes());
        // The class stands above the revision's byte in one double word.
        write(&mut bytes, at::REVISION, &(self.class << 8 | u32::from(self.revision)).to_le_bytes());
        write(&mut bytes, at::HEADER_TYPE, &[self.header_type]);
        if let Some((secondary, subordinate)) = self.buses {
            write(&mut bytes, at::SECONDARY_BUS, &[secondary, subordinate]);
        } else if let Some((vendor, device)) = self.subsystem {
            write(&mut bytes, at::SUBSYSTEM, &vendor.to_le_bytes());
            write(&mut bytes, at::SUBSYSTEM + 2, &device.to_le_bytes());
        }
        write(&mut bytes, INTERRUPT_PIN, &[self.interrupt_pin]);
        self.write_capabilities(&mut bytes);
        if let Some(acs) = self.acs {
            // The last of the list; version 1 of the capability.
            write(&mut bytes, EXTENDED, &(1 << 16 | u32::from(at::EXT_CAP_ACS)).to_le_bytes());
            write(&mut bytes, EXTENDED + 4, &acs.capability.bits().to_le_bytes());
            write(&mut bytes, EXTENDED + 6, &acs.control.bits().to_le_bytes());
        }
        ConfigSpace::new(bytes)
    }

    fn write_capabilities(&self, bytes: &mut [u8]) {
        // A pointer to the next capability: that of the header first, then that of each capability.
        let mut pointer = at::CAPABILITIES;
        let mut list = |bytes: &mut [u8], offset: u8, id: u8| {
            write(bytes, at::STATUS, &at::STATUS_HAS_CAPABILITIES.to_le_bytes());
            write(bytes, pointer, &[offset]);
            write(bytes, offset.into(), &[id]);
            pointer = u16::from(offset) + 1;
            u16::from(offset)
        };
        if let Some(port_type) = self.port_type {
            let offset = list(bytes, PCI_EXPRESS, at::CAP_PCI_EXPRESS);
            // Version 2 of the capability.
            write(bytes, offset + 2, &[port_type.code() << 4 | 2]);
            if self.function_level_reset {
                write(bytes, offset + 4, &FUNCTION_LEVEL_RESET.to_le_bytes());
            }
        }
        if let Some(vectors) = self.msi {
            let offset = list(bytes, MSI, at::CAP_MSI);
            let exponent = vectors.clamp(1, 32).next_power_of_two().trailing_zeros();
            write(bytes, offset + 2, &(exponent << 1).to_le_bytes()[..2]);
        }
        if let Some((vectors, bar)) = self.msix {
            let offset = list(bytes, MSIX, at::CAP_MSIX);
            let vectors = vectors.clamp(1, 2048);
            write(bytes, offset + 2, &(vectors - 1).to_le_bytes());
            write(bytes, offset + 4, &u32::from(bar & 7).to_le_bytes());
            write(bytes, offset + 8, &((u32::from(vectors) * 16) | u32::from(bar & 7)).to_le_bytes());
        }
    }
}
