//! Functions of three cards, a card a group, each on a bus of its own; a user's memory; hardware and pins that fail on
//! command.
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part of it")]

use std::fmt::Write as _;
use std::sync::Arc;

use vfio_owner::backend::{Extension, MapRequest, Unmap};
use vfio_owner::error::{MapDmaError, OpenGroupError, SetContainerError, UnmapDmaError};
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::failing::{FailingIommu, FailingMemory};
use vfio_owner::iommu_core::hardware::HardwareError;
use vfio_owner::iommu_core::reserved::{RegionKind, ReservedRegion};
use vfio_owner::iommu_core::software::{
    LockedPages, NumberedMemory, Process, SimulatedDevice, SoftIommuConfig, left_behind, picture,
};
use vfio_owner::iommu_core::sysfs::Snapshot;
use vfio_owner::iommu_core::{Access, Group, Iova, Member, UserAddr};
use vfio_owner::testbed::Machine;
use vfio_owner::type1::Type1Config;
use vfio_owner::{Container, GroupFile};

pub(crate) const VFIO: &str = "vfio-pci";
pub(crate) const KERNEL: &str = "e1000";

pub(crate) const A0: &str = "0000:0a:00.0";
pub(crate) const A1: &str = "0000:0a:00.1";
pub(crate) const A2: &str = "0000:0a:00.2";
pub(crate) const B0: &str = "0000:0b:00.0";
pub(crate) const B1: &str = "0000:0b:00.1";
pub(crate) const C0: &str = "0000:0c:00.0";

/// No function has a driver.
const LAYOUT: &str = "
    driver e1000
    0a:00.0 nic - 0
    0a:00.1 nic - 0
    0a:00.2 nic - 0
    0b:00.0 nic - 1
    0b:00.1 nic - 1
    0c:00.0 nic - 2";

/// Pages of the user's memory. Each is pinned for itself, so that a mapping of several is in pieces.
pub(crate) const PAGES: u64 = 16;

/// Pages of the I/O address space that are looked at.
pub(crate) const VIEW: u64 = 20;

/// What is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fails {
    Hardware,
    Pin,
}

pub(crate) struct Rig {
    pub(crate) machine: Machine,
    numbered: NumberedMemory,
    pub(crate) user: Arc<FailingMemory>,
    pub(crate) process: Arc<Process>,
    pub(crate) locked: LockedPages,
    pub(crate) ram: UserAddr,
    pub(crate) container: Container,
}

/// As hardware commonly is, but without the interrupt window, which is in no test's way then.
pub(crate) fn plain() -> SoftIommuConfig {
    SoftIommuConfig { interrupt_window: None, ..SoftIommuConfig::default() }
}

/// The hardware of a device that reserves a range of pages.
pub(crate) fn reserving(device: &str, kind: RegionKind, first: u64, last: u64) -> SoftIommuConfig {
    let region =
        ReservedRegion { first: Iova::new(first * PAGE_SIZE), kind, last: Iova::new(last * PAGE_SIZE + PAGE_SIZE - 1) };
    SoftIommuConfig { reserved: [(device.to_owned(), vec![region])].into(), ..plain() }
}

impl Rig {
    /// Each of these devices is on VFIO, behind an IOMMU of its own.
    pub(crate) fn new(iommus: &[(&str, SoftIommuConfig)]) -> Self {
        Self::with(iommus, Type1Config::default())
    }

    pub(crate) fn with(iommus: &[(&str, SoftIommuConfig)], config: Type1Config) -> Self {
        let mut builder = Machine::builder(Snapshot::from_layout(LAYOUT).unwrap());
        for (device, config) in iommus {
            builder = builder.iommu_of([*device], config.clone());
        }
        let rig = Self::of(builder.as_found().failing_iommus().type1(config).build().unwrap());
        for (device, _) in iommus {
            assert!(rig.bind(device, VFIO));
        }
        rig
    }

    /// These devices and no others are there, none of them bound, behind one IOMMU.
    pub(crate) fn of_devices(devices: &[&str]) -> Self {
        Self::limited(devices, SoftIommuConfig::default(), u32::MAX)
    }

    /// The same, behind an IOMMU like this; so many mappings in a container at most.
    pub(crate) fn limited(devices: &[&str], config: SoftIommuConfig, dma_entry_limit: u32) -> Self {
        let mut snapshot = Snapshot::from_layout(LAYOUT).unwrap();
        snapshot.devices.retain(|dev| devices.contains(&dev.function.address.to_string().as_str()));
        let machine = Machine::builder(snapshot).as_found().iommu(config).failing_iommus();
        let machine = machine.type1(Type1Config { dma_entry_limit, ..Type1Config::default() });
        Self::of(machine.build().unwrap())
    }

    fn of(machine: Machine) -> Self {
        let numbered = NumberedMemory::new(machine.memory(), PAGES, LockedPages::limited(PAGES * PAGE_SIZE)).unwrap();
        Self {
            user: numbered.failing().clone(),
            process: numbered.process().clone(),
            locked: numbered.locked().clone(),
            ram: numbered.start(),
            container: machine.vfio().open_container(),
            numbered,
            machine,
        }
    }

    /// One ordinary IOMMU, its group in the container, the IOMMU set.
    pub(crate) fn ready(kind: Extension) -> (Self, GroupFile) {
        let rig = Self::new(&[(A0, plain())]);
        let a = rig.first(A0, kind);
        (rig, a)
    }

    /// Puts a driver on a device that has none; whether it worked.
    pub(crate) fn bind(&self, device: &str, driver: &str) -> bool {
        self.machine.bind(device, driver).is_ok()
    }

