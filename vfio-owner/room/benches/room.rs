//! What a room costs, in one run, as ratios to calls that the kernel answers.
#![expect(clippy::unwrap_used, reason = "what cannot be measured is not")]

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vfio_room::Room;
use vfio_room::vfio_owner::device_ops::Trigger;
use vfio_room::vfio_owner::iommu_core::device_model::Errno;
use vfio_room::vfio_owner::iommu_core::software::{LockedPages, Memory, Process};
use vfio_room::vfio_owner::iommu_core::{Access, UserMemory};
use vfio_room::vfio_owner::iommufd_owner;
use vfio_room::vfio_owner::testbed::{Machine, pc};
use vfio_room::vfio_owner::uapi::{self, Caller, Capability};

const GET_API_VERSION: u32 = 0x3b64;
const SET_IOMMU: u32 = 0x3b66;
const TYPE1_V2: usize = 3;
const GET_STATUS: u32 = 0x3b67;
const SET_CONTAINER: u32 = 0x3b68;
const DIRTY_PAGES: u32 = 0x3b75;
const DIRTY_PAGES_START: u32 = 1;
/// A number that nobody has.
const NOBODYS: u32 = 0x0000_fe00;

fn main() {
    // `cargo bench -- --test`: whether it runs.
    let rounds = if std::env::args().any(|argument| argument == "--test") { 2 } else { 20 };
    let machine = Arc::new(Machine::boot(&pc()));
    machine.unbind("0000:00:03.0").unwrap().wait();
    machine.bind("0000:00:03.0", "vfio-pci").unwrap();
    let null = File::open("/dev/null").unwrap();
    let native = time(rounds, || _ = ioctl(&null, NOBODYS, 0));

    println!("{:<60} {:>10} {:>8} {:>6}", "", "ns", "ratio", "aim");
    row("null ioctl", native, native, None);
    let process = Process::new(&Memory::new(), LockedPages::unlimited());
    let memory = process.allocate(4096, Access::ReadWrite).unwrap();
    process.write(memory, &8_u32.to_ne_bytes()).unwrap();
    let caller = Front(process);
    let container = uapi::File::Container(machine.vfio().open_container());
    let front = time(rounds, || drop(black_box(container.ioctl(GET_API_VERSION, 0, &caller))));
    row("byte front: VFIO_GET_API_VERSION", front, native, Some(0.5));
    let group = uapi::File::Group(machine.open_group("0000:00:03.0").unwrap());
    let front = time(rounds, || drop(black_box(group.ioctl(GET_STATUS, memory.get(), &caller))));
    row("byte front: VFIO_GROUP_GET_STATUS", front, native, Some(0.5));
    drop(group);

    let room = Room::new(&machine).unwrap();
    room.enter(|| {
        let group = OpenOptions::new().read(true).write(true).open("/dev/vfio/2").unwrap();
        let status = [8_u32, 0];
        let trapped = time(rounds, || _ = ioctl(&group, GET_STATUS, (&raw const status).addr()));
        row("trapped: VFIO_GROUP_GET_STATUS, which answers in memory", trapped, native, None);
        let container = OpenOptions::new().read(true).write(true).open("/dev/vfio/vfio").unwrap();
        let fd = container.as_raw_fd();
        ioctl(&group, SET_CONTAINER, (&raw const fd).addr());
        ioctl(&container, SET_IOMMU, TYPE1_V2);
        let start = [8, DIRTY_PAGES_START];
        assert_eq!(ioctl(&container, DIRTY_PAGES, (&raw const start).addr()), 0);
        let trapped = time(rounds, || _ = ioctl(&container, DIRTY_PAGES, (&raw const start).addr()));
        row("trapped: VFIO_IOMMU_DIRTY_PAGES, which reads its argument", trapped, native, Some(50.0));
        let untrapped = time(rounds, || _ = ioctl(&null, NOBODYS, 0));
        row("untrapped, under the filter: null ioctl", untrapped, native, Some(1.7));
    })
    .unwrap();
    let zero = File::open("/dev/zero").unwrap();
    let read = || assert_eq!(rustix::io::read(&zero, &mut [0; 4]), Ok(4));
    let native = time(rounds, read);
    let filtered = room.enter(|| time(rounds, read)).unwrap();
    row("untrapped, under the filter: read, against read", filtered, native, Some(1.7));
    drop(room);

    let start = || {
        let machine = Arc::new(Machine::boot(&pc()));
        let room = Room::new(&machine).unwrap();
        let open = || OpenOptions::new().write(true).open("/dev/vfio/vfio").unwrap();
        room.enter(|| ioctl(&open(), GET_API_VERSION, 0)).unwrap();
        room
    };
    let begun = (0..rounds).map(|_| {
        let begin = Instant::now();
        let room = start();
        let taken = begin.elapsed();
        drop(room);
        taken
    });
    println!(
        "a machine from its snapshot, a room, and the first ioctl: {:?} (aim: 20 ms on a quiet machine)",
        begun.min().unwrap()
    );
}

/// The least time of one call over some rounds.
fn time(rounds: u32, mut call: impl FnMut()) -> Duration {
    const CALLS: u32 = 1000;
    let round = |_| {
        let begin = Instant::now();
        (0..CALLS).for_each(|_| call());
        begin.elapsed() / CALLS
    };
    (0..rounds).map(round).min().unwrap()
}

fn row(name: &str, time: Duration, native: Duration, aim: Option<f64>) {
    let ratio = time.as_secs_f64() / native.as_secs_f64();
    let aim = aim.map_or_else(String::new, |aim| format!("{aim:.1}"));
    println!("{name:<60} {:>10} {ratio:>8.2} {aim:>6}", time.as_nanos());
}

fn ioctl(file: &impl AsRawFd, number: u32, argument: usize) -> i32 {
    // SAFETY: the structures of the calls above are as large as they say.
    black_box(unsafe { libc::ioctl(file.as_raw_fd(), libc::Ioctl::from(number), argument) })
}

/// A caller in this process.
struct Front(Arc<dyn UserMemory>);

impl iommufd_owner::uapi::Caller for Front {
    fn memory(&self) -> &Arc<dyn UserMemory> {
        &self.0
    }

    fn has(&self, _: Capability) -> bool {
        false
    }
}

impl Caller for Front {
    fn file(&self, _: i32) -> Option<uapi::File> {
        None
    }

    fn trigger(&self, _: i32) -> Result<Trigger, Errno> {
        Err(Errno::EBADF)
    }
}
