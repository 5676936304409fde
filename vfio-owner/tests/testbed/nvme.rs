//! The NVMe controller, driven by a driver of a page.
#![expect(clippy::indexing_slicing, reason = "what a test takes for granted may fail it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use vfio_owner::OpenDevice;
use vfio_owner::assignment::{AssignedDevice, DeviceAssignment, GroupAssignment, IommufdAssignment};
use vfio_owner::backend::MapRequest;
use vfio_owner::device_ops::{
    Eventfd, Follow, IrqAction, IrqIndex, IrqSource, Polled, RegionIndex, RegionMemory, Trigger,
};
use vfio_owner::iommu_core::device_model::sync::Mutex;
use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::{Access, Iova, UserAddr, UserMemory as _};
use vfio_owner::testbed::models::nvme::{Disk, FileDisk, MemoryDisk, Nvme};
use vfio_owner::testbed::{Machine, workstation};

const DISK: &str = "0000:00:05.0";
const PAGE: u64 = 0x1000;
/// Where the driver's memory is, for the device.
const BASE: u64 = 0x10_0000;
const PAGES: u64 = 48;
/// The pages of it: queues, and data.
const ADMIN_SQ: u64 = 0;
const ADMIN_CQ: u64 = 1;
const IO_SQ: u64 = 2;
const IO_CQ: u64 = 3;
const LIST: u64 = 4;
const DATA: u64 = 8;
/// How many entries the queues have.
const ENTRIES: u16 = 8;

const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const READY: u32 = 1;
const FATAL: u32 = 2;

/// A machine whose NVMe drive has this disk, and is bound to vfio-pci.
fn machine(disk: impl Disk + 'static) -> Machine {
    let machine = Machine::builder(workstation()).model(DISK, |slot| Nvme::new(slot, disk)).build().unwrap();
    machine.unbind(DISK).unwrap().wait();
    machine.bind(DISK, "vfio-pci").unwrap();
    machine
}

fn disk() -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk::new(vec![0; 1 << 20]))
}

fn both_ways(machine: &Machine) -> [Box<dyn DeviceAssignment>; 2] {
    let iommufd = IommufdAssignment::new(machine.vfio(), machine.open_iommufd("iommufd of a test")).unwrap();
    [Box::new(GroupAssignment::new(machine.vfio())), Box::new(iommufd)]
}

/// How a driver reaches the registers.
enum Way {
    Calls,
    /// The BAR is mapped, and somebody polls.
    Mapped(Arc<Bar>),
}

#[derive(Debug)]
struct Bar(Mutex<Vec<u8>>);

impl Bar {
    fn of(device: &OpenDevice) -> Arc<Self> {
        let mut bytes = vec![0; 0x4000];
        device.read(RegionIndex::BAR0, 0, &mut bytes).unwrap();
        let bar = Arc::new(Self(Mutex::new(bytes)));
        let memory: Arc<dyn RegionMemory> = bar.clone();
        assert_eq!(device.follow(RegionIndex::BAR0, &memory), Follow::WhenPolled);
        bar
    }
}

impl RegionMemory for Bar {
    fn read(&self, offset: u64, into: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap();
        into.copy_from_slice(&self.0.lock()[offset..offset + into.len()]);
    }

    fn write(&self, offset: u64, from: &[u8]) {
        let offset = usize::try_from(offset).unwrap();
        self.0.lock()[offset..offset + from.len()].copy_from_slice(from);
    }
}

#[derive(Default)]
struct Queue {
    tail: u16,
    head: u16,
    id: u16,
}

/// A driver, with queues 0 and 1.
struct Driver {
    device: AssignedDevice,
    way: Way,
    process: Arc<Process>,
    memory: UserAddr,
    queues: [Queue; 2],
}

/// What a command is made of: opcode, namespace, PRPs, and words from 10 on.
#[derive(Clone, Copy, Default)]
struct Command {
    opcode: u8,
    namespace: u32,
    prp: [u64; 2],
    words: [u32; 3],
}

const fn page(number: u64) -> u64 {
    BASE + number * PAGE
}

