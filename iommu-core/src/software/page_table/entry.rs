//! One entry of a page table, packed as hardware does.

use crate::address::Access;

/// An entry in 64 bits: bits 0 and 1 permit reads and writes and mark a page, bit 2 marks a table, bit 3 a page
/// that was written, and from bit 12 on stands the page's physical address or the table's number. All bits clear: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry(u64);

/// What an [`Entry`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Empty,
    Table(usize),
    Page { phys: u64, access: Access },
}

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const TABLE: u64 = 1 << 2;
const DIRTY: u64 = 1 << 3;
const ADDRESS_SHIFT: u32 = 12;

impl Entry {
    pub(super) const EMPTY: Self = Self(0);

    pub(super) const fn table(number: usize) -> Self {
        Self((number as u64) << ADDRESS_SHIFT | TABLE)
    }

    /// `phys` is a multiple of 4 KiB.
    pub(super) const fn page(phys: u64, access: Access) -> Self {
        let permissions = match access {
            Access::Read => READ,
            Access::Write => WRITE,
            Access::ReadWrite => READ | WRITE,
        };
        Self(phys | permissions)
    }

    /// The same page, written.
    pub(super) const fn dirtied(self) -> Self {
        Self(self.0 | DIRTY)
    }

    /// The same page, not written.
    pub(super) const fn cleaned(self) -> Self {
        Self(self.0 & !DIRTY)
    }

    pub(super) const fn is_dirty(self) -> bool {
        self.0 & DIRTY != 0
    }

    pub(super) const fn kind(self) -> Kind {
        if self.0 & TABLE != 0 {
            return Kind::Table((self.0 >> ADDRESS_SHIFT) as usize);
        }
        let access = match self.0 & (READ | WRITE) {
            0 => return Kind::Empty,
            READ => Access::Read,
            WRITE => Access::Write,
            _ => Access::ReadWrite,
        };
        Kind::Page { phys: self.0 >> ADDRESS_SHIFT << ADDRESS_SHIFT, access }
    }
}
