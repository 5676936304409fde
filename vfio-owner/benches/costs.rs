//! What one more costs: time, allocations and calls of hardware per element at n and 10n, of everything that could grow with
//! how many devices, groups and mappings there are. Prints a table. Linear work shows about the same number in both columns.
#![expect(clippy::expect_used, reason = "what is measured cannot fail")]

use std::collections::BTreeSet;

use cost_table::{Calls, Cost, Row, print};
use vfio_owner::backend::{Extension, MapRequest, Unmap};
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::pci::{ConfigSpace, PciAddress, PciFunction, PortType};
use vfio_owner::iommu_core::software::LockedPages;
use vfio_owner::iommu_core::sysfs::{Snapshot, SysfsDevice};
use vfio_owner::iommu_core::{Access, Iova};
use vfio_owner::testbed::Machine;
use vfio_owner::type1::Type1Config;
use vfio_owner::{BoundDeviceFile, Container, DeviceFile, GroupFile, OpenDevice};

/// Which devices share a group.
#[derive(Clone, Copy)]
enum Groups {
    One,
    Each,
}

struct Scene {
    machine: Machine,
    names: Vec<String>,
}

/// So many network cards, without driver.
fn snapshot(devices: u32, groups: Groups) -> Snapshot {
    let config = ConfigSpace::builder().ids(0x8086, 0x10d3).class(0x02_0000).pcie(PortType::Endpoint);
    let config = config.function_level_reset().build();
    let device = |number: u32| {
        let text = format!("{:04x}:{:02x}:{:02x}.{}", number >> 16, number >> 8 & 0xff, number >> 3 & 0x1f, number & 7);
        let address: PciAddress = text.parse().expect("it is one");
        let group = match groups {
            Groups::One => 0,
            Groups::Each => number,
        };
        SysfsDevice {
            function: PciFunction::new(address, config.clone()).into(),
            path: text,
            driver: None,
            driver_override: None,
            group: Some(group),
        }
    };
    Snapshot { devices: (0..devices).map(device).collect(), ..Snapshot::default() }
}

impl Scene {
    /// Devices without driver.
    fn new(calls: Calls, devices: u32, groups: Groups) -> Self {
        let snapshot = snapshot(devices, groups);
        let names = snapshot.devices.iter().map(|dev| dev.path.clone()).collect();
        let config = Type1Config { dma_entry_limit: u32::MAX, ..Type1Config::default() };
        let builder = Machine::builder(snapshot).as_found().type1(config);
        let builder = match calls {
            Calls::Ignored => builder,
            Calls::Counted => builder.failing_iommus(),
        };
        Self { machine: builder.build().expect("no device was named"), names }
    }

    /// Devices on vfio-pci.
    fn bound(calls: Calls, devices: u32, groups: Groups) -> Self {
        let scene = Self::new(calls, devices, groups);
        scene.bind();
        scene
    }

    fn bind(&self) {
        for name in &self.names {
            self.machine.bind(name, "vfio-pci").expect("it is free");
        }
    }

    fn calls(&self) -> u32 {
        let first = self.names.first().and_then(|name| self.machine.failing_iommu(name));
        first.map_or(0, |iommu| iommu.all_calls())
    }

    fn cost(&self, work: impl FnOnce()) -> Cost {
        Cost::of(|| self.calls(), work)
    }

    fn groups(&self) -> Vec<GroupFile> {
        let groups: BTreeSet<_> = self.names.iter().filter_map(|name| self.machine.vfio().group_of(name)).collect();
        groups.into_iter().map(|group| self.machine.vfio().open_group(group).expect("it is closed")).collect()
    }

    /// The one group in a container with an IOMMU.
    fn contained(&self) -> (Container, Vec<GroupFile>) {
        let (container, groups) = (self.machine.vfio().open_container(), self.groups());
        for group in &groups {
            group.set_container(&container).expect("it is viable");
        }
        container.set_iommu(Extension::TYPE1_V2).expect("there is a group");
        (container, groups)
    }

    fn open(&self, groups: &[GroupFile]) -> Vec<OpenDevice> {
        let group = groups.first().expect("there is one");
        self.names.iter().map(|name| group.device(name).expect("it is in the group")).collect()
    }

    fn files(&self) -> Vec<DeviceFile> {
        self.names.iter().map(|name| self.machine.open_device(name).expect("it is on vfio-pci")).collect()
    }
}

