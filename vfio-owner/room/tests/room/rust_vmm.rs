//! `vfio-ioctls` and `iommufd-ioctls`, the crates that VMMs in Rust use: the group's way and the device's way, and what people
//! have met with them.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::thread;

use iommufd_ioctls::{IommuFd, IommufdIoas};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd, VfioOps};
use vfio_room::vfio_owner::device_ops::IrqIndex;
use vfio_room::vfio_owner::iommu_core::Iova;
use vfio_room::vfio_owner::iommu_core::device_model::{Errno, Progress};
use vfio_room::vfio_owner::testbed::Machine;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::calls::{Mapping, ioctl};
use crate::opened::{GET_DEVICE_FD, GET_STATUS, MAP_DMA, Opened, SET_CONTAINER, SET_IOMMU, map_dma};
use crate::rig::{CARD, FUNCTION, SIBLING, group_file, hand_over, open, open_soon, room, soon, until_empty};

/// How a VMM has its devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Through their group and a container.
    Group,
    /// As device files, and an iommufd.
    Device,
}

const BOTH_WAYS: [Way; 2] = [Way::Group, Way::Device];

impl Way {
    /// An address space.
    fn space(self) -> Arc<dyn VfioOps> {
        match self {
            Self::Group => Arc::new(VfioContainer::new(None).unwrap()),
            Self::Device => Arc::new(VfioIommufd::new(Arc::new(IommuFd::new().unwrap()), None, None).unwrap()),
        }
    }
}

fn path(device: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(device)
}

fn device(name: &str, space: &Arc<dyn VfioOps>) -> Result<VfioDevice, String> {
    VfioDevice::new(&path(name), space.clone(), true).map_err(|error| format!("{error:?}"))
}

const IOVA: u64 = 0x10_0000;
const BYTES: usize = 0x4000;

fn memory() -> Mapping {
    Mapping::anonymous(BYTES, libc::PROT_READ | libc::PROT_WRITE)
}

fn map(space: &Arc<dyn VfioOps>, memory: &Mapping, iova: u64) -> Result<(), String> {
    let at = std::ptr::with_exposed_provenance_mut(memory.addr());
    // SAFETY: the mapping is accessed by volatile reads and writes only, and outlives its use.
    unsafe { space.vfio_dma_map(iova, BYTES, at) }.map_err(|error| format!("{error:?}"))
}

/// Whether a device reaches the memory at an address.
fn reaches(machine: &Machine, device: &str, iova: u64) -> bool {
    machine.dma(device).unwrap().write(Iova::new(iova), &[1]).is_ok()
}

fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

#[test]
fn a_device_is_described_mapped_and_reset() {
    for way in BOTH_WAYS {
        let (room, machine) = room();
        room.enter(|| {
            let space = way.space();
            let device = device(CARD, &space).unwrap();
            assert_eq!(device.iommufd_dev_id().is_some(), way == Way::Device);
            assert_eq!(device.get_region_size(0), 128 << 10);
            assert_eq!(device.max_interrupts(), 5);
            let mut id = [0; 4];
            device.region_read(7, &mut id, 0);
            assert_eq!(id, [0x86, 0x80, 0xd3, 0x10]);
            device.region_write(0, &[7], 0x20);
            let mut byte = [0];
            device.region_read(0, &mut byte, 0x20);
            assert_eq!(byte, [7]);

            let memory = memory();
            map(&space, &memory, IOVA).unwrap();
            machine.dma(CARD).unwrap().write(Iova::new(IOVA + 5), &[9]).unwrap();
            assert_eq!(memory.read(5), 9);
            assert!(!reaches(&machine, CARD, IOVA + BYTES as u64));
            device.reset();
            space.vfio_dma_unmap(IOVA, BYTES).unwrap();
            assert!(!reaches(&machine, CARD, IOVA));
        })
        .unwrap();
        until_empty(&room);
    }
}

