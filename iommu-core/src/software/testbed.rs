//! A small machine for tests.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::fmt::Write as _;
use core::marker::PhantomData;

use device_model::platform::{PlatformBus, PlatformDevice};
use device_model::sync::Arc;
use device_model::{
    AddDeviceError, BoundTo, BusHandle, Device, DeviceSpec, DmaApi, Driver, DriverCore, DriverDma, DriverManaged,
    ProbeError, SysfsBindError, SysfsUnbindError, Unbind,
};

use super::{Memory, SimulatedDevice, SoftIommu, SoftIommuConfig};
use crate::attached::Attached;
use crate::bus::DmaRefusal;
use crate::device_group::DeviceGroup;
use crate::failing::FailingIommu;
use crate::group::Group;
use crate::hardware::{Endpoint, IommuDriver};
use crate::member::Member;
use crate::ownership::Ownership;
use crate::physical_memory::PhysicalMemory;
use crate::subsystem::{IommuBuilder, IommuSubsystem};

/// The bus of a [`Testbed`].
pub type TestBus = PlatformBus<IommuSubsystem>;

/// A small machine for tests of what is built on this crate: platform devices behind software IOMMUs that fail on
/// command. Devices of one IOMMU whose names begin with the same ASCII character share a group; those of other names are
/// served by none.
///
/// The bus has two drivers: `kernel` does DMA through the kernel's DMA API, `managed` takes no DMA ownership.
///
/// ```
/// use iommu_core::software::Testbed;
/// use iommu_core::Owner;
///
/// let machine = Testbed::new(&["a1", "a2", "b1"])?;
/// machine.bind("a2", "kernel")?;
/// let refused = machine.member("a1").expect("it is there").claim(&Owner::new("vm")).unwrap_err();
/// assert_eq!(refused.to_string(), "group 0 is used by kernel drivers: a2 (kernel)");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Testbed {
    core: DriverCore,
    bus: BusHandle<TestBus>,
    iommu: IommuSubsystem,
    physical_memory: PhysicalMemory,
    units: Arc<[Unit]>,
    memory: Memory,
}

/// An IOMMU, and which devices are behind it.
struct Unit {
    soft: Arc<SoftIommu>,
    failing: Arc<FailingIommu>,
    driver: Arc<dyn IommuDriver>,
    serves: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

/// Builds a [`Testbed`]. Its IOMMUs are called `iommu0`, `iommu1` and so on.
pub struct TestbedBuilder {
    config: SoftIommuConfig,
    others: Vec<Unit>,
    say: Box<dyn FnOnce(IommuBuilder) -> IommuBuilder>,
}

impl TestbedBuilder {
    /// Sets what the IOMMU is like that serves all devices for which no other was named.
    #[must_use]
    pub fn config(self, config: SoftIommuConfig) -> Self {
        Self { config, ..self }
    }

    /// Adds another IOMMU, for the devices for whose names `serves` returns `true`.
    #[must_use]
    pub fn another_iommu(
        mut self,
        config: SoftIommuConfig,
        serves: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let name = alloc::format!("iommu{}", self.others.len() + 1);
        self.others.push(Unit::new(&name, config, Box::new(serves)));
        self
    }

    /// Sets more of the subsystem: its observer, its default domain.
    #[must_use]
    pub fn subsystem(self, say: impl FnOnce(IommuBuilder) -> IommuBuilder + 'static) -> Self {
        Self { say: Box::new(say), ..self }
    }

    /// Builds the machine, without devices yet.
    pub fn build(self) -> Testbed {
        let Self { config, others, say } = self;
        let rest = Unit::new("iommu0", config, Box::new(|_| true));
        let units: Arc<[Unit]> = others.into_iter().chain([rest]).collect();
        let serving = units.clone();
        let by_letter = move |dev: &Endpoint| {
            let letter = dev.name.get(..1)?;
            Some(DeviceGroup::named(&serving_of(&serving, &dev.name)?.driver, letter))
        };
        let (iommu, physical_memory) = say(IommuSubsystem::builder(by_letter)).build();
        let core = DriverCore::new();
        let bus = core.add_bus(TestBus::new(iommu.clone()));
        bus.set_drivers_autoprobe(false);
        // The bus has no other drivers yet.
        let _ = bus.add_driver(Named::<DmaApi>::new("kernel"));
        let _ = bus.add_driver(Named::<DriverManaged>::new("managed"));
        Testbed { core, bus, iommu, physical_memory, units, memory: Memory::new() }
    }
}

/// The IOMMU of a device.
fn serving_of<'a>(units: &'a [Unit], device: &str) -> Option<&'a Unit> {
    units.iter().find(|unit| (unit.serves)(device))
}

impl Unit {
    fn new(name: &str, config: SoftIommuConfig, serves: Box<dyn Fn(&str) -> bool + Send + Sync>) -> Self {
        let soft = SoftIommu::new(name, config);
        let failing = FailingIommu::new(soft.clone());
        Self { driver: failing.clone(), soft, failing, serves }
    }
}

impl Testbed {
    /// Builds a machine with these devices behind one IOMMU, none of them bound.
    ///
    /// # Errors
    /// Fails if two devices have the same name.
    pub fn new(devices: &[&str]) -> Result<Self, AddDeviceError> {
        let machine = Self::builder().build();
        for name in devices {
            machine.plug(name)?;
        }
        Ok(machine)
    }

