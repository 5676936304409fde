//! A small machine: platform devices in two groups, drivers of both kinds, and hardware that fails on command.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::needless_pass_by_value,
    reason = "each test file uses a part of it"
)]

use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::Arc;

use iommu_core::address::{Access, Iova, PhysAddr};
use iommu_core::device_model::{BusHandle, Device, Errno};
use iommu_core::failing::FailingIommu;
use iommu_core::hardware::HardwareError;
use iommu_core::software::{Memory, SoftIommu, SoftIommuConfig, TestBus, Testbed, picture};
use iommu_core::{Domain, Group, IommuBuilder, IommuSubsystem, Member, PhysicalMemory};

pub(crate) type Dev = Device<TestBus>;

/// Both parties use this address, so that what is read there tells who was reached.
pub(crate) const BUFFER: Iova = Iova::new(0x10_0000);
pub(crate) const KERNEL_PAGE: PhysAddr = PhysAddr::new(0x100_0000);
pub(crate) const USER_PAGE: PhysAddr = PhysAddr::new(0x200_0000);
pub(crate) const KERNEL_TEXT: [u8; 6] = *b"kernel";
pub(crate) const USER_TEXT: [u8; 6] = *b"guest!";

pub(crate) struct World {
    machine: Testbed,
    pub(crate) bus: BusHandle<TestBus>,
    pub(crate) iommu: IommuSubsystem,
    pub(crate) right: PhysicalMemory,
    pub(crate) hardware: Arc<FailingIommu>,
    /// Serves the devices whose name ends in a prime; of another driver.
    pub(crate) other: Arc<FailingIommu>,
    pub(crate) soft: Arc<SoftIommu>,
    pub(crate) memory: Memory,
    failures: Cell<Option<u32>>,
}

/// What a device reads at [`BUFFER`], or at the physical address of the kernel's page.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Seen {
    Kernel,
    User,
    /// Memory that is nobody's.
    Other,
    Nothing,
}

impl World {
    /// A machine without devices. The group of a device is the letter that its name begins with.
    pub(crate) fn new(config: SoftIommuConfig) -> Self {
        Self::build(config, |builder| builder)
    }

    /// As [`new`](Self::new), with more to say of the IOMMU.
    pub(crate) fn build(config: SoftIommuConfig, say: impl FnOnce(IommuBuilder) -> IommuBuilder + 'static) -> Self {
        let other = |name: &str| name.ends_with('\'');
        let machine = Testbed::builder().config(config.clone()).another_iommu(config, other).subsystem(say).build();
        let memory = machine.memory().clone();
        memory.write(KERNEL_PAGE, &KERNEL_TEXT);
        memory.write(USER_PAGE, &USER_TEXT);
        Self {
            bus: machine.bus().clone(),
            iommu: machine.iommu().clone(),
            right: machine.physical_memory().clone(),
            hardware: machine.hardware("").clone(),
            other: machine.hardware("'").clone(),
            soft: machine.soft("").clone(),
            memory,
            failures: Cell::new(None),
            machine,
        }
    }

    pub(crate) fn with_devices(names: &[&str]) -> Self {
        let world = Self::new(SoftIommuConfig::default());
        for name in names {
            drop(world.plug(name));
        }
        world
    }

    pub(crate) fn plug(&self, name: &str) -> Arc<Dev> {
        self.machine.plug(name).unwrap()
    }

    pub(crate) fn unplug(&self, name: &str) {
        self.bus.device(name).unwrap().remove().wait();
    }

    pub(crate) fn member(&self, name: &str) -> Arc<Member> {
        self.machine.member(name).unwrap()
    }

    pub(crate) fn group(&self, name: &str) -> Arc<Group> {
        self.member(name).group().clone()
    }

    pub(crate) fn bind(&self, name: &str, driver: &str) -> Result<(), Errno> {
        self.machine.bind(name, driver).map_err(|error| error.errno())
    }

    pub(crate) fn unbind(&self, name: &str) {
        let driver = self.bus.device(name).unwrap().driver_hint().unwrap();
        self.bus.sysfs().unbind(&driver, name).unwrap().wait();
    }

    /// Lets the kernel's page be reached through the default domain, as its DMA API would.
    pub(crate) fn map_kernel_page(&self, group: &Group) {
        let Some(domain) = group.default_domain() else { return };
        if domain.kind().is_paging() && domain.iova_to_phys(BUFFER).is_none() {
            domain.map(&self.right, BUFFER, KERNEL_PAGE, 0x1000, Access::ReadWrite).unwrap();
        }
    }

    /// A domain of user space with its page at [`BUFFER`].
    pub(crate) fn user_domain(&self, group: &Group) -> Result<Arc<Domain>, HardwareError> {
        let domain = group.allocate_paging()?;
        match domain.map(&self.right, BUFFER, USER_PAGE, 0x1000, Access::ReadWrite) {
            Err(iommu_core::MapError::Hardware(error)) => Err(error),
            other => Ok(other.map(|()| domain).unwrap()),
        }
    }

    /// What the device sees at [`BUFFER`], and at the kernel page's physical address.
    pub(crate) fn sees(&self, dev: &Dev) -> [Seen; 2] {
        [BUFFER, Iova::new(KERNEL_PAGE.get())].map(|at| {
            let mut bytes = [0; 6];
            match self.machine.soft(dev.name()).dma_read(dev.id(), at, &mut bytes, &self.memory) {
                Ok(()) if bytes == KERNEL_TEXT => Seen::Kernel,
                Ok(()) if bytes == USER_TEXT => Seen::User,
                Ok(()) => Seen::Other,
                Err(_) => Seen::Nothing,
            }
        })
    }

    /// All that can be seen of the machine.
    pub(crate) fn picture(&self) -> String {
        let mut picture = picture(&self.iommu);
        for dev in self.bus.devices() {
            writeln!(picture, "{} {:?} {:?}", dev.name(), dev.driver_hint(), self.sees(&dev)).unwrap();
        }
        picture
    }

    /// The n-th hardware call from now on fails, for one time.
    pub(crate) fn fail_nth(&self, n: u32) {
        self.hardware.fail_nth(n, HardwareError::new(Errno::EIO, "on command"));
    }

    /// Disarms; whether a call that was told to fail has done so since the last time.
    pub(crate) fn disarm(&self) -> bool {
        let before = self.failures.replace(self.hardware.last_failed().map(|call| call.number));
        self.hardware.heal();
        before != self.failures.get()
    }
}
