//! Test support of iommufd: what it judges it judges right, and an injected fault leaves nothing half done.
// Facts 4.9.4 and 4.9.5.
#![expect(clippy::indexing_slicing, reason = "what a test takes for granted may fail it")]

use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::user_memory::Account;
use vfio_owner::iommu_core::{Access, Iova, UserAddr, UserMemory as _};
use vfio_owner::iommufd_owner::{Context, ObjectId, ObjectType};
use vfio_owner::testbed::{Machine, pc};

use crate::rig::{Program, wide};

const PAGE: u64 = 4096;
const IOVA: u64 = 1 << 24;

/// A program with an iommufd, an address space, and memory.
struct Bench {
    program: Program,
    fd: i32,
    ioas: u32,
    memory: UserAddr,
}

impl Bench {
    fn new() -> Self {
        let program = Program::on(Machine::builder(pc()).iommufd_test().build().unwrap());
        let fd = program.open(program.machine.open_iommufd_file("test"));
        let ioas = program.words(fd, 0x81, &[12, 0, 0]).unwrap()[2];
        let memory = program.process.allocate(8 * PAGE, Access::ReadWrite).unwrap();
        Self { program, fd, ioas, memory }
    }

    fn context(&self) -> Context {
        let file = vfio_owner::uapi::Caller::file(&self.program, self.fd).unwrap();
        file.iommufd().unwrap().clone()
    }

    /// A test call; returns the words of the operation's own part.
    fn test(&self, op: u32, id: u32, own: &[u32]) -> Result<Vec<u32>, Errno> {
        let mut words = vec![72, op, id, 0];
        words.extend(own);
        words.resize(18, 0);
        Ok(self.program.words(self.fd, 0xa0, &words)?[4..16].to_vec())
    }

    /// A mock device on `target`: test object, page table, device.
    fn mock_device(&self, target: u32) -> [u32; 3] {
        self.test(2, target, &[]).unwrap()[..3].try_into().unwrap()
    }

    fn map_at(&self, iova: u64, pages: u64) -> Result<(), Errno> {
        let [address, bytes, iova] = [self.memory.get(), pages * PAGE, iova].map(wide);
        let words = [&[40, 7, self.ioas, 0], &address[..], &bytes, &iova].concat();
        self.program.words(self.fd, 0x85, &words).map(drop)
    }

    fn unmap(&self, iova: u64, pages: u64) {
        let words = [&[24, self.ioas], &wide(iova)[..], &wide(pages * PAGE)].concat();
        self.program.words(self.fd, 0x86, &words).unwrap();
    }

    fn check_map(&self, hwpt: u32, iova: u64, at: u64, bytes: u64) -> Result<(), Errno> {
        self.test(3, hwpt, &[wide(iova), wide(bytes), wide(at)].concat()).map(drop)
    }

    fn check_refs(&self, pages: u64, refs: u32) -> Result<(), Errno> {
        self.test(4, 0, &[&wide(pages * PAGE)[..], &wide(self.memory.get()), &[refs]].concat()).map(drop)
    }

    fn access(&self, flags: u32) -> u32 {
        self.test(5, self.ioas, &[0, flags]).unwrap()[0]
    }

    fn pin(&self, access: u32, iova: u64, pages: u64, compared: u64) -> Result<u32, Errno> {
        let own = [&[0, 0], &wide(iova)[..], &wide(pages * PAGE), &wide(compared)].concat();
        Ok(self.test(7, access, &own)?[1])
    }

    /// What an injected fault must leave as it was.
    fn state(&self) -> (Vec<Option<ObjectType>>, u64, usize, String) {
        let context = self.context();
        let objects = (1..16).map(|id| context.object_type(ObjectId::new(id))).collect();
        let pinned = self.program.process.locked(Account::Pinned);
        let ranges = context.ioas_iova_ranges(ObjectId::new(self.ioas));
        (objects, pinned, self.program.machine.iommu().groups().len(), format!("{ranges:?}"))
    }
}

/// Ft22.5: half a page is seen, and so is a mapping of another page.
#[test]
fn the_page_table_is_compared_with_memory() {
    let bench = Bench::new();
    let [_, hwpt, device] = bench.mock_device(bench.ioas);
    bench.map_at(IOVA, 4).unwrap();
    let at = bench.memory.get();
    assert_eq!(bench.check_map(hwpt, IOVA, at, 4 * PAGE), Ok(()));
    assert_eq!(bench.check_map(hwpt, IOVA + 2048, at + 2048, PAGE), Ok(()));
    for (iova, addr, bytes, errno, why) in [
        (IOVA + PAGE, at, PAGE, Errno::EINVAL, "another page"),
        (IOVA, at + 2048, 2048, Errno::EINVAL, "the other half"),
        (IOVA, at, 5 * PAGE, Errno::EINVAL, "more than is mapped"),
        (IOVA + 1, at, PAGE, Errno::EINVAL, "misaligned"),
        (IOVA, at + (64 << 30), PAGE, Errno::EFAULT, "no memory"),
        (IOVA, u64::MAX - PAGE + 1, 2048, Errno::EFAULT, "the last page of all"),
    ] {
        assert_eq!(bench.check_map(hwpt, iova, addr, bytes), Err(errno), "{why}");
    }
    for id in [bench.ioas, device] {
        assert_eq!(bench.check_map(id, IOVA, at, PAGE), Err(Errno::ENOENT), "no page table");
    }
    bench.unmap(IOVA, 4);
    assert_eq!(bench.check_map(hwpt, IOVA, at, PAGE), Err(Errno::EINVAL), "nothing is mapped");
}

