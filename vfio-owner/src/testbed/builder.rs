//! Building a machine.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_group::PciGroups;
use iommu_core::device_model::pci::{PciAddress, PciBus, PciFunction};
use iommu_core::device_model::sync::Mutex;
use iommu_core::device_model::{AnyDriver, DriverCore};
use iommu_core::hardware::Capabilities;
use iommu_core::reserved::ReservedRegion;
use iommu_core::software::{Memory, SoftIommuConfig};
use iommu_core::sysfs::Snapshot;
use iommu_core::{DefaultDomainType, IommuBuilder, IommuSubsystem, Observer};

use super::iommus::{Failures, Groups, Iommus, Placed};
use super::machine::{Machine, MachineError, Pci, RESCAN};
use super::models::{Edu, VirtioNet, Wire};
use super::slot::{Found, MakeModel, Slot};
use super::vfs::Settings;
use super::{drivers, intel, virtual_functions};
use crate::Vfio;
use crate::backend::Backend;
use crate::type1::{Type1, Type1Config};
use crate::vfio_pci::{self, FunctionModel, PlainMemory, VfioPciDriver};
use crate::viability::{DriverDma, dma_of};

/// Drivers that every machine has, whether its tree shows them bound or not.
const ALWAYS: [&str; 4] = ["e1000", "e1000e", "nvme", "pci-stub"];

/// Builds a [`Machine`] from a snapshot: of a real machine, one that [comes along](super::pc), or a
/// [layout](Snapshot::from_layout).
///
/// ```
/// use std::sync::Arc;
///
/// use vfio_owner::iommu_core::software::SoftIommuConfig;
/// use vfio_owner::iommu_core::sysfs::Snapshot;
/// use vfio_owner::testbed::Machine;
/// use vfio_owner::type1::Type1Config;
///
/// let layout = Snapshot::from_layout(
///     "00:02.0 nic vfio-pci 0
///      00:03.0 nic vfio-pci 1",
/// )?;
/// let machine = Machine::builder(layout)
///     .as_found()
///     .failing_iommus()
///     .iommu_of(["0000:00:03.0"], SoftIommuConfig { max_pasids: 16, ..SoftIommuConfig::default() })
///     .type1(Type1Config { dma_entry_limit: 2, ..Type1Config::default() })
///     .build()?;
/// assert_eq!(machine.driver("0000:00:03.0").as_deref(), Some("vfio-pci"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MachineBuilder {
    snapshot: Snapshot,
    start: Start,
    iommu: Option<SoftIommuConfig>,
    others: Vec<(Vec<String>, SoftIommuConfig)>,
    failures: Failures,
    type1: Type1Config,
    models: Vec<(String, MakeModel)>,
    say: Vec<Box<dyn FnOnce(IommuBuilder) -> IommuBuilder>>,
    #[cfg(feature = "iommufd-test")]
    iommufd_test: bool,
}

/// How the machine comes into its first state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Boot,
    AsFound,
}

