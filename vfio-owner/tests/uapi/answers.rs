//! What calls answer, and in which order they check.

use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::{Access, Ownership, UserMemory as _};
use vfio_owner::uapi::Caller as _;

use crate::rig::{BEHIND_PORT, CONVENTIONAL, EDU, NIC, Program, bytes, wide};

const EVERY_CALL: std::ops::RangeInclusive<u32> = 90..=125;

/// V53, V70: numbers that a kind of file does not serve.
#[test]
fn what_is_not_served_has_the_answer_of_its_kind() {
    let program = Program::with(&[NIC]);
    let (container, group) = (program.container(), program.group(NIC));
    for nr in EVERY_CALL.filter(|nr| !(100..=102).contains(nr)) {
        assert_eq!(program.value(container, nr, 0), Err(Errno::EINVAL), "a container without a type: {nr}");
    }
    for nr in EVERY_CALL.filter(|nr| !(103..=106).contains(nr)) {
        assert_eq!(program.value(group, nr, 0), Err(Errno::ENOTTY), "a group: {nr}");
    }
    program.close(group);
    let (container, _, device) = program.device(NIC);
    for nr in EVERY_CALL.filter(|nr| ![100, 101, 102, 112, 113, 114, 117].contains(nr)) {
        assert_eq!(program.value(container, nr, 0), Err(Errno::ENOTTY), "a container with a type: {nr}");
    }
    for nr in EVERY_CALL.filter(|nr| ![107, 108, 109, 110, 111, 112, 113, 116, 117, 118].contains(nr)) {
        assert_eq!(program.value(device, nr, 0), Err(Errno::ENOTTY), "a device: {nr}");
    }
    assert_eq!(program.value(device, 118, 0), Err(Errno::EFAULT));
    assert_eq!(program.words(device, 118, &[16, 0, 0, 0]), Err(Errno::EINVAL), "Vt11.3");
    let unbound = program.cdev(NIC);
    for nr in EVERY_CALL.filter(|nr| *nr != 118) {
        assert_eq!(program.value(unbound, nr, 0), Err(Errno::EINVAL), "a device file that is not bound: {nr}");
    }
    assert_eq!(program.value(unbound, 118, 0), Err(Errno::EFAULT));
}

/// The whole number counts, size and direction included.
#[test]
fn a_number_has_no_size() {
    let program = Program::with(&[]);
    let container = program.container();
    assert_eq!(program.value(container, 100, 0), Ok(0));
    assert_eq!(program.value(container, 100 + (8 << 16), 0), Err(Errno::EINVAL));
    assert_eq!(program.value(container, 100 + (1 << 30), 0), Err(Errno::EINVAL));
}

/// Vt3, Vt4, Vt6: with their checks in order.
#[test]
fn group_calls_check_in_order() {
    let program = Program::with(&[NIC]);
    let group = program.group(NIC);
    for nr in [103, 104, 106] {
        assert_eq!(program.value(group, nr, 0), Err(Errno::EFAULT), "{nr}");
    }
    let status = |argsz| program.words(group, 103, &[argsz, 5]).map(|words| words[1]);
    assert_eq!((status(7), status(8), status(16)), (Err(Errno::EINVAL), Ok(1), Ok(1)));
    let set = |file: i32| program.call(group, 104, &file.to_ne_bytes()).map(|_| ());
    assert_eq!(set(999), Err(Errno::EBADF));
    assert_eq!(set(-1), Err(Errno::EBADF));
    assert_eq!(set(group), Err(Errno::EBADFD));
    assert_eq!(program.value(group, 105, 0), Err(Errno::EINVAL));
    let name = |name: &str| program.call(group, 106, name.as_bytes()).map(|_| ());
    assert_eq!(name(""), Err(Errno::ENODEV));
    assert_eq!(name(&format!("{NIC} vf_token=zz\0")), Err(Errno::EINVAL), "Vt6.3 before Vt6.5");
    assert_eq!(name(&format!("{NIC}x\0")), Err(Errno::ENODEV), "V103: no match");
    assert_eq!(name(&format!("{NIC}\0")), Err(Errno::EINVAL), "Vt6.5");
    program.put(0, &[b'a'; 5000], 0);
    assert_eq!(program.value(group, 106, program.buffer.get()), Err(Errno::EINVAL), "Vt6.1: too long");
    let container = program.container();
    set(container).unwrap();
    assert_eq!(set(999), Err(Errno::EBADF), "Vt4.1 before Vt4.2");
    assert_eq!(set(group), Err(Errno::EINVAL), "Vt4.2 before Vt4.6");
    assert_eq!(status(8), Ok(3));
}

