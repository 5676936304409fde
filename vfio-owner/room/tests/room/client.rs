//! Clients of VFIO.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::io::Errno;
use vfio_ioctls::{VfioContainer, VfioDevice};
use vfio_room::vfio_owner::device_ops::IrqIndex;

use crate::calls::{Mapping, filter, ioctl};
use crate::opened::{GET_STATUS, Opened};
use crate::rig::{CARD, FUNCTION, SIBLING, group_file, hand_over, open, room, until_empty};

const SET_IRQS: u32 = 0x3b6e;

#[test]
fn the_crate_that_vmms_use_is_refused_told_why_and_succeeds() {
    let (room, machine) = room();
    hand_over(&machine, FUNCTION);
    let path = format!("/sys/bus/pci/devices/{FUNCTION}");
    let attempt = || {
        room.enter(|| {
            let container = Arc::new(VfioContainer::new(None).map_err(|error| error.to_string())?);
            VfioDevice::new(Path::new(&path), container, true).map(drop).map_err(|error| error.to_string())
        })
    };
    attempt().unwrap().unwrap_err();
    let refusals = room.refusals();
    assert!(refusals.last().unwrap().reason.contains("0000:00:04.1 (e1000)"), "{refusals:?}");
    machine.unbind(SIBLING).unwrap().wait();
    attempt().unwrap().unwrap();
    until_empty(&room);
}

#[test]
fn registers_are_read_written_and_mapped() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let opened = Opened::through_group(&group, CARD);
        let mut id = [0; 4];
        rustix::io::pread(&opened.device, &mut id, 7 << 40).unwrap();
        assert_eq!(id, [0x86, 0x80, 0xd3, 0x10]);
        // Before it is mapped, a region is the model's.
        rustix::io::pwrite(&opened.device, &[1, 2, 3, 4], 0x100).unwrap();
        let bar = Mapping::of(&opened.device, 0x1000, 0).unwrap();
        assert_eq!(bar.read(0x102), 3);
        bar.write(0x102, 7);
        let mut value = [0; 4];
        rustix::io::pread(&opened.device, &mut value, 0x100).unwrap();
        assert_eq!(value, [1, 2, 7, 4]);
        // Both ways: the model and the memory have the same.
        rustix::io::pwrite(&opened.device, &[9], 0x101).unwrap();
        assert_eq!((bar.read(0x101), bar.read(0x102)), (9, 7));
        bar.write(0x101, 2);
        // The configuration space is no memory, and past the end there is none.
        assert_eq!(Mapping::of(&opened.device, 0x1000, 7 << 40).err(), Some(libc::EINVAL));
        assert_eq!(Mapping::of(&opened.device, 0x1000, 1 << 30).err(), Some(libc::EINVAL));
        assert_eq!(Mapping::of(&opened.group, 0x1000, 0).err(), Some(libc::ENODEV));
    })
    .unwrap();
    // What was written stays with the device.
    let value = room.enter(|| {
        let opened = Opened::through_group(&group, CARD);
        let mut value = [0; 4];
        rustix::io::pread(&opened.device, &mut value, 0x100).unwrap();
        value
    });
    // A device is reset when it is opened or closed.
    assert!([[1, 2, 7, 4], [0; 4]].contains(&value.unwrap()));
}

#[test]
fn registers_are_read_and_written_in_several_pieces() {
    use std::io::{IoSlice, IoSliceMut};
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let opened = Opened::through_group(&group, CARD);
        let (mut id, mut command) = ([0; 4], [0; 2]);
        let mut pieces = [IoSliceMut::new(&mut id), IoSliceMut::new(&mut command)];
        assert_eq!(rustix::io::preadv(&opened.device, &mut pieces, 7 << 40), Ok(6));
        assert_eq!((id, command), ([0x86, 0x80, 0xd3, 0x10], [0x03, 0x01]));
        // The interrupt's line, and its pin, which is read only.
        let pieces = [IoSlice::new(&[0x42]), IoSlice::new(&[0x20])];
        assert_eq!(rustix::io::pwritev(&opened.device, &pieces, (7 << 40) + 0x3c), Ok(2));
        let mut both = [0; 2];
        assert_eq!(rustix::io::pread(&opened.device, &mut both, (7 << 40) + 0x3c), Ok(2));
        assert_eq!(both, [0x42, 1]);
        // As far as it goes; and not at all.
        let (mut last, mut beyond) = ([0; 4], [0; 4]);
        let mut pieces = [IoSliceMut::new(&mut last), IoSliceMut::new(&mut beyond)];
        assert_eq!(rustix::io::preadv(&opened.device, &mut pieces, (7 << 40) + 4092), Ok(4));
        assert_eq!(rustix::io::preadv(&opened.device, &mut pieces, (7 << 40) + 4096), Err(Errno::FAULT));
    })
    .unwrap();
}

