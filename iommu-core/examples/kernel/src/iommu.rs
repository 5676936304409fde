//! The IOMMU of this machine, and its driver.
//!
//! Hardware looks for each transaction at a table in memory: the requester reaches all memory, or none. Hardware with page
//! tables would have domains with the role `Paging` besides.

use alloc::boxed::Box;
use alloc::sync::Arc;

use device_model::Errno;
use device_model::sync::atomic::{AtomicBool, Ordering};
use iommu_core::hardware::{
    DomainKind, Endpoint, EndpointProperties, FaultSink, HardwareDomain, HardwareError, IommuDriver,
};

use crate::board::Chip;

/// The table, by requester.
static PASSES: [AtomicBool; 8] = [const { AtomicBool::new(false) }; 8];

/// What the hardware does with a transaction.
pub fn passes(requester: usize) -> bool {
    PASSES.get(requester).is_some_and(|entry| entry.load(Ordering::Acquire))
}

fn set(dev: &Endpoint, passes: bool) -> Result<(), HardwareError> {
    let entry = dev.description::<Chip>().and_then(|chip| PASSES.get(chip.requester));
    let entry = entry.ok_or(HardwareError::new(Errno::ENODEV, "no such requester"))?;
    entry.store(passes, Ordering::Release);
    Ok(())
}

/// The driver of the IOMMU.
#[derive(Debug)]
pub struct Gate;

impl IommuDriver for Gate {
    fn name(&self) -> &str {
        "gate"
    }

    fn probe(&self, dev: &Endpoint, _faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        set(dev, false)?;
        Ok(EndpointProperties::default())
    }

    fn release(&self, dev: &Endpoint) {
        // It was known when it was probed.
        let _ = set(dev, false);
    }

    fn allocate(&self, kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        match kind {
            DomainKind::Blocking => Ok(Box::new(Domain { passes: false })),
            DomainKind::Identity => Ok(Box::new(Domain { passes: true })),
            _ => Err(HardwareError::new(Errno::EOPNOTSUPP, "there are no page tables")),
        }
    }

    fn block(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        set(dev, false)
    }
}

#[derive(Debug)]
struct Domain {
    passes: bool,
}

impl HardwareDomain for Domain {
    /// Called with the group lock held, and so with interrupts off: one store.
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        set(dev, self.passes)
    }
}
