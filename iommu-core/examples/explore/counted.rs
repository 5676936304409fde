//! The design that ships: the driver core of `device-model`, the groups of `iommu-core`.

use std::sync::Arc;

use device_model::platform::{PlatformBus, PlatformDriver};
use device_model::sync::Users;
use device_model::{
    Autoprobe, BusHandle, Device, DeviceGuard, DeviceSpec, DmaApi, DmaConfigure, DmaUse, Driver, DriverCore, Errno,
    ProbeError, Removal,
};
use iommu_core::hardware::{Endpoint, EndpointProperties, HardwareDomain, HardwareError, IommuDriver};
use iommu_core::placement::AllTogether;
use iommu_core::{Attached, Claim, ClaimError, DomainKind, Group, Iommu, Member, Owner, Transition};

use crate::design::{A, B, Design, Kind, Refusal};
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
    fn probe(&self, _dev: &Endpoint) -> Result<EndpointProperties, HardwareError> {
        Ok(EndpointProperties::default())
    }
    fn release(&self, dev: &Endpoint) {
        stage::attached(&dev.name, Reach::Owner);
    }
    fn allocate(&self, kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let kernel = matches!(kind, DomainKind::Identity | DomainKind::Dma | DomainKind::DmaLazy);
        Ok(Box::new(WillingDomain(if kernel { Reach::Kernel } else { Reach::Owner })))
    }
    fn block(&self, dev: &Endpoint) {
        stage::attached(&dev.name, Reach::Owner);
    }
}

impl HardwareDomain for WillingDomain {
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        stage::attached(&dev.name, self.0);
        Ok(())
    }
}

/// The names of devices live as long as the program, as the timeline wants them.
fn known(device: &Device) -> &'static str {
    crate::questions::DEVICES.into_iter().find(|name| *name == &**device.name()).unwrap_or("another device")
}

struct Named(Kind, Arc<str>);

impl Driver for Named {
    fn name(&self) -> &Arc<str> {
        &self.1
    }

    fn probe(&self, dev: &mut DeviceGuard<'_>) -> Result<(), ProbeError> {
        let _lock = stage::holding(format!("device lock of {}", dev.device().name()));
        match self.0 {
            Kind::Failing => {
                stage::step(format!("{} fails to probe {}", self.1, dev.device().name()));
                return Err(ProbeError::errno_only(Errno::EIO));
            }
            Kind::Managed => dev.manage(Arc::new(Users::new())),
            Kind::Kernel => {}
        }
        stage::step(format!("{} probes {}", self.1, dev.device().name()));
        Ok(())
    }

    fn remove(&self, dev: &mut DeviceGuard<'_>, _attempt: u32) -> Removal {
        let _lock = stage::holding(format!("device lock of {}", dev.device().name()));
        let users = dev.resource::<Arc<Users>>().cloned();
        if let Some(users) = users {
            users.close();
            if users.inside() > 0 {
                stage::step(format!("{} waits for the user of {}", self.1, dev.device().name()));
                return Removal::Waiting(users);
            }
        }
        stage::step(format!("{} leaves {}", self.1, dev.device().name()));
        Removal::Done
    }
}

/// Tells the stage when rights to DMA begin and end.
struct Watched(Iommu);

impl DmaConfigure for Watched {
    fn dma_configure(&self, dev: &DeviceGuard<'_>, api: DmaApi) -> Result<DmaUse, ProbeError> {
        let device = known(dev.device());
        let driver = dev.driver().map(|driver| driver.name().clone());
        let driver = Kind::ALL.into_iter().map(Kind::name).find(|name| driver.as_deref() == Some(name)).unwrap_or("?");
        let _lock = stage::holding(format!("device lock of {device}"));
        let granted = self.0.dma_configure(dev, api).inspect_err(|_| stage::dma_refused(device, driver))?;
        if granted.is_guarded() {
            stage::dma_begins(device, driver);
            // Dropped in this order, and nobody runs in between.
            return Ok(DmaUse::holding((granted, Ends(device))));
        }
        Ok(granted)
    }
}