/// What a device stores through the mock page table is seen where the program has it.
#[test]
fn a_store_through_the_page_table_arrives() {
    let bench = Bench::new();
    let [_, hwpt, _] = bench.mock_device(bench.ioas);
    bench.map_at(IOVA, 2).unwrap();
    let domain = bench.context().hwpt_domain(ObjectId::new(hwpt)).unwrap();
    let phys = domain.iova_to_phys(Iova::new(IOVA + PAGE + 2050)).unwrap();
    bench.program.machine.memory().write(phys, b"stored");
    let mut seen = [0; 6];
    bench.program.process.read(bench.memory.checked_add(PAGE + 2050).unwrap(), &mut seen).unwrap();
    assert_eq!(&seen, b"stored");
}

/// Ft22.6, F111: pins count by page, across address spaces and open files, and none outlives a close.
#[test]
fn pins_are_counted_page_by_page() {
    let bench = Bench::new();
    bench.map_at(IOVA, 4).unwrap();
    assert_eq!(bench.check_refs(4, 0), Ok(()), "nobody needs it");
    bench.mock_device(bench.ioas);
    assert_eq!(bench.check_refs(4, 1), Ok(()));
    for wrong in [0, 2] {
        assert_eq!(bench.check_refs(4, wrong), Err(Errno::EIO));
    }
    assert_eq!(bench.check_refs(5, 1), Err(Errno::EIO), "one page is not pinned");
    bench.map_at(IOVA + (1 << 20), 2).unwrap();
    assert_eq!(bench.check_refs(2, 2), Ok(()), "mapped twice");
    assert_eq!(bench.check_refs(4, 2), Err(Errno::EIO), "half of it is");
    let access = bench.access(1);
    bench.pin(access, IOVA, 4, 0).unwrap();
    bench.program.close(bench.fd);
    let other = Bench { fd: bench.program.open(bench.program.machine.open_iommufd_file("test")), ..bench };
    assert_eq!(other.check_refs(2, 2), Ok(()), "an access keeps the file open");
    other.program.close(access.cast_signed());
    assert_eq!(other.check_refs(4, 0), Ok(()));
}

/// Ft22.10: what is pinned is compared with what is asked for; an error pins nothing.
#[test]
fn pinned_pages_are_compared() {
    let bench = Bench::new();
    bench.map_at(IOVA, 4).unwrap();
    let access = bench.access(1);
    let at = bench.memory.get();
    assert_eq!(bench.pin(access, IOVA, 2, at), Ok(0));
    assert_eq!(bench.pin(access, IOVA, 2, at + PAGE), Err(Errno::EBADE));
    assert_eq!(bench.pin(access, IOVA + 2048, 1, 1), Err(Errno::EINVAL), "misaligned");
    assert_eq!(bench.pin(access, IOVA + PAGE, 2, at + PAGE), Ok(1), "numbers go up");
    assert_eq!(bench.check_refs(1, 1), Ok(()));
    assert_eq!(bench.pin(bench.fd.cast_unsigned(), IOVA, 1, at), Err(Errno::EBADFD), "no access");
    bench.test(6, access, &[0]).unwrap();
    assert_eq!(bench.test(6, access, &[0]), Err(Errno::ENOENT), "it is gone");
    bench.unmap(IOVA, 4);
    assert_eq!(bench.test(6, access, &[1]), Err(Errno::ENOENT), "the unmap ended it");
}

/// Ft22.14: what is marked behind the last address is nothing.
#[test]
fn writes_are_noted_up_to_the_last_address() {
    let bench = Bench::new();
    let [_, _, device] = bench.mock_device(bench.ioas);
    let words = [48, 2, device, bench.ioas, 0, 0, 0, 0, 0, 0, 0, 0];
    let hwpt = bench.program.words(bench.fd, 0x89, &words).unwrap()[4];
    bench.program.words(bench.fd, 0x8b, &[16, 1, hwpt, 0]).unwrap();
    bench.program.process.write(bench.memory, &[0xff]).unwrap();
    let mark = |iova, bytes, page_size| {
        let own = [&[0, 0], &wide(iova)[..], &wide(bytes), &wide(page_size), &wide(bench.memory.get())].concat();
        bench.test(13, hwpt, &own).map(|words| words[10])
    };
    bench.map_at(IOVA, 2).unwrap();
    assert_eq!(mark(IOVA, 3 * 2048, 2048), Ok(3));
    assert_eq!(mark(u64::MAX, 8, 1), Ok(0));
}

