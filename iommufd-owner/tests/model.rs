//! Bind, attach, replace, detach, destroy and close from several threads, with a kernel driver that wants the neighbour,
//! under the model checker: `RUSTFLAGS="--cfg shuttle" cargo test -p iommufd-owner --release --test model -- --nocapture`.
#![cfg(shuttle)]
#![expect(clippy::unwrap_used, reason = "what a test takes for granted may fail it")]

use std::sync::Arc;

use iommu_core::device_model::sync::thread;
use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::hardware::{Endpoint, IommuDriver};
use iommu_core::software::{LockedPages, Memory, Process, SoftIommu, SoftIommuConfig};
use iommu_core::{
    Access, Attached, IommuSubsystem, Iova, KernelUse, Member, Ownership, PhysicalMemory, UserAddr,
    generic_single_device_group,
};
use iommufd_owner::{Context, MapRequest, ObjectId, Place};
use shuttle::scheduler::{DfsScheduler, PctScheduler};
use shuttle::{Config, Runner};

/// Schedules that the search in depth may take; what it leaves out is sampled.
const BUDGET: usize = 20_000;
/// Sampled schedules, and the places in each at which another thread goes first.
const SAMPLES: usize = 2_000;
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

/// Two devices of one group, and a process with a page.
struct Scene {
    members: [Arc<Member>; 2],
    process: Arc<Process>,
    physical: PhysicalMemory,
    _iommu: IommuSubsystem,
}

impl Scene {
    fn new() -> Self {
        let hardware: Arc<dyn IommuDriver> = SoftIommu::new("soft", SoftIommuConfig::default());
        // One group for all.
        let (iommu, physical) =
            IommuSubsystem::builder(move |_: &Endpoint| Some(generic_single_device_group(&hardware))).build();
        let members = [1, 2].map(|number| {
            let endpoint = Endpoint::new(DeviceId::new(number), format!("dev{number}"));
            iommu.add_device(&endpoint).unwrap().unwrap()
        });
        let process = Process::new(&Memory::new(), LockedPages::unlimited());
        Self { members, process, physical, _iommu: iommu }
    }

    fn context(&self) -> Context {
        Context::new("vmm", &self.physical)
    }

    /// An address space with a page.
    fn ioas(&self, context: &Context) -> ObjectId {
        let ioas = context.ioas_alloc().unwrap();
        let addr = self.process.allocate(1, Access::ReadWrite).unwrap();
        let place = Place::Fixed(Iova::new(0));
        let request =
            MapRequest { iova: place, bytes: 0x1000, process: self.process.clone(), addr, access: Access::Read };
        context.ioas_map(ioas, request).unwrap();
        ioas
    }

    fn assert_idle(&self) {
        let group = self.members[0].group();
        assert_eq!(group.ownership(), Ownership::Idle);
        assert!(matches!(group.attached(), Attached::Default(_)));
        assert_eq!(self.process.pinned(), 0);
    }
}

#[test]
fn two_contexts_and_a_kernel_driver_want_one_group() {
    explore("two contexts bind, and a kernel driver uses the neighbour (V38)", || {
        let scene = Scene::new();
        let binders = scene.members.clone().map(|member| {
            let context = scene.context();
            thread::spawn(move || {
                let bound = context.bind(&member);
                bound.is_ok()
            })
        });
        let kernel = KernelUse::begin(scene.members[1].clone(), &"nic".into());
        let used = kernel.is_ok();
        drop(kernel);
        let bound = binders.map(|binder| binder.join().unwrap());
        assert!(used || bound.contains(&true), "somebody was first");
        scene.assert_idle();
    });
}

