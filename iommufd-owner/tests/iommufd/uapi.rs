//! The uAPI: F80 to F98, single rules that recordings do not show.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::rig::{PAGES, Rig};
use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::Mutex;
use iommu_core::hardware::{Capabilities, PageAnswer, PagePermissions, WantedPage};
use iommu_core::software::nested::{Invalidation, STAGE_1_FORMAT, Stage1};
use iommu_core::software::{AnsweredRequest, SoftIommuConfig};
use iommu_core::user_memory::{Account, BadAddress, Limit};
use iommu_core::{Access, Iova, UserAddr, UserMemory};
use iommufd_owner::uapi::{CallError, Caller, Capability, NewFaultQueue, Reply, fault_queue, ioctl};
use iommufd_owner::{BoundDevice, Context, FaultQueue, ObjectId};

mod random;

/// Pages for structures and data.
const ROOM: u64 = 8;
/// Where data begin, behind the page of structures.
const DATA: u64 = PAGE_SIZE;

/// A process that calls.
struct Task {
    rig: Rig,
    process: Arc<dyn UserMemory>,
    room: UserAddr,
    context: Context,
    /// Writes to its memory that go well before the others fail.
    writes: AtomicU64,
    capable: bool,
    refusals: Mutex<Vec<String>>,
}

impl Caller for Task {
    fn memory(&self) -> &Arc<dyn UserMemory> {
        &self.process
    }

    fn has(&self, _capability: Capability) -> bool {
        self.capable
    }

    fn refused(&self, error: &(dyn Error + 'static)) {
        assert!(error.is::<CallError>());
        self.refusals.lock().push(error.to_string());
    }

    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        match self.writes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => self.process.write(at, from),
            Err(_) => Err(BadAddress { at }),
        }
    }
}

impl Task {
    fn new(devices: &[&str]) -> Self {
        Self::with(devices, |_| {})
    }

    fn with(devices: &[&str], change: impl FnOnce(&mut SoftIommuConfig)) -> Self {
        let rig = Rig::with(devices, change);
        let room = rig.process.allocate(ROOM * PAGE_SIZE, Access::ReadWrite).unwrap();
        let context = rig.context("vmm");
        let process = rig.process.clone();
        let writes = AtomicU64::new(u64::MAX);
        Self { rig, process, room, context, writes, capable: true, refusals: Mutex::default() }
    }

    fn at(&self, offset: u64) -> UserAddr {
        self.room.checked_add(offset).unwrap()
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        self.process.write(self.at(offset), bytes).unwrap();
    }

    fn get<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.process.read(self.at(offset), &mut bytes).unwrap();
        bytes
    }

    fn word(&self, number: u64) -> u32 {
        u32::from_ne_bytes(self.get(4 * number))
    }

    fn long(&self, number: u64) -> u64 {
        u64::from_ne_bytes(self.get(8 * number))
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<Reply<NewFaultQueue>, Errno> {
        ioctl(&self.context, request, argument, self)
    }

    fn value(&self, request: u32, argument: u64) -> Result<u32, Errno> {
        self.ioctl(request, argument).map(|reply| value(&reply).unwrap())
    }

    /// Calls with a structure of these words; the first is its size.
    fn call(&self, number: u32, words: &[u32]) -> Result<u32, Errno> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.put(0, &[0; 256]);
        self.put(0, &bytes);
        self.value(0x3b00 | number, self.room.get())
    }

    fn ioas(&self) -> u32 {
        self.call(0x81, &[12, 0, 0]).unwrap();
        self.word(2)
    }

    /// Maps the first pages of the rig's memory.
    fn map(&self, ioas: u32, flags: u32, iova: u64, bytes: u64) -> Result<u32, Errno> {
        let [va, length, iova] = [self.rig.ram.get(), bytes, iova].map(halves);
        self.call(0x85, &[40, flags, ioas, 0, va[0], va[1], length[0], length[1], iova[0], iova[1]])
    }

    fn unmap(&self, ioas: u32, iova: u64, bytes: u64) -> Result<u32, Errno> {
        let [iova, length] = [iova, bytes].map(halves);
        self.call(0x86, &[24, ioas, iova[0], iova[1], length[0], length[1]])
    }

    /// Makes every write fail but the first `well`.
    fn deaf<R>(&self, well: u64, call: impl FnOnce() -> R) -> R {
        self.writes.store(well, Ordering::Relaxed);
        let result = call();
        self.writes.store(u64::MAX, Ordering::Relaxed);
        result
    }

    fn bind(&self, device: usize) -> BoundDevice {
        self.context.bind(&self.rig.members[device]).unwrap()
    }
}

