//! Devices that are reset together, over several groups: V54, V55; and what is left of them once they are gone.
#![cfg(not(shuttle))]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what a test takes for granted may fail it")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vfio_owner::device_ops::{AffectedFunction, NoHotReset};
use vfio_owner::error::HotResetError;
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::device_model::sync::Mutex;
use vfio_owner::iommu_core::device_model::{Errno, Removal};
#[cfg(feature = "iommufd")]
use vfio_owner::iommufd_owner::Context;
use vfio_owner::{AffectedOwner, Container, DeviceOps, DeviceSetId, GroupFile, OpenDevice, Registration};

use common::{KIND, World};

/// Counts its resets, and says what else is reset with it.
#[derive(Debug, Default)]
struct Counting {
    resets: AtomicU32,
    affected: Mutex<Vec<&'static str>>,
}

impl DeviceOps for Counting {
    fn affected(&self) -> Result<Vec<AffectedFunction>, NoHotReset> {
        let address: PciAddress = "0000:00:00.0".parse().unwrap();
        let function = |name: &&str| AffectedFunction { device: (*name).into(), address, group: None };
        Ok(self.affected.lock().iter().map(function).collect())
    }

    fn hot_reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }
}

struct Registered {
    ops: Arc<Counting>,
    registration: Registration,
}

fn register(world: &World, device: &str, set: DeviceSetId) -> Registered {
    let ops = Arc::new(Counting::default());
    let registration = world.vfio.register(&world.bus.device(device).unwrap(), &set, ops.clone()).unwrap();
    Registered { ops, registration }
}

fn named(name: &str) -> DeviceSetId {
    DeviceSetId::Named(name.into())
}

/// The group of a device, in the container.
fn join(world: &World, container: &Container, device: &str) -> GroupFile {
    let file = world.vfio.open_group(world.group(device).id()).unwrap();
    file.set_container(container).unwrap();
    file
}

const ALL: [&str; 5] = ["a1", "a2", "a3", "a4", "b1"];

/// What is registered in the set of a device.
fn set_of(device: &OpenDevice, ops: &Counting, file: &GroupFile) -> Vec<&'static str> {
    let registered = |name: &&'static str| {
        *ops.affected.lock() = vec![*name];
        !matches!(device.hot_reset(&[file]), Err(HotResetError::NotRegistered { .. }))
    };
    ALL.into_iter().filter(registered).collect()
}

#[test]
fn v54_a_set_is_what_was_registered_under_its_name() {
    let world = World::new(&ALL);
    let [a1, mut a2] = ["a1", "a2"].map(|device| register(&world, device, named("one")));
    let a3 = register(&world, "a3", named("two"));
    let a4 = register(&world, "a4", DeviceSetId::Alone);
    // The set of the first is there still, after another was made.
    let b1 = register(&world, "b1", named("one"));
    let container = world.vfio.open_container();
    let file = join(&world, &container, "a1");
    container.set_iommu(KIND).unwrap();
    let set = |device: &str, ops| set_of(&file.device(device).unwrap(), ops, &file);
    assert_eq!(set("a1", &a1.ops), ["a1", "a2", "b1"]);
    assert_eq!((set("a3", &a3.ops), set("a4", &a4.ops)), (vec!["a3"], vec!["a4"]));
    assert_eq!([&a1, &a3, &b1].map(|one| one.registration.number()), [0, 2, 4], "V58");
    // V88: until it has left.
    let user = file.device("a2").unwrap();
    assert!(matches!(a2.registration.unregister(0), Removal::Waiting(_)));
    assert_eq!(set("a1", &a1.ops), ["a1", "a2", "b1"]);
    drop(user);
    assert!(matches!(a2.registration.unregister(1), Removal::Done));
    assert_eq!(set("a1", &a1.ops), ["a1", "b1"]);
    drop(a2);
    drop(b1);
    assert_eq!(set("a1", &a1.ops), ["a1"]);
    let _a2 = register(&world, "a2", named("one"));
    assert_eq!(set("a1", &a1.ops), ["a1", "a2"]);
}

