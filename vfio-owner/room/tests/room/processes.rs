//! What processes do with their files and memory while the room serves them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, openat2, statat};
use rustix::io::Errno;
use vfio_room::Room;
use vfio_room::vfio_owner::iommu_core::Iova;
use vfio_room::vfio_owner::iommu_core::device_model::Progress;
use vfio_room::vfio_owner::testbed::Machine;

use crate::calls::{Mapping, arg, call, ioctl};
use crate::opened::{GET_STATUS, Opened, map_dma};
use crate::rig::{CARD, MARK, group_file, open, open_soon, room, soon, until_empty};

const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;
const IOVA: u64 = 0x10_0000;

/// A Python program that opens the card by its group, maps a page of its own for DMA and a BAR, and then goes on with `then`,
/// which has the container as descriptor `c`, the group `g` and the device `d`. All stay open when it executes another.
fn client(machine: &Machine, then: &str) -> String {
    let group = group_file(machine, CARD);
    format!(
        "import ctypes, fcntl, mmap, os, struct, sys\n\
         if not os.path.exists({MARK:?}): sys.exit(99)\n\
         c = os.open('/dev/vfio/vfio', os.O_RDWR); g = os.open({group:?}, os.O_RDWR)\n\
         fcntl.ioctl(g, 0x3b68, struct.pack('i', c)); fcntl.ioctl(c, 0x3b66, 1)\n\
         d = fcntl.ioctl(g, 0x3b6a, bytearray(b'{CARD}\\0'))\n\
         for f in (c, g, d): os.set_inheritable(f, True)\n\
         m = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); m[:6] = b'before'\n\
         at = ctypes.addressof(ctypes.c_char.from_buffer(m))\n\
         fcntl.ioctl(c, 0x3b71, struct.pack('IIQQQ', 32, 3, at, {IOVA}, 4096))\n\
         bar = mmap.mmap(d, 4096)\n\
         {then}\n"
    )
}

/// Runs a client up to the line that it prints, has `meanwhile` look, and lets it go on to its end.
fn run(room: &Room, machine: &Machine, then: &str, meanwhile: impl FnOnce()) {
    let mut python = room.command("python3");
    let python = python.arg("-c").arg(client(machine, then)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    meanwhile();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    until_empty(room);
}

fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: no python3");
    }
    found
}

/// A program that executes another keeps its files; its memory is gone, and what the next has there no device reaches.
#[test]
fn exec_with_memory_and_registers_mapped() {
    let (room, machine) = room();
    if !has_python() {
        return;
    }
    let then = "os.execvp('sh', ['sh', '-c', 'echo ok; read x'])";
    run(&room, &machine, then, || {
        let mut bytes = [1; 6];
        machine.dma(CARD).unwrap().read(Iova::new(IOVA), &mut bytes).unwrap();
        assert_eq!(bytes, [0; 6]);
        assert!(room.check_empty().is_err());
    });
    assert!(matches!(machine.unbind(CARD).unwrap().try_finish(), Progress::Done));
}

/// The same of a program with several threads, one of which is not the first and executes another.
#[test]
fn exec_by_one_of_several_threads() {
    let (room, machine) = room();
    if !has_python() {
        return;
    }
    let then = "import threading\n\
                wait = threading.Thread(target=lambda: fcntl.ioctl(g, 0x3b67, struct.pack('II', 8, 0)) and threading.Event().wait())\n\
                wait.daemon = True; wait.start()\n\
                t = threading.Thread(target=lambda: os.execvp('sh', ['sh', '-c', 'echo ok; read x; test -e /sys/kernel/vfio_room']))\n\
                t.start(); t.join()";
    run(&room, &machine, then, || assert!(room.check_empty().is_err()));
}

/// A child has the files, and what it maps is its own; the parent's memory stays the parent's for devices.
#[test]
fn fork_with_memory_and_registers_mapped() {
    let (room, machine) = room();
    if !has_python() {
        return;
    }
    let then = "p = os.fork()\n\
                if p == 0:\n\
                \x20   m[:6] = b'child!'; bar[0x100:0x104] = b'bars'; os._exit(0)\n\
                os.waitpid(p, 0); assert bar[0x100:0x104] == b'bars'\n\
                print('ok', flush=True); sys.stdin.readline()";
    run(&room, &machine, then, || {
        let mut bytes = [0; 6];
        machine.dma(CARD).unwrap().read(Iova::new(IOVA), &mut bytes).unwrap();
        // Forking breaks no sharing on the side of who pinned.
        assert_eq!(&bytes, b"before");
    });
}

/// Processes that are made without a copy of their parent's memory.
#[test]
fn vfork_posix_spawn_and_subprocesses() {
    let (room, machine) = room();
    if !has_python() {
        return;
    }
    let then = format!(
        "import subprocess\n\
         p = os.posix_spawn('/bin/sh', ['sh', '-c', 'test -e {MARK} && cat /sys/bus/pci/devices/{CARD}/vendor >&2'], os.environ)\n\
         assert os.waitpid(p, 0)[1] == 0\n\
         assert subprocess.run(['cat', '/sys/bus/pci/devices/{CARD}/vendor'], capture_output=True).stdout == b'0x8086\\n'\n\
         print('ok', flush=True); sys.stdin.readline()"
    );
    run(&room, &machine, &then, || {});
}

