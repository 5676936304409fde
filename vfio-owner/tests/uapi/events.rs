//! Interrupts, requests, and writes that events cause.

use vfio_owner::iommu_core::device_model::{Errno, Progress};

use crate::rig::{EDU, NIC, Program, wide};

const TRIGGER: u32 = 0x20;
const UNMASK: u32 = 0x10;
const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;

fn set(program: &Program, device: i32, index: u32, flags: u32, start: u32, data: &[i32]) -> Result<(), Errno> {
    let count = u32::try_from(data.len()).unwrap();
    let size = 20 + 4 * count;
    let data = data.iter().map(|fd| fd.cast_unsigned());
    let words: Vec<u32> = [size, flags, index, start, count].into_iter().chain(data).collect();
    program.words(device, 110, &words).map(|_| ())
}

fn none(program: &Program, device: i32, index: u32, flags: u32, count: u32) -> Result<(), Errno> {
    program.words(device, 110, &[20, flags | NONE, index, 0, count]).map(|_| ())
}

/// Vt22.
#[test]
fn the_front_checks_in_order() {
    let program = Program::with(&[NIC, EDU]);
    let (_, _, device) = program.device(NIC);
    let (fd, _) = program.eventfd();
    let fd = fd.cast_unsigned();
    for (words, errno, why) in [
        ([19, TRIGGER | NONE, 0, 0, 1, 0], Errno::EINVAL, "size"),
        ([24, TRIGGER | EVENTFD, 5, 0, 1, fd], Errno::EINVAL, "index"),
        ([24, TRIGGER | EVENTFD, 0, 0, u32::MAX, fd], Errno::EINVAL, "count wraps"),
        ([24, 0x40 | TRIGGER | EVENTFD, 0, 0, 1, fd], Errno::EINVAL, "flags"),
        ([24, TRIGGER | EVENTFD, 0, 1, 1, fd], Errno::EINVAL, "start"),
        ([24, TRIGGER, 0, 0, 1, 0], Errno::EINVAL, "no data"),
        ([24, 0x3f, 0, 0, 1, fd], Errno::EINVAL, "all data"),
        ([20, TRIGGER | EVENTFD, 0, 0, 1, fd], Errno::EINVAL, "no room for the data"),
        ([20, TRIGGER | BOOL, 0, 0, 1, 0], Errno::EINVAL, "no room for the data"),
        ([24, EVENTFD, 0, 0, 1, fd], Errno::ENOTTY, "no action"),
        ([24, TRIGGER | UNMASK | EVENTFD, 0, 0, 1, fd], Errno::ENOTTY, "two actions"),
        ([24, UNMASK | EVENTFD, 1, 0, 1, fd], Errno::ENOTTY, "not of MSI"),
        ([24, UNMASK | EVENTFD, 0, 0, 1, fd], Errno::EINVAL, "not set up"),
    ] {
        assert_eq!(program.words(device, 110, &words).map(|_| ()), Err(errno), "{why}");
    }
    // Vt22.3: an index without interrupts refuses even none.
    let (_, _, edu) = program.device(EDU);
    assert_eq!(none(&program, edu, 2, TRIGGER, 0), Err(Errno::EINVAL));
}

/// V84, Vt23 to Vt25: eventfds that are none.
#[test]
fn descriptors_that_are_no_eventfds() {
    let program = Program::with(&[NIC]);
    let (_, _, device) = program.device(NIC);
    let (good, eventfd) = program.eventfd();
    for index in 0..5 {
        assert_eq!(set(&program, device, index, TRIGGER | EVENTFD, 0, &[99]), Err(Errno::EBADF), "{index}");
        assert_eq!(set(&program, device, index, TRIGGER | EVENTFD, 0, &[device]), Err(Errno::EINVAL), "{index}");
    }
    assert_eq!(set(&program, device, 4, TRIGGER | EVENTFD, 0, &[-2]), Err(Errno::EINVAL));
    assert_eq!(set(&program, device, 0, TRIGGER | EVENTFD, 0, &[-2]), Ok(()), "enabled without a receiver");
    assert_eq!(none(&program, device, 0, TRIGGER, 0), Ok(()));
    assert_eq!(set(&program, device, 2, TRIGGER | EVENTFD, 0, &[good, good, good]), Ok(()));
    assert_eq!(set(&program, device, 2, TRIGGER | EVENTFD, 1, &[99, good]), Err(Errno::EBADF));
    assert_eq!(none(&program, device, 2, TRIGGER, 3), Ok(()));
    assert_eq!(eventfd.take(), 2, "the second one is gone, the others are as they were");
    assert_eq!(set(&program, device, 0, TRIGGER | EVENTFD, 0, &[good]), Err(Errno::EINVAL), "MSI-X is set up");
    assert_eq!(none(&program, device, 2, TRIGGER, 0), Ok(()));
    assert_eq!(set(&program, device, 2, TRIGGER | EVENTFD, 0, &[]), Err(Errno::ERANGE));
}