#[test]
fn interrupts_of_every_kind_signal_their_eventfds() {
    for way in BOTH_WAYS {
        let (room, machine) = room();
        room.enter(|| {
            let device = device(CARD, &way.space()).unwrap();
            let pci = machine.vfio_pci().device(CARD).unwrap();
            let vectors: Vec<EventFd> = (0..5).map(|_| eventfd()).collect();
            device.enable_msix(vectors.iter().collect()).unwrap();
            for (vector, eventfd) in (0..).zip(&vectors) {
                pci.raise(IrqIndex::MSIX, vector);
                assert_eq!(eventfd.read().unwrap(), 1, "{way:?} {vector}");
            }
            device.trigger_irq(2, 4).unwrap();
            assert_eq!(vectors.last().unwrap().read().unwrap(), 1);
            assert!(device.enable_msi(vec![vectors.first().unwrap()]).is_err(), "MSI beside MSI-X");
            device.disable_msix().unwrap();
            pci.raise(IrqIndex::MSIX, 0);
            assert!(vectors.iter().all(|eventfd| eventfd.read().is_err()));

            device.enable_msi(vec![vectors.first().unwrap()]).unwrap();
            pci.raise(IrqIndex::MSI, 0);
            assert_eq!(vectors.first().unwrap().read().unwrap(), 1);
            device.disable_msi().unwrap();

            let line = eventfd();
            device.enable_irq(0, vec![&line]).unwrap();
            pci.raise(IrqIndex::INTX, 0);
            assert_eq!(line.read().unwrap(), 1);
            device.unmask_irq(0).unwrap();
            device.disable_irq(0).unwrap();
        })
        .unwrap();
        until_empty(&room);
    }
}

#[test]
fn a_refusal_names_who_is_in_the_way() {
    for way in BOTH_WAYS {
        let (room, machine) = room();
        hand_over(&machine, FUNCTION);
        let attempt = || room.enter(|| device(FUNCTION, &way.space()).map(drop)).unwrap();
        attempt().unwrap_err();
        let refusals = room.refusals();
        let last = refusals.last().unwrap().to_string();
        assert!(last.contains("0000:00:04.1 (e1000)"), "{way:?}: {last}");
        machine.unbind(SIBLING).unwrap().wait();
        attempt().unwrap();
        until_empty(&room);
    }
}

/// The eventfd of the index "request" asks for the device; the removal waits until the VMM has given it up.
#[test]
fn a_device_that_is_unplugged_is_asked_for() {
    for way in BOTH_WAYS {
        let (room, machine) = room();
        let mut unplug = machine.remove(CARD).unwrap();
        room.enter(|| {
            let device = device(CARD, &way.space()).unwrap();
            let asked = eventfd();
            device.enable_irq(IrqIndex::REQ.number(), vec![&asked]).unwrap();
            assert!(matches!(unplug.try_finish(), Progress::Waiting { .. }));
            assert!(asked.read().unwrap() > 0, "{way:?}");
            drop(device);
        })
        .unwrap();
        unplug.wait();
        assert!(machine.device(CARD).is_err());
        until_empty(&room);
    }
}

// spdk 1948, 1403, 462, 1689, 2811.
#[test]
fn thread_16_what_is_available_changes_between_two_looks() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    let status = |file: &std::fs::File| {
        let mut status = [8_u32, 0];
        ioctl(file, GET_STATUS, (&raw mut status).addr()).unwrap();
        status[1]
    };
    room.enter(|| {
        // "Viable" is a bit among others: whoever compares all of them takes a group with a container for a bad one.
        let (file, container) = (open(&group).unwrap(), open("/dev/vfio/vfio").unwrap());
        assert_eq!(status(&file), 1);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&container);
        ioctl(&file, SET_CONTAINER, (&raw const fd).addr()).unwrap();
        assert_eq!(status(&file), 3);
        ioctl(&container, SET_IOMMU, 3).unwrap();

        // The driver's last device goes while the group is open; with it goes the file, not the descriptor.
        machine.unbind(CARD).unwrap().wait();
        assert!(!Path::new(&group).exists());
        assert!(Path::new("/dev/vfio/vfio").exists(), "VFIO is there, whatever it is good for");
        let name = std::ffi::CString::new(CARD).unwrap();
        assert!(ioctl(&file, GET_DEVICE_FD, name.as_ptr().addr()).is_err());
    })
    .unwrap();
    until_empty(&room);
    let attempt = || room.enter(|| device(CARD, &Way::Group.space()).map(drop)).unwrap();
    assert!(attempt().unwrap_err().contains("OpenGroup"));
    machine.bind(CARD, "vfio-pci").unwrap();
    attempt().unwrap();
    until_empty(&room);
}

