//! Open, close, set a container, get a device, bind, unbind and remove from several threads, under the model checker:
//! `RUSTFLAGS="--cfg shuttle" cargo test -p vfio-owner --features iommufd --release --test model -- --nocapture`.
//!
//! A deadlock, such as the one of a call that needs the device lock while an unbind waits for its caller (L35), fails any
//! scene. Each ends idle, with no claim left.
#![cfg(shuttle)]
#![expect(clippy::unwrap_used, reason = "what a test takes for granted may fail it")]

mod common;

use std::sync::Arc;

use common::{KERNEL, KIND, VFIO, World, bind};
use shuttle::scheduler::{DfsScheduler, PctScheduler};
use shuttle::{Config, Runner};
use vfio_owner::iommu_core::Ownership;
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::device_model::sync::{Mutex, thread};
#[cfg(feature = "iommufd")]
use vfio_owner::iommufd_owner::Context;
use vfio_owner::{DeviceOps, GroupFile, OpenDevice, Vfio};

/// Schedules that the search in depth may take; what it leaves out is sampled.
const BUDGET: usize = 30_000;
/// Sampled schedules, and the places in each at which another thread goes first.
const SAMPLES: usize = 3_000;
const CHANGES: usize = 3;

fn explore(title: &str, scene: impl Fn() + Send + Sync + Clone + 'static) {
    let schedules = Runner::new(DfsScheduler::new(Some(BUDGET), false), Config::default()).run(scene.clone());
    if schedules < BUDGET {
        println!("{title}: all {schedules} schedules");
        return;
    }
    Runner::new(PctScheduler::new(CHANGES, SAMPLES), Config::default()).run(scene);
    println!("{title}: {schedules} schedules in depth, {SAMPLES} sampled");
}

/// The group of a device, in a container.
fn use_group(vfio: &Vfio, world: &World, device: &str) -> Option<GroupFile> {
    let file = vfio.open_group(world.group(device).id()).ok()?;
    let container = vfio.open_container();
    file.set_container(&container).ok()?;
    container.set_iommu(KIND).ok()?;
    Some(file)
}

/// The whole way of a user to its device, as far as it is let.
fn use_device(vfio: &Vfio, world: &World, device: &str) -> Option<(GroupFile, OpenDevice)> {
    let file = use_group(vfio, world, device)?;
    let open = file.device(device).ok()?;
    Some((file, open))
}

#[test]
fn unbind_waits_for_the_close_that_frees_it() {
    explore("unbind that waits, and the close that frees it (V13, V14)", || {
        let world = Arc::new(World::new(&["a1"]));
        world.bind("a1", VFIO);
        let (bus, group) = (world.bus.clone(), world.group("a1"));
        let (file, open) = use_device(&world.vfio, &world, "a1").unwrap();
        let unbinder = thread::spawn(move || bus.sysfs().unbind(VFIO, "a1").unwrap().wait());
        assert!(group.ownership().is_held());
        drop(file);
        drop(open);
        unbinder.join().unwrap();
        assert_eq!(group.ownership(), Ownership::Idle);
        assert!(world.vfio.open_group(group.id()).is_err());
    });
}

#[test]
fn a_user_comes_while_its_driver_leaves() {
    explore("opening a device, and unbinding its driver", || {
        let world = Arc::new(World::new(&["a1"]));
        world.bind("a1", VFIO);
        let (bus, group) = (world.bus.clone(), world.group("a1"));
        let unbinder = thread::spawn(move || bus.sysfs().unbind(VFIO, "a1").unwrap().wait());
        let used = use_device(&world.vfio, &world, "a1");
        drop(used);
        unbinder.join().unwrap();
        assert_eq!(group.ownership(), Ownership::Idle);
        assert!(world.bind("a1", KERNEL), "nothing is left of the claim");
    });
}

/// A client whose driver calls it back: it lets the device go when it is asked to, and asks for a device's group whenever
/// a device is opened or closed.
#[derive(Debug, Default)]
struct Client {
    held: Mutex<Option<OpenDevice>>,
    vfio: Mutex<Option<Vfio>>,
}

impl Client {
    fn world(devices: &[&str]) -> (Arc<Self>, World) {
        let client = Arc::new(Self::default());
        let world = World::with(devices, client.clone());
        for device in devices {
            world.bind(device, VFIO);
        }
        *client.vfio.lock() = Some(world.vfio.clone());
        (client, world)
    }

    /// Takes the locks of the registry and of a group.
    fn ask(&self) {
        let vfio = self.vfio.lock().clone();
        if let Some(vfio) = vfio
            && let Some(group) = vfio.group_of("a1")
        {
            drop(vfio.open_group(group));
        }
    }
}

