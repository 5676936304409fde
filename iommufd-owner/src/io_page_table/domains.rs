//! The domains that show an address space: everything is shown in each of them, or it is not there.

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::{Domain, IovaRange};

use super::area::Filler;
use super::{IoPageTable, MapError, RangeError, ReservedFor};
use crate::hwpt::Coherency;
use crate::object_id::ObjectId;

/// A domain that shows the address space.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) domain: Arc<Domain>,
    pub(super) coherency: Coherency,
    /// Its smallest page.
    granule: u64,
}

impl IoPageTable {
    /// Shows everything in one more domain, or leaves all as it was.
    // F53.
    pub(crate) fn add_domain(
        &mut self,
        id: ObjectId,
        domain: &Arc<Domain>,
        coherency: Coherency,
    ) -> Result<(), AddDomainError> {
        let geometry = domain.geometry().ok_or(AddDomainError::NotPaging)?;
        let granule = geometry.page_sizes.smallest();
        if granule > PAGE_SIZE {
            return Err(AddDomainError::PagesTooLarge { smallest: granule });
        }
        if let Some(area) = self.violates(granule) {
            return Err(AddDomainError::Range(RangeError::Mapped { range: area }));
        }
        let aperture = IovaRange::new(geometry.first, geometry.last).ok_or(AddDomainError::NotPaging)?;
        let outside = IovaRange::ALL.without([aperture]);
        self.reserve(outside, ReservedFor::Domain(id)).map_err(AddDomainError::Range)?;
        let mut adding =
            Adding { table: self, id, shown: Some(Shown { domain: domain.clone(), coherency, granule }), filled: 0 };
        adding.fill().map_err(AddDomainError::Map)?;
        adding.commit();
        Ok(())
    }

    /// Takes everything out of a domain, and unpins it if that was the last.
    // F54.
    pub(crate) fn remove_domain(&mut self, id: ObjectId) {
        let Some(shown) = self.domains.remove(&id) else { return };
        if let Some(count) = self.granules.get_mut(&shown.granule) {
            *count -= 1;
            if *count == 0 {
                self.granules.remove(&shown.granule);
            }
        }
        self.unreserve(ReservedFor::Domain(id));
        self.empty(&shown, usize::MAX);
    }

    /// Takes the first `count` areas out of a domain, and unpins all if no other shows them.
    fn empty(&mut self, shown: &Shown, count: usize) {
        let last = self.domains.is_empty();
        let ranges: Vec<IovaRange> = self.areas.iter().map(|(range, _)| range).collect();
        for (done, range) in ranges.into_iter().enumerate() {
            let Some((_, area)) = self.areas.get_mut(range.first()) else { continue };
            if done < count {
                area.unmap(range, core::iter::once(shown));
            }
            if last {
                area.unpin();
            }
        }
    }
}

/// A domain in which not everything is shown yet. Dropping it before [`commit`](Self::commit) takes out what is, also when
/// memory or the IOMMU driver unwinds.
struct Adding<'a> {
    table: &'a mut IoPageTable,
    id: ObjectId,
    /// `None` once it was added.
    shown: Option<Shown>,
    /// In how many areas it shows.
    filled: usize,
}

impl Adding<'_> {
    fn fill(&mut self) -> Result<(), MapError> {
        let IoPageTable { areas, memory, large_pages, .. } = &mut *self.table;
        let ranges: Vec<IovaRange> = areas.iter().map(|(range, _)| range).collect();
        for range in ranges {
            let Some((_, area)) = areas.get_mut(range.first()) else { continue };
            area.map(range, self.shown.iter(), Filler { memory, large_pages: *large_pages })?;
            self.filled += 1;
        }
        Ok(())
    }

    fn commit(mut self) {
        if let Some(shown) = self.shown.take() {
            *self.table.granules.entry(shown.granule).or_default() += 1;
            self.table.domains.insert(self.id, shown);
        }
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        if let Some(shown) = self.shown.take() {
            self.table.unreserve(ReservedFor::Domain(self.id));
            self.table.empty(&shown, self.filled);
        }
    }
}

/// Why an address space does not show itself in a domain.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddDomainError {
    /// The domain has no page tables.
    #[error("the domain has no page tables")]
    NotPaging,
    /// Its smallest page is larger than the CPU's.
    #[error("the domain's smallest page is of {smallest:#x} bytes")]
    PagesTooLarge {
        /// That page.
        smallest: u64,
    },
    /// A mapping is not aligned for it, or it does not reach what is mapped or allowed.
    #[error(transparent)]
    Range(RangeError),
    /// What is mapped could not be mapped in it.
    #[error(transparent)]
    Map(MapError),
}

impl AddDomainError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotPaging | Self::PagesTooLarge { .. } => Errno::EINVAL,
            Self::Range(error) => error.errno(),
            Self::Map(error) => error.errno(),
        }
    }
}