impl MachineBuilder {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            start: Start::Boot,
            iommu: None,
            others: Vec::new(),
            failures: Failures::None,
            type1: Type1Config::default(),
            models: Vec::new(),
            say: Vec::new(),
            #[cfg(feature = "iommufd-test")]
            iommufd_test: false,
        }
    }

    /// Puts each device into the group and on the driver that the snapshot names, whatever topology and ids imply. A
    /// driver that hands devices to user space becomes vfio-pci, whatever its name; an unknown driver counts as doing DMA
    /// for the kernel.
    ///
    /// Without this the machine boots: drivers first, then devices in the order of their addresses, so that groups get the
    /// numbers that Linux gives them, and each driver binds what its ids match.
    #[must_use]
    pub fn as_found(self) -> Self {
        Self { start: Start::AsFound, ..self }
    }

    /// Sets what the IOMMU is like. The reserved regions are then those of `config` alone; otherwise they are those of the
    /// snapshot.
    #[must_use]
    pub fn iommu(self, config: SoftIommuConfig) -> Self {
        Self { iommu: Some(config), ..self }
    }

    /// Adds another IOMMU, which serves these devices.
    #[must_use]
    pub fn iommu_of<'a>(mut self, devices: impl IntoIterator<Item = &'a str>, config: SoftIommuConfig) -> Self {
        self.others.push((devices.into_iter().map(String::from).collect(), config));
        self
    }

    /// Lets calls of the IOMMUs fail on command: [`Machine::failing_iommu`].
    #[must_use]
    pub fn failing_iommus(self) -> Self {
        Self { failures: Failures::OnCommand, ..self }
    }

    /// Sets type1's module parameters.
    #[must_use]
    pub fn type1(self, config: Type1Config) -> Self {
        Self { type1: config, ..self }
    }

    /// Puts a model behind the regions of a device: made from the [`Slot`] that it sits in, with which it does DMA and
    /// raises interrupts. Without one, they are those of [`Edu`] by the ids 1234:11e8, those of [`VirtioNet`] by
    /// 1af4:1000, else [plain memory](PlainMemory).
    #[must_use]
    pub fn model<M: FunctionModel + 'static>(mut self, device: &str, make: impl FnOnce(Slot) -> M + 'static) -> Self {
        self.models.push((device.to_string(), Box::new(|slot| Arc::new(make(slot)))));
        self
    }

    /// Tells `observer` of every change of ownership, and of faults.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.say.push(Box::new(|builder| builder.observer(observer)));
        self
    }

    /// Sets the type of default domains where devices require none: `iommu.passthrough`, `iommu.strict`.
    #[must_use]
    pub fn default_domain(mut self, kind: DefaultDomainType) -> Self {
        self.say.push(Box::new(move |builder| builder.default_domain(kind)));
        self
    }

    /// Gives `/dev/iommu` the test calls of a kernel that was built to test itself, and their mock devices.
    #[cfg(feature = "iommufd-test")]
    #[must_use]
    pub fn iommufd_test(self) -> Self {
        Self { iommufd_test: true, ..self }
    }

    /// Builds the machine, and boots it or brings it into the state of the snapshot.
    ///
    /// # Errors
    /// Fails if a device that was named is not in the snapshot.
    pub fn build(mut self) -> Result<Machine, MachineError> {
        let others = core::mem::take(&mut self.others).into_iter().map(|(devices, config)| {
            let served: Result<_, _> = devices.iter().map(|device| self.address(device)).collect();
            Ok((served?, config))
        });
        let others: Vec<_> = others.collect::<Result<_, MachineError>>()?;
        let models = core::mem::take(&mut self.models).into_iter();
        let models = models.map(|(device, make)| Ok((self.address(&device)?, make)));
        let models: BTreeMap<_, _> = models.collect::<Result<_, MachineError>>()?;
        Ok(self.assemble(others, models))
    }

    /// As [`build`](Self::build), where no device was named.
    pub(super) fn build_plain(self) -> Machine {
        self.assemble(Vec::new(), BTreeMap::new())
    }

    fn address(&self, device: &str) -> Result<PciAddress, MachineError> {
        let address = device.parse().ok().filter(|address| self.snapshot.device(*address).is_some());
        address.ok_or_else(|| MachineError::NoDevice { device: device.to_string() })
    }

    fn assemble(
        self,
        others: Vec<(Vec<PciAddress>, SoftIommuConfig)>,
        mut models: BTreeMap<PciAddress, MakeModel>,
    ) -> Machine {
        let Self { snapshot, start, iommu, failures, type1, say, .. } = self;
        let config = iommu.unwrap_or_else(|| as_in_tree(&snapshot));
        let iommus = Iommus::new(config, others, failures);
        let computed = Arc::new(PciGroups::new());
        let groups = match start {
            Start::Boot => Groups::Computed(computed.clone()),
            Start::AsFound => Groups::Listed(listed(&snapshot)),
        };
        let placed = Placed { iommus: iommus.clone(), groups };
        let builder = say.into_iter().fold(IommuSubsystem::builder(placed), |builder, say| say(builder));
        let (iommu, physical_memory) = builder.build();
        let memory = Memory::new();
        let vfio = Vfio::new([Arc::new(Type1::with_config(&physical_memory, type1)) as Arc<dyn Backend>]);
        let slot = |(function, found): (Arc<PciFunction>, Found)| {
            let (address, iommu) = (function.address, iommus.of(function.address).clone());
            (address, Slot::new(function, found, iommu, memory.clone()))
        };
        let functions = || snapshot.devices.iter().map(|dev| &dev.function);
        let virtual_ones = functions()
            .flat_map(|function| virtual_functions::possible(function))
            .map(|function| (function.into(), Found::WhenMade));
        // What was there counts as found.
        let found = functions().map(|function| (function.clone(), Found::ByScan));
        let slots: BTreeMap<PciAddress, Slot> = virtual_ones.chain(found).map(slot).collect();
        let model = |(address, slot): (&PciAddress, &Slot)| {
            let make_model = models.remove(address).unwrap_or_else(|| Box::new(default_model));
            (*address, make_model(slot.clone()))
        };
        let models: BTreeMap<PciAddress, Arc<dyn FunctionModel>> = slots.iter().map(model).collect();
        let vfio_pci = VfioPciDriver::new(vfio.clone(), move |function| match models.get(&function.address) {
            Some(model) => model.clone(),
            None => Arc::new(PlainMemory::new()),
        });
        for slot in slots.values() {
            slot.connect(&vfio_pci);
        }
        let core = DriverCore::new();
        let pci = core.add_bus(PciBus::new(iommu.clone()));
        for (name, functions) in bound_functions(&snapshot) {
            // A name is a key of the map, so none is there twice.
            let _ = pci.add_driver(simulate(start, &name, &functions));
        }
        let _ = pci.add_driver(vfio_pci.clone());
        let machine = Machine {
            #[cfg(feature = "iommufd-test")]
            iommufd_test: self.iommufd_test.then(|| super::iommufd_test::IommufdTest::new(&iommu)),
            core,
            pci,
            iommu,
            physical_memory,
            iommus,
            memory,
            vfio,
            vfio_pci,
            slots,
            rescan: Mutex::of(RESCAN, ()),
            settings: Settings::default(),
        };
        match start {
            Start::Boot => {
                machine.rescan();
                computed.boot_ended();
            }
            Start::AsFound => bring_up_as_found(&machine, &snapshot),
        }
        machine
    }
}