fn value(reply: &Reply<NewFaultQueue>) -> Option<u32> {
    match reply {
        Reply::Value(value) => Some(*value),
        Reply::File(_) => None,
    }
}

fn file(reply: Reply<NewFaultQueue>) -> Option<NewFaultQueue> {
    match reply {
        Reply::Value(_) => None,
        Reply::File(new) => Some(new),
    }
}

/// The two words of a 64-bit field.
fn halves(number: u64) -> [u32; 2] {
    let bytes = number.to_ne_bytes();
    [0, 4].map(|at| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()))
}

#[test]
fn f82_the_envelope_is_looked_at_in_order() {
    let task = Task::new(&[]);
    let whole = |request| {
        task.put(0, &[0; 256]);
        task.put(0, &8_u32.to_ne_bytes());
        task.value(request, task.room.get())
    };
    assert_eq!(whole(0x3b80), Err(Errno::ENOENT));
    for request in [0x3b8f, 0x3b9f, 0x3ba1, 0x3b7f, 0x3b00, 0xc008_3b80, 0x3a80, 0x80] {
        assert_eq!(whole(request), Err(Errno::ENOTTY), "{request:#x}");
    }
    for request in [0x3b80, 0x3b8f, 0x3ba0, 0xff9f] {
        assert_eq!(task.value(request, 0), Err(Errno::EFAULT), "F83: the size is read first: {request:#x}");
    }
    for request in [0x3ba1, 0x3b7f] {
        assert_eq!(task.value(request, 0), Err(Errno::ENOTTY), "F81: nothing is read: {request:#x}");
    }
    assert_eq!(task.call(0xa0, &[67]), Err(Errno::EINVAL));
    assert_eq!(task.call(0xa0, &[68, 1]), Err(Errno::EOPNOTSUPP), "F100");
    assert_eq!(task.call(0x80, &[7, 1]), Err(Errno::EINVAL));
    assert_eq!(task.call(0x80, &[4096, 1]), Err(Errno::ENOENT), "F84: a long one, zero behind");
    assert_eq!(task.call(0x80, &[12, 1, 1]), Err(Errno::E2BIG));
    assert_eq!(task.call(0x80, &[11, 1, 0x0100_0000]), Err(Errno::ENOENT), "beyond its size");
    let end = ROOM * PAGE_SIZE;
    let argument = task.at(end - 8).get();
    task.put(end - 8, &9_u32.to_ne_bytes());
    assert_eq!(task.value(0x3b80, argument), Err(Errno::EFAULT), "the tail cannot be read");
    task.put(end - 9, &[9, 0, 0, 0, 1, 0, 0, 0, 1]);
    assert_eq!(task.value(0x3b80, argument - 1), Err(Errno::E2BIG));
    task.put(end - 4, &8_u32.to_ne_bytes());
    assert_eq!(task.value(0x3b80, argument + 4), Err(Errno::EFAULT), "nor the structure");
    assert_eq!(task.value(0x3b80, u64::MAX - 1), Err(Errno::EFAULT));
    let told = task.refusals.lock().clone();
    assert!(told.contains(&"the structure says more than its 8 bytes that are known".into()), "{told:?}");
}

#[test]
fn f85_a_short_structure_gets_as_much_as_it_has_room_for() {
    let task = Task::new(&["a1"]);
    let bound = task.bind(0);
    assert_eq!(task.call(0x8a, &[40, 0, bound.id().get(), 0]), Ok(0));
    assert_eq!(task.long(4), 1, "dirty tracking");
    task.put(0, &35_u32.to_ne_bytes());
    task.put(32, &[0xee; 8]);
    task.value(0x3b8a, task.room.get()).unwrap();
    assert_eq!(task.get::<8>(32), [1, 0, 0, 0xee, 0xee, 0xee, 0xee, 0xee]);
}

/// What is made and cannot be told is not there; what is done stays.
#[test]
fn f87_what_a_reply_that_faults_leaves() {
    let task = Task::with(&["a1"], nesting);
    let bound = task.bind(0);
    let ioas = task.ioas();
    assert_eq!(task.deaf(0, || task.call(0x81, &[12, 0, 0])), Err(Errno::EFAULT));
    let alloc = [48, 0, bound.id().get(), ioas];
    assert_eq!(task.deaf(0, || task.call(0x89, &alloc)), Err(Errno::EFAULT));
    let ids = (1..9).filter(|id| task.context.object_type(ObjectId::new(*id)).is_some());
    assert_eq!(ids.collect::<Vec<_>>(), [bound.id().get(), ioas], "nothing was made");

    assert_eq!(task.deaf(0, || task.map(ioas, 7, 0, PAGE_SIZE)), Err(Errno::EFAULT));
    assert_eq!(task.map(ioas, 7, 0, PAGE_SIZE), Err(Errno::EEXIST), "F30: it is mapped");
    assert_eq!(task.deaf(0, || task.unmap(ioas, 0, PAGE_SIZE)), Err(Errno::EFAULT));
    assert_eq!(task.unmap(ioas, 0, PAGE_SIZE), Err(Errno::ENOENT));
    assert_eq!(task.deaf(0, || task.call(0x87, &[24, 1, 0, ioas, 0, 0])), Err(Errno::EFAULT));
    assert_eq!(task.call(0x87, &[24, 1, 1, ioas, 9, 9]), Ok(0));
    assert_eq!(task.long(2), 0, "Ft7.12: the option is set");
}

