//! Random lives under VFIO against a plain reference: what each device reaches is what its group's container has mapped, or
//! the address space that its device file is attached to.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vfio_owner::backend::{Extension, Unmap};
use vfio_owner::iommu_core::Iova;
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Progress;
use vfio_owner::iommu_core::hardware::Capabilities;
use vfio_owner::iommu_core::software::SoftIommuConfig;
use vfio_owner::iommufd_owner::{Context, ObjectId, Place};
use vfio_owner::{BoundDeviceFile, Container, DeviceFile, GroupFile, OpenDevice};

use crate::rig::{A0, A1, B0, C0, Fails, KERNEL, PAGES, Rig, VFIO, VIEW};

const DEVICES: [&str; 4] = [A0, A1, B0, C0];
const GROUPS: [&str; 3] = [A0, B0, C0];
const SPACES: usize = 2;
/// Mappings of a container.
const LIMIT: u32 = 4;
const CONTAINERS: usize = 2;
/// Pages of the I/O address space that are played with.
const SPACE: u64 = 16;

#[derive(Debug, Clone)]
enum Op {
    Bind { device: usize, driver: &'static str },
    Unbind { device: usize },
    Open { group: usize },
    Close { group: usize },
    SetContainer { group: usize, container: usize },
    UnsetContainer { group: usize },
    SetIommu { container: usize, kind: Extension },
    Map { container: usize, at: u64, pages: u64, from: u64 },
    Unmap { container: usize, at: u64, pages: u64 },
    UnmapAll { container: usize },
    OpenDevice { device: usize },
    CloseDevice { device: usize },
    File { device: usize, what: FileOp },
    Fail { what: Fails, n: u32 },
}

/// What is done with the device's own file.
#[derive(Debug, Clone, Copy)]
enum FileOp {
    Open,
    Bind,
    Attach { space: usize },
    Detach,
    Close,
}

fn file_op() -> impl Strategy<Value = FileOp> {
    prop_oneof![
        3 => Just(FileOp::Open),
        3 => Just(FileOp::Bind),
        4 => (0..SPACES).prop_map(|space| FileOp::Attach { space }),
        1 => Just(FileOp::Detach),
        1 => Just(FileOp::Close),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let (device, group, container) = (0..DEVICES.len(), 0..GROUPS.len(), 0..CONTAINERS);
    let kind = prop::sample::select(vec![Extension::TYPE1, Extension::TYPE1_V2]);
    prop_oneof![
        4 => (device.clone(), prop::sample::select(vec![VFIO, VFIO, KERNEL]))
            .prop_map(|(device, driver)| Op::Bind { device, driver }),
        1 => device.clone().prop_map(|device| Op::Unbind { device }),
        4 => group.clone().prop_map(|group| Op::Open { group }),
        1 => group.clone().prop_map(|group| Op::Close { group }),
        6 => (group.clone(), container.clone()).prop_map(|(group, container)| Op::SetContainer { group, container }),
        1 => group.prop_map(|group| Op::UnsetContainer { group }),
        4 => (container.clone(), kind).prop_map(|(container, kind)| Op::SetIommu { container, kind }),
        8 => (container.clone(), 0..SPACE, 1..5_u64, 0..5_u64)
            .prop_map(|(container, at, pages, from)| Op::Map { container, at, pages, from }),
        4 => (container.clone(), 0..SPACE, 1..5_u64)
            .prop_map(|(container, at, pages)| Op::Unmap { container, at, pages }),
        1 => container.prop_map(|container| Op::UnmapAll { container }),
        3 => device.clone().prop_map(|device| Op::OpenDevice { device }),
        2 => device.clone().prop_map(|device| Op::CloseDevice { device }),
        12 => (device, file_op()).prop_map(|(device, what)| Op::File { device, what }),
        2 => (prop::sample::select(vec![Fails::Hardware, Fails::Pin]), 0..6_u32)
            .prop_map(|(what, n)| Op::Fail { what, n }),
    ]
}

/// What a container should hold.
#[derive(Default)]
struct Reference {
    kind: Option<Extension>,
    /// Pages and first page of memory, by the first page of the I/O address space.
    mappings: BTreeMap<u64, (u64, u64)>,
}

impl Reference {
    /// The page of memory at a page of the I/O address space.
    fn at(&self, page: u64) -> Option<u64> {
        let (first, (pages, from)) = self.mappings.range(..=page).next_back()?;
        (page < first + pages).then_some(from + page - first + 1)
    }

    /// What an unmap does; `None` when it is refused.
    fn unmap(&mut self, at: u64, pages: u64) -> Option<u64> {
        let overlaps = |first: u64, length: u64| first < at + pages && at < first + length;
        let cut = |first: u64, length: u64| first < at || first + length > at + pages;
        let hit: Vec<(u64, u64)> = self
            .mappings
            .iter()
            .map(|(first, (pages, _))| (*first, *pages))
            .filter(|(f, l)| overlaps(*f, *l))
            .collect();
        if self.kind == Some(Extension::TYPE1_V2) {
            if hit.iter().any(|(first, length)| cut(*first, *length)) {
                return None;
            }
        } else if hit.iter().any(|(first, _)| *first < at) {
            return Some(0);
        }
        for (first, _) in &hit {
            self.mappings.remove(first);
        }
        Some(hit.iter().map(|(_, length)| length).sum())
    }
}

struct Life {
    rig: Rig,
    files: [Option<GroupFile>; GROUPS.len()],
    devices: [Option<OpenDevice>; DEVICES.len()],
    containers: [Container; CONTAINERS],
    /// Which container each group is in.
    inside: [Option<usize>; GROUPS.len()],
    references: [Reference; CONTAINERS],
    /// The iommufd's side: the devices' own files, and to which of two address spaces each device is attached.
    context: Context,
    spaces: [ObjectId; SPACES],
    device_files: [Option<DeviceFile>; DEVICES.len()],
    attached: [Option<usize>; DEVICES.len()],
}

/// Pages of an address space that are mapped.
fn pages_of(space: usize) -> [u64; 2] {
    [3 * space as u64, 3 * space as u64 + 1]
}

/// The page of memory behind a page of an address space.
fn memory_of(space: usize, page: u64) -> u64 {
    10 + 2 * space as u64 - 3 * space as u64 + page
}

fn group_of(device: usize) -> usize {
    [0, 0, 1, 2][device]
}

impl Life {
    fn new() -> Self {
        // Group b needs a domain of its own.
        let lacking = [(B0.to_owned(), Capabilities::ENFORCED_COHERENCY)].into();
        let rig = Rig::limited(&DEVICES, SoftIommuConfig { lacking, ..SoftIommuConfig::default() }, LIMIT);
        let containers = [(); CONTAINERS].map(|()| rig.machine.vfio().open_container());
        let context = rig.machine.open_iommufd("vmm");
        let spaces = [0, 1].map(|space| {
            let ioas = context.ioas_alloc().unwrap();
            for page in pages_of(space) {
                let request = rig.request(page, 1, memory_of(space, page));
                let place = Place::Fixed(request.iova);
                context.ioas_map(ioas, request.at(place)).unwrap();
            }
            ioas
        });
        Self {
            rig,
            context,
            spaces,
            device_files: Default::default(),
            attached: Default::default(),
            files: Default::default(),
            devices: Default::default(),
            containers,
            inside: Default::default(),
            references: Default::default(),
        }
    }

    /// A group leaves its container, if it is in one.
    fn leaves(&mut self, group: usize) {
        if let Some(container) = self.inside[group].take()
            && !self.inside.contains(&Some(container))
        {
            self.references[container] = Reference::default();
        }
    }

    fn in_use(&self, group: usize) -> bool {
        (0..DEVICES.len()).any(|device| group_of(device) == group && self.devices[device].is_some())
    }

    fn bound(&self, device: usize) -> Option<BoundDeviceFile> {
        self.device_files[device].as_ref()?.bound().ok()
    }

    /// What a device should reach.
    fn expected(&self, device: usize) -> Vec<Option<u64>> {
        let group = group_of(device);
        let attached =
            (0..DEVICES.len()).filter(|other| group_of(*other) == group).find_map(|other| self.attached[other]);
        let at = |page| match (self.inside[group], attached) {
            (Some(container), None) => self.references[container].at(page),
            (None, Some(space)) => pages_of(space).contains(&page).then(|| memory_of(space, page) + 1),
            (None, None) => None,
            (Some(_), Some(_)) => panic!("{} has two owners", DEVICES[device]),
        };
        (0..VIEW).map(at).collect()
    }

    fn on_vfio(&self, device: usize) -> bool {
        self.rig.machine.driver(DEVICES[device]).as_deref() == Some(VFIO)
    }

    /// Plays one step; whether it was refused.
    fn play(&mut self, op: &Op) -> Result<(), String> {
        match *op {
            Op::Bind { device, driver } => {
                let bound = self.rig.bind(DEVICES[device], driver);
                if bound { Ok(()) } else { Err("bind".into()) }
            }
            Op::Unbind { device } => self.unbind(device),
            Op::Open { group } => {
                // A file that is held already stays: the group has but one.
                let file = self.rig.try_open(GROUPS[group]).map_err(|error| error.to_string())?;
                self.files[group] = Some(file);
                Ok(())
            }
            Op::Close { group } => {
                if self.files[group].take().is_some() && !self.in_use(group) {
                    self.leaves(group);
                }
                Ok(())
            }
            Op::SetContainer { group, container } => {
                let file = self.files[group].as_ref().ok_or("no file")?;
                file.set_container(&self.containers[container]).map_err(|error| error.to_string())?;
                self.inside[group] = Some(container);
                Ok(())
            }
            Op::UnsetContainer { group } => {
                let file = self.files[group].as_ref().ok_or("no file")?;
                file.unset_container().map_err(|error| error.to_string())?;
                self.leaves(group);
                Ok(())
            }
            Op::SetIommu { container, kind } => {
                self.containers[container].set_iommu(kind).map_err(|error| error.to_string())?;
                self.references[container].kind = Some(kind);
                Ok(())
            }
            Op::Map { container, at, pages, from } => {
                let request = self.rig.request(at, pages, from);
                self.containers[container].map(&request).map_err(|error| error.to_string())?;
                assert!((at..at + pages).all(|page| self.references[container].at(page).is_none()), "mapped twice");
                self.references[container].mappings.insert(at, (pages, from));
                Ok(())
            }
            Op::Unmap { container, at, pages } => {
                let what = Unmap::Range { iova: Iova::new(at * PAGE_SIZE), bytes: pages * PAGE_SIZE };
                let unmapped = self.containers[container].unmap(what).map_err(|error| error.to_string());
                let reference = &mut self.references[container];
                let expected = if reference.kind.is_some() { reference.unmap(at, pages) } else { None };
                assert_eq!(unmapped.clone().ok(), expected.map(|pages| pages * PAGE_SIZE));
                unmapped.map(drop)
            }
            Op::UnmapAll { container } => {
                self.containers[container].unmap(Unmap::All).map_err(|error| error.to_string())?;
                self.references[container].mappings.clear();
                Ok(())
            }
            Op::OpenDevice { device } => {
                let file = self.files[group_of(device)].as_ref().ok_or("no file")?;
                let open = file.device(DEVICES[device]).map_err(|error| error.to_string())?;
                self.devices[device] = Some(open);
                Ok(())
            }
            Op::CloseDevice { device } => {
                let group = group_of(device);
                if self.devices[device].take().is_some() && !self.in_use(group) && self.files[group].is_none() {
                    self.leaves(group);
                }
                Ok(())
            }
            Op::File { device, what } => self.play_file(device, what),
            Op::Fail { what, n } => {
                // One at a time: a roll-back that fails as well stops the device, which is a change.
                self.rig.heal();
                self.rig.fail(what, n);
                Ok(())
            }
        }
    }

    fn play_file(&mut self, device: usize, what: FileOp) -> Result<(), String> {
        match what {
            FileOp::Open => {
                let file = self.rig.machine.open_device(DEVICES[device]).map_err(|error| error.to_string())?;
                // One that is held already is closed.
                self.device_files[device] = Some(file);
                self.attached[device] = None;
            }
            FileOp::Bind => {
                let file = self.device_files[device].as_ref().ok_or("no file")?;
                file.bind_iommufd(&self.context).map_err(|error| error.to_string())?;
            }
            FileOp::Attach { space } => {
                let bound = self.bound(device).ok_or("not bound")?;
                bound.attach_iommufd_pt(self.spaces[space]).map_err(|error| error.to_string())?;
                // A replacement moves the group.
                let replaces = self.attached[device].is_some();
                for (other, attached) in self.attached.iter_mut().enumerate() {
                    if replaces && attached.is_some() && group_of(other) == group_of(device) {
                        *attached = Some(space);
                    }
                }
                self.attached[device] = Some(space);
            }
            FileOp::Detach => {
                self.bound(device).ok_or("not bound")?.detach_iommufd_pt();
                self.attached[device] = None;
            }
            FileOp::Close => {
                self.device_files[device] = None;
                self.attached[device] = None;
            }
        }
        Ok(())
    }

    fn unbind(&mut self, device: usize) -> Result<(), String> {
        if self.devices[device].is_some() || self.device_files[device].is_some() {
            return Err("in use".into());
        }
        let was_on_vfio = self.on_vfio(device);
        let mut unbind = self.rig.machine.unbind(DEVICES[device]).map_err(|error| error.to_string())?;
        assert!(matches!(unbind.try_finish(), Progress::Done));
        let group = group_of(device);
        let left = (0..DEVICES.len()).any(|other| group_of(other) == group && self.on_vfio(other));
        if was_on_vfio && !left {
            self.leaves(group);
        }
        Ok(())
    }

    fn check(&self) {
        for (device, name) in DEVICES.iter().enumerate() {
            assert_eq!(self.rig.view(name), self.expected(device), "{name}");
            let group = group_of(device);
            let bound = (0..DEVICES.len()).any(|other| group_of(other) == group && self.bound(other).is_some());
            let owned = self.inside[group].is_some() || bound;
            assert_eq!(self.rig.group(name).ownership().owner().is_some(), owned, "{name}");
        }
        for reference in &self.references {
            assert!(reference.mappings.len() <= LIMIT as usize, "{} mappings", reference.mappings.len());
        }
        let by_groups: u64 =
            self.references.iter().flat_map(|reference| reference.mappings.values()).map(|(pages, _)| pages).sum();
        let shown = (0..SPACES).filter(|space| self.attached.contains(&Some(*space))).count() as u64;
        let mapped = by_groups + 2 * shown;
        assert!(mapped <= PAGES, "{mapped} pages are locked");
        assert_eq!((self.rig.process.pinned(), self.rig.locked.pages()), (mapped, mapped));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_device_reaches_what_its_container_maps(ops in prop::collection::vec(op(), 1..60)) {
        let mut life = Life::new();
        for op in &ops {
            if matches!(op, Op::Unmap { .. } | Op::UnmapAll { .. }) {
                // What hardware does not unmap stays reachable and pinned, which the reference does not know.
                life.rig.heal();
            }
            let before = life.rig.picture();
            let result = life.play(op);
            if let Err(refusal) = result {
                prop_assert_eq!(life.rig.picture(), before, "{:?} was refused: {}", op, refusal);
            }
            life.check();
            if !matches!(op, Op::Fail { .. }) {
                life.rig.heal();
            }
        }
        let Life { rig, files, devices, containers, context, device_files, .. } = life;
        drop((files, containers, devices, device_files, context));
        rig.assert_idle("after a life");
    }
}