/// What is behind a function for which no model was named.
fn default_model(slot: Slot) -> Arc<dyn FunctionModel> {
    let config = &slot.function().config;
    match (config.vendor(), config.device()) {
        (Some(0x1234), Some(0x11e8)) => Arc::new(Edu::new(slot)),
        (Some(0x1af4), Some(0x1000)) => Arc::new(VirtioNet::new(slot, &Wire::new())),
        _ => Arc::new(PlainMemory::new()),
    }
}

fn simulate(start: Start, name: &str, bound: &[&PciFunction]) -> Arc<dyn AnyDriver<Pci>> {
    match start {
        Start::Boot => drivers::simulated(name, bound),
        Start::AsFound => drivers::obliging(name, bound),
    }
}

fn bring_up_as_found(machine: &Machine, snapshot: &Snapshot) {
    machine.pci().set_drivers_autoprobe(false);
    machine.rescan();
    for dev in &snapshot.devices {
        let name = dev.function.address.to_string();
        if let Some(driver) = &dev.driver {
            let driver = if dma_of(driver) == DriverDma::UserSpace { vfio_pci::NAME } else { driver };
            // Whatever vfio-pci refuses, no machine has on it.
            let _ = machine.bind(&name, driver);
        }
        if let Some(device) = machine.pci().device(&name) {
            device.set_driver_override(dev.driver_override.as_deref());
        }
    }
}

/// The IOMMU of a machine whose tree does not say more: Intel's, with page tables of three levels and large pages, without
/// dirty bits. Of the tree's devices it says what regions their groups reserve.
fn as_in_tree(snapshot: &Snapshot) -> SoftIommuConfig {
    let mut config = SoftIommuConfig { description: intel::describe(), ..SoftIommuConfig::default() };
    config.capabilities.remove(Capabilities::DIRTY_TRACKING);
    for group in &snapshot.groups {
        // The tree tells the regions of a group, not whose they are.
        let Some(first) = group.members.first() else { continue };
        let window = config.interrupt_window.clone();
        let own = group.reserved.iter().filter(|region| Some(region.first..=region.last) != window);
        let own: Vec<ReservedRegion> = own.copied().collect();
        if !own.is_empty() {
            config.reserved.insert(first.to_string(), own);
        }
    }
    config
}

/// The groups by the numbers of the tree.
fn listed(snapshot: &Snapshot) -> BTreeMap<PciAddress, u32> {
    snapshot.devices.iter().filter_map(|dev| Some((dev.function.address, dev.group?))).collect()
}

/// Every driver of the machine, with the functions bound to it in the tree.
fn bound_functions(snapshot: &Snapshot) -> BTreeMap<String, Vec<&PciFunction>> {
    let named = snapshot.drivers.iter().map(|driver| driver.name.clone()).filter(|name| *name != vfio_pci::NAME);
    let mut drivers: BTreeMap<String, Vec<&PciFunction>> =
        named.chain(ALWAYS.map(String::from)).map(|name| (name, Vec::new())).collect();
    for dev in &snapshot.devices {
        if let Some(name) = dev.driver.as_ref().filter(|name| **name != vfio_pci::NAME) {
            drivers.entry(name.clone()).or_default().push(&dev.function);
        }
    }
    drivers
}

impl fmt::Debug for MachineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices = self.snapshot.devices.len();
        f.debug_struct("MachineBuilder").field("devices", &devices).field("start", &self.start).finish_non_exhaustive()
    }
}