#[test]
fn devices_of_one_group_attach_and_go() {
    explore("two devices of a group attach to one address space, and go (F45, F67)", || {
        let scene = Scene::new();
        let context = scene.context();
        let ioas = scene.ioas(&context);
        let threads = scene.members.clone().map(|member| {
            let context = context.clone();
            thread::spawn(move || {
                let bound = context.bind(&member).unwrap();
                bound.attach(ioas).unwrap();
                assert_eq!(member.group().attached(), Attached::Own);
                bound.detach();
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        context.destroy(ioas).unwrap();
        scene.assert_idle();
    });
}

#[test]
fn a_replace_meets_a_detach() {
    explore("replace through one device, detach of the other (F50, F67)", || {
        let scene = Scene::new();
        let context = scene.context();
        let [a, b] = [(); 2].map(|()| scene.ioas(&context));
        let [one, two] = [0, 1].map(|device| {
            let member: &Arc<Member> = &scene.members[device];
            let bound = context.bind(member).unwrap();
            bound.attach(a).unwrap();
            bound
        });
        let leaver = thread::spawn(move || two.detach());
        one.replace(b).unwrap();
        leaver.join().unwrap();
        assert_eq!(scene.members[0].group().attached(), Attached::Own);
        context.destroy(a).unwrap();
        one.detach();
        context.destroy(b).unwrap();
        drop(one);
        scene.assert_idle();
    });
}

#[test]
fn an_address_space_is_destroyed_while_a_device_attaches() {
    explore("destroy of an address space, and attach to it (F7)", || {
        let scene = Scene::new();
        let context = scene.context();
        let ioas = scene.ioas(&context);
        let bound = context.bind(&scene.members[0]).unwrap();
        let same = context.clone();
        let other = thread::spawn(move || same.destroy(ioas).is_ok());
        let attached = bound.attach(ioas).is_ok();
        let destroyed = other.join().unwrap();
        assert!(!(attached && destroyed), "what is attached is in use");
        drop(bound);
        if !destroyed {
            context.destroy(ioas).unwrap();
        }
        scene.assert_idle();
    });
}

#[test]
fn the_context_closes_while_devices_go() {
    explore("close of the context, and of its devices (F10)", || {
        let scene = Scene::new();
        let context = scene.context();
        let ioas = scene.ioas(&context);
        let threads = scene.members.clone().map(|member| {
            let bound = context.bind(&member).unwrap();
            bound.attach(ioas).unwrap();
            thread::spawn(move || drop(bound))
        });
        drop(context);
        for thread in threads {
            thread.join().unwrap();
        }
        scene.assert_idle();
    });
}

#[test]
fn two_maps_want_one_place() {
    explore("two maps of one range, one attach (F25)", || {
        let scene = Scene::new();
        let context = scene.context();
        let ioas = scene.ioas(&context);
        let bound = context.bind(&scene.members[0]).unwrap();
        let addr = scene.process.allocate(1, Access::ReadWrite).unwrap();
        let mappers = [(); 2].map(|()| {
            let (context, process) = (context.clone(), scene.process.clone());
            thread::spawn(move || {
                let place = Place::Fixed(Iova::new(0x5000));
                let request = MapRequest { iova: place, bytes: 0x1000, process, addr, access: Access::Read };
                context.ioas_map(ioas, request).is_ok()
            })
        });
        bound.attach(ioas).unwrap();
        let mapped = mappers.map(|mapper| mapper.join().unwrap());
        assert_ne!(mapped[0], mapped[1]);
        assert_eq!(scene.process.pinned(), 2);
        drop(bound);
        context.destroy(ioas).unwrap();
        scene.assert_idle();
    });
}

#[test]
fn one_device_is_attached_twice_at_once() {
    explore("two attaches of one device to two address spaces (F49)", || {
        let scene = Scene::new();
        let context = scene.context();
        let spaces = [(); 2].map(|()| scene.ioas(&context));
        let bound = Arc::new(context.bind(&scene.members[0]).unwrap());
        let same = bound.clone();
        let other = thread::spawn(move || same.attach(spaces[1]).is_ok());
        let mine = bound.attach(spaces[0]).is_ok();
        assert_ne!(mine, other.join().unwrap());
        assert_eq!(scene.process.pinned(), 1);
        drop(bound);
        for ioas in spaces {
            context.destroy(ioas).unwrap();
        }
        scene.assert_idle();
    });
}

#[test]
fn nobody_finds_a_page_table_that_cannot_be_filled() {
    explore("an attach whose memory is bad, a sibling that guesses the page table's id (F6, F46)", || {
        let scene = Scene::new();
        let context = scene.context();
        let ioas = context.ioas_alloc().unwrap();
        let (place, process) = (Place::Fixed(Iova::new(0)), scene.process.clone());
        let request =
            MapRequest { iova: place, bytes: 0x1000, process, addr: UserAddr::new(0x1000), access: Access::Read };
        context.ioas_map(ioas, request).unwrap();
        let [one, two] = [0, 1].map(|device| {
            let member: &Arc<Member> = &scene.members[device];
            context.bind(member).unwrap()
        });
        let guess = ObjectId::new(two.id().get() + 1);
        let guesser = thread::spawn(move || {
            assert_eq!(two.attach(guess).unwrap_err().errno(), Errno::ENOENT);
        });
        assert_eq!(one.attach(ioas).unwrap_err().errno(), Errno::EFAULT);
        guesser.join().unwrap();
        assert_eq!(scene.members[0].group().attached(), Attached::Blocking);
        context.destroy(ioas).unwrap();
        drop(one);
        scene.assert_idle();
    });
}

#[test]
fn a_device_goes_while_a_call_uses_it() {
    explore("unbind, and a page table for the device (F9)", || {
        let scene = Scene::new();
        let context = scene.context();
        let ioas = scene.ioas(&context);
        let bound = context.bind(&scene.members[0]).unwrap();
        let (id, same) = (bound.id(), context.clone());
        let caller = thread::spawn(move || same.hwpt_alloc(id, ioas));
        drop(bound);
        assert_eq!(scene.members[0].group().ownership(), Ownership::Idle);
        if let Ok(hwpt) = caller.join().unwrap() {
            context.destroy(hwpt).unwrap();
        }
        assert_eq!(context.object_type(id), None);
        context.destroy(ioas).unwrap();
        assert_eq!(context.ioas_alloc().unwrap().get(), 1, "every id is free again");
        scene.assert_idle();
    });
}

#[test]
fn two_groups_want_the_address_space_for_vfio() {
    explore("two threads make the address space for VFIO (F63), one destroys it (F8)", || {
        let scene = Scene::new();
        let context = scene.context();
        let makers = [(); 2].map(|()| {
            let context = context.clone();
            thread::spawn(move || context.ensure_compat_ioas().unwrap())
        });
        let made = makers.map(|maker| maker.join().unwrap());
        assert_eq!(made[0], made[1]);
        let same = context.clone();
        let destroyer = thread::spawn(move || same.destroy(made[0]).unwrap());
        let other = context.ioas_alloc().unwrap();
        context.set_compat_ioas(other).unwrap();
        destroyer.join().unwrap();
        assert_eq!(context.compat_ioas(), Some(other), "not the one that was destroyed");
    });
}