    /// Begins to build a machine.
    pub fn builder() -> TestbedBuilder {
        TestbedBuilder { config: SoftIommuConfig::default(), others: Vec::new(), say: Box::new(|builder| builder) }
    }

    /// Returns the driver core.
    pub fn core(&self) -> &DriverCore {
        &self.core
    }

    /// Returns the bus that the devices are on.
    pub fn bus(&self) -> &BusHandle<TestBus> {
        &self.bus
    }

    /// Returns the groups.
    pub fn iommu(&self) -> &IommuSubsystem {
        &self.iommu
    }

    /// Returns the right to map the machine's memory for devices.
    pub fn physical_memory(&self) -> &PhysicalMemory {
        &self.physical_memory
    }

    /// Returns the memory that devices access through the IOMMUs.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Returns the IOMMU that serves a device of this name, whether the device is there or not.
    pub fn hardware(&self, device: &str) -> &Arc<FailingIommu> {
        &self.unit(device).failing
    }

    /// Returns the same IOMMU without the injection of failures.
    pub fn soft(&self, device: &str) -> &Arc<SoftIommu> {
        &self.unit(device).soft
    }

    #[expect(clippy::indexing_slicing, reason = "the last IOMMU, which there always is, serves all devices")]
    fn unit(&self, device: &str) -> &Unit {
        serving_of(&self.units, device).unwrap_or(&self.units[0])
    }

    /// Adds a device, which no driver is bound to.
    ///
    /// # Errors
    /// Fails if there is a device of this name.
    pub fn plug(&self, name: &str) -> Result<Arc<Device<TestBus>>, AddDeviceError> {
        self.bus.add_device(DeviceSpec::new(name, PlatformDevice::default()))
    }

    /// Returns the device of this name as a member of its group.
    pub fn member(&self, name: &str) -> Option<Arc<Member>> {
        self.bus.device(name)?.dma_slot().member()
    }

    /// Returns the group of the device of this name.
    pub fn group(&self, name: &str) -> Option<Arc<Group>> {
        Some(self.member(name)?.group().clone())
    }

    /// Returns the bus-master side of a device, which performs DMA. It stays usable when the device is removed.
    pub fn dma(&self, member: &Member) -> SimulatedDevice {
        let endpoint = member.endpoint();
        SimulatedDevice::new(endpoint.clone(), self.soft(&endpoint.name).clone(), self.memory.clone())
    }

    /// Binds a driver through sysfs.
    ///
    /// # Errors
    /// Fails as a write to the driver's `bind` does.
    pub fn bind(&self, device: &str, driver: &str) -> Result<(), Box<SysfsBindError<DmaRefusal>>> {
        let dev = self.bus.device(device);
        let set_override = |name| dev.iter().for_each(|dev| dev.set_driver_override(name));
        set_override(Some(driver));
        let bound = self.bus.sysfs().bind(driver, device);
        set_override(None);
        bound.map_err(Box::new)
    }

    /// Unbinds a driver through sysfs. Nothing happens until the returned value is driven.
    ///
    /// # Errors
    /// Fails as a write to the driver's `unbind` does.
    pub fn unbind(&self, device: &str, driver: &str) -> Result<Unbind, SysfsUnbindError> {
        self.bus.sysfs().unbind(driver, device)
    }

    /// Returns all that can be seen of the groups and of the devices' drivers, as text, to be compared with what it was
    /// before an operation.
    pub fn picture(&self) -> String {
        let mut picture = picture(&self.iommu);
        for dev in self.bus.devices() {
            // A string takes all that is written.
            let _ = writeln!(picture, "{} {:?}", dev.name(), dev.driver_hint());
        }
        picture
    }
}

/// Returns all that can be seen of the groups, as text, to be compared with what it was before an operation.
pub fn picture(iommu: &IommuSubsystem) -> String {
    iommu.groups().iter().fold(String::new(), |mut picture, group| {
        let state = (group.ownership(), group.attached(), group.default_domain_type(), group.members());
        let _ = writeln!(picture, "{} {state:?}", group.id());
        picture
    })
}

/// Returns the first group that a user still owns, or that is not where it belongs without one: on its default domain, or
/// blocked because hardware refused the way back there.
pub fn left_behind(iommu: &IommuSubsystem) -> Option<Arc<Group>> {
    iommu.groups().into_iter().find(|group| match group.ownership() {
        Ownership::User { .. } => true,
        Ownership::Kernel { .. } => !matches!(group.attached(), Attached::Default(_)),
        Ownership::Idle => !matches!(group.attached(), Attached::Default(_) | Attached::Blocking) && !group.is_empty(),
    })
}

/// A driver that binds whatever it is told to.
struct Named<D> {
    name: Arc<str>,
    dma: PhantomData<fn() -> D>,
}

impl<D> Named<D> {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.into(), dma: PhantomData })
    }
}

impl<D: DriverDma> Driver<TestBus> for Named<D> {
    type Dma = D;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, _dev: &mut BoundTo<'_, TestBus, D>) -> Result<(), ProbeError> {
        Ok(())
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unit").field(&self.soft).finish()
    }
}

impl fmt::Debug for TestbedBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestbedBuilder")
            .field("config", &self.config)
            .field("others", &self.others)
            .finish_non_exhaustive()
    }
}
