//! The design that ships: the driver core of `device-model`, the groups of `iommu-core`.

use std::sync::Arc;

use device_model::{DmaConfigure, ProbeError};
use iommu_core::hardware::{
    DomainKind, Endpoint, EndpointProperties, FaultSink, HardwareDomain, HardwareError, IommuDriver,
};
use iommu_core::{
    Attached, Claim, ClaimError, Group, IommuSubsystem, KernelUse, Member, MemberSlot, Owner, Ownership, Transition,
    generic_single_device_group,
};

use crate::design::{A, B, Design, Kind, Refusal};
use crate::machine::{self, Binding, Machine, Prepared};
use crate::stage::{self, Reach};

/// An IOMMU that does as it is told, and tells the stage.
#[derive(Debug)]
struct Willing;

/// A domain of it.
#[derive(Debug)]
struct WillingDomain(Reach);

impl IommuDriver for Willing {
    fn name(&self) -> &'static str {
        "willing"
    }
    fn probe(&self, _dev: &Endpoint, _faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        Ok(EndpointProperties::default())
    }
    fn release(&self, dev: &Endpoint) {
        stage::attached(&dev.name, Reach::Owner);
    }
    fn allocate(&self, kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let kernel = matches!(kind, DomainKind::Identity | DomainKind::Dma | DomainKind::DmaLazy);
        Ok(Box::new(WillingDomain(if kernel { Reach::Kernel } else { Reach::Owner })))
    }
    fn block(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        stage::attached(&dev.name, Reach::Owner);
        Ok(())
    }
}

impl HardwareDomain for WillingDomain {
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        stage::attached(&dev.name, self.0);
        Ok(())
    }
}

/// A driver that is being bound, or is: its right to DMA ends, and then its driver is cleared.
pub(crate) struct Bound {
    device: &'static str,
    right: Option<KernelUse>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _lock = machine::holding(self.device);
        // Nobody runs between the two.
        drop(self.right.take());
        stage::dma_ends(self.device);
        machine::clears_driver(self.device);
    }
}

impl Binding for IommuSubsystem {
    type Slot = MemberSlot;
    type Bound = Bound;

    fn device_added(&self, dev: Prepared<'_, Self>) {
        DmaConfigure::device_added(self, dev);
    }

    fn device_removed(&self, dev: Prepared<'_, Self>) {
        DmaConfigure::device_removed(self, dev);
    }

    fn configure(&self, dev: Prepared<'_, Self>, device: &'static str, driver: Kind) -> Result<Bound, ProbeError> {
        let refused = |error: iommu_core::DmaRefusal| {
            stage::dma_refused(device, driver.name());
            ProbeError::caused_by(device_model::dma::DmaError::errno(&error), error)
        };
        self.dma_configure(dev).map_err(refused)?;
        if driver.manages_dma() {
            return Ok(Bound { device, right: None });
        }
        let right = self.use_default_domain(dev, &driver.name().into()).map_err(refused)?;
        if right.is_some() {
            stage::dma_begins(device, driver.name());
        }
        Ok(Bound { device, right })
    }
}

/// The devices of a scene in one group.
#[derive(Clone)]
pub(crate) struct Counted {
    machine: Machine<IommuSubsystem>,
    pub(crate) iommu: IommuSubsystem,
    /// Of the devices that were there from the beginning.
    pub(crate) members: Vec<Arc<Member>>,
    owners: [Owner; 2],
}

impl Counted {
    /// With the devices of these names; the drivers are registered, none is bound.
    pub(crate) fn with(devices: &[&'static str]) -> Self {
        let observer = |told: &Transition<'_>| {
            stage::moved(match told.attached {
                Attached::Default(_) | Attached::Nothing => Reach::Kernel,
                Attached::Blocking | Attached::Own => Reach::Owner,
            });
        };
        let unit: Arc<dyn IommuDriver> = Arc::new(Willing);
        let placement = move |_: &Endpoint| Some(generic_single_device_group(&unit));
        let (iommu, _) = IommuSubsystem::builder(placement).observer(observer).build();
        let machine = Machine::new(iommu.clone());
        let plugged = devices.iter().filter(|device| machine.plug(device));
        let members = plugged.filter_map(|device| machine.slot(device, MemberSlot::member).flatten()).collect();
        Self { machine, iommu, members, owners: OWNERS.map(Owner::new) }
    }

    pub(crate) fn new() -> Self {
        Self::with(&[A, B])
    }

    pub(crate) fn member(&self, device: &str) -> Option<&Arc<Member>> {
        self.members.iter().find(|member| &**member.name() == device)
    }

    /// The group of all devices.
    pub(crate) fn group(&self) -> Option<&Arc<Group>> {
        Some(self.members.first()?.group())
    }

    pub(crate) fn owner(&self, name: &str) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.name() == name)
    }
}

/// Who claims in the scenes.
const OWNERS: [&str; 2] = ["X", "Y"];

impl Design for Counted {
    type Claim = Claim;
    type Binding = IommuSubsystem;

    fn machine(&self) -> &Machine<IommuSubsystem> {
        &self.machine
    }

    fn claim_group(&self, owner: &'static str) -> Result<Claim, Refusal> {
        let (group, owner) = self.group().zip(self.owner(owner)).ok_or(Refusal::Gone)?;
        group.claim(owner).map_err(|error| refusal(&error))
    }

    fn claim_device(&self, owner: &'static str, device: &'static str) -> Result<Claim, Refusal> {
        let (member, owner) = self.member(device).zip(self.owner(owner)).ok_or(Refusal::Gone)?;
        member.claim(owner).map_err(|error| refusal(&error))
    }

    fn has_one_user(&self, _device: &'static str) -> bool {
        let ownership = self.group().map_or(Ownership::Idle, |group| group.ownership());
        let one = match ownership {
            Ownership::Idle => false,
            Ownership::Kernel { users } => users.get() == 1,
            Ownership::User { claims, .. } => claims.get() == 1,
        };
        stage::told_one_user(one);
        one
    }

    fn freed(&self, driver: Kind) {
        stage::step(format!("{} is unregistered and its memory freed", driver.name()));
    }
}

fn refusal(error: &ClaimError) -> Refusal {
    match error {
        ClaimError::NoGroup { .. } | ClaimError::Empty { .. } => Refusal::Gone,
        _ => Refusal::Taken,
    }
}