impl Driver {
    /// Assigns the device, and maps memory for it; touches no register.
    fn assign(machine: &Machine, assignment: &dyn DeviceAssignment) -> Self {
        let process = machine.process(LockedPages::unlimited());
        let memory = process.allocate(PAGES * PAGE, Access::ReadWrite).unwrap();
        let device = assignment.assign(DISK).unwrap();
        let request = MapRequest {
            iova: Iova::new(BASE),
            bytes: PAGES * PAGE,
            process: process.clone(),
            addr: memory,
            access: Access::ReadWrite,
        };
        assignment.map(request).unwrap();
        Self { device, way: Way::Calls, process, memory, queues: Default::default() }
    }

    /// Enables the controller.
    fn start(&mut self) {
        self.queues = Default::default();
        let last = u32::from(ENTRIES - 1);
        self.set(0x24, last << 16 | last);
        for (offset, number) in [(0x28, ADMIN_SQ), (0x30, ADMIN_CQ)] {
            self.set(offset, u32::try_from(page(number)).unwrap());
            self.set(offset + 4, 0);
            self.fill(number, 0);
        }
        self.set(CC, 4 << 20 | 6 << 16 | 1);
        assert_eq!(self.get(CSTS), READY);
    }

    /// Creates the queues for data, with interrupts of vector 1.
    fn create_queues(&mut self) {
        for number in [IO_SQ, IO_CQ] {
            self.fill(number, 0);
        }
        let size = u32::from(ENTRIES - 1) << 16 | 1;
        let completion =
            Command { opcode: 5, prp: [page(IO_CQ), 0], words: [size, 1 << 16 | 3, 0], ..Command::default() };
        let submission =
            Command { opcode: 1, prp: [page(IO_SQ), 0], words: [size, 1 << 16 | 1, 0], ..Command::default() };
        assert_eq!(self.admin(completion), Ok(0));
        assert_eq!(self.admin(submission), Ok(0));
    }

    fn get(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        match &self.way {
            Way::Calls => assert_eq!(self.device.read(RegionIndex::BAR0, offset, &mut bytes), Ok(4)),
            Way::Mapped(bar) => bar.read(offset, &mut bytes),
        }
        u32::from_le_bytes(bytes)
    }

    fn set(&self, offset: u64, value: u32) {
        match &self.way {
            Way::Calls => assert_eq!(self.device.write(RegionIndex::BAR0, offset, &value.to_le_bytes()), Ok(4)),
            Way::Mapped(bar) => {
                bar.write(offset, &value.to_le_bytes());
                while self.device.poll() == Polled::Busy {}
            }
        }
    }

    fn at(&self, number: u64, offset: u64) -> UserAddr {
        UserAddr::new(self.memory.get() + number * PAGE + offset)
    }

    fn store(&self, number: u64, offset: u64, bytes: &[u8]) {
        self.process.write(self.at(number, offset), bytes).unwrap();
    }

    fn load<const N: usize>(&self, number: u64, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.process.read(self.at(number, offset), &mut bytes).unwrap();
        bytes
    }

    fn fill(&self, number: u64, byte: u8) {
        self.store(number, 0, &[byte; 0x1000]);
    }

    /// Puts a command into a queue, and rings its doorbell.
    fn submit(&mut self, queue: u16, command: Command) -> u16 {
        let id = self.put(queue, command);
        self.set(0x1000 + u64::from(queue) * 8, self.queues[usize::from(queue)].tail.into());
        id
    }

    fn put(&mut self, queue: u16, command: Command) -> u16 {
        let own = &mut self.queues[usize::from(queue)];
        own.id += 1;
        let (id, place) = (own.id, own.tail);
        own.tail = (own.tail + 1) % ENTRIES;
        let mut entry = [0; 64];
        entry[0] = command.opcode;
        entry[2..4].copy_from_slice(&id.to_le_bytes());
        entry[4..8].copy_from_slice(&command.namespace.to_le_bytes());
        entry[24..32].copy_from_slice(&command.prp[0].to_le_bytes());
        entry[32..40].copy_from_slice(&command.prp[1].to_le_bytes());
        for (index, word) in command.words.into_iter().enumerate() {
            entry[40 + index * 4..44 + index * 4].copy_from_slice(&word.to_le_bytes());
        }
        self.store(if queue == 0 { ADMIN_SQ } else { IO_SQ }, u64::from(place) * 64, &entry);
        id
    }

