//! One entry of a page table, packed as hardware does.

use crate::address::Protection;

/// An entry in 64 bits: the low bits hold the [`Protection`] of a page, then one bit each for a table and for a page that was
/// written, and from bit 12 on stands the page's physical address or the table's number. All bits clear: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry(u64);

/// What an [`Entry`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Empty,
    Table(usize),
    Page { phys: u64, protection: Protection },
}

const TABLE: u64 = 1 << 10;
const DIRTY: u64 = 1 << 11;
const ADDRESS_SHIFT: u32 = 12;

const _: () = assert!((Protection::all().bits() as u64) < TABLE, "protection, table and dirty bits are apart");

impl Entry {
    pub(super) const EMPTY: Self = Self(0);

    pub(super) const fn table(number: usize) -> Self {
        Self((number as u64) << ADDRESS_SHIFT | TABLE)
    }

    /// `phys` is a multiple of 4 KiB, and `protection` not empty.
    pub(super) const fn page(phys: u64, protection: Protection) -> Self {
        Self(phys | protection.bits() as u64)
    }

    /// The same page, written.
    pub(super) const fn dirtied(self) -> Self {
        Self(self.0 | DIRTY)
    }

    /// The same page, not written.
    pub(super) const fn cleaned(self) -> Self {
        Self(self.0 & !DIRTY)
    }

    /// Whether a page is mapped here.
    #[inline]
    pub(super) const fn is_page(self) -> bool {
        matches!(self.kind(), Kind::Page { .. })
    }

    /// Which of up to 64 entries are of pages that were written, a bit each.
    pub(super) fn dirty(entries: &[Self]) -> u64 {
        // Most often none is.
        if entries.iter().fold(0, |all, entry| all | entry.0) & DIRTY == 0 {
            return 0;
        }
        // A loop of known length becomes comparisons of several entries at once.
        let (chunks, rest) = entries.as_chunks::<32>();
        chunks.iter().rev().fold(bits(rest), |after, entries| after << 32 | bits(entries))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
    #[inline]
    pub(super) const fn kind(self) -> Kind {
        if self.0 & TABLE != 0 {
            return Kind::Table((self.0 >> ADDRESS_SHIFT) as usize);
        }
        let protection = Protection::from_bits_truncate(self.0 as u32);
        if protection.is_empty() {
            return Kind::Empty;
        }
        Kind::Page { phys: self.0 >> ADDRESS_SHIFT << ADDRESS_SHIFT, protection }
    }
}

/// Which of these entries are of pages that were written, a bit each.
#[inline]
fn bits(entries: &[Entry]) -> u64 {
    entries.iter().enumerate().fold(0, |bits, (n, entry)| bits | u64::from(entry.0 & DIRTY != 0) << n)
}
