//! Devices whose group, and whose IOMMU, is the letter that their name begins with.

use std::collections::BTreeMap;
use std::sync::Arc;

use vfio_owner::backend::{Extension, MapRequest, Unmap};
use vfio_owner::error::{MapDmaError, SetContainerError, UnmapDmaError};
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::failing::{FailingIommu, FailingMemory};
use vfio_owner::iommu_core::hardware::IommuDriver;
use vfio_owner::iommu_core::reserved::{RegionKind, ReservedRegion};
use vfio_owner::iommu_core::software::{LockedPages, Memory, Process, SoftIommu, SoftIommuConfig};
use vfio_owner::iommu_core::{Access, Iova, UserAddr, UserMemory as _};
use vfio_owner::type1::{Type1, Type1Config};
use vfio_owner::{Container, GroupFile};

use crate::common::{VFIO, World};

/// Pages of the user's memory. Each is pinned for itself, so that a mapping of several is in pieces.
pub(crate) const PAGES: u64 = 16;

pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) hardware: BTreeMap<String, Arc<FailingIommu>>,
    soft: BTreeMap<String, Arc<SoftIommu>>,
    memory: Memory,
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
    /// One device on VFIO in a group of its own for each letter.
    pub(crate) fn new(letters: &[(&str, SoftIommuConfig)]) -> Self {
        Self::with(letters, Type1Config::default())
    }

    pub(crate) fn with(letters: &[(&str, SoftIommuConfig)], config: Type1Config) -> Self {
        let build = |(letter, config): &(&str, SoftIommuConfig)| {
            let soft = SoftIommu::new(format!("iommu-{letter}"), config.clone());
            ((*letter).to_owned(), soft)
        };
        let soft: BTreeMap<String, Arc<SoftIommu>> = letters.iter().map(build).collect();
        let failing = soft.iter().map(|(letter, soft)| (letter.clone(), FailingIommu::new(soft.clone())));
        let hardware: BTreeMap<String, Arc<FailingIommu>> = failing.collect();
        let devices: Vec<String> = letters.iter().map(|(letter, _)| format!("{letter}0")).collect();
        let names: Vec<&str> = devices.iter().map(String::as_str).collect();
        let by_letter = hardware.clone();
        let world = World::on_each(
            move |letter| by_letter[letter].clone() as Arc<dyn IommuDriver>,
            |memory| Arc::new(Type1::with_config(memory, config)),
            &names,
        );
        for device in &names {
            assert!(world.bind(device, VFIO));
        }
        let memory = Memory::new();
        let locked = LockedPages::limited(PAGES * PAGE_SIZE);
        let process = Process::new(&memory, locked.clone());
        let ram = process.allocate(PAGES * PAGE_SIZE, Access::ReadWrite).unwrap();
        for page in 0..PAGES {
            let at = UserAddr::new(ram.get() + page * PAGE_SIZE);
            process.write(at, &[u8::try_from(page).unwrap() + 1]).unwrap();
        }
        let user = FailingMemory::new(process.clone());
        let container = world.vfio.open_container();
        Self { world, hardware, soft, memory, user, process, locked, ram, container }
    }

    /// One ordinary IOMMU, its group in the container, the IOMMU set.
    pub(crate) fn ready(kind: Extension) -> (Self, GroupFile) {
        let rig = Self::new(&[("a", plain())]);
        let a = rig.first("a0", kind);
        (rig, a)
    }

    pub(crate) fn open(&self, device: &str) -> GroupFile {
        self.world.vfio.open_group(self.world.group(device).id()).unwrap()
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
            addr: UserAddr::new(self.ram.get() + from * PAGE_SIZE),
            access: Access::ReadWrite,
        }
    }

    pub(crate) fn map(&self, at: u64, pages: u64, from: u64) -> Result<(), MapDmaError> {
        self.container.map(self.request(at, pages, from))
    }

    /// Unmaps pages; how many went.
    pub(crate) fn unmap(&self, at: u64, pages: u64) -> Result<u64, UnmapDmaError> {
        self.container.unmap(range(at, pages)).map(|bytes| bytes / PAGE_SIZE)
    }

    /// Which of the user's pages the device reaches at a page of the I/O address space, counted from 1.
    pub(crate) fn reaches(&self, device: &str, at: u64) -> Option<u8> {
        let id = self.world.bus.device(device).unwrap().id();
        let mut byte = [0];
        self.soft[&device[..1]].dma_read(id, Iova::new(at * PAGE_SIZE), &mut byte, &self.memory).ok()?;
        Some(byte[0])
    }

    /// What the device reaches of the first pages.
    pub(crate) fn view(&self, device: &str) -> Vec<Option<u8>> {
        (0..12).map(|at| self.reaches(device, at)).collect()
    }

    pub(crate) fn world_memory(&self) -> &Memory {
        &self.memory
    }

    /// How many pages are pinned and accounted for, which must be the same.
    pub(crate) fn pinned(&self) -> u64 {
        assert_eq!(self.process.pinned(), self.locked.pages());
        self.process.pinned()
    }
}

pub(crate) fn range(at: u64, pages: u64) -> Unmap {
    Unmap::Range { iova: Iova::new(at * PAGE_SIZE), bytes: pages * PAGE_SIZE }
}