#[test]
fn f86_what_is_written_without_success() {
    let task = Task::with(&["a1"], nesting);
    let bound = task.bind(0);
    let ioas = task.ioas();
    bound.attach(ObjectId::new(ioas)).unwrap();
    let [low, high] = halves(task.at(DATA).get());
    assert_eq!(task.call(0x84, &[32, ioas, 1, 0, low, high, 0, 0]), Err(Errno::EMSGSIZE));
    assert_eq!([task.word(2), task.word(6)], [2, 0x1000], "how many there are, and the alignment");
    assert_eq!(task.get::<17>(DATA)[8..], [0xff, 0xff, 0xdf, 0xfe, 0, 0, 0, 0, 0], "one, and no more");
    assert_eq!(task.deaf(1, || task.call(0x84, &[32, ioas, 2, 0, low, high, 0, 0])), Err(Errno::EFAULT));
    assert_eq!(task.word(6), 0, "a range that cannot be written leaves the rest");
    assert_eq!(task.call(0x84, &[32, ioas, 0, 0, 0, 0, 0, 0]), Err(Errno::EMSGSIZE));
    assert_eq!(task.word(2), 2);
    // A value alone is written for an option.
    assert_eq!(task.deaf(1, || task.call(0x87, &[24, 0, 1, 0, 7, 7])), Ok(0));
    assert_eq!((task.word(1), task.word(2), task.long(2)), (0, 1, 0));
}

#[test]
fn ft7_an_option_needs_the_capability_before_anything_else() {
    let mut task = Task::new(&[]);
    task.capable = false;
    assert_eq!(task.call(0x87, &[24, 0, 0, 0, 2, 0]), Err(Errno::EPERM));
    assert_eq!(task.call(0x87, &[24, 0, 1, 0, 2, 0]), Ok(0), "to ask needs none");
    task.capable = true;
    assert_eq!(task.call(0x87, &[24, 0, 0, 0, 2, 0]), Err(Errno::EINVAL));
    assert_eq!(task.call(0x87, &[24, 0, 0, 0, 1, 0]), Ok(0));
    assert_eq!(task.context.account(), Account::Process);
    let ioas = task.ioas();
    assert_eq!(task.call(0x87, &[24, 0, 0, 0, 2, 0]), Err(Errno::EBUSY), "Ft7.4 before Ft7.5");
    assert_eq!(task.call(0x87, &[24, 1, 2, ioas, 0, 0]), Err(Errno::EOPNOTSUPP));
    assert_eq!(task.call(0x87, &[24, 1, 2, 99, 0, 0]), Err(Errno::ENOENT), "before the operation");
}