    /// Takes the next completion, if there is one: of which command, and its result or status.
    fn take(&mut self, queue: u16) -> Option<(u16, Result<u32, u16>)> {
        let own = &self.queues[usize::from(queue)];
        let entry: [u8; 16] = self.load(if queue == 0 { ADMIN_CQ } else { IO_CQ }, u64::from(own.head % ENTRIES) * 16);
        let word = |index: usize| u32::from_le_bytes(entry[index * 4..index * 4 + 4].try_into().unwrap());
        let is_new = (own.head / ENTRIES).is_multiple_of(2) == (word(3) >> 16 & 1 == 1);
        if !is_new {
            return None;
        }
        let own = &mut self.queues[usize::from(queue)];
        own.head += 1;
        let head = own.head % ENTRIES;
        self.set(0x1004 + u64::from(queue) * 8, head.into());
        let status = u16::try_from(word(3) >> 17 & 0x7ff).unwrap();
        assert_eq!(word(2) >> 16, queue.into());
        Some((u16::try_from(word(3) & 0xffff).unwrap(), if status == 0 { Ok(word(0)) } else { Err(status) }))
    }

    fn run(&mut self, queue: u16, command: Command) -> Result<u32, u16> {
        let id = self.submit(queue, command);
        let (done, result) = self.take(queue).unwrap();
        assert_eq!(done, id);
        result
    }

    fn admin(&mut self, command: Command) -> Result<u32, u16> {
        self.run(0, command)
    }

    fn identify(&mut self, kind: u32, namespace: u32) -> Result<u32, u16> {
        self.admin(Command { opcode: 6, namespace, prp: [page(DATA), 0], words: [kind, 0, 0] })
    }

    /// Reads (2) or writes (1) blocks, with data from the page `DATA` on, in a list if they are more than two pages.
    fn transfer(&mut self, opcode: u8, block: u32, blocks: u32) -> Result<u32, u16> {
        let list: Vec<u8> = (1..32).flat_map(|number| page(DATA + number).to_le_bytes()).collect();
        self.store(LIST, 0, &list);
        let second = if blocks > 16 { page(LIST) } else { page(DATA + 1) };
        self.run(1, Command { opcode, namespace: 1, prp: [page(DATA), second], words: [block, 0, blocks - 1] })
    }
}

fn listen(device: &OpenDevice, index: IrqIndex, vector: u32) -> Arc<AtomicU32> {
    let heard = Arc::new(AtomicU32::new(0));
    let hearing = heard.clone();
    let trigger = Trigger::new(move || {
        hearing.fetch_add(1, Ordering::Relaxed);
    });
    device.set_irqs(index, vector, IrqAction::Trigger, IrqSource::Eventfd(&[Eventfd::Set(trigger)])).unwrap();
    heard
}

/// Writes to the disk and reads it again; the interrupts of vector 1 that came.
fn write_and_read(driver: &mut Driver, disk: &MemoryDisk) -> u32 {
    let heard = listen(&driver.device, IrqIndex::MSIX, 1);
    driver.start();
    assert_eq!(driver.identify(1, 0), Ok(0));
    assert_eq!(&driver.load::<12>(DATA, 4), DISK.as_bytes());
    assert_eq!(driver.load::<4>(DATA, 516), [1, 0, 0, 0], "namespaces");
    assert_eq!(driver.identify(0, 1), Ok(0));
    assert_eq!(u64::from_le_bytes(driver.load(DATA, 0)), 2048, "blocks");
    assert_eq!(driver.load::<1>(DATA, 130), [9], "of 2^9 bytes");
    driver.create_queues();
    for (block, blocks) in [(0, 1), (7, 16), (100, 256)] {
        for number in 0..32 {
            driver.fill(DATA + number, u8::try_from(number + 1 + u64::from(block)).unwrap());
        }
        assert_eq!(driver.transfer(1, block, blocks), Ok(0));
        let contents = disk.contents();
        let last = (block + blocks) as usize * 512 - 1;
        let pages = u8::try_from((blocks - 1) / 8).unwrap();
        assert_eq!(contents[last], pages + 1 + u8::try_from(block).unwrap());
        for number in 0..32 {
            driver.fill(DATA + number, 0);
        }
        assert_eq!(driver.transfer(2, block, blocks), Ok(0));
        assert_eq!(driver.load::<1>(DATA + u64::from(pages), 511), [contents[last]]);
    }
    assert_eq!(driver.run(1, Command { opcode: 0, namespace: 1, ..Command::default() }), Ok(0), "flush");
    heard.load(Ordering::Relaxed)
}