// rust-vmm/vfio 107, kata-containers/runtime 1669.
#[test]
fn thread_22_a_mapping_keeps_a_dropped_device_open() {
    for way in BOTH_WAYS {
        let (room, machine) = room();
        room.enter(|| {
            let opened = device(CARD, &way.space()).unwrap();
            let bar = Mapping::of(&file(&opened), 0x1000, 0).unwrap();
            drop(opened);
            let again = device(CARD, &way.space());
            assert!(again.is_err(), "{way:?}: the device was opened a second time");
            let refusals = room.refusals();
            let expected = if way == Way::Group { libc::EBUSY } else { libc::EINVAL };
            assert_eq!(refusals.last().unwrap().errno.map(Errno::number), Some(expected), "{refusals:?}");
            let mut unbind = machine.unbind(CARD).unwrap();
            assert!(matches!(unbind.try_finish(), Progress::Waiting { .. }));
            drop(bar);
            unbind.wait();
            machine.bind(CARD, "vfio-pci").unwrap();
            drop(soon(|| device(CARD, &way.space())));
        })
        .unwrap();
        until_empty(&room);
    }
}

/// A duplicate of a device's descriptor.
fn file(device: &VfioDevice) -> std::os::fd::OwnedFd {
    use std::os::fd::{AsRawFd, BorrowedFd};
    // SAFETY: the device is there.
    unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) }.try_clone_to_owned().unwrap()
}

// cloud-hypervisor 7328, 7329, 7364, 6891.
#[test]
fn thread_23_a_container_loses_its_mappings_with_its_last_group() {
    for way in BOTH_WAYS {
        let (room, machine) = room();
        hand_over(&machine, OTHER);
        room.enter(|| {
            let (space, memory) = (way.space(), memory());
            let first = device(CARD, &space).unwrap();
            map(&space, &memory, IOVA).unwrap();
            // While there is another group, what is mapped is kept for whoever comes.
            let second = device(OTHER, &space).unwrap();
            drop(first);
            let first = soon(|| device(CARD, &space));
            assert!(reaches(&machine, CARD, IOVA), "{way:?}");
            drop((first, second));
            // All but the space.
            while room.check_empty().unwrap_err().files.len() > 1 {
                thread::yield_now();
            }
            // Hot-plugged into the empty container: no call fails, and nothing is mapped. An IOAS keeps its own.
            let _first = soon(|| device(CARD, &space));
            assert_eq!(reaches(&machine, CARD, IOVA), way == Way::Device);
            if way == Way::Group {
                map(&space, &memory, IOVA).unwrap();
                assert!(reaches(&machine, CARD, IOVA));
            }
        })
        .unwrap();
        until_empty(&room);
    }
}

/// Another card that is alone in its group, on the bus.
const OTHER: &str = "0000:00:05.0";

// libvfn 17, 61.
#[test]
fn thread_24_a_container_is_set_up_anew_after_its_last_group() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let memory = memory();
        let Opened { device, group: file, container } = Opened::through_group(&group, CARD);
        map_dma(&container, memory.addr(), IOVA, 0x1000).unwrap();
        drop((device, file));
        let map = || map_dma(&container, memory.addr(), IOVA, 0x1000);
        soon(|| if map() == Err(libc::EINVAL) { Ok(()) } else { Err("it has an IOMMU") });
        let file = open_soon(&group);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&container);
        ioctl(&file, SET_CONTAINER, (&raw const fd).addr()).unwrap();
        assert_eq!(ioctl(&container, MAP_DMA, 0), Err(libc::EINVAL), "there is no IOMMU yet");
        ioctl(&container, SET_IOMMU, 3).unwrap();
        map_dma(&container, memory.addr(), IOVA, 0x1000).unwrap();
    })
    .unwrap();
    until_empty(&room);
}

#[test]
fn thread_24_a_group_is_opened_and_closed_by_many() {
    const THREADS: usize = 8;
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    let (opened, barrier) = (std::sync::atomic::AtomicUsize::new(0), Barrier::new(THREADS));
    room.enter(|| {
        use std::sync::atomic::Ordering::SeqCst;
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..50 {
                        match open(&group) {
                            Ok(file) => {
                                assert_eq!(opened.fetch_add(1, SeqCst), 0, "two have it");
                                opened.fetch_sub(1, SeqCst);
                                drop(file);
                            }
                            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EBUSY)),
                        }
                    }
                });
            }
        });
    })
    .unwrap();
    until_empty(&room);
    drop(room.enter(|| open_soon(&group)).unwrap());
}