#[test]
fn v55_a_hot_reset_wants_every_group_and_resets_every_device_once() {
    let world = World::new(&["a1", "a2", "b1", "c1"]);
    let set = ["a1", "a2", "b1"].map(|device| register(&world, device, named("one")));
    let other = register(&world, "c1", named("two"));
    let container = world.vfio.open_container();
    let a = join(&world, &container, "a1");
    container.set_iommu(KIND).unwrap();
    let [b, c] = ["b1", "c1"].map(|device| join(&world, &container, device));
    let device = a.device("a1").unwrap();
    *set[0].ops.affected.lock() = vec!["a1", "a2", "b1"];
    let resets = || [&set[0], &set[1], &set[2], &other].map(|one| one.ops.resets.load(Ordering::Relaxed));
    assert!(Arc::ptr_eq(device.member().unwrap().group(), &world.group("a1")));
    let owners = ["a1", "a2", "b1"].map(|device| AffectedOwner::Group(world.group(device).id()));
    assert_eq!(device.hot_reset_info().unwrap().owners, owners, "V89");
    assert!(matches!(device.hot_reset(&[]), Err(HotResetError::WrongList { .. })));
    assert!(matches!(device.hot_reset(&[&a, &a, &b, &b]), Err(HotResetError::TooManyFiles { files: 4, functions: 3 })));
    for files in [&[&a][..], &[&b], &[&a, &c], &[&b, &c], &[&a, &a]] {
        let refused = device.hot_reset(files).unwrap_err();
        assert!(matches!(refused, HotResetError::NotOwned { .. }) && refused.errno() == Errno::EINVAL, "{refused}");
    }
    assert_eq!(resets(), [0; 4]);
    device.hot_reset(&[&c, &b, &a]).unwrap();
    assert_eq!(resets(), [1, 1, 1, 0]);
}

#[cfg(feature = "iommufd")]
#[test]
fn v55_a_bound_device_file_owns_what_its_context_has_bound() {
    let world = World::new(&["a1", "b1"]);
    let set = ["a1", "b1"].map(|device| register(&world, device, named("one")));
    let [context, another] = ["vmm", "another"].map(|name| Context::new(name, &world.physical));
    let [a, b] = ["a1", "b1"].map(|device| world.vfio.open_device(device).unwrap());
    let bound = a.bind_iommufd(&context).unwrap();
    assert_eq!(bound.hot_reset(&[]).unwrap_err().errno(), Errno::EINVAL);
    let theirs = b.bind_iommufd(&another).unwrap();
    assert_eq!(bound.hot_reset(&[]).unwrap_err().errno(), Errno::EINVAL);
    drop((b, theirs));
    let b = world.vfio.open_device("b1").unwrap();
    b.bind_iommufd(&context).unwrap();
    bound.hot_reset(&[]).unwrap();
    assert_eq!([0, 1].map(|one: usize| set[one].ops.resets.load(Ordering::Relaxed)), [1, 1]);
}

#[test]
fn v12_nothing_is_left_of_a_device_that_was_unregistered() {
    let world = World::new(&["a1", "a2"]);
    let _a2 = register(&world, "a2", named("one"));
    for round in 0..3 {
        let Registered { ops, registration } = register(&world, "a1", named("one"));
        assert!(world.vfio.register(&world.bus.device("a1").unwrap(), &named("one"), ops.clone()).is_err());
        drop(registration);
        assert_eq!(Arc::strong_count(&ops), 1, "round {round}");
        #[cfg(feature = "iommufd")]
        assert_eq!(world.vfio.open_device("a1").unwrap_err().errno(), Errno::ENOENT);
    }
    let file = world.vfio.open_group(world.group("a1").id()).unwrap();
    assert_eq!(file.device("a1").unwrap_err().errno(), Errno::ENODEV);
    drop((file, _a2));
    assert_eq!(world.vfio.open_group(world.group("a1").id()).unwrap_err().errno(), Errno::ENOENT);
}
