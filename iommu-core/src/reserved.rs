//! Reserved regions: IOVA ranges that a device cannot use for mappings.

use alloc::vec::Vec;
use core::fmt;

use crate::address::Iova;

/// Type of a reserved region, in the order in which sysfs sorts regions of one address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RegionKind {
    /// Direct mapping that firmware relies on at all times: the device can never be blocked, so its group can never be
    /// claimed.
    Direct,
    /// As [`Direct`](Self::Direct), but only for the kernel's default domain: a claim may drop the mapping.
    DirectRelaxable,
    /// No mapping may be made here.
    Reserved,
    /// MSI window in hardware: writes here raise interrupts.
    Msi,
    /// MSI window at an address chosen by software. sysfs shows it as `msi`.
    SoftwareMsi,
}

impl RegionKind {
    /// Returns the name in sysfs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectRelaxable => "direct-relaxable",
            Self::Reserved => "reserved",
            Self::Msi | Self::SoftwareMsi => "msi",
        }
    }
}

impl fmt::Display for RegionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A reserved region of a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ReservedRegion {
    /// First address.
    pub first: Iova,
    /// Type of the region.
    pub kind: RegionKind,
    /// Last address, inclusive.
    pub last: Iova,
}

impl fmt::Display for ReservedRegion {
    /// Writes a line of sysfs's `reserved_regions`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x} {:#018x} {}", self.first.get(), self.last.get(), self.kind)
    }
}

/// Merges the regions of several devices into one list, sorted by start and type. Regions of one type that overlap or
/// touch are joined; regions of different types stay separate.
pub fn merge(regions: impl IntoIterator<Item = ReservedRegion>) -> Vec<ReservedRegion> {
    let mut merged: Vec<ReservedRegion> = regions.into_iter().collect();
    // The devices of a group mostly have the same.
    merged.dedup();
    if merged.len() < 2 {
        return merged;
    }
    merged.sort_unstable_by_key(|region| (region.kind, region.first));
    merged.dedup_by(|region, earlier| {
        let joins = region.kind == earlier.kind && region.first.get() <= earlier.last.get().saturating_add(1);
        if joins {
            earlier.last = earlier.last.max(region.last);
        }
        joins
    });
    merged.sort_unstable();
    merged
}
