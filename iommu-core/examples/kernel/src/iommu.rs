//! The IOMMU of this machine, and its driver.
//!
//! Its table has an entry for each requester: all memory, or none. Hardware with page tables would have domains with the
//! role `Paging` besides.

use alloc::boxed::Box;
use alloc::sync::Arc;

use device_model::Errno;
use device_model::sync::atomic::{AtomicBool, Ordering};
use iommu_core::hardware::{
    DomainKind, Endpoint, EndpointProperties, FaultSink, HardwareDomain, HardwareError, IommuDriver,
};

use crate::board::Chip;

const REQUESTERS: usize = 8;

/// What hardware looks at for each transaction: whether that requester's pass.
#[derive(Debug)]
pub struct Table([AtomicBool; REQUESTERS]);

impl Table {
    /// What the hardware does with a transaction.
    pub fn passes(&self, requester: usize) -> bool {
        self.0.get(requester).is_some_and(|entry| entry.load(Ordering::Acquire))
    }

    fn set(&self, dev: &Endpoint, passes: bool) -> Result<(), HardwareError> {
        let chip = dev.description::<Chip>().and_then(|chip| self.0.get(chip.requester));
        let entry = chip.ok_or(HardwareError::new(Errno::ENODEV, "no such requester"))?;
        entry.store(passes, Ordering::Release);
        Ok(())
    }
}

/// The driver of the IOMMU.
#[derive(Debug)]
pub struct Gate(pub Arc<Table>);

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new(Table([const { AtomicBool::new(false) }; REQUESTERS])))
    }
}

impl IommuDriver for Gate {
    fn name(&self) -> &str {
        "gate"
    }

    fn probe(&self, dev: &Endpoint, _faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        self.0.set(dev, false)?;
        Ok(EndpointProperties::default())
    }

    fn release(&self, dev: &Endpoint) {
        // It was known when it was probed.
        let _ = self.0.set(dev, false);
    }

    fn allocate(&self, kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let passes = match kind {
            DomainKind::Blocking => false,
            DomainKind::Identity => true,
            _ => return Err(HardwareError::new(Errno::EOPNOTSUPP, "there are no page tables")),
        };
        Ok(Box::new(Domain { table: self.0.clone(), passes }))
    }

    fn block(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        self.0.set(dev, false)
    }
}

#[derive(Debug)]
struct Domain {
    table: Arc<Table>,
    passes: bool,
}

impl HardwareDomain for Domain {
    /// Called with the group lock held, and so with interrupts off: one store.
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        self.table.set(dev, self.passes)
    }
}