// cloud-hypervisor 8367.
#[test]
fn thread_25_a_descriptor_that_an_eject_forgets_is_named() {
    for way in BOTH_WAYS {
        let (room, machine) = room();
        let leak = room.enter(|| file(&device(CARD, &way.space()).unwrap())).unwrap();
        let left = room.check_empty().unwrap_err();
        assert!(left.files.iter().any(|file| file.holders.contains(&std::process::id())), "{left}");
        let mut eject = machine.remove(CARD).unwrap();
        assert!(matches!(eject.try_finish(), Progress::Waiting { .. }));
        drop(leak);
        eject.wait();
        until_empty(&room);
    }
}

// cloud-hypervisor 1867.
#[test]
fn thread_26_files_are_closed_in_any_order() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        room.enter(|| {
            let Opened { device, group, container } = Opened::through_group(&group, CARD);
            let mut files = [Some(device), Some(group.into()), Some(container.into())];
            for index in order {
                files[index] = None;
            }
        })
        .unwrap();
        until_empty(&room);
    }
    for way in BOTH_WAYS {
        room.enter(|| {
            let (space, memory) = (way.space(), memory());
            let device = device(CARD, &space).unwrap();
            map(&space, &memory, IOVA).unwrap();
            drop(space);
            assert!(reaches(&machine, CARD, IOVA), "the device keeps its space");
            drop(device);
        })
        .unwrap();
        until_empty(&room);
    }
}

// cloud-hypervisor 1331, 1332.
#[test]
fn thread_26_a_part_of_a_mapping_is_not_unmapped() {
    for way in BOTH_WAYS {
        let (room, machine) = room();
        room.enter(|| {
            let (space, memory) = (way.space(), memory());
            let _device = device(CARD, &space).unwrap();
            map(&space, &memory, IOVA).unwrap();
            space.vfio_dma_unmap(IOVA, BYTES / 2).unwrap_err();
            space.vfio_dma_unmap(IOVA + 0x1000, BYTES - 0x1000).unwrap_err();
            assert!((0..BYTES as u64).step_by(0x1000).all(|at| reaches(&machine, CARD, IOVA + at)), "{way:?}");
            assert!(map(&space, &memory, IOVA + 0x1000).is_err(), "two mappings of one address");
            space.vfio_dma_unmap(IOVA, BYTES).unwrap();
            space.vfio_dma_unmap(IOVA, BYTES).unwrap_err();
        })
        .unwrap();
        until_empty(&room);
    }
}

// cloud-hypervisor 3113, 3123.
#[test]
fn thread_26_devices_of_one_group_share_it() {
    for way in BOTH_WAYS {
        let (room, machine) = room();
        hand_over(&machine, FUNCTION);
        hand_over(&machine, SIBLING);
        room.enter(|| {
            let (space, memory) = (way.space(), memory());
            let first = device(FUNCTION, &space).unwrap();
            let second = device(SIBLING, &space).unwrap();
            map(&space, &memory, IOVA).unwrap();
            assert!(reaches(&machine, FUNCTION, IOVA) && reaches(&machine, SIBLING, IOVA));
            drop(first);
            assert!(reaches(&machine, SIBLING, IOVA), "{way:?}: with the first, the second lost its memory");
            // Nobody else gets the first while the group is in use.
            assert!(device(FUNCTION, &way.space()).is_err(), "{way:?}");
            let _first = soon(|| device(FUNCTION, &space));
            drop(second);
            assert!(reaches(&machine, FUNCTION, IOVA));
        })
        .unwrap();
        until_empty(&room);
    }
}