/// Each row is refused for its first fault, though it has those of all rows below.
#[test]
fn ft4_and_ft5_the_order_of_checks() {
    let task = Task::new(&[]);
    let ioas = task.ioas();
    let [max, zero] = [[u32::MAX; 2], [0; 2]];
    let map = |flags, id, reserved, va: [u32; 2], length: [u32; 2], iova: [u32; 2]| {
        task.call(0x85, &[40, flags, id, reserved, va[0], va[1], length[0], length[1], iova[0], iova[1]])
    };
    assert_eq!(map(8, 99, 1, max, zero, max), Err(Errno::EOPNOTSUPP));
    assert_eq!(map(0, 99, 1, max, zero, max), Err(Errno::EOPNOTSUPP));
    assert_eq!(map(0, 99, 0, max, zero, max), Err(Errno::EOVERFLOW));
    assert_eq!(map(0, 99, 0, max, zero, zero), Err(Errno::EINVAL));
    assert_eq!(map(6, 99, 0, max, zero, zero), Err(Errno::ENOENT));
    assert_eq!(map(6, ioas, 0, max, zero, zero), Err(Errno::EINVAL));
    assert_eq!(map(6, ioas, 0, max, [1, 0], zero), Err(Errno::EOVERFLOW));
    let copy = |flags, to, from, length: [u32; 2], dst: [u32; 2], src: [u32; 2]| {
        task.call(0x83, &[40, flags, to, from, length[0], length[1], dst[0], dst[1], src[0], src[1]])
    };
    assert_eq!(copy(8, 99, 99, zero, max, max), Err(Errno::EOPNOTSUPP));
    assert_eq!(copy(0, 99, 99, zero, max, zero), Err(Errno::EOVERFLOW), "also where it means nothing");
    assert_eq!(copy(0, 99, 99, zero, zero, zero), Err(Errno::EINVAL));
    assert_eq!(copy(2, 99, 99, zero, zero, zero), Err(Errno::ENOENT));
    assert_eq!(copy(2, 99, ioas, zero, zero, zero), Err(Errno::EINVAL));
    assert_eq!(copy(2, 99, ioas, [1, 0], zero, zero), Err(Errno::ENOENT), "Ft5.6");
    task.map(ioas, 5, 0, PAGE_SIZE).unwrap();
    assert_eq!(copy(2, 99, ioas, [1, 0], zero, zero), Err(Errno::ENOENT), "Ft5.7");
    assert_eq!(copy(3, ioas, ioas, [1, 0], zero, zero), Err(Errno::EEXIST), "Ft5.8");
    assert_eq!(copy(2, ioas, ioas, [1, 0], zero, zero), Err(Errno::EPERM), "Ft5.9");
}

#[test]
fn ft3_ranges_are_read_one_by_one() {
    let task = Task::new(&[]);
    let ioas = task.ioas();
    let ranges = |ranges: &[(u64, u64)], count, at: u64| {
        let bytes: Vec<u8> =
            ranges.iter().flat_map(|(first, last)| [*first, *last]).flat_map(u64::to_ne_bytes).collect();
        task.put(at, &bytes);
        let [low, high] = halves(task.at(at).get());
        task.call(0x82, &[24, ioas, count, 0, low, high])
    };
    let last = ROOM * PAGE_SIZE - 32;
    assert_eq!(ranges(&[(1, 2), (4, 3)], u32::MAX, last), Err(Errno::EINVAL), "before the fault behind");
    assert_eq!(ranges(&[(1, 2), (2, 3)], u32::MAX, last), Err(Errno::EINVAL), "overlap");
    assert_eq!(ranges(&[(1, 2), (3, 4)], u32::MAX, last), Err(Errno::EFAULT));
    assert_eq!(ranges(&[(0x10000, 0x1ffff), (3, 4)], 2, last), Ok(0));
    task.map(ioas, 6, 0, PAGE_SIZE).unwrap();
    assert_eq!(task.long(4), 0x10000, "the list is that of the last call");
    assert_eq!(task.call(0x82, &[24, ioas, 0, 1]), Err(Errno::EOPNOTSUPP));
    assert_eq!(task.call(0x82, &[24, ioas, 0, 0, 0, 0]), Ok(0), "no range: the pointer is not looked at");
}

fn nesting(config: &mut SoftIommuConfig) {
    let more = Capabilities::NESTING.union(Capabilities::PAGE_REQUESTS);
    config.capabilities = config.capabilities.union(more);
}

/// A device on a page table that can be a parent, the parent, and a nested page table with a fault queue.
struct Nested {
    task: Task,
    bound: BoundDevice,
    parent: u32,
    child: u32,
    queue: FaultQueue,
}

fn nested() -> Nested {
    let task = Task::with(&["a1"], nesting);
    let bound = task.bind(0);
    let ioas = task.ioas();
    let device = bound.id().get();
    task.call(0x89, &[48, 1, device, ioas]).unwrap();
    let parent = task.word(4);
    task.put(0, &[0; 64]);
    task.put(0, &16_u32.to_ne_bytes());
    let new = task.ioctl(0x3b8e, task.room.get()).unwrap();
    let queue = file(new).unwrap().install(77, &task).unwrap();
    assert_eq!([task.word(2), task.word(3)], [queue.id().get(), 77]);
    task.put(DATA, &Stage1 { table: Iova::new(0), entries: 1 }.to_bytes());
    let length = Stage1 { table: Iova::new(0), entries: 1 }.to_bytes().len() as u32;
    let [low, high] = halves(task.at(DATA).get());
    let id = queue.id().get();
    task.call(0x89, &[48, 4, device, parent, 0, 0, STAGE_1_FORMAT, length, low, high, id, 0]).unwrap();
    let child = task.word(4);
    Nested { task, bound, parent, child, queue }
}

