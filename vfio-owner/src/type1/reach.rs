//! What the groups of a container can all address.

use alloc::vec::Vec;

use iommu_core::IovaRange;
use iommu_core::address::{Geometry, PAGE_SIZE, PageSizes};
use iommu_core::reserved::{RegionKind, ReservedRegion};

/// The addresses that a domain translates.
pub(super) fn aperture(geometry: &Geometry) -> Option<IovaRange> {
    IovaRange::new(geometry.first, geometry.last)
}

/// Where nothing may be mapped for a group: its reserved regions, but for those that user space may drop.
pub(super) fn forbidden(regions: Vec<ReservedRegion>) -> Vec<ReservedRegion> {
    regions.into_iter().filter(|region| region.kind != RegionKind::DirectRelaxable).collect()
}

pub(super) fn range_of(region: &ReservedRegion) -> Option<IovaRange> {
    IovaRange::new(region.first, region.last)
}

/// What is in every aperture and in no hole, ascending.
pub(super) fn allowed(
    apertures: impl Iterator<Item = IovaRange>,
    holes: impl Iterator<Item = IovaRange>,
) -> Vec<IovaRange> {
    let mut whole = Some(IovaRange::ALL);
    for aperture in apertures {
        whole = whole.and_then(|whole| whole.intersection(aperture));
    }
    whole.map_or_else(Vec::new, |whole| whole.without(holes))
}

/// The page sizes that all domains have; a size below that of the CPU serves as that.
// V49.
pub(super) fn page_sizes(of_domains: impl Iterator<Item = PageSizes>) -> PageSizes {
    let common = of_domains.fold(u64::MAX, |common, sizes| common & sizes.bitmap());
    let whole = common & !(PAGE_SIZE - 1);
    let smaller = if common == whole { 0 } else { PAGE_SIZE };
    PageSizes::from_bitmap(whole | smaller).unwrap_or(PageSizes::X86)
}

#[cfg(all(test, not(shuttle)))]
mod tests;