// cloud-hypervisor 7027. By a container: Linux's iommufd maps no registers.
#[test]
fn thread_26_a_bar_that_moves_is_mapped_anew() {
    let (room, machine) = room();
    hand_over(&machine, OTHER);
    room.enter(|| {
        let space = Way::Group.space();
        let (card, _peer) = (device(CARD, &space).unwrap(), device(OTHER, &space).unwrap());
        let bar = Mapping::of(&file(&card), BYTES, card.get_region_offset(0)).unwrap();
        let (old, new) = (0xe000_0000_u32, 0xf000_0000_u32);
        card.region_write(7, &old.to_le_bytes(), 0x10);
        map(&space, &bar, old.into()).unwrap();
        machine.dma(OTHER).unwrap().write(Iova::new(u64::from(old) + 0x100), &[3]).unwrap();
        assert_eq!(bar.read(0x100), 3);
        card.region_write(7, &new.to_le_bytes(), 0x10);
        let mut read = [0; 4];
        card.region_read(7, &mut read, 0x10);
        assert_eq!(u32::from_le_bytes(read), new);
        // What the guest has moved has not moved for its other devices.
        assert!(reaches(&machine, OTHER, old.into()) && !reaches(&machine, OTHER, new.into()));
        space.vfio_dma_unmap(old.into(), BYTES).unwrap();
        map(&space, &bar, new.into()).unwrap();
        assert!(!reaches(&machine, OTHER, old.into()) && reaches(&machine, OTHER, new.into()));
        // The device stays open, whatever became of its mapping.
        space.vfio_dma_unmap(new.into(), BYTES).unwrap();
        card.enable_irq(0, vec![&eventfd()]).unwrap();
    })
    .unwrap();
    until_empty(&room);
}

/// The crate alone: address spaces, a file, and objects that are in use.
#[test]
fn an_iommufd_maps_memory_and_files() {
    let (room, machine) = room();
    room.enter(|| {
        let iommufd = Arc::new(IommuFd::new().unwrap());
        let ioas = Arc::new(IommufdIoas::new(iommufd.clone()).unwrap());
        let space: Arc<dyn VfioOps> = Arc::new(VfioIommufd::new(iommufd.clone(), Some(ioas.clone()), None).unwrap());
        let device = device(CARD, &space).unwrap();
        let memory = memory();
        map(&space, &memory, IOVA).unwrap();
        assert!(reaches(&machine, CARD, IOVA));
        // Attached: it is in use. Detached, the device reaches nothing; attached again, all of it.
        iommufd.destroy_iommu_object(ioas.id()).unwrap_err();
        device.detach_hwpt().unwrap();
        assert!(!reaches(&machine, CARD, IOVA));
        device.attach_hwpt(ioas.id()).unwrap();
        assert!(reaches(&machine, CARD, IOVA));
        iommufd.destroy_iommu_object(0xdead).unwrap_err();
        ioas.unmap(IOVA, BYTES as u64).unwrap();
        assert!(!reaches(&machine, CARD, IOVA));
    })
    .unwrap();
    until_empty(&room);
}

/// Registers are no pages that can be pinned: type1 maps them as they are, an iommufd does not.
#[test]
fn registers_are_mapped_for_devices_by_type1_only() {
    for way in BOTH_WAYS {
        let (room, machine) = room();
        room.enter(|| {
            let space = way.space();
            let device = device(CARD, &space).unwrap();
            // SAFETY: the device keeps its descriptor open.
            let file = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
            let registers = Mapping::of(&file, BYTES, 0).unwrap();
            match way {
                Way::Group => {
                    map(&space, &registers, IOVA).unwrap();
                    assert!(reaches(&machine, CARD, IOVA));
                }
                Way::Device => {
                    // `EFAULT`.
                    let error = map(&space, &registers, IOVA).unwrap_err();
                    assert!(error.contains("IommuIoasMap(Error(14))"), "{error}");
                }
            }
        })
        .unwrap();
    }
}

/// A VMM gets its descriptor from somebody who may open it.
#[test]
fn a_descriptor_from_outside_is_taken_over() {
    let (room, machine) = room();
    let space =
        Arc::new(room.enter(|| VfioIommufd::new(Arc::new(IommuFd::new().unwrap()), None, None)).unwrap().unwrap());
    let cdev = room.enter(|| VfioDevice::open_cdev(&path(CARD)).unwrap()).unwrap();
    room.enter(|| {
        let device = VfioDevice::new_from_fd(cdev, space.clone(), true).unwrap();
        let space: Arc<dyn VfioOps> = space.clone();
        let memory = memory();
        map(&space, &memory, IOVA).unwrap();
        assert!(reaches(&machine, CARD, IOVA));
        drop(device);
    })
    .unwrap();
    drop(space);
    until_empty(&room);
}