#[test]
fn f93_the_order_of_checks_of_a_page_table() {
    let Nested { task, bound, parent, child, .. } = nested();
    let device = bound.id().get();
    let alloc = |words: &[u32]| task.call(0x89, words);
    assert_eq!(alloc(&[23, 0, 99, 99, 0, 1, 0, 1]), Err(Errno::EINVAL));
    assert_eq!(alloc(&[48, !0, 99, 99, 0, 1, 0, 1]), Err(Errno::EOPNOTSUPP), "reserved");
    assert_eq!(alloc(&[48, !0, 99, 99, 0, 0, 0, 1]), Err(Errno::EINVAL), "data without a type");
    assert_eq!(alloc(&[48, !0, 99, 99, 0, 0, 1, 0]), Err(Errno::EINVAL), "a type without data");
    assert_eq!(alloc(&[48, !0, 99, 99, 0, 0, 1, 1]), Err(Errno::ENOENT));
    assert_eq!(alloc(&[48, !0, device, 99, 0, 0, 1, 1]), Err(Errno::EINVAL));
    assert_eq!(alloc(&[48, !0, device, child, 0, 0, 1, 1]), Err(Errno::EINVAL), "nested on a nested one");
    assert_eq!(alloc(&[48, 8, device, parent, 0, 0, 1, 1]), Err(Errno::EOPNOTSUPP), "flags");
    assert_eq!(alloc(&[48, 1, device, parent, 0, 0, 1, 1]), Err(Errno::EOPNOTSUPP));
    assert_eq!(alloc(&[48, 4, device, parent, 0, 0, 0, 0, 0, 0, 99, 0]), Err(Errno::EOPNOTSUPP), "no data");
    assert_eq!(alloc(&[48, 4, device, parent, 0, 0, 1, 1, 0, 0, 99, 0]), Err(Errno::EFAULT), "no data there");
    let ioas = task.ioas();
    alloc(&[24, 0, device, ioas]).unwrap();
    let plain = task.word(4);
    assert_eq!(alloc(&[48, 4, device, plain, 0, 0, 1, 1, 0, 0, 99, 0]), Err(Errno::EINVAL), "no parent: told before");
    assert_eq!(alloc(&[48, 4, device, parent, 0, 0, 1, 4097, 0, 0, 99, 0]), Err(Errno::E2BIG));
    let [low, high] = halves(task.at(DATA).get());
    assert_eq!(
        alloc(&[48, 4, device, parent, 0, 0, STAGE_1_FORMAT, 1, low, high, 99, 0]),
        Err(Errno::EINVAL),
        "driver"
    );
    let whole = [48, 4, device, parent, 0, 0, STAGE_1_FORMAT, 16, low, high, 99, 0];
    assert_eq!(alloc(&whole), Err(Errno::ENOENT), "F93c: the fault queue is looked up last");
    let mut unchecked = whole;
    (unchecked[1], unchecked[11]) = (0, 1);
    assert_eq!(alloc(&unchecked), Ok(0), "F88: neither looked at");
    assert_eq!(alloc(&[24, 0, device, 99, 0, 0]), Err(Errno::EINVAL), "an old, short one");
}

#[test]
fn f94_how_many_entries_were_invalidated_is_always_told() {
    let Nested { task, parent, child, .. } = nested();
    let entry = Invalidation { first: 0, entries: 1 }.to_bytes();
    let length = entry.len() as u32;
    let invalidate = |id, at: u64, kind, length, count, reserved| {
        let [low, high] = halves(at);
        let answer = task.call(0x8d, &[32, id, low, high, kind, length, count, reserved]);
        (answer, task.word(6))
    };
    let end = ROOM * PAGE_SIZE - 3 * u64::from(length);
    for number in 0..3 {
        task.put(end + number * u64::from(length), &entry);
    }
    let there = task.at(end).get();
    assert_eq!(invalidate(child, there, STAGE_1_FORMAT, length, 3, 0), (Ok(0), 3));
    assert_eq!(invalidate(child, there, STAGE_1_FORMAT, length, 4, 0), (Err(Errno::EFAULT), 3), "F94a");
    assert_eq!(invalidate(child, there, 7, length, 3, 0), (Err(Errno::EOPNOTSUPP), 0));
    assert_eq!(invalidate(99, 0, STAGE_1_FORMAT, length, 3, 1), (Err(Errno::EOPNOTSUPP), 0));
    for (at, length, count) in [(0, length, 3), (there, 0, 3), (there, 4097, 1), (there, 1, (1 << 19) + 1)] {
        assert_eq!(invalidate(99, at, STAGE_1_FORMAT, length, count, 0), (Err(Errno::EINVAL), 0));
    }
    assert_eq!(invalidate(parent, there, STAGE_1_FORMAT, length, 3, 0), (Err(Errno::ENOENT), 0));
    assert_eq!(invalidate(child, 0, STAGE_1_FORMAT, u32::MAX, 0, 0), (Ok(0), 0), "none: sizes do not matter");
    assert_eq!(invalidate(child, 0, 7, 16, 0, 0), (Err(Errno::EOPNOTSUPP), 0), "F94: the format does");
    let hidden = task.deaf(0, || invalidate(99, there, STAGE_1_FORMAT, length, 3, 0));
    assert_eq!(hidden.0, Err(Errno::EFAULT), "F87: that it cannot be told hides why");
}