/// F98, F99: the chain of GET_INFO, all or nothing.
#[test]
fn iommu_info_has_its_capabilities_behind_it() {
    let program = Program::with(&[NIC]);
    let (container, _, _) = program.device(NIC);
    let info = |argsz: u32| program.words(container, 112, &[argsz, 0, 0, 0, 77, 77]);
    assert_eq!(info(15), Err(Errno::EINVAL));
    let short = info(24).unwrap();
    assert_eq!(short[..6], [0x78, 3, 0x4020_1000, 0, 0, 0], "needs 0x78 bytes, so there is no chain");
    assert_eq!(short[6..0x1e], [0; 0x18]);
    let least = info(16).unwrap();
    assert_eq!(least[..6], [0x78, 3, 0x4020_1000, 0, 77, 77], "no more than asked for is written");
    let full = info(0x78).unwrap();
    assert_eq!(full[..6], [0x78, 3, 0x4020_1000, 0, 24, 0]);
    let migration = [1 << 16 | 2, 56, 0, 0, 0x1000, 0, 0x1000_0000, 0];
    let available = [1 << 16 | 3, 72, 65535, 0];
    let ranges = [1 << 16 | 1, 0, 2, 0, 0, 0, 0xfedf_ffff, 0, 0xfef0_0000, 0, 0xffff_ffff, 0x7f];
    assert_eq!(full[6..0x1e], [&migration[..], &available[..], &ranges[..]].concat());
    assert_eq!(info(4096).unwrap()[0], 4096, "with room, the size stays");
}