#[test]
fn a_driver_writes_and_reads_by_calls() {
    let disk = disk();
    let machine = machine(disk.clone());
    for assignment in both_ways(&machine) {
        let mut driver = Driver::assign(&machine, &*assignment);
        assert_eq!(write_and_read(&mut driver, &disk), 7);
    }
}

#[test]
fn a_driver_writes_and_reads_through_a_mapping() {
    let disk = disk();
    let machine = machine(disk.clone());
    for assignment in both_ways(&machine) {
        let mut driver = Driver::assign(&machine, &*assignment);
        driver.way = Way::Mapped(Bar::of(&driver.device));
        assert_eq!(write_and_read(&mut driver, &disk), 7);
        // The queues are there again after a reset, with doorbells of zero.
        driver.set(CC, 0);
        assert_eq!((driver.get(CSTS), driver.get(0x1000)), (0, 0));
        assert_eq!(write_and_read(&mut driver, &disk), 7);
        // So they are when they are created anew.
        for opcode in [0, 4] {
            assert_eq!(driver.admin(Command { opcode, words: [1, 0, 0], ..Command::default() }), Ok(0));
        }
        driver.queues[1] = Queue::default();
        driver.create_queues();
        assert_eq!(driver.get(0x1008), 0);
        assert_eq!(driver.transfer(2, 0, 1), Ok(0));
        driver.device.reset().unwrap();
        assert_eq!((driver.get(CC), driver.get(CSTS), driver.get(0x24), driver.get(0x1000)), (0, 0, 0, 0));
        driver.device.unfollow(RegionIndex::BAR0);
        driver.way = Way::Calls;
        assert_eq!(write_and_read(&mut driver, &disk), 7);
    }
}

/// A driver that has created its queues, on a machine of its own.
fn started() -> (Machine, Driver) {
    let machine = machine(disk());
    let mut driver = Driver::assign(&machine, &GroupAssignment::new(machine.vfio()));
    driver.start();
    driver.create_queues();
    (machine, driver)
}

#[test]
fn commands_that_cannot_be_executed_fail_by_name() {
    let (_machine, mut driver) = started();
    let read = Command { opcode: 2, namespace: 1, prp: [page(DATA), 0], ..Command::default() };
    for (status, command) in [
        (0x001, Command { opcode: 0x7f, ..read }),
        (0x00b, Command { namespace: 2, ..read }),
        (0x080, Command { words: [2048, 0, 0], ..read }),
        (0x080, Command { words: [u32::MAX, u32::MAX, 0], ..read }),
        (0x002, Command { words: [0, 0, 256], ..read }),
        (0x013, Command { prp: [page(DATA) + 1, 0], ..read }),
        (0x013, Command { prp: [page(DATA), page(DATA) + 8], words: [0, 0, 15], ..read }),
        (0x004, Command { prp: [0x5000, 0], ..read }),
        (0x004, Command { prp: [page(DATA), 0x5000], words: [0, 0, 255], ..read }),
    ] {
        assert_eq!(driver.run(1, command), Err(status), "{status:#x}");
    }
    let queue = |opcode, number: u32, last: u32, flags: u32| Command {
        opcode,
        prp: [page(DATA), 0],
        words: [last << 16 | number, flags, 0],
        ..Command::default()
    };
    for (status, command) in [
        (0x001, Command { opcode: 0x7f, ..read }),
        (0x00b, Command { opcode: 6, namespace: 2, ..read }),
        (0x002, Command { opcode: 6, words: [0x99, 0, 0], ..read }),
        (0x109, Command { opcode: 2, words: [0x77, 0, 0], ..read }),
        (0x002, Command { opcode: 2, words: [0xffff_0001, 0xffff, 0], ..read }),
        (0x002, Command { opcode: 10, words: [0x66, 0, 0], ..read }),
        (0x10d, Command { opcode: 9, words: [1 << 31 | 6, 0, 0], ..read }),
        (0x101, queue(5, 1, 7, 1)),
        (0x101, queue(5, 65, 7, 1)),
        (0x102, queue(5, 2, 0, 1)),
        (0x102, queue(5, 2, 1024, 1)),
        (0x002, queue(5, 2, 7, 0)),
        (0x108, queue(5, 2, 7, 65 << 16 | 3)),
        (0x013, Command { prp: [page(DATA) + 64, 0], ..queue(5, 2, 7, 1) }),
        (0x100, queue(1, 2, 7, 9 << 16 | 1)),
        (0x101, queue(1, 1, 7, 1 << 16 | 1)),
        (0x10c, queue(4, 1, 0, 0)),
        (0x101, queue(4, 2, 0, 0)),
        (0x101, queue(0, 2, 0, 0)),
        (0x101, queue(0, 0, 0, 0)),
    ] {
        assert_eq!(driver.admin(command), Err(status), "{status:#x}");
    }
    assert_eq!(driver.transfer(2, 0, 1), Ok(0), "the queues are as before");
    // Places in a ring that cannot be are ignored.
    let before = driver.get(0x100c);
    driver.set(0x100c, (before + 1) % u32::from(ENTRIES));
    driver.set(0x100c, ENTRIES.into());
    driver.set(0x1008, ENTRIES.into());
    assert_eq!((driver.get(0x100c), driver.get(0x1008)), (before, before));
    for opcode in [0, 4] {
        assert_eq!(driver.admin(queue(opcode, 1, 0, 0)), Ok(0));
    }
    driver.queues[1] = Queue::default();
    driver.create_queues();
    assert_eq!(driver.transfer(2, 0, 1), Ok(0));
}

