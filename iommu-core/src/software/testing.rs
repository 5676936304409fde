//! Shortcuts for tests that call a domain in hardware without the core.

use device_model::sync::Arc;

use crate::address::{Iova, PhysAddr, Protection};
use crate::hardware::{Fault, FaultSink, Gather, HardwareDomain, HardwareError};

/// Maps and unmaps whole ranges.
pub(crate) trait Map {
    fn map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        size: u64,
        protection: impl Into<Protection>,
    ) -> Result<(), HardwareError>;

    fn unmap(&self, iova: Iova, size: u64) -> u64;
}

impl Map for dyn HardwareDomain + '_ {
    fn map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        size: u64,
        protection: impl Into<Protection>,
    ) -> Result<(), HardwareError> {
        let none = HardwareError::new(device_model::Errno::EINVAL, "no page tables");
        let (paging, protection) = (self.paging().ok_or(none)?, protection.into());
        let mut done = 0;
        while done < size {
            let (at, to) = (iova.checked_add(done).unwrap(), phys.checked_add(done).unwrap());
            let sizes = paging.geometry().page_sizes;
            let (page, count) = sizes.first_run(at.get() | to.get(), at.get() ^ to.get(), size - done);
            done += page * paging.map_pages(at, to, page, count, protection)? as u64;
        }
        Ok(())
    }

    fn unmap(&self, iova: Iova, size: u64) -> u64 {
        let Some(paging) = self.paging() else { return 0 };
        let (mut gather, page) = (Gather::new(), paging.geometry().page_sizes.smallest());
        let count = usize::try_from(size / page).unwrap();
        let unmapped = paging.unmap_pages(iova, page, count, &mut gather).unwrap();
        paging.flush(&gather).unwrap();
        unmapped
    }
}

/// Ignores faults.
#[derive(Debug)]
pub(crate) struct Unheard;

impl FaultSink for Unheard {
    fn report(&self, _fault: &Fault) {}
}

/// Nobody who hears of faults.
pub(crate) fn unheard() -> Arc<dyn FaultSink> {
    Arc::new(Unheard)
}