struct Ends(&'static str);

impl Drop for Ends {
    fn drop(&mut self) {
        stage::dma_ends(self.0);
    }
}

/// Two devices on a bus, in one group.
#[derive(Clone)]
pub(crate) struct Counted {
    pub(crate) bus: BusHandle,
    pub(crate) iommu: Iommu,
    /// Of the devices that were there from the beginning.
    pub(crate) members: Vec<Arc<Member>>,
    owners: [Owner; 2],
}

impl Counted {
    /// With the devices of these names; the drivers are registered, none is bound.
    pub(crate) fn with(devices: &[&'static str]) -> Self {
        let observer = |told: &Transition| {
            stage::moved(match told.attached {
                Attached::Default(_) | Attached::Nothing => Reach::Kernel,
                Attached::Blocking | Attached::Own => Reach::Owner,
            });
        };
        let iommu = Iommu::builder(AllTogether(Arc::new(Willing))).observer(observer).build();
        let bus = DriverCore::new().add_bus(PlatformBus::new(Arc::new(Watched(iommu.clone()))));
        bus.set_autoprobe(Autoprobe::Off);
        bus.subscribe(iommu.clone());
        for kind in Kind::ALL {
            let api = if kind == Kind::Managed { DmaApi::Managed } else { DmaApi::Kernel };
            let driver = PlatformDriver::new(Arc::new(Named(kind, kind.name().into())), api);
            let added = bus.add_driver(Arc::new(driver.with_ids(crate::questions::DEVICES)));
            stage::must(added.is_ok(), "a driver can be registered");
        }
        let mut counted = Self { bus, iommu, members: Vec::new(), owners: OWNERS.map(Owner::new) };
        let plugged = devices.iter().filter_map(|device| Iommu::member(&*counted.plug(device)?));
        counted.members = plugged.collect();
        counted
    }

    pub(crate) fn new() -> Self {
        Self::with(&[A, B])
    }

    /// Adds a device to the bus.
    pub(crate) fn plug(&self, device: &'static str) -> Option<Arc<Device>> {
        self.bus.add_device(DeviceSpec::new(device)).ok()
    }

    pub(crate) fn device(&self, name: &str) -> Option<Arc<Device>> {
        self.bus.device(name)
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
    type Open = device_model::sync::UserGuard;

    fn bind(&self, driver: Kind, device: &'static str) -> bool {
        self.bus.bind(driver.name(), device).is_ok()
    }

    fn unbind(&self, driver: Kind, device: &'static str) {
        if let Ok(unbind) = self.bus.unbind(driver.name(), device) {
            unbind.wait();
        }
    }

    fn unload(&self, driver: Kind) {
        if let Some(unbind) = self.bus.remove_driver(driver.name()) {
            unbind.wait();
        }
    }

    fn open(&self, device: &'static str) -> Option<Self::Open> {
        self.device(device)?.lock().resource::<Arc<Users>>()?.enter()
    }

    fn claim_group(&self, owner: &'static str) -> Result<Claim, Refusal> {
        let (group, owner) = self.group().zip(self.owner(owner)).ok_or(Refusal::Gone)?;
        group.claim(owner).map_err(|error| refusal(&error))
    }

    fn claim_device(&self, owner: &'static str, device: &'static str) -> Result<Claim, Refusal> {
        let (member, owner) = self.member(device).zip(self.owner(owner)).ok_or(Refusal::Gone)?;
        member.claim(owner).map_err(|error| refusal(&error))
    }
}

fn refusal(error: &ClaimError) -> Refusal {
    match error {
        ClaimError::NoGroup { .. } | ClaimError::Empty { .. } => Refusal::Gone,
        _ => Refusal::Taken,
    }
}