/// Vt15, Vt16, V51: type1's calls with their checks in order.
#[test]
fn type1_calls_check_in_order() {
    let program = Program::with(&[NIC]);
    let (container, _, _) = program.device(NIC);
    let ram = program.process.allocate(0x10_0000, Access::ReadWrite).unwrap().get();
    let map = |argsz, flags, addr, iova, size| {
        let words = [&[argsz, flags][..], &wide(addr), &wide(iova), &wide(size)].concat();
        program.words(container, 113, &words).map(|_| ())
    };
    assert_eq!(program.value(container, 113, 0), Err(Errno::EFAULT));
    assert_eq!(map(31, 3, ram, 0, 0x1000), Err(Errno::EINVAL));
    assert_eq!(map(32, 0, ram, 0, 0x1000), Err(Errno::EINVAL));
    assert_eq!(map(32, 8 | 3, ram, 0, 0x1000), Err(Errno::EINVAL));
    assert_eq!(map(32, 4 | 1, ram, 0, 0x1000), Err(Errno::EINVAL));
    assert_eq!(map(32, 4, ram, 0, 0x1000), Err(Errno::ENOENT), "Vt15.6");
    assert_eq!(map(32, 3, 0, 0, 0x1000), Err(Errno::EFAULT), "Vt15.13");
    assert_eq!(map(40, 3, ram, 0, 0x1_0000), Ok(()));
    assert_eq!(map(32, 3, ram, 0xf000, 0x1000), Err(Errno::EEXIST));

    let unmap = |argsz, flags, iova, size| {
        let words = [&[argsz, flags][..], &wide(iova), &wide(size)].concat();
        program.words(container, 114, &words).map(|words| words[4])
    };
    assert_eq!(unmap(23, 0, 0, 0x1_0000), Err(Errno::EINVAL));
    assert_eq!(unmap(24, 8, 0, 0x1_0000), Err(Errno::EINVAL));
    for flags in [1 | 2, 1 | 4, 1 | 2 | 4] {
        assert_eq!(unmap(48, flags, 0, 0), Err(Errno::EINVAL), "dirty pages of all, or of an address: {flags}");
    }
    assert_eq!(unmap(24, 2, 0x1000, 0), Err(Errno::EINVAL));
    assert_eq!(unmap(24, 1, 0, 0x1_0000), Err(Errno::EINVAL), "no bitmap behind");
    assert_eq!(unmap(24, 6, 0, 0), Ok(0x1_0000), "all lose their address");
    assert_eq!(map(32, 4, ram, 0, 0x1_0000), Ok(()));
    assert_eq!(unmap(24, 0, 0x100_0000, 0x1000), Ok(0));

    let dirty = |words: &[u32]| program.words(container, 117, words).map(|_| ());
    for flags in [0, 3, 5, 8] {
        assert_eq!(dirty(&[8, flags]), Err(Errno::EINVAL), "{flags}");
    }
    assert_eq!(dirty(&[7, 1]), Err(Errno::EINVAL));
    let at = program.buffer.get() + 0x2000;
    let get = |argsz, iova, size, page, bits, data| {
        let ranges = [wide(iova), wide(size), wide(page), wide(bits), wide(data)].concat();
        dirty(&[&[argsz, 4][..], &ranges].concat())
    };
    assert_eq!(get(48, 0, 0x1_0000, 0x1000, 8, at), Err(Errno::EINVAL), "tracking is off");
    assert_eq!(dirty(&[8, 1]), Ok(()));
    assert_eq!(get(47, 0, 0x1_0000, 0x1000, 8, at), Err(Errno::EINVAL));
    assert_eq!(get(48, 0, 0x1_0000, 0x1000, 7, at), Err(Errno::EINVAL));
    assert_eq!(get(48, 0, 0x1_0000, 0x1000, 8, 0), Err(Errno::EFAULT));
    assert_eq!(get(48, 0, 0x1_0000, 0x1000, 8, at), Ok(()));
    assert_eq!(program.get(0x2000, 8), [0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    let words = [&[48, 1][..], &wide(0), &wide(0x1_0000), &wide(0x1000), &wide(8), &wide(at + 8)].concat();
    assert_eq!(program.words(container, 114, &words).unwrap()[4], 0x1_0000);
    assert_eq!(program.get(0x2008, 2), [0xff, 0xff]);
}

/// V72 to V80: what a device tells, and how much of it.
#[test]
fn device_info_fits_the_room_that_there_is() {
    let program = Program::with(&[NIC, EDU]);
    let (_, _, device) = program.device(NIC);
    for nr in [107, 108, 109, 110, 112, 113, 116, 117] {
        assert_eq!(program.value(device, nr, 0), Err(Errno::EFAULT), "{nr}");
    }
    let info = |argsz| program.words(device, 107, &[argsz, 0, 0, 0, 77, 77]).map(|words| words[..6].to_vec());
    assert_eq!(info(15), Err(Errno::EINVAL));
    assert_eq!(info(16), Ok(vec![16, 3, 9, 5, 77, 77]));
    assert_eq!(info(24), Ok(vec![24, 3, 9, 5, 0, 0]));
    assert_eq!(info(4096), Ok(vec![4096, 3, 9, 5, 0, 0]));

    let region = |argsz, index| program.words(device, 108, &[argsz, 0, index, 77]).map(|words| words[..10].to_vec());
    assert_eq!(region(31, 0), Err(Errno::EINVAL));
    assert_eq!(region(32, 0), Ok(vec![32, 7, 0, 77, 0x2_0000, 0, 0, 0, 0, 0]));
    assert_eq!(region(32, 2), Ok(vec![32, 3, 2, 77, 0x20, 0, 0, 2 << 8, 0, 0]), "ports are not mapped");
    assert_eq!(region(32, 3), Ok(vec![40, 15, 3, 0, 0x4000, 0, 0, 3 << 8, 0, 0]), "no room for the capability");
    assert_eq!(region(40, 3), Ok(vec![40, 15, 3, 32, 0x4000, 0, 0, 3 << 8, 1 << 16 | 3, 0]));
    assert_eq!(region(32, 6), Ok(vec![32, 1, 6, 77, 0x4_0000, 0, 0, 6 << 8, 0, 0]));
    assert_eq!(region(32, 7), Ok(vec![32, 3, 7, 77, 0x1000, 0, 0, 7 << 8, 0, 0]));
    for index in [8, 9, u32::MAX] {
        assert_eq!(region(32, index), Err(Errno::EINVAL));
    }
    let irq = |argsz, index| program.words(device, 109, &[argsz, 0, index, 0]).map(|words| (words[1], words[3]));
    assert_eq!(irq(15, 0), Err(Errno::EINVAL));
    let told = [0, 1, 2, 3, 4, 5].map(|index| irq(16, index));
    assert_eq!(told, [Ok((7, 1)), Ok((9, 1)), Ok((1, 5)), Ok((9, 1)), Ok((9, 1)), Err(Errno::EINVAL)]);

    let (_, _, edu) = program.device(EDU);
    let irq = |index| program.words(edu, 109, &[16, 0, index, 0]).map(|words| (words[1], words[3]));
    assert_eq!([1, 2, 3].map(irq), [Ok((9, 1)), Ok((9, 0)), Err(Errno::EINVAL)]);
    assert_eq!(program.words(edu, 107, &[16]).unwrap()[1], 2, "no reset");
    assert_eq!((program.value(edu, 111, 1), program.value(device, 111, 1)), (Err(Errno::EINVAL), Ok(0)));
}

/// V96 to V98, Vt30, Vt32.
#[test]
fn regions_are_read_written_and_mapped_at_their_offsets() {
    let program = Program::with(&[NIC]);
    let (container, _, device) = program.device(NIC);
    assert_eq!(program.pread(device, 7, 0, 4), Ok(vec![0x86, 0x80, 0xd3, 0x10]));
    assert_eq!(program.pread(device, 7, 4, 2), Ok(vec![0x03, 0x01]), "bus mastering is off");
    assert_eq!(
        (program.pwrite(device, 7, 4, &[0xff; 2]), program.pread(device, 7, 4, 2)),
        (Ok(2), Ok(vec![0x07, 0x05]))
    );
    program.pwrite(device, 7, 0x80, &[0xff; 4]).unwrap();
    assert_eq!(program.pread(device, 7, 0x80, 1), Ok(vec![0xff]), "Vt31.14: in no capability");
    program.pwrite(device, 0, 0x10, &[1, 2, 3]).unwrap();
    assert_eq!(program.pread(device, 0, 0x0f, 5), Ok(vec![0, 1, 2, 3, 0]));
    assert_eq!(program.pread(device, 0, 0x1_fffc, 8), Ok(vec![0; 4]), "as much as there is");
    assert_eq!(program.pread(device, 0, 0x2_0000, 4), Err(Errno::EINVAL));
    assert_eq!(program.pread(device, 7, 0xffe, 4), Err(Errno::EFAULT));
    assert_eq!(program.pread(device, 3, 0, 4), Ok(vec![0xff; 4]), "the MSI-X table is not read");
    for region in [4, 8, 9, 15] {
        assert_eq!(program.pread(device, region, 0, 1), Err(Errno::EINVAL), "{region}");
        assert_eq!(program.pread(device, region, 0, 0), Ok(vec![]), "{region}");
        assert_eq!(program.pwrite(device, region, 0, &[0]), Err(Errno::EINVAL), "{region}");
    }
    program.pwrite(device, 7, 4, &[0; 2]).unwrap();
    assert_eq!(program.pread(device, 0, 0, 4), Err(Errno::EIO));
    assert_eq!(program.pread(device, 2, 0, 4), Ok(vec![0xff; 4]));
    assert_eq!(program.pread(device, 6, 0, 2), Err(Errno::ENOMEM));
    assert_eq!(program.pwrite(device, 6, 0, &[0]), Err(Errno::EINVAL));

    let mmap = |fd, region: u64, at: u64, bytes| {
        program.file(fd).unwrap().mappable(region << 40 | at, bytes, &program).map(|mapped| mapped.bytes)
    };
    assert_eq!([0, 0x1f000].map(|at| mmap(device, 0, at, 0x1000)), [Ok(0x1000); 2]);
    assert_eq!(
        (mmap(device, 0, 0, 0x2_1000), mmap(device, 0, 0x1_f000, 0x2000)),
        (Err(Errno::EINVAL), Err(Errno::EINVAL))
    );
    assert_eq!(mmap(device, 3, 0, 0x1000), Ok(0x1000), "V100");
    for region in [2, 4, 6, 7, 8, 9] {
        assert_eq!(mmap(device, region, 0, 0x1000), Err(Errno::EINVAL), "{region}");
    }
    assert_eq!(mmap(container, 0, 0, 0x1000), Err(Errno::ENODEV));
    let unbound = program.cdev(NIC);
    assert_eq!(
        (mmap(unbound, 0, 0, 0x1000), program.pread(unbound, 7, 0, 0)),
        (Err(Errno::EINVAL), Err(Errno::EINVAL))
    );
}

/// Vt11, Vt12, V59.
#[test]
fn a_device_file_is_bound_and_attached() {
    let program = Program::with(&[NIC]);
    let (file, other, iommufd) = (program.cdev(NIC), program.cdev(NIC), program.iommufd());
    let bind = |file, argsz, flags, fd: i32| {
        program.words(file, 118, &[argsz, flags, fd.cast_unsigned(), 0]).map(|words| words[3])
    };
    assert_eq!(bind(file, 15, 0, iommufd), Err(Errno::EINVAL));
    assert_eq!(bind(file, 16, 1, iommufd), Err(Errno::EINVAL));
    assert_eq!(bind(file, 16, 0, -1), Err(Errno::EINVAL));
    assert_eq!(bind(file, 16, 0, 99), Err(Errno::EBADF));
    assert_eq!(bind(file, 16, 0, other), Err(Errno::EBADFD));
    let at = program.process.allocate(0x1000, Access::Read).unwrap();
    assert_eq!(program.value(file, 118, at.get()), Err(Errno::EINVAL), "it is full of zeros");
    let id = bind(file, 16, 0, iommufd).unwrap();
    assert_eq!(bind(file, 16, 0, 99), Err(Errno::EINVAL), "Vt11.6 before Vt11.7");
    assert_eq!(bind(other, 16, 0, 99), Err(Errno::EBADF), "Vt11.7 before Vt11.8");
    assert_eq!(bind(other, 16, 0, iommufd), Err(Errno::EINVAL));
    let ioas = program.words(iommufd, 0x81, &[12, 0, 0]).unwrap()[2];
    let attach = |argsz, flags, id| program.words(file, 119, &[argsz, flags, id]).map(|words| words[2]);
    assert_eq!(attach(11, 0, ioas), Err(Errno::EINVAL));
    assert_eq!(attach(12, 1, ioas), Err(Errno::EINVAL));
    assert_eq!(attach(12, 0, 99), Err(Errno::ENOENT));
    let hwpt = attach(12, 0, ioas).unwrap();
    assert!(hwpt != ioas && hwpt != id);
    assert_eq!(program.words(file, 120, &[8, 1]), Err(Errno::EINVAL));
    assert_eq!((program.value(file, 119, 0), program.value(file, 120, 0)), (Err(Errno::EFAULT), Err(Errno::EFAULT)));
    for _ in 0..2 {
        program.words(file, 120, &[8, 0]).unwrap();
    }
    assert_eq!(program.words(file, 107, &[16]).unwrap()[1], 3);
}

/// Vt26, Vt27, V89.
#[test]
fn a_hot_reset_tells_and_checks_whose_the_devices_are() {
    let program = Program::with(&[BEHIND_PORT[0], BEHIND_PORT[1], CONVENTIONAL[0], CONVENTIONAL[1], NIC]);
    let (_, group, device) = program.device(BEHIND_PORT[0]);
    let (_, other_group, conventional) = program.device(CONVENTIONAL[0]);
    let (_, nic_group, nic) = program.device(NIC);
    let info = |device, argsz| program.words(device, 112, &[argsz, 0, 0]);
    assert_eq!(info(device, 11), Err(Errno::EINVAL));
    assert_eq!(info(nic, 12), Err(Errno::ENODEV), "on a root bus");
    assert_eq!(info(device, 27), Err(Errno::ENOSPC));
    assert_eq!(program.get(0, 12), bytes(&[27, 0, 2]), "how many there are");
    let number = program.machine.group(BEHIND_PORT[0]).unwrap().id().get();
    let told = info(device, 28).unwrap();
    assert_eq!(told[..7], [28, 0, 2, number, 0x0001_0000, number, 0x0101_0000]);

    let reset = |device, argsz, flags, files: &[i32]| {
        let count = u32::try_from(files.len()).unwrap();
        let files = files.iter().map(|file| file.cast_unsigned());
        let words: Vec<u32> = [argsz, flags, count].into_iter().chain(files).collect();
        program.words(device, 113, &words).map(|_| ())
    };
    assert_eq!(reset(device, 11, 0, &[]), Err(Errno::EINVAL));
    assert_eq!(reset(device, 12, 1, &[group]), Err(Errno::EINVAL));
    assert_eq!((reset(nic, 12, 0, &[]), reset(nic, 12, 0, &[nic_group])), (Err(Errno::EINVAL), Err(Errno::ENODEV)));
    assert_eq!(reset(device, 12, 0, &[group, group, group]), Err(Errno::EINVAL), "more than functions");
    assert_eq!(reset(device, 12, 0, &[99]), Err(Errno::EBADF));
    assert_eq!(reset(device, 12, 0, &[device]), Err(Errno::EINVAL));
    assert_eq!(reset(device, 12, 0, &[other_group]), Err(Errno::EINVAL));
    assert_eq!(reset(device, 12, 0, &[group, other_group]), Err(Errno::ENOTTY), "V91: done, but the link is down");
    assert_eq!(reset(conventional, 12, 0, &[other_group]), Ok(()));
}

/// V89: on a device file, owners are ids.
#[test]
fn a_hot_reset_of_a_device_file_tells_ids() {
    let program = Program::with(&CONVENTIONAL);
    let (iommufd, file) = (program.iommufd(), program.cdev(CONVENTIONAL[0]));
    let id = program.bind(file, iommufd).unwrap();
    let info = || program.words(file, 112, &[4096, 0, 0]).map(|words| [words[1], words[3], words[5]]);
    assert_eq!(info(), Ok([3, id, 0]), "the other is in a group of the iommufd");
    let second = program.cdev(CONVENTIONAL[1]);
    let second_id = program.bind(second, iommufd).unwrap();
    assert_eq!(info(), Ok([3, id, second_id]));
    assert_eq!(program.words(file, 113, &[12, 0, 1, 0]).map(|_| ()), Err(Errno::EINVAL));
    assert_eq!(program.words(file, 113, &[12, 0, 0]).map(|_| ()), Ok(()));
    program.close(second);
    program.machine.unbind(CONVENTIONAL[1]).unwrap().wait();
    assert_eq!(info(), Ok([1, id, u32::MAX]), "nobody's whom the caller knows");
    assert_eq!(program.words(file, 113, &[12, 0, 0]).map(|_| ()), Err(Errno::EINVAL));
    let refused = program.refused.borrow().clone();
    assert_eq!(refused.as_deref(), Some("0000:03:02.0 would be reset as well, and is not registered with VFIO"));
}

/// V86, Vt11.11: while an unbind waits, the device is not reset.
#[test]
fn a_device_that_is_wanted_back_is_not_reset() {
    let program = Program::with(&[NIC, CONVENTIONAL[0], CONVENTIONAL[1]]);
    let iommufd = program.iommufd();
    for device in [NIC, CONVENTIONAL[0]] {
        let (file, unbound) = (program.cdev(device), program.cdev(device));
        program.bind(file, iommufd).unwrap();
        let mut unbind = program.machine.unbind(device).unwrap();
        let _ = unbind.try_finish();
        let reset = if device == NIC { Errno::EAGAIN } else { Errno::EINVAL };
        assert_eq!(program.value(file, 111, 0), Err(reset), "{device}");
        program.close(file);
        assert_eq!(program.bind(unbound, iommufd), Err(Errno::EAGAIN), "{device}");
        program.close(unbound);
        unbind.wait();
    }
}

/// Vt27.10: the other device's lock is held by an unbind that waits for its user.
#[test]
fn a_hot_reset_waits_for_no_unbind() {
    let program = Program::with(&CONVENTIONAL);
    let iommufd = program.iommufd();
    let files = CONVENTIONAL.map(|device| program.cdev(device));
    for file in files {
        program.bind(file, iommufd).unwrap();
    }
    let reset = || program.words(files[0], 113, &[12, 0, 0]).map(|_| ());
    assert_eq!(reset(), Ok(()));
    let mut unbind = program.machine.unbind(CONVENTIONAL[1]).unwrap();
    let _ = unbind.try_finish();
    assert_eq!(reset(), Err(Errno::EAGAIN));
    program.close(files[1]);
    unbind.wait();
    assert_eq!(reset(), Err(Errno::EINVAL), "it is nobody's now");
}

/// Vt29, V94, V95.
#[test]
fn features_check_in_order() {
    let program = Program::with(&[NIC]);
    let (_, _, device) = program.device(NIC);
    let feature = |argsz, flags| program.words(device, 117, &[argsz, flags, 0, 0]).map(|_| ());
    let (get, set, probe) = (1 << 16, 1 << 17, 1 << 18);
    assert_eq!(feature(7, probe), Err(Errno::EINVAL));
    assert_eq!(feature(8, 1 << 19), Err(Errno::EINVAL));
    assert_eq!(feature(8, get | set), Err(Errno::EINVAL));
    for number in (0..13).filter(|number| ![3, 4, 5].contains(number)) {
        for flags in [0, get, set, probe, probe | get | set] {
            assert_eq!(feature(8, number | flags), Err(Errno::ENOTTY), "{number}");
        }
    }
    for number in [3, 4, 5] {
        assert_eq!(feature(8, number | get), Err(Errno::EINVAL));
        assert_eq!(feature(8, number | get | probe), Err(Errno::EINVAL));
        assert_eq!(feature(8, number), Err(Errno::EINVAL));
        assert_eq!(feature(8, number | set | probe), Ok(()));
    }
    assert_eq!(feature(8, 5 | set), Ok(()));
    assert_eq!(feature(8, 3 | set), Ok(()));
    assert_eq!(feature(8, 3 | set), Err(Errno::EINVAL), "V95: engaged");
    assert_eq!(feature(8, 5 | set), Ok(()));
    assert_eq!(feature(8, 4 | set), Err(Errno::EINVAL), "no room for the data");
    let wakeup = |fd: i32| program.words(device, 117, &[16, 4 | set, fd.cast_unsigned(), 0]).map(|_| ());
    assert_eq!((wakeup(-1), wakeup(99), wakeup(device)), (Err(Errno::EINVAL), Err(Errno::EBADF), Err(Errno::EINVAL)));
    let (fd, eventfd) = program.eventfd();
    assert_eq!(wakeup(fd), Ok(()));
    assert_eq!(eventfd.take(), 0);
    program.words(device, 107, &[16]).unwrap();
    program.words(device, 107, &[16]).unwrap();
    assert_eq!(eventfd.take(), 1, "used, it has been resumed for good");
    assert_eq!(feature(8, 3 | set), Ok(()));
}

#[test]
fn vt11_12_a_bind_that_cannot_be_told_is_undone() {
    let program = Program::with(&[NIC]);
    let (file, iommufd) = (program.cdev(NIC), program.iommufd());
    let bind = [16_u32, 0, iommufd.cast_unsigned(), 0].map(u32::to_ne_bytes).concat();
    // Memory that the program may read, and no more.
    let page = program.process.allocate(0x1000, Access::Read).unwrap();
    let run = program.process.pin(page, 0x1000, Access::Read).unwrap();
    program.machine.memory().write(run.phys, &bind);
    program.process.unpin(run);
    assert_eq!(program.value(file, 118, page.get()), Err(Errno::EFAULT));
    assert_eq!(program.machine.group(NIC).unwrap().ownership(), Ownership::Idle);
    assert!(program.call(file, 118, &bind).is_ok());
}
