//! Page tables of user space, in a format of this software IOMMU alone.
//!
//! A guest keeps one flat table of 64-bit entries in its memory, entry `n` for the page of 4 KiB that is its address
//! `n` × 4 KiB. Bit 0 of an entry permits reads, bit 1 writes; from bit 12 on stands where the page lies in the address
//! space of the parent domain. Bits 2 to 11 are ignored. An entry of 0 maps nothing.
//!
//! The IOMMU reads an entry when it first needs it, through the parent, and caches what maps something until user space
//! invalidates it ([`Invalidation`]); what maps nothing it reads again each time.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use device_model::Errno;
use device_model::sync::{Arc, LockClass, SpinMutex};

use super::Memory;
use super::domain::Translator;
use super::page_table::Translation;
use crate::address::{Access, Iova, PAGE_SIZE};
use crate::hardware::{FaultReason, HardwareError, UserData};

const STAGE_1_CACHE: LockClass = LockClass::new("cache of page tables of user space", 915);

/// Identifies the format of [`Stage1`], of [`Invalidation`], and of the IOMMU's description.
pub const STAGE_1_FORMAT: u32 = 1;

/// Describes a page table of user space, from which a nested domain is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage1 {
    /// Address in the parent domain; a multiple of 4 KiB.
    pub table: Iova,
    /// Number of its entries.
    pub entries: u64,
}

/// Names the entries of a table that user space has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalidation {
    /// The first entry that has changed.
    pub first: u64,
    /// Number of entries.
    pub entries: u64,
}

/// Returns an entry that maps a page to the page of `to`, an address in the parent.
pub const fn stage_1_entry(to: Iova, access: Access) -> u64 {
    let permissions = match access {
        Access::Read => 1,
        Access::Write => 2,
        Access::ReadWrite => 3,
    };
    to.get() & !(PAGE_SIZE - 1) | permissions
}

impl Stage1 {
    /// Returns the bytes that user space passes: two little-endian numbers of 64 bits.
    pub fn to_bytes(self) -> Vec<u8> {
        pair_to_bytes(self.table.get(), self.entries)
    }

    fn parse(data: UserData<'_>) -> Result<Self, HardwareError> {
        let (table, entries) = parse_pair(data)?;
        let table = Iova::new(table);
        let bytes = entries.checked_mul(8);
        if !table.is_aligned(PAGE_SIZE) || bytes.and_then(|bytes| table.checked_add(bytes)).is_none() {
            return Err(HardwareError::new(Errno::EINVAL, "the table is misaligned, or longer than any memory"));
        }
        Ok(Self { table, entries })
    }
}

impl Invalidation {
    /// Returns the bytes that user space passes: two little-endian numbers of 64 bits.
    pub fn to_bytes(self) -> Vec<u8> {
        pair_to_bytes(self.first, self.entries)
    }
}

fn pair_to_bytes(first: u64, second: u64) -> Vec<u8> {
    first.to_le_bytes().into_iter().chain(second.to_le_bytes()).collect()
}

pub(super) fn check_format(kind: u32) -> Result<(), HardwareError> {
    let unknown = HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU does not know this format");
    if kind == STAGE_1_FORMAT { Ok(()) } else { Err(unknown) }
}

fn parse_pair(data: UserData<'_>) -> Result<(u64, u64), HardwareError> {
    check_format(data.kind)?;
    match data.bytes.as_chunks::<8>() {
        ([first, second], []) => Ok((u64::from_le_bytes(*first), u64::from_le_bytes(*second))),
        _ => Err(HardwareError::new(Errno::EINVAL, "two numbers of 64 bits are wanted")),
    }
}

/// A table of user space, and what the IOMMU has read of it.
#[derive(Debug)]
pub(super) struct NestedTable {
    parent: Arc<Translator>,
    stage1: Stage1,
    /// Held for the whole of an access, so that none under an old entry is on its way when an invalidation returns.
    cache: SpinMutex<BTreeMap<u64, u64>>,
}

impl NestedTable {
    pub(super) fn new(parent: Arc<Translator>, data: UserData<'_>) -> Result<Self, HardwareError> {
        let stage1 = Stage1::parse(data)?;
        Ok(Self { parent, stage1, cache: SpinMutex::of(STAGE_1_CACHE, BTreeMap::new()) })
    }

    pub(super) fn invalidate(&self, entry: UserData<'_>) -> Result<(), HardwareError> {
        let (first, entries) = parse_pair(entry)?;
        let last = first.saturating_add(entries.saturating_sub(1));
        if entries > 0 {
            self.cache.lock().retain(|page, _| !(first..=last).contains(page));
        }
        Ok(())
    }

    pub(super) fn with_translation<R>(
        &self,
        iova: Iova,
        wanted: Access,
        memory: &Memory,
        touch: impl FnOnce(Translation) -> R,
    ) -> Result<R, FaultReason> {
        let mut cache = self.cache.lock();
        let page = iova.get() / PAGE_SIZE;
        let entry = match cache.get(&page) {
            Some(entry) => *entry,
            None => self.read_entry(page, memory)?,
        };
        let access = match entry & 3 {
            0 => return Err(FaultReason::NotMapped),
            1 => Access::Read,
            2 => Access::Write,
            _ => Access::ReadWrite,
        };
        cache.insert(page, entry);
        if !access.permits(wanted) {
            return Err(FaultReason::NotPermitted);
        }
        let inside = iova.get() % PAGE_SIZE;
        let to = Iova::new(entry & !(PAGE_SIZE - 1) | inside);
        self.parent.with_paging(to, wanted, |translation| {
            touch(Translation { remaining: translation.remaining.min(PAGE_SIZE - inside), ..translation })
        })
    }

    fn read_entry(&self, page: u64, memory: &Memory) -> Result<u64, FaultReason> {
        if page >= self.stage1.entries {
            return Err(FaultReason::BeyondAperture);
        }
        let at = self.stage1.table.checked_add(page * 8).ok_or(FaultReason::BeyondAperture)?;
        let bytes = self.parent.with_paging(at, Access::Read, |translation| memory.bytes::<8>(translation.phys))?;
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