/// Ft22.7, F107a.
#[test]
fn the_cache_of_a_nested_page_table_is_looked_at() {
    let bench = Bench::new();
    let [_, _, device] = bench.mock_device(bench.ioas);
    let words = [48, 1, device, bench.ioas, 0, 0, 0, 0, 0, 0, 0, 0];
    let parent = bench.program.words(bench.fd, 0x89, &words).unwrap()[4];
    let data = bench.program.buffer.get() + 0x2000;
    bench.program.put(0x2000, &7_u32.to_ne_bytes(), 0);
    let words = [&[48, 0, device, parent, 0, 0, 0xdead, 4], &wide(data)[..], &[0, 0]].concat();
    let nested = bench.program.words(bench.fd, 0x89, &words).unwrap()[4];
    let check = |index, value| bench.test(14, nested, &[index, value]).map(drop);
    assert_eq!((check(0, 7), check(3, 7)), (Ok(()), Ok(())));
    assert_eq!((check(0, 8), check(4, 7)), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
    bench.program.put(0x2000, &[0_u32, 2].map(u32::to_ne_bytes).concat(), 0);
    let words = [&[32, nested], &wide(data)[..], &[0xdead_beef, 8, 1, 0]].concat();
    bench.program.words(bench.fd, 0x8d, &words).unwrap();
    assert_eq!((check(2, 0), check(2, 7), check(1, 7)), (Ok(()), Err(Errno::EINVAL), Ok(())));
}

/// F102, F103: ids in order, the test object is what can be destroyed, and the file does not wait for devices.
#[test]
fn mock_devices_end_with_their_object_or_file() {
    let bench = Bench::new();
    let groups = bench.program.machine.iommu().groups().len();
    let [test, hwpt, device] = bench.mock_device(bench.ioas);
    assert_eq!([test, device, hwpt], [bench.ioas + 1, bench.ioas + 2, bench.ioas + 3]);
    let destroy = |id| bench.program.words(bench.fd, 0x80, &[8, id]).map(drop);
    assert_eq!(destroy(device), Err(Errno::EBUSY));
    assert_eq!(destroy(test), Ok(()));
    assert_eq!(destroy(hwpt), Err(Errno::ENOENT), "it went with its last device");
    assert_eq!(bench.program.machine.iommu().groups().len(), groups);
    bench.mock_device(bench.ioas);
    bench.program.close(bench.fd);
    assert_eq!(bench.program.machine.iommu().groups().len(), groups);
}

/// F118, F87: whatever fails, the call has done nothing; only a map whose answer cannot be written is done.
#[test]
fn an_injected_fault_leaves_nothing_half_done() {
    type Step = fn(&Bench, [u32; 3], u32) -> Result<(), Errno>;
    let steps: [(&str, Step); 6] = [
        ("a device", |bench, _, _| bench.test(2, bench.ioas, &[]).map(drop)),
        ("a map", |bench, _, _| bench.map_at(IOVA + (1 << 20), 4)),
        ("a page table", |bench, [_, _, device], _| {
            let words = [48, 0, device, bench.ioas, 0, 0, 0, 0, 0, 0, 0, 0];
            bench.program.words(bench.fd, 0x89, &words).map(drop)
        }),
        ("an access", |bench, _, _| bench.test(5, bench.ioas, &[0, 1]).map(drop)),
        ("pins", |bench, _, access| bench.pin(access, IOVA, 2, bench.memory.get()).map(drop)),
        ("an address space", |bench, _, _| bench.program.words(bench.fd, 0x81, &[12, 0, 0]).map(drop)),
    ];
    for (what, step) in steps {
        let mut done = Vec::new();
        let mut absorbed = 0;
        for nth in 1.. {
            assert!(nth < 400, "{what}: no end");
            let bench = Bench::new();
            bench.map_at(IOVA, 4).unwrap();
            let mock = bench.mock_device(bench.ioas);
            let access = bench.access(1);
            let before = bench.state();
            bench.program.fail_nth.set(nth);
            let result = step(&bench, mock, access);
            if bench.program.fail_nth.take() > 0 {
                assert_eq!(result, Ok(()), "{what}: nothing failed");
                assert!(nth > 2, "{what} has fault points");
                let allowed = if what == "a map" { vec![nth - 1] } else { Vec::new() };
                assert_eq!(done, allowed, "{what} was done although it failed");
                break;
            }
            match result {
                // Without a blocking domain, an empty one serves.
                Ok(()) => absorbed += 1,
                Err(_) if bench.state() != before => done.push(nth),
                Err(_) => {}
            }
            bench.program.close_all();
            assert_eq!(bench.program.process.locked(Account::Pinned), 0, "{what}");
        }
        assert!(absorbed <= usize::from(what == "a device"), "{what}: {absorbed} faults were taken for success");
    }
}