#[test]
fn a_list_goes_on_in_another_page() {
    let (_machine, mut driver) = started();
    let end_of_list = page(LIST) + 0xff8;
    let read = Command { opcode: 2, namespace: 1, prp: [page(DATA), end_of_list], words: [0, 0, 255] };
    for (next, result) in [(page(LIST + 1), Ok(0)), (end_of_list, Err(0x013)), (0x5000, Err(0x004))] {
        driver.store(LIST, 0xff8, &next.to_le_bytes());
        let pages: Vec<u8> = (1..32).flat_map(|number| page(DATA + number).to_le_bytes()).collect();
        driver.store(LIST + 1, 0, &pages);
        driver.fill(DATA + 31, 0xff);
        assert_eq!(driver.run(1, read), result);
        assert_eq!(driver.load::<1>(DATA + 31, 0xfff) == [0], result.is_ok());
    }
}

#[test]
fn features_logs_and_events() {
    let (_machine, mut driver) = started();
    let feature = |opcode, id, value| Command { opcode, words: [id, value, 0], ..Command::default() };
    assert_eq!(driver.admin(feature(9, 7, 0x0001_0001)), Ok(63 << 16 | 63), "as many queues as there are");
    assert_eq!(driver.admin(feature(10, 6, 0)), Ok(1));
    assert_eq!(driver.admin(feature(9, 6, 0)), Ok(0));
    assert_eq!(driver.admin(feature(10, 6, 0)), Ok(0));
    driver.fill(DATA, 0xff);
    let health = Command { opcode: 2, prp: [page(DATA), 0], words: [127 << 16 | 2, 0, 0], ..Command::default() };
    assert_eq!(driver.admin(health), Ok(0));
    assert_eq!((driver.load::<5>(DATA, 0), driver.load::<1>(DATA, 512)), ([0, 44, 1, 100, 10], [0xff]));
    assert_eq!(driver.admin(Command { opcode: 8, ..Command::default() }), Ok(1), "nothing is left to abort");
    assert_eq!((driver.identify(2, 0), driver.load::<8>(DATA, 0)), (Ok(0), [1, 0, 0, 0, 0, 0, 0, 0]), "the namespaces");
    assert_eq!(driver.identify(3, 1), Ok(0));
    assert_eq!(&driver.load::<11>(DATA, 0), b"\x03\x10\x00\x00testbed");
    let event = Command { opcode: 12, ..Command::default() };
    for _ in 0..4 {
        driver.submit(0, event);
        assert_eq!(driver.take(0), None, "there are no events");
    }
    assert_eq!(driver.admin(event), Err(0x105));
}

#[test]
fn a_full_completion_queue_holds_commands_back() {
    let (_machine, mut driver) = started();
    let flush = Command { opcode: 0, namespace: 1, ..Command::default() };
    let heard = listen(&driver.device, IrqIndex::MSIX, 1);
    for _ in 0..ENTRIES - 1 {
        driver.submit(1, flush);
    }
    for _ in 0..3 {
        driver.submit(1, flush);
    }
    assert_eq!(heard.load(Ordering::Relaxed), 7);
    let done: Vec<u16> = std::iter::from_fn(|| driver.take(1)).map(|(id, _)| id).collect();
    assert_eq!(done, (1..=10).collect::<Vec<_>>());
    assert_eq!(heard.load(Ordering::Relaxed), 10);
}