impl DeviceOps for Client {
    fn open(&self) -> Result<(), Errno> {
        self.ask();
        Ok(())
    }

    fn close(&self) {
        self.ask();
    }

    fn request(&self, _attempt: u32) {
        let held = self.held.lock().take();
        drop(held);
    }
}

#[test]
fn a_request_closes_the_device() {
    explore("a request that closes the device, and another user of it (V13)", || {
        let (client, world) = Client::world(&["a1"]);
        let (bus, group) = (world.bus.clone(), world.group("a1"));
        let (file, open) = use_device(&world.vfio, &world, "a1").unwrap();
        *client.held.lock() = Some(open);
        let other = {
            let file = file.clone();
            thread::spawn(move || drop(file.device("a1")))
        };
        bus.sysfs().unbind(VFIO, "a1").unwrap().wait();
        other.join().unwrap();
        assert!(client.held.lock().is_none(), "it was asked for");
        drop(file);
        assert_eq!(group.ownership(), Ownership::Idle);
        *client.vfio.lock() = None;
    });
}

#[test]
fn two_handles_are_closed_while_an_unbind_waits() {
    explore("two handles of a device are closed, and an unbind that waits (V14)", || {
        let (client, world) = Client::world(&["a1", "a2"]);
        let (bus, group) = (world.bus.clone(), world.group("a1"));
        let (file, first) = use_device(&world.vfio, &world, "a1").unwrap();
        let second = file.device("a1").unwrap();
        let unbinder = thread::spawn(move || bus.sysfs().unbind(VFIO, "a1").unwrap().wait());
        let closer = thread::spawn(move || drop(first));
        drop(second);
        closer.join().unwrap();
        unbinder.join().unwrap();
        assert!(group.ownership().is_held(), "the group's file is open");
        drop(file);
        assert_eq!(group.ownership(), Ownership::Idle);
        *client.vfio.lock() = None;
    });
}

#[test]
fn a_container_and_a_kernel_driver_want_one_group() {
    explore("set-container, and a kernel driver binds to the neighbour (L40)", || {
        let world = Arc::new(World::new(&["a1", "a2"]));
        world.bind("a1", VFIO);
        let (bus, group) = (world.bus.clone(), world.group("a1"));
        let binder = thread::spawn(move || bind(&bus, "a2", KERNEL));
        let file = world.vfio.open_group(group.id()).unwrap();
        let container = world.vfio.open_container();
        let owned = file.set_container(&container).is_ok();
        let bound = binder.join().unwrap();
        assert_ne!(owned, bound, "exactly one of them has it");
        drop(file);
        assert_eq!(group.ownership().is_held(), bound);
    });
}

#[test]
fn two_users_of_one_group() {
    explore("two threads open one group (Vt2.4)", || {
        let world = Arc::new(World::new(&["a1"]));
        world.bind("a1", VFIO);
        let group = world.group("a1");
        let other = {
            let world = world.clone();
            thread::spawn(move || use_device(&world.vfio, &world, "a1").is_some())
        };
        let mine = use_device(&world.vfio, &world, "a1");
        let theirs = other.join().unwrap();
        assert!(mine.is_some() || theirs, "the first of the two has it");
        drop(mine);
        assert_eq!(group.ownership(), Ownership::Idle);
    });
}

#[test]
fn a_device_opens_while_its_last_file_is_closed() {
    explore("get-device, and the close of the device (V9, V30)", || {
        let world = World::new(&["a1"]);
        world.bind("a1", VFIO);
        let group = world.group("a1");
        let file = use_group(&world.vfio, &world, "a1").unwrap();
        let open = file.device("a1").unwrap();
        let closer = thread::spawn(move || drop(open));
        let again = file.device("a1");
        closer.join().unwrap();
        assert!(again.is_ok(), "who comes during the close waits for its end");
        drop((file, again));
        assert_eq!(group.ownership(), Ownership::Idle);
    });
}

#[test]
fn a_device_opens_while_its_group_leaves_the_container() {
    explore("get-device, and unset-container (Vt5.2, Vt6.5)", || {
        let world = World::new(&["a1"]);
        world.bind("a1", VFIO);
        let group = world.group("a1");
        let file = use_group(&world.vfio, &world, "a1").unwrap();
        let same = file.clone();
        let leaver = thread::spawn(move || same.unset_container().is_ok());
        let open = file.device("a1").ok();
        let left = leaver.join().unwrap();
        assert_ne!(left, open.is_some() && group.ownership().is_held(), "an open device keeps its group owned");
        drop((file, open));
        assert_eq!(group.ownership(), Ownership::Idle);
    });
}

