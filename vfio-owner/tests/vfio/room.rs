//! The machine, and what most tests do to it first.

use std::sync::Arc;

use vfio_owner::backend::{Extension, MapRequest};
use vfio_owner::iommu_core::device_model::{Progress, Unbind};
use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::{Access, Attached, Iova, Ownership, UserAddr};
use vfio_owner::testbed::{self, Machine};
use vfio_owner::{Container, GroupFile};

/// Alone in its group, with driver e1000e.
pub(crate) const NIC: &str = "0000:00:03.0";
/// Three functions of one group: e1000, e1000, no driver.
pub(crate) const CARD: [&str; 3] = ["0000:00:04.0", "0000:00:04.1", "0000:00:04.2"];
/// A bridge port on pcieport, alone in its group; two functions behind it in another.
pub(crate) const BEHIND_PORT: [&str; 2] = ["0000:01:00.0", "0000:01:00.1"];

pub(crate) const PAGE: u64 = 0x1000;

pub(crate) struct Room {
    pub(crate) machine: Machine,
    pub(crate) process: Arc<Process>,
    pub(crate) ram: UserAddr,
}

impl Room {
    pub(crate) fn new() -> Self {
        let machine = Machine::boot(&testbed::pc());
        let process = machine.process(LockedPages::unlimited());
        let ram = process.allocate(16 << 20, Access::ReadWrite).unwrap();
        Self { machine, process, ram }
    }

    /// A room in which these devices are on vfio-pci.
    pub(crate) fn with(devices: &[&str]) -> Self {
        let room = Self::new();
        for device in devices {
            room.give(device);
        }
        room
    }

    /// Puts a device on vfio-pci.
    pub(crate) fn give(&self, device: &str) {
        self.free(device);
        self.machine.bind(device, "vfio-pci").unwrap();
    }

    /// Unbinds what is bound.
    pub(crate) fn free(&self, device: &str) {
        if let Ok(mut unbind) = self.machine.unbind(device) {
            assert!(matches!(unbind.try_finish(), Progress::Done), "{device} is in use");
        }
    }

    pub(crate) fn group(&self, device: &str) -> GroupFile {
        self.machine.open_group(device).unwrap()
    }

    pub(crate) fn container(&self) -> Container {
        self.machine.vfio().open_container()
    }

    /// The group of a device, in a container with an IOMMU.
    pub(crate) fn ready(&self, device: &str) -> (GroupFile, Container) {
        let (group, container) = (self.group(device), self.container());
        group.set_container(&container).unwrap();
        container.set_iommu(Extension::TYPE1_V2).unwrap();
        (group, container)
    }

    pub(crate) fn map(&self, container: &Container, iova: u64, bytes: u64) {
        let (process, addr) = (self.process.clone(), self.ram);
        container.map(&MapRequest { iova: Iova::new(iova), bytes, process, addr, access: Access::ReadWrite }).unwrap();
    }

    pub(crate) fn ownership(&self, device: &str) -> Ownership {
        self.machine.group(device).unwrap().ownership()
    }

    pub(crate) fn attached(&self, device: &str) -> Attached {
        self.machine.group(device).unwrap().attached()
    }

    /// Whether the device's DMA to `iova` arrives.
    pub(crate) fn reaches(&self, device: &str, iova: u64) -> bool {
        self.machine.dma(device).unwrap().write(Iova::new(iova), b"x").is_ok()
    }

    /// An unbinding that waits for a user.
    pub(crate) fn unbind_blocked(&self, device: &str) -> Unbind {
        let mut unbind = self.machine.unbind(device).unwrap();
        assert!(matches!(unbind.try_finish(), Progress::Waiting { .. }));
        unbind
    }
}

pub(crate) fn is_done(unbind: &mut Unbind) -> bool {
    matches!(unbind.try_finish(), Progress::Done)
}