#[test]
fn masked_interrupts_are_raised_when_they_are_unmasked() {
    let (_machine, mut driver) = started();
    for way in [None, Some(Bar::of(&driver.device))] {
        driver.way = way.map_or(Way::Calls, Way::Mapped);
        let heard = listen(&driver.device, IrqIndex::MSIX, 1);
        driver.set(0x0c, 0b10);
        driver.submit(1, Command { opcode: 0, namespace: 1, ..Command::default() });
        assert_eq!((heard.load(Ordering::Relaxed), driver.get(0x0c)), (0, 0b10));
        driver.set(0x10, 0b10);
        assert_eq!((heard.load(Ordering::Relaxed), driver.get(0x0c)), (1, 0));
        driver.take(1).unwrap().1.unwrap();
        // What has been seen meanwhile is not told again.
        driver.set(0x0c, 0b10);
        assert_eq!(driver.transfer(2, 0, 1), Ok(0));
        driver.set(0x10, 0b10);
        assert_eq!(heard.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn without_messages_the_line_is_raised() {
    let (_machine, mut driver) = started();
    let heard = listen(&driver.device, IrqIndex::INTX, 0);
    let unmask =
        |driver: &Driver| driver.device.set_irqs(IrqIndex::INTX, 0, IrqAction::Unmask, IrqSource::None { count: 1 });
    let flush = Command { opcode: 0, namespace: 1, ..Command::default() };
    driver.submit(1, flush);
    driver.submit(1, flush);
    assert_eq!(heard.load(Ordering::Relaxed), 1, "it is masked");
    assert_eq!(driver.take(1), Some((1, Ok(0))));
    unmask(&driver).unwrap();
    assert_eq!(heard.load(Ordering::Relaxed), 2, "it is still high");
    assert_eq!(driver.take(1), Some((2, Ok(0))));
    unmask(&driver).unwrap();
    assert_eq!(heard.load(Ordering::Relaxed), 2, "everything has been seen");
    driver.submit(1, flush);
    assert_eq!(heard.load(Ordering::Relaxed), 3);
    // The driver has seen it and says so where nobody has looked yet.
    let bar = Bar::of(&driver.device);
    bar.write(0x100c, &3_u32.to_le_bytes());
    unmask(&driver).unwrap();
    assert_eq!(heard.load(Ordering::Relaxed), 3);
}

#[test]
fn a_queue_that_is_not_mapped_is_fatal_until_a_reset() {
    let (machine, mut driver) = started();
    let faults = || machine.iommus().map(|iommu| iommu.take_faults().len()).sum::<usize>();
    assert_eq!(faults(), 0);
    driver.set(CC, 0);
    driver.set(0x28, 0x5000);
    driver.set(CC, 4 << 20 | 6 << 16 | 1);
    driver.set(0x1000, 1);
    assert_eq!((driver.get(CSTS), faults()), (READY | FATAL, 1));
    driver.set(0x1000, 2);
    assert_eq!(faults(), 0, "it has stopped");
    driver.set(CC, 0);
    assert_eq!(driver.get(CSTS), 0);
    driver.start();
    driver.create_queues();
    assert_eq!(driver.transfer(2, 0, 1), Ok(0));
    // The same for completions.
    driver.set(CC, 0);
    driver.set(0x30, 0x5000);
    driver.set(CC, 4 << 20 | 6 << 16 | 1);
    driver.queues = Default::default();
    driver.submit(0, Command { opcode: 8, ..Command::default() });
    assert_eq!(driver.get(CSTS), READY | FATAL);
}

#[test]
fn settings_that_it_does_not_have_are_fatal() {
    let (_machine, driver) = started();
    for (queues, configuration) in [(0x0007_0007, 1 << 7 | 1), (0x0007_0007, 1 << 4 | 1), (0x0007_0000, 1), (7, 1)] {
        driver.set(CC, 0);
        driver.set(0x24, queues);
        driver.set(CC, configuration);
        assert_eq!(driver.get(CSTS), FATAL);
    }
}

#[test]
fn shutting_down_flushes_the_disk() {
    #[derive(Default)]
    struct Flushed(AtomicU32);
    impl Disk for Flushed {
        fn size(&self) -> u64 {
            512
        }
        fn read(&self, _offset: u64, _into: &mut [u8]) -> std::io::Result<()> {
            Err(std::io::ErrorKind::Other.into())
        }
        fn write(&self, _offset: u64, _from: &[u8]) -> std::io::Result<()> {
            Err(std::io::ErrorKind::Other.into())
        }
        fn flush(&self) -> std::io::Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }
    let disk = Arc::new(Flushed::default());
    let machine = machine(disk.clone());
    let mut driver = Driver::assign(&machine, &GroupAssignment::new(machine.vfio()));
    driver.start();
    driver.create_queues();
    assert_eq!((driver.transfer(2, 0, 1), driver.transfer(1, 0, 1)), (Err(0x281), Err(0x280)));
    driver.set(CC, 1 << 14 | 4 << 20 | 6 << 16 | 1);
    assert_eq!((driver.get(CSTS), disk.0.load(Ordering::Relaxed)), (2 << 2 | READY, 1));
}

#[test]
fn a_disk_is_a_file() {
    let path = std::env::temp_dir().join(format!("nvme-disk-{}", std::process::id()));
    std::fs::write(&path, vec![3; 1024]).unwrap();
    let disk = FileDisk::open(&path).unwrap();
    let mut bytes = [0; 4];
    disk.write(1020, &[1, 2, 3, 4]).unwrap();
    disk.flush().unwrap();
    disk.read(1020, &mut bytes).unwrap();
    assert_eq!((disk.size(), bytes), (1024, [1, 2, 3, 4]));
    disk.read(1021, &mut bytes).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    FileDisk::open(&path).unwrap_err();
    let memory = MemoryDisk::new(vec![0; 16]);
    memory.write(14, &[1, 2, 3]).unwrap_err();
    memory.read(u64::MAX, &mut bytes).unwrap_err();
}

/// A write to a register, more often than not one that is there.
fn register() -> impl Strategy<Value = (u64, Vec<u8>)> {
    let offset = prop_oneof![0..0x40_u64, 0x1000..0x1020_u64, 0..0x4000_u64];
    let words = prop_oneof![Just(0), Just(1), Just(4 << 20 | 6 << 16 | 1), Just(0x0007_0007), 0..32_u32, any::<u32>()];
    let bytes = prop_oneof![
        3 => words.prop_map(|word| word.to_le_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..24),
    ];
    (prop_oneof![4 => offset.clone().prop_map(|offset| offset & !3), 1 => offset], bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written to registers and lies in memory, each access and each poll ends.
    #[test]
    fn no_write_panics_or_hangs(
        writes in proptest::collection::vec(register(), 1..64),
        queue in proptest::collection::vec(any::<u8>(), 512),
        opcodes in proptest::collection::vec(0..16_u8, 8),
        mapped in any::<bool>(),
    ) {
        let (_machine, mut driver) = started();
        // Commands that are half sensible.
        let mut queue = queue;
        for (entry, opcode) in queue.chunks_mut(64).zip(opcodes) {
            entry[..2].copy_from_slice(&[opcode, 0]);
            entry[4..8].copy_from_slice(&[1, 0, 0, 0]);
            entry[24..32].copy_from_slice(&page(DATA).to_le_bytes());
            entry[32..40].copy_from_slice(&page(LIST).to_le_bytes());
        }
        for number in [ADMIN_SQ, IO_SQ] {
            driver.store(number, 0, &queue);
        }
        // A list that leads to itself.
        driver.store(LIST, 0, &page(LIST).to_le_bytes().repeat(512));
        if mapped {
            driver.way = Way::Mapped(Bar::of(&driver.device));
        }
        for (offset, bytes) in writes {
            match &driver.way {
                Way::Calls => drop(driver.device.write(RegionIndex::BAR0, offset, &bytes)),
                Way::Mapped(bar) => {
                    let bytes = &bytes[..bytes.len().min(usize::try_from(0x4000 - offset).unwrap())];
                    bar.write(offset, bytes);
                    let polls = (0..10_000).take_while(|_| driver.device.poll() == Polled::Busy).count();
                    prop_assert!(polls < 10_000, "it does not come to rest");
                }
            }
        }
        driver.device.reset().unwrap();
        driver.device.unfollow(RegionIndex::BAR0);
        driver.way = Way::Calls;
        driver.start();
        driver.create_queues();
        prop_assert_eq!(driver.transfer(2, 0, 1), Ok(0));
    }
}