#[test]
fn an_interrupt_signals_an_eventfd() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let opened = Opened::through_group(&group, CARD);
        let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        // argsz, DATA_EVENTFD | ACTION_TRIGGER, INTx, 0, 1, the descriptor.
        let request: [u32; 6] = [24, 4 | 32, 0, 0, 1, eventfd.as_raw_fd().cast_unsigned()];
        ioctl(&opened.device, SET_IRQS, (&raw const request).addr()).unwrap();
        let not_an_eventfd: [u32; 6] = [24, 4 | 32, 0, 0, 1, opened.group.as_raw_fd().cast_unsigned()];
        assert_eq!(ioctl(&opened.device, SET_IRQS, (&raw const not_an_eventfd).addr()), Err(libc::EINVAL));
        let pci = machine.vfio_pci().device(CARD).unwrap();
        pci.raise(IrqIndex::INTX, 0);
        let mut count = [0; 8];
        rustix::io::read(&eventfd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    })
    .unwrap();
}

/// In a container that forbids to fetch descriptors of other processes, as docker's do.
#[test]
fn an_interrupt_signals_an_eventfd_that_cannot_be_fetched() {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            filter(libc::SYS_pidfd_getfd, libc::EPERM);
            let (room, machine) = room();
            let group = group_file(&machine, CARD);
            room.enter(|| {
                // More than are kept without looking who has them.
                for _ in 0..300 {
                    drop(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap());
                }
                let opened = Opened::through_group(&group, CARD);
                let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
                let copy = eventfd.try_clone().unwrap();
                let request: [u32; 6] = [24, 4 | 32, 0, 0, 1, copy.as_raw_fd().cast_unsigned()];
                ioctl(&opened.device, SET_IRQS, (&raw const request).addr()).unwrap();
                machine.vfio_pci().device(CARD).unwrap().raise(IrqIndex::INTX, 0);
                let mut count = [0; 8];
                rustix::io::read(&eventfd, &mut count).unwrap();
                assert_eq!(u64::from_ne_bytes(count), 1);
            })
            .unwrap();
        });
        inside.join().unwrap();
    });
}

/// A line that has masked itself is unmasked by an eventfd that the program signals.
#[test]
fn an_eventfd_of_the_program_unmasks_an_interrupt() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let opened = Opened::through_group(&group, CARD);
        let new = || rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        let (signalled, unmask) = (new(), new());
        let set = |action: u32, eventfd: &std::os::fd::OwnedFd| {
            let request: [u32; 6] = [24, 4 | action, 0, 0, 1, eventfd.as_raw_fd().cast_unsigned()];
            ioctl(&opened.device, SET_IRQS, (&raw const request).addr()).unwrap();
        };
        set(32, &signalled);
        set(16, &unmask);
        let pci = machine.vfio_pci().device(CARD).unwrap();
        for _ in 0..3 {
            pci.raise(IrqIndex::INTX, 0);
            let mut count = [0; 8];
            rustix::io::read(&signalled, &mut count).unwrap();
            assert_eq!(u64::from_ne_bytes(count), 1);
            // Masked: it waits until the program is ready.
            pci.raise(IrqIndex::INTX, 0);
            rustix::io::write(&unmask, &1_u64.to_ne_bytes()).unwrap();
            rustix::io::read(&signalled, &mut count).unwrap();
            rustix::io::write(&unmask, &1_u64.to_ne_bytes()).unwrap();
            // The line is low again when the unmasking was heard.
            while rustix::event::poll(
                &mut [rustix::event::PollFd::new(&unmask, rustix::event::PollFlags::IN)],
                Some(&rustix::event::Timespec::default()),
            )
            .unwrap()
                > 0
            {
                thread::yield_now();
            }
        }
    })
    .unwrap();
}

#[test]
fn typed_errors_are_observed() {
    use vfio_room::vfio_owner::testbed::vfs::AttributeError;
    let (room, machine) = room();
    let seen = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = seen.clone();
    room.observe_refusals(move |error| {
        let is_no_device =
            error.downcast_ref::<AttributeError>().is_some_and(|error| error.errno().number() == libc::ENODEV);
        counter.fetch_add(usize::from(is_no_device), std::sync::atomic::Ordering::SeqCst);
    });
    let refused = room.enter(|| {
        crate::rig::only_in_a_room();
        std::fs::write("/sys/bus/pci/drivers/vfio-pci/bind", "0000:00:1e.7")
    });
    assert_eq!(refused.unwrap().unwrap_err().raw_os_error(), Some(libc::ENODEV));
    assert_eq!(seen.load(std::sync::atomic::Ordering::SeqCst), 1);
    drop(machine);
}

#[test]
fn files_look_like_character_devices() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let file = open(&group).unwrap();
        let (by_file, by_path) = (file.metadata().unwrap(), std::fs::metadata(&group).unwrap());
        assert!(by_file.file_type().is_char_device());
        assert_eq!(by_file.rdev(), by_path.rdev());
        let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert_eq!(link, Path::new(&group));
        // A second descriptor is the same file.
        let status = [8_u32, 0];
        assert_eq!(ioctl(&file, GET_STATUS, (&raw const status).addr()), Ok(0));
        assert_eq!(open(&group).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    })
    .unwrap();
}

#[test]
fn a_file_without_a_name_is_accessible_by_its_descriptor() {
    use rustix::fs::{Access, access};
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let opened = Opened::through_group(&group, CARD);
        let link = format!("/proc/self/fd/{}", opened.device.as_raw_fd());
        assert_eq!(access(&link, Access::READ_OK | Access::WRITE_OK), Ok(()));
        assert_eq!(access(&link, Access::EXEC_OK), Err(Errno::ACCESS));
    })
    .unwrap();
}
