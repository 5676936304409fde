//! For every operation of VFIO, the n-th call of hardware or the n-th pin fails, for all n: what can fail leaves
//! everything as it was (V46, V48); what cannot fail leaves nothing of the user behind (I31). Then a second call fails as
//! well, or unmaps nothing: what a device reaches stays pinned, and everything can be taken down.

use vfio_owner::backend::{Extension, Unmap};
use vfio_owner::iommu_core::Iova;
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::hardware::{Capabilities, HardwareError};
use vfio_owner::iommu_core::software::SoftIommuConfig;
use vfio_owner::iommufd_owner::{Context, ObjectId, Place};
use vfio_owner::{BoundDeviceFile, Container, DeviceFile, GroupFile, OpenDevice};

use crate::rig::{A0, A1, B0, Fails, Rig, VFIO, range};

/// Two devices in group a, one in group b, all on VFIO; what is open. Nothing is left when all of it is dropped.
struct Held {
    devices: Vec<OpenDevice>,
    a: Option<GroupFile>,
    b: Option<GroupFile>,
    container: Container,
    bound: Vec<BoundDeviceFile>,
    files: Vec<DeviceFile>,
    context: Context,
    spaces: Vec<ObjectId>,
}

/// How a scene begins.
type Setup = fn() -> Scene;

/// What is done in a scene. Tried again when it has failed.
type Operation = fn(&mut Scene) -> Result<(), String>;

struct Scene {
    rig: Rig,
    held: Held,
}

impl Scene {
    /// Group b snoops no caches, so that it needs a domain of its own.
    fn new() -> Self {
        let lacking = [(B0.to_owned(), Capabilities::ENFORCED_COHERENCY)].into();
        let rig = Rig::limited(&[A0, A1, B0], SoftIommuConfig { lacking, ..SoftIommuConfig::default() }, u32::MAX);
        for device in [A0, A1, B0] {
            assert!(rig.bind(device, VFIO));
        }
        let (container, context) = (rig.machine.vfio().open_container(), rig.machine.open_iommufd("vmm"));
        let held = Held {
            devices: Vec::new(),
            a: None,
            b: None,
            container,
            bound: Vec::new(),
            files: Vec::new(),
            context,
            spaces: Vec::new(),
        };
        Self { rig, held }
    }

    fn a(&self) -> &GroupFile {
        self.held.a.as_ref().unwrap()
    }

    fn b(&self) -> &GroupFile {
        self.held.b.as_ref().unwrap()
    }

    fn container(&self) -> &Container {
        &self.held.container
    }
}

fn opened() -> Scene {
    let mut scene = Scene::new();
    scene.held.a = Some(scene.rig.open(A0));
    scene.held.b = Some(scene.rig.open(B0));
    scene
}

/// Both groups in the container, without IOMMU yet.
fn contained() -> Scene {
    let scene = opened();
    scene.a().set_container(scene.container()).unwrap();
    scene.b().set_container(scene.container()).unwrap();
    scene
}

/// Group a in the container, with type1 and mappings in one piece and in several.
fn mapped() -> Scene {
    let scene = opened();
    scene.a().set_container(scene.container()).unwrap();
    scene.container().set_iommu(Extension::TYPE1_V2).unwrap();
    scene.container().map(&scene.rig.request(0, 1, 0)).unwrap();
    scene.container().map(&scene.rig.request(4, 3, 2)).unwrap();
    scene
}

/// The same with both groups, each in a domain of its own.
fn mapped_twice() -> Scene {
    let scene = mapped();
    scene.b().set_container(scene.container()).unwrap();
    scene
}

fn with_devices_open() -> Scene {
    let mut scene = mapped_twice();
    scene.held.devices =
        vec![scene.a().device(A0).unwrap(), scene.a().device(A1).unwrap(), scene.b().device(B0).unwrap()];
    scene
}

/// The devices' files are open, and an iommufd has two address spaces with mappings.
fn files() -> Scene {
    let mut scene = Scene::new();
    let Scene { rig, held } = &mut scene;
    held.files = [A0, A1, B0].map(|device| rig.machine.open_device(device).unwrap()).into();
    for from in [0, 4] {
        let ioas = held.context.ioas_alloc().unwrap();
        for (at, pages) in [(0, 1), (4, 3)] {
            let request = rig.request(at, pages, from);
            let place = Place::Fixed(request.iova);
            held.context.ioas_map(ioas, request.at(place)).unwrap();
        }
        held.spaces.push(ioas);
    }
    scene
}