/// Vt23.11.
#[test]
fn an_event_unmasks_the_line() {
    use vfio_owner::device_ops::IrqIndex;

    let program = Program::with(&[NIC]);
    let (_, _, device) = program.device(NIC);
    let ((raised_fd, raised), (unmask_fd, unmask)) = (program.eventfd(), program.eventfd());
    set(&program, device, 0, TRIGGER | EVENTFD, 0, &[raised_fd]).unwrap();
    set(&program, device, 0, UNMASK | EVENTFD, 0, &[unmask_fd]).unwrap();
    assert_eq!(set(&program, device, 0, UNMASK | EVENTFD, 0, &[unmask_fd]), Err(Errno::EBUSY));
    let function = program.machine.vfio_pci().device(NIC).unwrap();
    let _ = function.raise(IrqIndex::INTX, 0);
    let _ = function.raise(IrqIndex::INTX, 0);
    assert_eq!(raised.take(), 1);
    unmask.write();
    assert_eq!(raised.take(), 1);
    set(&program, device, 0, UNMASK | EVENTFD, 0, &[-1]).unwrap();
    let _ = function.raise(IrqIndex::INTX, 0);
    unmask.write();
    assert_eq!(raised.take(), 0);
}

/// Vt28, V93.
#[test]
fn an_event_writes_to_a_bar() {
    let program = Program::with(&[NIC]);
    let (_, _, device) = program.device(NIC);
    let (fd, eventfd) = program.eventfd();
    let set = |argsz, flags, region: u64, at: u64, data, fd: i32| {
        let head = [argsz, flags];
        let words = [&head[..], &wide(region << 40 | at), &wide(data), &[fd.cast_unsigned()]].concat();
        program.words(device, 116, &words).map(|_| ())
    };
    assert_eq!(set(27, 4, 0, 0x10, 7, fd), Err(Errno::EINVAL));
    assert_eq!(set(28, 0, 0, 0x10, 7, fd), Err(Errno::EINVAL));
    assert_eq!(set(28, 3, 0, 0x10, 7, fd), Err(Errno::EINVAL));
    assert_eq!(set(28, 4, 0, 0x10, 7, -2), Err(Errno::EINVAL));
    for (region, at) in [(7, 0x10), (4, 0), (0, 0x1_fffd), (3, 0)] {
        assert_eq!(set(28, 4, region, at, 7, fd), Err(Errno::EINVAL), "{region} {at:#x}");
    }
    assert_eq!(set(28, 4, 0, 0x11, 7, -1), Err(Errno::ENODEV));
    assert_eq!((set(28, 4, 0, 0x11, 7, 99), set(28, 4, 0, 0x11, 7, device)), (Err(Errno::EBADF), Err(Errno::EINVAL)));
    assert_eq!(set(28, 4, 0, 0x11, 0x0403_0201, fd), Ok(()));
    assert_eq!(set(28, 4, 0, 0x11, 0x0403_0201, fd), Err(Errno::EEXIST));
    assert_eq!(set(28, 1, 0, 0x20, 0xaabb, fd), Ok(()), "the lowest byte");
    eventfd.write();
    assert_eq!(program.pread(device, 0, 0x10, 6), Ok(vec![0, 1, 2, 3, 4, 0]));
    assert_eq!(program.pread(device, 0, 0x20, 2), Ok(vec![0xbb, 0]));
    assert_eq!(set(28, 4, 0, 0x11, 0x0403_0201, -1), Ok(()));
    program.pwrite(device, 0, 0x10, &[0; 32]).unwrap();
    eventfd.write();
    assert_eq!(program.pread(device, 0, 0x10, 4), Ok(vec![0; 4]), "removed");
    assert_eq!(program.pread(device, 0, 0x20, 1), Ok(vec![0xbb]));
}

/// V104; and what a library user does who cannot block.
#[test]
fn a_request_signals_and_the_last_close_tells_whoever_waits() {
    let program = Program::with(&[NIC]);
    let (_, group, device) = program.device(NIC);
    let (fd, eventfd) = program.eventfd();
    set(&program, device, 4, TRIGGER | EVENTFD, 0, &[fd]).unwrap();
    let mut unbind = program.machine.unbind(NIC).unwrap();
    let Progress::Waiting { users, .. } = unbind.try_finish() else { panic!("the device is open") };
    assert_eq!(eventfd.take(), 1);
    let (tell, told) = std::sync::mpsc::channel();
    users.when_empty(move || tell.send(()).unwrap());
    assert!(told.try_recv().is_err());
    assert_eq!(program.words(device, 107, &[16]).unwrap()[1], 3, "it works as before");
    let name = format!("{NIC}\0");
    assert_eq!(program.call(group, 106, name.as_bytes()).map(|_| ()), Err(Errno::ENODEV));
    program.close(device);
    assert!(told.try_recv().is_ok());
    assert!(matches!(unbind.try_finish(), Progress::Done));
}
