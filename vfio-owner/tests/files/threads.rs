//! Several programs at once.

use std::sync::Barrier;
use std::thread;

use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::testbed::vfs::{Access, LastLink, Node, Opened, Opening, Written};
use vfio_owner::testbed::{pc, sriov};

use crate::rig::Files;

const CARD: [&str; 2] = ["0000:01:00.0", "0000:01:00.1"];

/// Writes to a file that may be gone by now; waits if it must.
fn write(files: &Files, path: &str, text: &str) -> Result<(), Errno> {
    let Ok(Opened::Attribute(file)) = files.vfs.open(path, &Opening::new(Access::Write)) else {
        return Err(Errno::ENOENT);
    };
    match file.write(0, text.as_bytes()).map_err(|error| error.errno())? {
        Written::Bytes(_) => Ok(()),
        Written::Later(later) => later.wait().map(drop).map_err(|error| error.errno()),
    }
}

#[test]
fn programs_that_bind_open_and_unplug_the_same_card_leave_it_whole() {
    let files = Files::of(&pc());
    let file = |name: &str, file: &str| format!("/sys/bus/pci/devices/{name}/{file}");
    thread::scope(|scope| {
        // One gives the card to vfio-pci and back, one unplugs it, one opens what it finds, one looks.
        scope.spawn(|| {
            for turn in 0..60 {
                for name in CARD {
                    let _ = write(&files, &file(name, "driver/unbind"), name);
                    let _ = write(&files, &file(name, "driver_override"), ["vfio-pci", "\n"][turn % 2]);
                    let _ = write(&files, "/sys/bus/pci/drivers_probe", name);
                }
            }
        });
        scope.spawn(|| {
            for _ in 0..30 {
                let _ = write(&files, &file(CARD[1], "remove"), "1");
                let _ = write(&files, "/sys/bus/pci/rescan", "1");
            }
        });
        scope.spawn(|| {
            for _ in 0..200 {
                for path in ["/dev/vfio/8", "/dev/vfio/devices/vfio0", "/dev/vfio/devices/vfio1"] {
                    drop(files.vfs.open(path, &Opening::new(Access::ReadWrite)));
                }
            }
        });
        scope.spawn(|| {
            let mut last = 0;
            for _ in 0..200 {
                let tree = files.vfs.tree();
                assert!(tree.generation() >= last, "it only grows");
                last = tree.generation();
                for (path, node) in tree.files() {
                    if let Node::Link { .. } = node {
                        assert!(tree.find(&path, LastLink::Follow).is_ok(), "{path} leads nowhere");
                    }
                }
            }
        });
    });
    for name in CARD {
        let _ = write(&files, &file(name, "driver/unbind"), name);
        write(&files, &file(name, "driver_override"), "vfio-pci").unwrap();
        write(&files, "/sys/bus/pci/drivers_probe", name).unwrap();
    }
    // A function that comes back may get a group of its own.
    let group = |name| files.vfs.machine().group(name).unwrap().id().to_string();
    let mut groups = CARD.map(group).to_vec();
    groups.dedup();
    let mut there = files.list("/dev/vfio");
    there.retain(|name| name.starts_with(|first: char| first.is_ascii_digit()));
    groups.sort();
    assert_eq!(there, groups);
    assert_eq!(files.list("/dev/vfio/devices"), ["vfio0", "vfio1"]);
}

#[test]
fn of_two_counts_of_virtual_functions_one_is_made() {
    let files = Files::of(&sriov());
    let path = "/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs";
    for _ in 0..200 {
        let together = Barrier::new(2);
        let set = |count| {
            together.wait();
            write(&files, path, count)
        };
        let answers = thread::scope(|scope| {
            ["1", "2"].map(|count| scope.spawn(move || set(count))).map(|thread| thread.join().unwrap())
        });
        let made = match answers {
            [Ok(()), Err(Errno::EBUSY)] => "1\n",
            [Err(Errno::EBUSY), Ok(())] => "2\n",
            answers => panic!("{answers:?}"),
        };
        assert_eq!(files.text(path).unwrap(), made);
        write(&files, path, "0").unwrap();
    }
}