fn bound() -> Scene {
    let mut scene = files();
    let Held { files, bound, context, .. } = &mut scene.held;
    *bound = files.iter().map(|file| file.bind_iommufd(context).unwrap()).collect();
    scene
}

fn attached() -> Scene {
    let scene = bound();
    for bound in &scene.held.bound {
        bound.attach_iommufd_pt(scene.held.spaces[0]).unwrap();
    }
    scene
}

fn told<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

/// What can fail: then nothing has changed.
const FALLIBLE: [(&str, Setup, Operation); 9] = [
    ("set-container", opened, |scene| told(scene.a().set_container(scene.container()))),
    ("set-iommu, of two groups", contained, |scene| told(scene.container().set_iommu(Extension::TYPE1))),
    ("map", mapped, |scene| told(scene.container().map(&scene.rig.request(8, 4, 1)))),
    ("map in two domains", mapped_twice, |scene| told(scene.container().map(&scene.rig.request(8, 4, 1)))),
    ("attach of a second group, which gets a domain", mapped, |scene| told(scene.b().set_container(scene.container()))),
    ("bind to an iommufd", files, |scene| {
        let bound = scene.held.files[0].bind_iommufd(&scene.held.context).map_err(|error| error.to_string())?;
        scene.held.bound.push(bound);
        Ok(())
    }),
    ("attach of a device file", bound, |scene| told(scene.held.bound[0].attach_iommufd_pt(scene.held.spaces[0]))),
    ("attach of a neighbour", bound, |scene| {
        let Held { bound, spaces, .. } = &scene.held;
        told(bound[0].attach_iommufd_pt(spaces[0]))?;
        told(bound[1].attach_iommufd_pt(spaces[0]))?;
        bound[0].detach_iommufd_pt();
        bound[1].detach_iommufd_pt();
        Ok(())
    }),
    ("replace of a device file", attached, |scene| told(scene.held.bound[2].attach_iommufd_pt(scene.held.spaces[1]))),
];

/// What cannot fail, or leaves a remainder that is told: nothing is reached then that is not pinned.
const UNDOING: [(&str, Setup, Operation); 8] = [
    ("unmap", mapped_twice, |scene| told(scene.container().unmap(range(0, 16)))),
    ("unmap all", mapped_twice, |scene| told(scene.container().unmap(Unmap::All))),
    ("unset-container", mapped_twice, |scene| told(scene.a().unset_container())),
    ("close of the groups", mapped_twice, |scene| {
        (scene.held.a, scene.held.b) = (None, None);
        Ok(())
    }),
    ("close of the devices, after the groups", with_devices_open, |scene| {
        (scene.held.a, scene.held.b) = (None, None);
        scene.held.devices.clear();
        Ok(())
    }),
    ("detach of device files", attached, |scene| {
        scene.held.bound.iter().for_each(BoundDeviceFile::detach_iommufd_pt);
        Ok(())
    }),
    ("close of device files", attached, |scene| {
        scene.held.bound.clear();
        scene.held.files.clear();
        Ok(())
    }),
    ("unmap of an address space", attached, |scene| {
        let bytes = 16 * PAGE_SIZE;
        told(scene.held.context.ioas_unmap(scene.held.spaces[0], Iova::new(0), bytes))
    }),
];

/// One call fails: whether it was made.
fn one_fails(what: &str, setup: Setup, fails: Fails, n: u32, operation: Operation) -> bool {
    let mut scene = setup();
    let (before, calls) = (scene.rig.picture(), scene.rig.calls());
    scene.rig.fail(fails, n);
    let result = operation(&mut scene);
    let failed = scene.rig.has_failed(fails, calls, n);
    scene.rig.heal();
    if let Err(error) = &result {
        assert!(failed, "{what} failed for nothing: {error}");
        assert_eq!(scene.rig.picture(), before, "{what}, {fails:?} {n}: {error}");
        assert_eq!(operation(&mut scene), Ok(()), "{what} works once nothing fails");
    }
    let Scene { rig, held } = scene;
    drop(held);
    rig.assert_idle(what);
    failed
}