    pub(crate) fn group(&self, device: &str) -> Arc<Group> {
        self.machine.group(device).unwrap()
    }

    pub(crate) fn try_open(&self, device: &str) -> Result<GroupFile, OpenGroupError> {
        self.machine.vfio().open_group(self.group(device).id())
    }

    pub(crate) fn open(&self, device: &str) -> GroupFile {
        self.try_open(device).unwrap()
    }

    /// Puts the first group into the container, and sets its IOMMU.
    pub(crate) fn first(&self, device: &str, kind: Extension) -> GroupFile {
        let file = self.open(device);
        file.set_container(&self.container).unwrap();
        self.container.set_iommu(kind).unwrap();
        file
    }

    /// Puts another group into the container.
    pub(crate) fn join(&self, device: &str) -> Result<GroupFile, SetContainerError> {
        let file = self.open(device);
        file.set_container(&self.container).map(|()| file)
    }

    /// A request for `pages` pages at page `at` of the I/O address space, of memory from page `from` on.
    pub(crate) fn request(&self, at: u64, pages: u64, from: u64) -> MapRequest {
        MapRequest {
            iova: Iova::new(at * PAGE_SIZE),
            bytes: pages * PAGE_SIZE,
            process: self.user.clone(),
            addr: self.numbered.page(from).unwrap(),
            access: Access::ReadWrite,
        }
    }

    pub(crate) fn map(&self, at: u64, pages: u64, from: u64) -> Result<(), MapDmaError> {
        self.container.map(&self.request(at, pages, from))
    }

    /// Unmaps pages; how many went.
    pub(crate) fn unmap(&self, at: u64, pages: u64) -> Result<u64, UnmapDmaError> {
        self.container.unmap(range(at, pages)).map(|bytes| bytes / PAGE_SIZE)
    }

    /// The IOMMU of a device.
    pub(crate) fn hardware(&self, device: &str) -> &FailingIommu {
        self.machine.failing_iommu(device).unwrap()
    }

    /// What a device does by DMA, which may have left the bus.
    pub(crate) fn dma(&self, member: &Member) -> SimulatedDevice {
        let iommu = self.machine.slot(member.name()).unwrap().iommu().clone();
        SimulatedDevice::new(member.endpoint().clone(), iommu, self.machine.memory().clone())
    }

    /// Which of the user's pages the device reaches at a page of the I/O address space, counted from 1.
    pub(crate) fn reaches(&self, device: &str, at: u64) -> Option<u64> {
        NumberedMemory::seen(&self.machine.dma(device).ok()?, Iova::new(at * PAGE_SIZE))
    }

    /// What the device reaches of the first pages.
    pub(crate) fn view(&self, device: &str) -> Vec<Option<u64>> {
        NumberedMemory::view(&self.machine.dma(device).unwrap(), 0..VIEW)
    }

    /// How many pages are pinned and accounted for, which must be the same.
    pub(crate) fn pinned(&self) -> u64 {
        assert_eq!(self.process.pinned(), self.locked.pages());
        self.process.pinned()
    }

    /// Lets the n-th call from now on fail: of the hardware that all devices are behind, or a pin.
    pub(crate) fn fail(&self, what: Fails, n: u32) {
        match what {
            Fails::Hardware => self.hardware(A1).fail_nth(n, HardwareError::new(Errno::EIO, "on command")),
            Fails::Pin => self.user.fail_nth(n),
        }
    }

    pub(crate) fn heal(&self) {
        self.hardware(A1).heal();
        self.user.heal();
    }

    /// How many calls of hardware were made that can fail.
    pub(crate) fn calls(&self) -> u32 {
        self.hardware(A1).calls()
    }

    /// Whether the call that was to fail was made.
    pub(crate) fn has_failed(&self, what: Fails, calls_before: u32, n: u32) -> bool {
        match what {
            Fails::Hardware => self.calls() > calls_before + n,
            Fails::Pin => self.user.has_failed(),
        }
    }

    /// All that can be seen.
    pub(crate) fn picture(&self) -> String {
        let mut picture = picture(self.machine.iommu());
        writeln!(picture, "pins {} locked {}", self.process.pinned(), self.locked.pages()).unwrap();
        for dev in self.machine.pci().devices() {
            writeln!(picture, "{} {:?} {:?}", dev.name(), dev.driver_hint(), self.view(dev.name())).unwrap();
        }
        picture
    }

    /// Everything that a device reaches is pinned.
    pub(crate) fn assert_pinned(&self, what: &str) {
        for dev in self.machine.pci().devices() {
            let mut reached: Vec<_> = self.view(dev.name()).into_iter().flatten().collect();
            reached.sort_unstable();
            reached.dedup();
            let pinned = self.process.pinned();
            assert!(reached.len() as u64 <= pinned, "{what}: {} reaches {reached:?}, {pinned} pins", dev.name());
        }
    }

    /// Nothing is left of any user.
    pub(crate) fn assert_idle(&self, what: &str) {
        assert_eq!((self.process.pinned(), self.locked.pages()), (0, 0), "{what}");
        let left = left_behind(self.machine.iommu());
        assert!(left.is_none(), "{what}: {left:?}");
        for dev in self.machine.pci().devices() {
            let view = self.view(dev.name());
            assert!(view.iter().all(Option::is_none), "{what}: {} sees {view:?}", dev.name());
        }
    }
}

pub(crate) fn range(at: u64, pages: u64) -> Unmap {
    Unmap::Range { iova: Iova::new(at * PAGE_SIZE), bytes: pages * PAGE_SIZE }
}