#[test]
fn f95_the_file_of_a_fault_queue() {
    let Nested { task, bound, child, queue, .. } = nested();
    bound.attach(ObjectId::new(child)).unwrap();
    let device = task.rig.device(0);
    let ask = |index, pages: u64, permissions| {
        let page = |number| WantedPage { iova: Iova::new(number << 12), permissions };
        device.request_pages(index, (0..pages).map(page).collect());
    };
    let read = |bytes| fault_queue::read(&queue, task.at(DATA), bytes, &task);
    let write = |records: &[[u32; 2]], bytes| {
        let flat: Vec<u8> = records.iter().flatten().flat_map(|word| word.to_ne_bytes()).collect();
        task.put(DATA, &flat);
        fault_queue::write(&queue, task.at(DATA), bytes, &task)
    };
    let readable = || fault_queue::poll(&queue).readable;
    let words = |record: u64| {
        let at = DATA + 40 * record;
        task.get::<40>(at).chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!([read(0), read(80), read(41)], [Ok(0), Ok(0), Err(Errno::ESPIPE)]);
    assert!(!readable() && fault_queue::poll(&queue).writable);
    ask(5, 2, PagePermissions::all());
    ask(6, 1, PagePermissions::READ);
    assert!(readable());
    assert_eq!([read(0), read(40)], [Err(Errno::EINVAL); 2], "the first group has two");
    assert_eq!(task.deaf(1, || read(120)), Err(Errno::EFAULT), "F95a: the group stays");
    assert_eq!(task.deaf(2, || read(120)), Ok(80), "what was delivered before counts");
    let id = bound.id().get();
    assert_eq!(words(0), [0, id, 0, 5, 0xf, 0, 0, 0, 0, 1]);
    assert_eq!(words(1), [2, id, 0, 5, 0xf, 0, 0x1000, 0, 0, 1]);
    assert!(readable());
    assert_eq!(read(4000), Ok(40));
    assert_eq!(words(0), [2, id, 0, 6, 1, 0, 0, 0, 0, 2], "its cookie was free again");
    assert!(!readable(), "F95c: what was read does not count");

    assert_eq!(write(&[], 0), Ok(0));
    assert_eq!(write(&[[1, 0]], 7), Err(Errno::ESPIPE));
    assert_eq!(write(&[[3, 2]], 8), Err(Errno::EINVAL), "the code");
    assert_eq!(write(&[[3, 0]], 8), Err(Errno::EINVAL), "the cookie");
    assert_eq!(write(&[[1, 2]], 8), Err(Errno::EINVAL));
    assert_eq!(write(&[[1, 0], [2, 2], [2, 1]], 24), Ok(8), "F95b: up to the first error");
    assert_eq!(write(&[[1, 0]], 8), Err(Errno::EINVAL), "answered");
    assert_eq!(fault_queue::write(&queue, UserAddr::new(0), 8, &task), Err(Errno::EFAULT));
    assert_eq!(write(&[[2, 1]], 8), Ok(8));
    let answers = task.rig.device(0).take_answers();
    let told: Vec<_> = answers.into_iter().map(|AnsweredRequest { index, answer, .. }| (index, answer)).collect();
    assert_eq!(told, [(5, PageAnswer::Success), (6, PageAnswer::Invalid)]);
    ask(7, 1, PagePermissions::READ);
    ask(8, 1, PagePermissions::READ);
    assert_eq!(read(40), Ok(40));
    bound.detach();
    assert!(!readable(), "F95d");
    assert_eq!(write(&[[1, 0]], 8), Err(Errno::EINVAL), "its cookie is unknown now");
}

#[test]
fn ft20_15_a_fault_queue_that_its_caller_does_not_get_is_gone() {
    let task = Task::new(&[]);
    let make = || {
        task.put(0, &[0; 64]);
        task.put(0, &16_u32.to_ne_bytes());
        file(task.ioctl(0x3b8e, task.room.get()).unwrap()).unwrap()
    };
    assert_eq!(task.call(0x8e, &[16, 1]), Err(Errno::EOPNOTSUPP));
    let new = make();
    assert_eq!(task.call(0x80, &[8, 1]), Err(Errno::ENOENT), "no call finds it");
    assert!(matches!(task.deaf(0, || new.install(5, &task)), Err(Errno::EFAULT)));
    drop(make());
    let queue = make().install(5, &task).unwrap();
    assert_eq!(queue.id().get(), 1, "the id is free");
    assert_eq!(task.call(0x80, &[8, 1]), Err(Errno::EBUSY), "Ft2.5: its file");
    drop(queue);
    assert_eq!(task.call(0x80, &[8, 1]), Ok(0));
}

#[test]
fn f92_dirty_bits_are_set_in_the_callers_memory() {
    let task = Task::new(&["a1"]);
    let bound = task.bind(0);
    let ioas = task.ioas();
    task.map(ioas, 7, 0, PAGES * PAGE_SIZE).unwrap();
    task.call(0x89, &[48, 2, bound.id().get(), ioas]).unwrap();
    let hwpt = task.word(4);
    bound.attach(ObjectId::new(hwpt)).unwrap();
    assert_eq!(task.call(0x8b, &[16, 2, hwpt, 0]), Err(Errno::EOPNOTSUPP));
    assert_eq!(task.call(0x8b, &[16, 1, hwpt, 1]), Ok(0), "F88: reserved, not looked at");
    let write = |page: u64| task.rig.device(0).write(Iova::new(page * PAGE_SIZE), &[1]).unwrap();
    let read = |flags, bytes: u64, at: u64| {
        let [bytes, at] = [bytes, at].map(halves);
        task.call(0x8c, &[48, hwpt, flags, 0, 0, 0, bytes[0], bytes[1], 0x1000, 0, at[0], at[1]])
    };
    let all = PAGES * PAGE_SIZE;
    assert_eq!(read(0, all, 0), Ok(0), "F92b: nothing is dirty, so the bitmap is not touched");
    for page in [1, 2, 9] {
        write(page);
    }
    task.put(DATA, &[0x80, 0, 0xee]);
    assert_eq!(read(2, all, task.at(DATA).get()), Err(Errno::EOPNOTSUPP));
    assert_eq!(read(1, all, task.at(DATA).get()), Ok(0));
    assert_eq!(task.get(DATA), [0x86, 2, 0xee], "F92a: added to what was there");
    assert_eq!(read(0, all, 0), Ok(0), "F92b: lost, and not told");
    task.put(DATA, &[0, 0]);
    assert_eq!(read(0, all, task.at(DATA).get()), Ok(0));
    assert_eq!(task.get(DATA), [0, 0]);
    assert_eq!(task.call(0x8b, &[16, 0, hwpt, 0]), Ok(0));
}

/// Whatever room there is, nothing is written behind it, and each piece is there once it fits.
#[test]
fn f98_information_is_written_piece_by_piece() {
    let task = Task::new(&["a1"]);
    let bound = task.bind(0);
    assert_eq!(task.value(0x3b70, 0), Err(Errno::EFAULT));
    let info = |argsz: u32| {
        task.put(0, &[0xee; 256]);
        task.put(0, &argsz.to_ne_bytes());
        task.value(0x3b70, task.room.get())
    };
    assert_eq!(info(15), Err(Errno::EINVAL), "F96a: before ENODEV");
    assert_eq!(info(16), Err(Errno::ENODEV));
    let ioas = task.context.ensure_compat_ioas().unwrap();
    bound.attach(ioas).unwrap();
    let total = 56 + 2 * 16;
    for argsz in 16..100 {
        info(argsz).unwrap();
        let bytes = task.get::<256>(0);
        assert!(bytes[argsz as usize..].iter().all(|byte| *byte == 0xee), "{argsz}");
        assert_eq!([task.word(0), task.word(1)], [total, 3]);
        assert_eq!(task.long(1), 0x4020_1000);
        let there = |at: usize, piece: &[u8]| bytes[at..at + piece.len()] == *piece;
        let fits = argsz >= total;
        if argsz >= 24 {
            assert!(there(16, &[if fits { 24 } else { 0 }, 0, 0, 0, 0, 0, 0, 0]), "{argsz}");
        }
        let next = if argsz >= 40 { 40 } else { 0 };
        let avail = [3, 0, 1, 0, next, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(there(24, &avail), argsz >= 36, "{argsz}");
        assert_eq!(there(56, &[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xdf, 0xfe]), argsz >= 72, "{argsz}");
        assert_eq!(there(72, &[0, 0, 0xf0, 0xfe]), argsz >= 88, "{argsz}");
        assert_eq!(there(40, &[1, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]), fits, "{argsz}");
    }
}

#[test]
fn f96_the_calls_of_a_container() {
    let task = Task::new(&[]);
    assert_eq!(task.value(0x3b64, 7), Ok(0));
    assert_eq!(task.value(0x3b65, 1), Ok(1));
    assert_eq!(task.value(0x3b65, 1 << 32 | 1), Ok(0), "all of the number counts");
    assert_eq!(task.value(0x3b65, 4), Err(Errno::ENODEV));
    assert_eq!(task.value(0x3b66, 1 << 32 | 1), Err(Errno::EINVAL));
    assert_eq!(task.value(0x3b66, 1), Err(Errno::ENODEV));
    let [va, size] = [task.rig.ram.get(), PAGE_SIZE].map(halves);
    let map = |argsz, flags| task.call(0x71, &[argsz, flags, va[0], va[1], 0, 0, size[0], size[1]]);
    let unmap = |argsz, flags, size: u64| {
        let [low, high] = halves(size);
        (task.call(0x72, &[argsz, flags, 0, 0, low, high]), task.long(2))
    };
    assert_eq!([map(31, 8), map(32, 8), map(32, 4)], [Err(Errno::EINVAL); 3]);
    assert_eq!(map(32, 3), Err(Errno::ENODEV));
    assert_eq!(unmap(24, 2, 1), (Err(Errno::ENODEV), 1));
    task.context.ensure_compat_ioas().unwrap();
    assert_eq!(map(32, 0), Ok(0), "Ft12.7");
    assert_eq!(map(32, 3), Err(Errno::EEXIST));
    assert_eq!(unmap(23, 2, 0).0, Err(Errno::EINVAL));
    for flags in [1, 4, 3] {
        assert_eq!(unmap(24, flags, PAGE_SIZE), (Err(Errno::EINVAL), PAGE_SIZE), "F96c");
    }
    assert_eq!(unmap(24, 2, PAGE_SIZE), (Err(Errno::EINVAL), PAGE_SIZE), "ALL with a size");
    assert_eq!(unmap(24, 0, PAGE_SIZE / 2), (Err(Errno::ENOENT), 0), "F96d: 0 bytes were removed");
    assert_eq!(unmap(24, 0, 0), (Err(Errno::EINVAL), 0));
    assert_eq!(task.value(0x3b66, 1), Ok(0));
    assert_eq!(unmap(24, 0, PAGE_SIZE / 2), (Err(Errno::EINVAL), PAGE_SIZE / 2), "F96d: not on an error of a cut");
    assert_eq!(unmap(24, 2, 0), (Ok(0), PAGE_SIZE));
    assert_eq!(unmap(24, 2, 0), (Ok(0), 0));
    assert_eq!(unmap(24, 0, PAGE_SIZE), (Ok(0), 0), "nothing mapped");
}

#[test]
fn f97_no_iommu_needs_a_capability() {
    let mut task = Task::new(&[]);
    assert_eq!(task.value(0x3b66, 8), Err(Errno::EINVAL));
    task.context.enter_no_iommu_mode().unwrap();
    assert_eq!(task.value(0x3b66, 8), Ok(0));
    task.capable = false;
    assert_eq!(task.value(0x3b66, 8), Err(Errno::EPERM));
    assert_eq!(task.value(0x3b66, 1), Err(Errno::EINVAL));
}

/// Whose limit counts is decided when memory is mapped.
#[test]
fn f27_a_lifted_limit_lifts_it_for_what_is_mapped_then() {
    let task = Task::new(&["a1"]);
    let bound = task.bind(0);
    let ioas = task.ioas();
    let accounts = || [Account::User, Account::Pinned].map(|account| task.rig.process.locked(account));
    task.rig.locked.set_limit(Some(0));
    task.map(ioas, 7, 0, PAGE_SIZE).unwrap();
    let attach = || bound.attach(ObjectId::new(ioas)).map_err(|error| error.errno());
    assert_eq!(attach(), Err(Errno::ENOMEM));
    task.rig.process.set_limit(Limit::Lifted);
    assert_eq!(attach(), Err(Errno::ENOMEM), "it was mapped before");
    assert_eq!(accounts(), [0, 0]);
    task.unmap(ioas, 0, PAGE_SIZE).unwrap();
    task.map(ioas, 7, 0, PAGE_SIZE).unwrap();
    attach().unwrap();
    assert_eq!(accounts(), [0, 1]);
    task.rig.process.set_limit(Limit::Enforced);
    task.rig.locked.set_limit(None);
    task.map(ioas, 7, PAGE_SIZE, PAGE_SIZE).unwrap();
    assert_eq!(accounts(), [1, 2]);
    bound.detach();
    assert_eq!(accounts(), [0, 0]);
}