#[test]
fn what_can_fail_changes_nothing_then() {
    for (what, setup, operation) in FALLIBLE {
        for fails in [Fails::Hardware, Fails::Pin] {
            let mut calls = 0;
            while one_fails(what, setup, fails, calls, operation) {
                calls += 1;
            }
            let pins = what.contains("map") || what.contains("attach of a device") || what.contains("replace");
            assert!(calls > 0 || fails == Fails::Pin && !pins, "{what}: nothing can fail");
        }
    }
}

/// What a second call of hardware does, after one that fails.
#[derive(Debug, Clone, Copy)]
enum Second {
    Fails,
    UnmapsNothing,
    Panics,
}

/// Two calls go wrong: whether each was made.
fn two_fail(what: &str, setup: Setup, (n, m): (u32, u32), second: Second, operation: Operation) -> [bool; 2] {
    let mut scene = setup();
    let hardware = scene.rig.hardware(A1);
    let (calls, all) = (hardware.calls(), hardware.all_calls());
    let error = || HardwareError::new(Errno::EIO, "on command");
    hardware.fail_nth(n, error());
    match second {
        Second::Fails => hardware.fail_nth(m, error()),
        Second::UnmapsNothing => hardware.shorten_nth(m),
        Second::Panics => hardware.panic_nth(m),
    }
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| operation(&mut scene)));
    let made = |n| scene.rig.calls() > calls + n;
    let second_made = match second {
        Second::Panics => scene.rig.hardware(A1).all_calls() > all + m,
        _ => made(m),
    };
    let made = [made(n), second_made];
    scene.rig.heal();
    let what = format!("{what}, {n} fails, {m} {second:?}");
    scene.rig.assert_pinned(&what);
    let Scene { rig, held } = scene;
    drop(held);
    rig.assert_pinned(&what);
    rig.assert_idle(&what);
    made
}

#[test]
fn two_calls_fail_and_everything_can_be_taken_down() {
    for (what, setup, operation) in FALLIBLE.into_iter().chain(UNDOING) {
        for second in [Second::Fails, Second::UnmapsNothing, Second::Panics] {
            for n in 0.. {
                let first = match second {
                    Second::Fails | Second::UnmapsNothing => n + 1,
                    Second::Panics => 0,
                };
                let mut first_made = true;
                for m in first.. {
                    let [one, other] = two_fail(what, setup, (n, m), second, operation);
                    first_made = one;
                    if !other {
                        break;
                    }
                }
                if !first_made {
                    break;
                }
            }
        }
    }
}

#[test]
fn what_is_undone_is_not_reached() {
    for (what, setup, operation) in UNDOING {
        for n in 0.. {
            let mut scene = setup();
            let calls = scene.rig.calls();
            scene.rig.fail(Fails::Hardware, n);
            let result = operation(&mut scene);
            let failed = scene.rig.has_failed(Fails::Hardware, calls, n);
            assert!(failed || result.is_ok(), "{what}: {result:?}");
            let reached = scene.rig.view(A0).iter().flatten().count() as u64;
            if what.contains("unmap") && failed {
                // What hardware may still let the device reach is pinned for as long as the domain exists.
                assert!(scene.rig.process.pinned() >= reached, "{what}: {reached} pages are reached");
            } else {
                assert_eq!(reached, 0, "{what}, call {n}");
            }
            scene.rig.heal();
            if !failed {
                break;
            }
        }
    }
}

#[test]
fn vt14_14_groups_of_one_iommu_share_a_domain() {
    let rig = Rig::of_devices(&[A0, A1, B0]);
    for device in [A0, A1, B0] {
        assert!(rig.bind(device, VFIO));
    }
    let a = rig.first(A0, Extension::TYPE1_V2);
    let calls = |at| {
        let before = rig.calls();
        rig.map(at, 1, 0).unwrap();
        rig.calls() - before
    };
    let alone = calls(8);
    let _b = rig.join(B0).unwrap();
    assert_eq!((calls(9), rig.reaches(B0, 9), rig.reaches(B0, 8)), (alone, Some(1), Some(1)));
    // Whoever leaves, the other keeps the domain and what is in it.
    a.unset_container().unwrap();
    assert_eq!((calls(10), rig.reaches(A0, 10), rig.reaches(B0, 9)), (alone, None, Some(1)));
}