fn build(calls: Calls, n: u32) -> Cost {
    // Nothing is there yet whose calls could be counted.
    Scene::new(calls, 0, Groups::One).cost(|| drop(Scene::new(calls, n, Groups::Each)))
}

fn register(groups: Groups) -> impl Fn(Calls, u32) -> Cost {
    move |calls, n| {
        let scene = Scene::new(calls, n, groups);
        scene.cost(|| scene.bind())
    }
}

fn unregister(calls: Calls, n: u32) -> Cost {
    let scene = Scene::bound(calls, n, Groups::One);
    scene.cost(|| scene.names.iter().for_each(|name| scene.machine.unbind(name).expect("it is bound").wait()))
}

fn open(calls: Calls, n: u32) -> Cost {
    let scene = Scene::bound(calls, n, Groups::One);
    let (_container, groups) = scene.contained();
    let mut open = Vec::new();
    scene.cost(|| open = scene.open(&groups))
}

fn close(calls: Calls, n: u32) -> Cost {
    let scene = Scene::bound(calls, n, Groups::One);
    let (_container, groups) = scene.contained();
    let open = scene.open(&groups);
    scene.cost(|| drop(open))
}

fn open_group(calls: Calls, n: u32) -> Cost {
    let scene = Scene::bound(calls, n, Groups::Each);
    let mut groups = Vec::new();
    scene.cost(|| groups = scene.groups())
}

fn close_group(calls: Calls, n: u32) -> Cost {
    let scene = Scene::bound(calls, n, Groups::Each);
    let groups = scene.groups();
    scene.cost(|| drop(groups))
}

fn bind_iommufd(calls: Calls, n: u32) -> Cost {
    let scene = Scene::bound(calls, n, Groups::One);
    let (files, context) = (scene.files(), scene.machine.open_iommufd("vmm"));
    let mut bound: Vec<BoundDeviceFile> = Vec::new();
    let bind = |file: &DeviceFile| file.bind_iommufd(&context).expect("nobody has it");
    scene.cost(|| bound = files.iter().map(bind).collect())
}

fn close_files(calls: Calls, n: u32) -> Cost {
    let scene = Scene::bound(calls, n, Groups::One);
    let (files, context) = (scene.files(), scene.machine.open_iommufd("vmm"));
    for file in &files {
        file.bind_iommufd(&context).expect("nobody has it");
    }
    scene.cost(|| drop(files))
}

/// A mapping on every other page, so that none touches another.
fn map_all(scene: &Scene, container: &Container, n: u32) {
    let process = scene.machine.process(LockedPages::unlimited());
    let addr = process.allocate(PAGE_SIZE, Access::ReadWrite).expect("there is memory");
    for number in 0..n {
        let iova = Iova::new((1 << 32) + 2 * u64::from(number) * PAGE_SIZE);
        let request = MapRequest { iova, bytes: PAGE_SIZE, process: process.clone(), addr, access: Access::ReadWrite };
        container.map(&request).expect("nothing is there");
    }
}

fn map(calls: Calls, n: u32) -> Cost {
    let scene = Scene::bound(calls, 1, Groups::One);
    let (container, _groups) = scene.contained();
    scene.cost(|| map_all(&scene, &container, n))
}

fn unmap(calls: Calls, n: u32) -> Cost {
    let scene = Scene::bound(calls, 1, Groups::One);
    let (container, _groups) = scene.contained();
    map_all(&scene, &container, n);
    scene.cost(|| assert_eq!(container.unmap(Unmap::All), Ok(u64::from(n) * PAGE_SIZE)))
}

fn main() {
    let rows: [Row; 12] = [
        ("build a machine, a group each", Box::new(build)),
        ("register, a group each", Box::new(register(Groups::Each))),
        ("register, one group", Box::new(register(Groups::One))),
        ("unregister, one group", Box::new(unregister)),
        ("open a device, one group", Box::new(open)),
        ("close a device, one group", Box::new(close)),
        ("open a group", Box::new(open_group)),
        ("close a group", Box::new(close_group)),
        ("bind a device file, one group", Box::new(bind_iommufd)),
        ("close a device file, one group", Box::new(close_files)),
        ("map a page", Box::new(map)),
        ("unmap all, per mapping", Box::new(unmap)),
    ];
    print(rows);
}
