//! A machine whose hardware and whose user's memory fail on command.

use std::fmt::Write as _;
use std::sync::Arc;

use vfio_owner::backend::MapRequest;
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::{DeviceId, Errno};
use vfio_owner::iommu_core::failing::{FailingIommu, FailingMemory};
use vfio_owner::iommu_core::hardware::HardwareError;
use vfio_owner::iommu_core::software::{LockedPages, Memory, Process, SoftIommu, SoftIommuConfig};
use vfio_owner::iommu_core::{Access, Attached, Iova, Ownership, UserAddr, UserMemory as _};
use vfio_owner::type1::Type1;

use crate::common::World;

/// Pages of the user's memory, which are physically apart.
pub(crate) const PAGES: u64 = 8;

pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) hardware: Arc<FailingIommu>,
    soft: Arc<SoftIommu>,
    memory: Memory,
    pub(crate) user: Arc<FailingMemory>,
    pub(crate) process: Arc<Process>,
    pub(crate) locked: LockedPages,
    pub(crate) ram: UserAddr,
}

impl Rig {
    pub(crate) fn new(devices: &[&str]) -> Self {
        let soft = SoftIommu::new("soft", SoftIommuConfig::default());
        let hardware = FailingIommu::new(soft.clone());
        let world = World::on(hardware.clone(), |memory| Arc::new(Type1::new(memory)), devices);
        let memory = Memory::new();
        let locked = LockedPages::limited(1 << 20);
        let process = Process::new(&memory, locked.clone());
        let ram = process.allocate(PAGES * PAGE_SIZE, Access::ReadWrite).unwrap();
        for page in 0..PAGES {
            let at = UserAddr::new(ram.get() + page * PAGE_SIZE);
            process.write(at, &[page as u8 + 1]).unwrap();
        }
        let user = FailingMemory::new(process.clone());
        Self { world, hardware, soft, memory, user, process, locked, ram }
    }

    /// A request for `pages` pages at page `at` of the I/O address space, of memory from page `from` on.
    pub(crate) fn request(&self, at: u64, pages: u64, from: u64) -> MapRequest {
        MapRequest {
            iova: Iova::new(at * PAGE_SIZE),
            bytes: pages * PAGE_SIZE,
            process: self.user.clone(),
            addr: UserAddr::new(self.ram.get() + from * PAGE_SIZE),
            access: Access::ReadWrite,
        }
    }

    /// Which of the user's pages the device reaches at a page of the I/O address space.
    pub(crate) fn reaches(&self, device: &str, at: u64) -> Option<u64> {
        self.reads(self.world.bus.device(device)?.id(), at)
    }

    /// The same for a device that may have left the bus.
    pub(crate) fn reads(&self, id: DeviceId, at: u64) -> Option<u64> {
        let mut byte = [0];
        self.soft.dma_read(id, Iova::new(at * PAGE_SIZE), &mut byte, &self.memory).ok()?;
        Some(u64::from(byte[0]))
    }

    /// Lets the n-th call from now on fail: of hardware, or a pin.
    pub(crate) fn fail(&self, what: Fails, n: u32) {
        match what {
            Fails::Hardware => {
                self.hardware.fail_nth(n, HardwareError::new(Errno::EIO, "on command"));
            }
            Fails::Pin => self.user.fail_nth(n),
        }
    }

    pub(crate) fn heal(&self) {
        self.hardware.heal();
        self.user.heal();
    }

    /// Whether the call that was to fail was made.
    pub(crate) fn has_failed(&self, what: Fails, calls_before: u32, n: u32) -> bool {
        match what {
            Fails::Hardware => self.hardware.calls() > calls_before + n,
            Fails::Pin => self.user.has_failed(),
        }
    }

    /// All that can be seen.
    pub(crate) fn picture(&self) -> String {
        let mut picture = format!("pins {} locked {}\n", self.process.pinned(), self.locked.pages());
        for group in self.world.iommu.groups() {
            let state = (group.ownership(), group.attached(), group.members());
            writeln!(picture, "{} {state:?}", group.id()).unwrap();
        }
        for dev in self.world.bus.devices() {
            let seen: Vec<_> = (0..16).map(|at| self.reaches(dev.name(), at)).collect();
            writeln!(picture, "{} {:?} {seen:?}", dev.name(), dev.driver_hint()).unwrap();
        }
        picture
    }

    /// Nothing is left of any user.
    pub(crate) fn assert_idle(&self) {
        assert_eq!((self.process.pinned(), self.locked.pages()), (0, 0));
        for group in self.world.iommu.groups() {
            assert!(group.ownership().owner().is_none(), "{group:?} is owned");
            let home = matches!(group.attached(), Attached::Default(_));
            // A way home that hardware refused ends blocked, never open.
            let stuck = group.ownership() == Ownership::Idle && group.attached() == Attached::Blocking;
            assert!(home || stuck || group.is_empty(), "{group:?} is at {}", group.attached());
        }
        for dev in self.world.bus.devices() {
            for at in 0..16 {
                assert_eq!(self.reaches(dev.name(), at), None, "{} reaches page {at}", dev.name());
            }
        }
    }
}

/// What is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fails {
    Hardware,
    Pin,
}