/// A thread that ends while it waits, by the end of its process, leaves nothing, and disturbs nobody.
#[test]
fn processes_that_are_killed_in_the_middle_of_calls() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    let script = format!("test -e {MARK} || exit 99; while :; do test -c {group}; exec 3<>{group}; exec 3>&-; done");
    for _ in 0..crate::rig::times() / 10 {
        let mut child = room.command("sh").arg("-c").arg(&script).spawn().unwrap();
        thread::yield_now();
        child.kill().unwrap();
        child.wait().unwrap();
        until_empty(&room);
        drop(room.enter(|| open_soon(&group)).unwrap());
    }
    until_empty(&room);
}

#[test]
fn descriptors_are_duplicated_and_closed_in_every_way() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let status = [8_u32, 0];
        let answers = |fd: usize| call(libc::SYS_ioctl, &[fd, GET_STATUS as usize, (&raw const status).addr()]);
        let file = open(&group).unwrap();
        let high = 800_usize;
        let duplicated = call(libc::SYS_dup3, &[arg(file.as_raw_fd()), high, arg(libc::O_CLOEXEC)]);
        assert_eq!(duplicated, Ok(800));
        drop(file);
        assert_eq!(answers(high), Ok(0));
        assert_eq!(open(&group).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        assert_eq!(call(libc::SYS_close_range, &[high, high, 0]), Ok(0));
        assert_eq!(answers(high), Err(libc::EBADF));
        // Something else by the same number is something else.
        let file = open_soon(&group);
        let null = File::open("/dev/null").unwrap();
        assert_eq!(answers(arg(file.as_raw_fd())), Ok(0));
        let over = call(libc::SYS_dup3, &[arg(null.as_raw_fd()), arg(file.as_raw_fd()), arg(libc::O_CLOEXEC)]);
        assert_eq!(over, Ok(i64::from(file.as_raw_fd())));
        assert_eq!(answers(arg(file.as_raw_fd())), Err(libc::ENOTTY));
        drop(open_soon(&group));
    })
    .unwrap();
    until_empty(&room);
}

#[test]
fn files_are_opened_in_every_way() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let name = group.strip_prefix("/dev/vfio/").unwrap();
        let directory = File::open("/dev/vfio").unwrap();
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        for resolve in [ResolveFlags::empty(), ResolveFlags::BENEATH, ResolveFlags::NO_SYMLINKS, ResolveFlags::IN_ROOT]
        {
            let file = soon(|| openat2(&directory, name, flags, Mode::empty(), resolve));
            assert_eq!(
                FileType::from_raw_mode(fstat(&file).unwrap().st_mode),
                FileType::CharacterDevice,
                "{resolve:?}"
            );
            let status = [8_u32, 0];
            assert_eq!(ioctl(&file, GET_STATUS, (&raw const status).addr()), Ok(0));
        }
        let out = openat2(&directory, "../null", flags, Mode::empty(), ResolveFlags::BENEATH);
        assert_eq!(out.unwrap_err(), Errno::XDEV);
        // A path only: nothing is opened.
        let path =
            openat2(&directory, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty()).unwrap();
        assert_eq!(ioctl(&path, GET_STATUS, 0), Err(libc::ENOTTY));
        let found = statat(&path, "", AtFlags::EMPTY_PATH).unwrap();
        assert_eq!(FileType::from_raw_mode(found.st_mode), FileType::CharacterDevice);
        drop(open_soon(&format!("/proc/self/fd/{}", path.as_raw_fd())));
        // By the link of an open one, as a second opening is by its name.
        let file = open_soon(&group);
        let again = open(&format!("/proc/self/fd/{}", file.as_raw_fd()));
        assert!(again.is_err());
    })
    .unwrap();
    until_empty(&room);
}

/// Files that have nothing to report are always ready. `epoll` refuses them, as it refuses the kernel's.
#[test]
fn device_files_are_polled() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let opened = Opened::through_group(&group, CARD);
        for file in [opened.device.as_fd(), opened.group.as_fd(), opened.container.as_fd()] {
            let mut polled = [PollFd::from_borrowed_fd(file, PollFlags::IN | PollFlags::OUT)];
            assert_eq!(poll(&mut polled, Some(&Timespec::default())).unwrap(), 1);
            assert!(polled[0].revents().contains(PollFlags::IN | PollFlags::OUT));
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        // As of a file whose driver has no `poll`.
        let added = epoll::add(&epoll, &opened.device, epoll::EventData::new_u64(0), epoll::EventFlags::IN);
        assert_eq!(added, Err(Errno::PERM));
    })
    .unwrap();
}

#[test]
fn mappings_are_moved_advised_and_split() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let opened = Opened::through_group(&group, CARD);
        let bar = Mapping::of(&opened.device, 0x2000, 0).unwrap();
        bar.write(0x1100, 7);
        assert_eq!(call(libc::SYS_madvise, &[bar.addr(), 0x2000, arg(libc::MADV_DONTFORK)]), Ok(0));
        // Memory that is thrown away is the registers, which stay.
        assert_eq!(call(libc::SYS_madvise, &[bar.addr(), 0x2000, arg(libc::MADV_DONTNEED)]), Ok(0));
        assert_eq!(bar.read(0x1100), 7);
        let second = Mapping::of(&opened.device, 0x1000, 0x1000).unwrap();
        assert_eq!(second.read(0x100), 7);
        // What was unmapped under a device is nowhere for it.
        let memory = Mapping::anonymous(0x4000, BOTH);
        map_dma(&opened.container, memory.addr(), IOVA, 0x4000).unwrap();
        memory.write(0x1000, 9);
        let device = machine.dma(CARD).unwrap();
        let mut byte = [0];
        device.read(Iova::new(IOVA + 0x1000), &mut byte).unwrap();
        assert_eq!(byte, [9]);
    })
    .unwrap();
    until_empty(&room);
}