#[test]
fn the_last_device_leaves_while_the_file_is_closed() {
    explore("closing a group in a container, and its last device leaves (V16, V56)", || {
        let world = World::new(&["a1"]);
        world.bind("a1", VFIO);
        let (bus, group) = (world.bus.clone(), world.group("a1"));
        let file = world.vfio.open_group(group.id()).unwrap();
        file.set_container(&world.vfio.open_container()).unwrap();
        let remover = thread::spawn(move || {
            let dev = bus.device("a1").unwrap();
            dev.remove().wait();
        });
        drop(file);
        remover.join().unwrap();
        assert_eq!(group.ownership(), Ownership::Idle);
        assert!(group.is_empty());
    });
}

#[test]
fn two_groups_come_into_one_container() {
    explore("two groups come into a container and leave it", || {
        let world = World::new(&["a1", "b1"]);
        let container = world.vfio.open_container();
        let threads = ["a1", "b1"].map(|device| {
            world.bind(device, VFIO);
            let file = world.vfio.open_group(world.group(device).id()).unwrap();
            let container = container.clone();
            thread::spawn(move || {
                file.set_container(&container).unwrap();
                // Another group may have set it, or have taken it along.
                let _ = container.set_iommu(KIND);
                file.unset_container().unwrap();
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(container.info(), None);
        for device in ["a1", "b1"] {
            assert_eq!(world.group(device).ownership(), Ownership::Idle);
        }
    });
}

/// Both devices are on VFIO; one user takes the group, the other a device, and a kernel driver wants the third.
#[cfg(feature = "iommufd")]
#[test]
fn a_group_and_an_iommufd_want_the_same_devices() {
    explore("set-container, a bind of a device file to an iommufd, and a kernel driver (Vt13)", || {
        let world = Arc::new(World::new(&["a1", "a2", "a3"]));
        world.bind("a1", VFIO);
        world.bind("a2", VFIO);
        let (bus, group) = (world.bus.clone(), world.group("a1"));
        let by_group = {
            let world = world.clone();
            thread::spawn(move || use_device(&world.vfio, &world, "a1"))
        };
        let binder = thread::spawn(move || bind(&bus, "a3", KERNEL));
        let context = Context::new("vmm", &world.physical);
        let file = world.vfio.open_device("a2").unwrap();
        let by_device = file.bind_iommufd(&context).is_ok();
        let by_group = by_group.join().unwrap();
        let kernel = binder.join().unwrap();
        let winners = [by_group.is_some(), by_device, kernel].into_iter().filter(|has| *has).count();
        assert!(winners <= 1, "one owner at a time: {} {by_device} {kernel}", by_group.is_some());
        assert_eq!(group.ownership().is_held(), winners == 1);
        drop((by_group, file));
        assert_eq!(group.ownership().is_held(), kernel);
    });
}

/// One of two files of a device is bound and closed, while the other is bound, and the driver is unbound.
#[cfg(feature = "iommufd")]
#[test]
fn two_files_of_one_device() {
    explore("two files of a device, of which one is closed and the other bound, and an unbind (Vt11, V58)", || {
        let (client, world) = Client::world(&["a1"]);
        let (bus, group) = (world.bus.clone(), world.group("a1"));
        let context = Context::new("vmm", &world.physical);
        let [first, second] = [(); 2].map(|()| world.vfio.open_device("a1").unwrap());
        let bound = first.bind_iommufd(&context).unwrap();
        let closer = thread::spawn(move || drop((first, bound)));
        let unbinder = thread::spawn(move || bus.sysfs().unbind(VFIO, "a1").unwrap().wait());
        let again = second.bind_iommufd(&context);
        assert_eq!(again.is_ok(), second.bound().is_ok());
        drop(second);
        closer.join().unwrap();
        drop(again);
        unbinder.join().unwrap();
        assert_eq!(group.ownership(), Ownership::Idle, "the driver left only when both files were closed");
        *client.vfio.lock() = None;
    });
}

/// A device is bound to an iommufd, attached and closed, while its neighbour comes in by the group, once that is closed.
#[cfg(feature = "iommufd")]
#[test]
fn a_device_file_closes_while_the_group_is_opened() {
    explore("closing a device file, and opening its group (Vt13)", || {
        let world = Arc::new(World::new(&["a1", "a2"]));
        world.bind("a1", VFIO);
        world.bind("a2", VFIO);
        let group = world.group("a1");
        let context = Context::new("vmm", &world.physical);
        let file = world.vfio.open_device("a2").unwrap();
        file.bind_iommufd(&context).unwrap();
        let closer = thread::spawn(move || drop(file));
        let user = use_device(&world.vfio, &world, "a1");
        closer.join().unwrap();
        assert_eq!(group.ownership().is_held(), user.is_some());
        drop(user);
        assert_eq!(group.ownership(), Ownership::Idle);
        assert!(use_device(&world.vfio, &world, "a1").is_some(), "nothing is left of either");
    });
}
