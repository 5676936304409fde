//! Vt15, V48, V49: mapping.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vfio_owner::backend::{Extension, MapRequest};
use vfio_owner::error::MapDmaError;
use vfio_owner::iommu_core::address::{PAGE_SIZE, PageSizes};
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::device_model::sync::Mutex;
use vfio_owner::iommu_core::failing::{FailingMemory, Operation};
use vfio_owner::iommu_core::hardware::HardwareError;
use vfio_owner::iommu_core::reserved::RegionKind;
use vfio_owner::iommu_core::software::page_table::TableFormat;
use vfio_owner::iommu_core::software::{LockedPages, Process, SoftIommuConfig};
use vfio_owner::iommu_core::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun};
use vfio_owner::iommu_core::{Access, Iova, PhysAddr, UserAddr, UserMemory};
use vfio_owner::type1::Type1Config;

use crate::rig::{A0, B0, PAGES, Rig, plain, reserving};

const V2: Extension = Extension::TYPE1_V2;

/// The request is refused with this number, and nothing has changed.
fn refused(rig: &Rig, request: &MapRequest, errno: Errno) -> MapDmaError {
    let before = (rig.pinned(), rig.view(A0), rig.container.info());
    let error = rig.container.map(request).unwrap_err();
    assert_eq!(error.errno(), errno, "{error}");
    assert_eq!((rig.pinned(), rig.view(A0), rig.container.info()), before);
    error
}

#[test]
fn vt15_4_whole_pages_and_not_none() {
    let (rig, _a) = Rig::ready(V2);
    let good = rig.request(1, 1, 0);
    for bad in [
        MapRequest { bytes: 0, ..good.clone() },
        MapRequest { bytes: PAGE_SIZE - 1, ..good.clone() },
        MapRequest { iova: Iova::new(PAGE_SIZE + 1), ..good.clone() },
        MapRequest { addr: UserAddr::new(rig.ram.get() + 8), ..good.clone() },
        MapRequest { bytes: PAGE_SIZE + 8, iova: Iova::new(PAGE_SIZE + 8), ..good.clone() },
        MapRequest { bytes: PAGE_SIZE + 8, addr: UserAddr::new(rig.ram.get() + 8), ..good.clone() },
        MapRequest { iova: Iova::new(PAGE_SIZE + 8), addr: UserAddr::new(rig.ram.get() + 8), ..good.clone() },
    ] {
        assert!(matches!(refused(&rig, &bad, Errno::EINVAL), MapDmaError::Misaligned { .. }));
    }
    rig.container.map(&good).unwrap();
}

#[test]
fn vt15_5_nothing_goes_past_the_last_address() {
    let (rig, _a) = Rig::ready(V2);
    let good = rig.request(1, 2, 0);
    let last = u64::MAX - PAGE_SIZE + 1;
    for bad in
        [MapRequest { iova: Iova::new(last), ..good.clone() }, MapRequest { addr: UserAddr::new(last), ..good.clone() }]
    {
        assert_eq!(refused(&rig, &bad, Errno::EINVAL), MapDmaError::Wraps);
    }
    // The last page does not go past it; there is no memory.
    let highest = MapRequest { addr: UserAddr::new(last), bytes: PAGE_SIZE, ..good };
    assert_eq!(refused(&rig, &highest, Errno::EFAULT).errno(), Errno::EFAULT);
}

#[test]
fn vt15_9_an_overlap_names_the_mapping_that_is_there() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(4, 4, 0).unwrap();
    for (at, pages) in [(4, 4), (3, 2), (7, 2), (5, 1), (2, 9)] {
        let error = refused(&rig, &rig.request(at, pages, 8 - at), Errno::EEXIST);
        let MapDmaError::Mapped { existing } = error else { panic!("{error}") };
        assert_eq!((existing.first().get(), existing.bytes()), (4 * PAGE_SIZE, 4 * PAGE_SIZE));
    }
    rig.map(3, 1, 4).unwrap();
    rig.map(8, 1, 5).unwrap();
}

#[test]
fn vt15_10_the_budget_of_mappings() {
    let rig = Rig::with(&[(A0, plain())], Type1Config { dma_entry_limit: 2, ..Type1Config::default() });
    let _a = rig.first(A0, V2);
    assert_eq!(rig.container.info().unwrap().mappings_left, 2);
    rig.map(0, 2, 0).unwrap();
    rig.map(2, 1, 2).unwrap();
    assert_eq!(refused(&rig, &rig.request(3, 1, 3), Errno::ENOSPC), MapDmaError::TooManyMappings);
    assert_eq!(refused(&rig, &rig.request(0, 1, 3), Errno::EEXIST).errno(), Errno::EEXIST, "Vt15.9 comes first");
    rig.unmap(0, 2).unwrap();
    rig.map(3, 1, 3).unwrap();
}

#[test]
fn vt15_11_within_one_range_of_those_that_are_allowed() {
    let rig = Rig::new(&[(A0, reserving(A0, RegionKind::Reserved, 4, 4))]);
    let _a = rig.first(A0, V2);
    for (at, pages) in [(4, 1), (3, 3), (3, 2), (1 << 27, 1)] {
        assert!(matches!(refused(&rig, &rig.request(at, pages, 0), Errno::EINVAL), MapDmaError::NotAllowed { .. }));
    }
    rig.map(3, 1, 0).unwrap();
    rig.map(5, 1, 0).unwrap();
}

#[test]
fn vt15_12_the_limit_of_locked_pages() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(0, PAGES - 1, 0).unwrap();
    assert!(matches!(refused(&rig, &rig.request(PAGES, 2, 0), Errno::ENOMEM), MapDmaError::OverLimit(_)));
    rig.map(PAGES, 1, 0).unwrap();
    assert!(matches!(refused(&rig, &rig.request(PAGES + 1, 1, 0), Errno::ENOMEM), MapDmaError::OverLimit(_)));
}

#[test]
fn vt15_12_vt15_13_whichever_page_comes_first() {
    // One page is left below the limit, and of three that are asked for the last is not there.
    let (rig, _a) = Rig::ready(V2);
    rig.map(0, PAGES - 1, 0).unwrap();
    assert!(matches!(refused(&rig, &rig.request(PAGES, 3, PAGES - 2), Errno::ENOMEM), MapDmaError::OverLimit(_)));
    assert!(matches!(refused(&rig, &rig.request(PAGES, 3, PAGES - 1), Errno::EFAULT), MapDmaError::BadAddress(_)));
}

#[test]
fn vt15_13_a_bad_address_in_the_middle_unpins_what_came_before() {
    let (rig, _a) = Rig::ready(V2);
    assert!(matches!(refused(&rig, &rig.request(0, 4, PAGES - 2), Errno::EFAULT), MapDmaError::BadAddress(_)));
    let read_only = rig.process.allocate(PAGE_SIZE, Access::Read).unwrap();
    let request = MapRequest { addr: read_only, ..rig.request(0, 1, 0) };
    assert!(matches!(refused(&rig, &request, Errno::EFAULT), MapDmaError::BadAddress(_)));
    rig.container.map(&MapRequest { access: Access::Read, ..request }).unwrap();
}

/// In whichever of two domains, at whichever piece: nothing is mapped in either, and nothing pinned (V48).
#[test]
fn vt15_14_hardware_that_fails_in_one_domain_leaves_nothing_in_the_other() {
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let _a = rig.first(A0, V2);
    let _b = rig.join(B0).unwrap();
    rig.map(9, 1, 9).unwrap();
    for failing in [A0, B0] {
        for piece in 0..4 {
            rig.hardware(failing).fail_nth(piece, HardwareError::new(Errno::EIO, "on command"));
            assert!(matches!(refused(&rig, &rig.request(0, 4, 0), Errno::EIO), MapDmaError::Domain(_)));
            assert_eq!(rig.view(A0), rig.view(B0));
        }
    }
    rig.map(0, 4, 0).unwrap();
    assert_eq!((rig.reaches(A0, 3), rig.reaches(B0, 3), rig.pinned()), (Some(4), Some(4), 5));
}

#[test]
fn v48_a_pin_that_fails_leaves_nothing_mapped() {
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let _a = rig.first(A0, V2);
    let _b = rig.join(B0).unwrap();
    for pin in 0..4 {
        rig.user.fail_nth(pin);
        refused(&rig, &rig.request(0, 4, 0), Errno::EFAULT);
        assert!(rig.view(B0).iter().all(Option::is_none));
        rig.user.heal();
    }
}

#[test]
fn v49_page_sizes_are_those_that_all_domains_have() {
    let large = SoftIommuConfig {
        format: TableFormat::new(39, PageSizes::from_bitmap(0x20_1000).unwrap()).unwrap(),
        ..plain()
    };
    let rig = Rig::new(&[(A0, plain()), (B0, large)]);
    let _a = rig.first(A0, V2);
    assert_eq!(rig.container.info().unwrap().page_sizes, PageSizes::X86);
    let b = rig.join(B0).unwrap();
    assert_eq!(rig.container.info().unwrap().page_sizes.bitmap(), 0x20_1000);
    b.unset_container().unwrap();
    assert_eq!(rig.container.info().unwrap().page_sizes, PageSizes::X86);
}

#[test]
fn access_is_what_was_asked_for_in_every_domain() {
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let _a = rig.first(A0, V2);
    rig.container.map(&MapRequest { access: Access::Write, ..rig.request(0, 1, 0) }).unwrap();
    let _b = rig.join(B0).unwrap();
    assert_eq!((rig.reaches(A0, 0), rig.reaches(B0, 0)), (None, None), "they read");
    rig.container.map(&MapRequest { access: Access::Read, ..rig.request(1, 1, 1) }).unwrap();
    assert_eq!((rig.reaches(A0, 1), rig.reaches(B0, 1)), (Some(2), Some(2)));
}

/// A user's memory that does not keep to what `pin` promises.
#[derive(Debug)]
struct Lying {
    inner: Arc<dyn UserMemory>,
    pins: AtomicU32,
    lie: Lie,
    /// What was given back of that which was never pinned.
    given_back: Mutex<Vec<PinnedRun>>,
}

#[derive(Debug, Clone, Copy)]
enum Lie {
    /// From the third pin on this, whatever was asked for.
    Run(PinnedRun),
    /// None; from the third pin on, whoever asks for memory behind this address unwinds.
    EndsAt(u64),
    /// The third pin unwinds.
    Unwinds,
}

impl UserMemory for Lying {
    fn pin(&self, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        let earlier = self.pins.fetch_add(1, Ordering::Relaxed);
        match self.lie {
            _ if earlier < 2 => self.inner.pin(at, bytes, access),
            Lie::Run(run) => Ok(run),
            Lie::EndsAt(end) => {
                assert!(at.get() + bytes <= end, "more than is to be mapped");
                self.inner.pin(at, bytes, access)
            }
            Lie::Unwinds => panic!("on command"),
        }
    }

    fn unpin(&self, run: PinnedRun) {
        // What was never pinned is not given to those who count.
        match self.lie {
            Lie::Run(lie) if lie.phys == run.phys => self.given_back.lock().push(run),
            _ => self.inner.unpin(run),
        }
    }

    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress> {
        self.inner.read(at, into)
    }

    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        self.inner.write(at, from)
    }

    fn limit(&self) -> Limit {
        self.inner.limit()
    }

    fn charge(&self, account: Account, limit: Limit, pages: u64) -> Result<(), OverLimit> {
        self.inner.charge(account, limit, pages)
    }

    fn uncharge(&self, account: Account, pages: u64) {
        self.inner.uncharge(account, pages);
    }
}

fn lying(rig: &Rig, lie: Lie) -> (MapRequest, Arc<Lying>) {
    let pins = AtomicU32::new(0);
    let process = Arc::new(Lying { inner: rig.user.clone(), pins, lie, given_back: Mutex::default() });
    (MapRequest { process: process.clone(), ..rig.request(0, 4, 0) }, process)
}

#[test]
fn no_run_that_a_memory_returns_is_trusted() {
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let _a = rig.first(A0, V2);
    let _b = rig.join(B0).unwrap();
    let (good, last) = (0x10_0000, u64::MAX - PAGE_SIZE + 1);
    let lengths = [0, 1, PAGE_SIZE - 1, PAGE_SIZE + 1, 3 * PAGE_SIZE, u64::MAX, !(PAGE_SIZE - 1)];
    let lies = lengths.map(|bytes| (good, bytes)).into_iter();
    // Not at a page, both not of whole pages, and past the last address.
    for (phys, bytes) in lies.chain([(good + 8, PAGE_SIZE), (good + 8, PAGE_SIZE + 8), (last, 2 * PAGE_SIZE)]) {
        let run = PinnedRun { phys: PhysAddr::new(phys), bytes };
        let (request, memory) = lying(&rig, Lie::Run(run));
        let error = refused(&rig, &request, Errno::EFAULT);
        assert!(matches!(error, MapDmaError::BadAddress(_)), "{run:?}: {error}");
        assert!(rig.view(B0).iter().all(Option::is_none));
        let expected = if bytes == 0 { vec![] } else { vec![run] };
        assert_eq!(*memory.given_back.lock(), expected, "what was pinned, if anything, is given back");
    }
}

#[test]
fn memory_may_lie_in_the_last_page_that_there_is() {
    let (rig, _a) = Rig::ready(V2);
    let run = PinnedRun { phys: PhysAddr::new(u64::MAX - PAGE_SIZE + 1), bytes: PAGE_SIZE };
    let (request, memory) = lying(&rig, Lie::Run(run));
    rig.container.map(&request).unwrap();
    assert_eq!(rig.unmap(0, 4), Ok(4));
    assert_eq!(*memory.given_back.lock(), [run; 2]);
}

/// Of two megabytes and a page, the page is refused, and so is taking the rest out again.
#[test]
fn what_a_map_that_failed_may_have_left_is_pinned_as_long_as_its_domain() {
    let (rig, a) = Rig::ready(V2);
    let process = Process::new(rig.machine.memory(), LockedPages::unlimited());
    let bytes = (2 << 20) + PAGE_SIZE;
    let addr = process.allocate(bytes, Access::ReadWrite).unwrap();
    let request = MapRequest { process: process.clone(), addr, bytes, ..rig.request(0, 1, 0) };
    let hardware = rig.hardware(A0);
    let calls = hardware.calls();
    hardware.fail_nth(1, HardwareError::new(Errno::EIO, "on command"));
    assert_eq!(rig.container.map(&request).unwrap_err().errno(), Errno::EIO);
    assert!(hardware.calls() > calls + 1, "in more than one call");
    assert_eq!(process.pinned(), 0);
    hardware.fail_nth(1, HardwareError::new(Errno::EIO, "on command"));
    hardware.refuse(Operation::Unmap);
    assert_eq!(rig.container.map(&request).unwrap_err().errno(), Errno::EIO);
    hardware.heal();
    assert_eq!(process.pinned(), bytes / PAGE_SIZE);
    a.unset_container().unwrap();
    assert_eq!(process.pinned(), 0);
}

#[test]
fn a_pin_that_unwinds_leaves_no_mapping() {
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let _a = rig.first(A0, V2);
    let _b = rig.join(B0).unwrap();
    let (request, _) = lying(&rig, Lie::Unwinds);
    assert!(catch_unwind(AssertUnwindSafe(|| rig.container.map(&request))).is_err());
    assert_eq!((rig.process.pinned(), rig.locked.pages()), (0, 0));
    assert!([A0, B0].iter().all(|device| rig.view(device).iter().all(Option::is_none)));
    rig.map(0, 4, 0).unwrap();
    assert_eq!((rig.reaches(A0, 3), rig.pinned()), (Some(4), 4));
}

/// Vt15.12 comes after Vt15.13, so memory is looked at that is not pinned: what is to be mapped, and no more.
#[test]
fn beyond_the_limit_no_other_memory_is_looked_at() {
    let (rig, _a) = Rig::ready(V2);
    rig.map(4, PAGES - 2, 0).unwrap();
    let (request, _) = lying(&rig, Lie::EndsAt(rig.ram.get() + 4 * PAGE_SIZE));
    assert!(matches!(refused(&rig, &request, Errno::ENOMEM), MapDmaError::OverLimit(_)));
}

/// A process with more pages of memory than are handled at once, no two of which touch, and a request for all of them.
fn scattered(rig: &Rig, pages: u64) -> (Arc<Process>, Arc<FailingMemory>, MapRequest) {
    let process = Process::new(rig.machine.memory(), LockedPages::unlimited());
    let addr = process.allocate(pages * PAGE_SIZE, Access::ReadWrite).unwrap();
    for page in (0..pages).rev() {
        let at = UserAddr::new(addr.get() + page * PAGE_SIZE);
        process.map_at(at, PAGE_SIZE, Access::ReadWrite).unwrap();
        process.write(at, &(page + 1).to_le_bytes()).unwrap();
    }
    let failing = FailingMemory::new(process.clone());
    let request = MapRequest { process: failing.clone(), addr, bytes: pages * PAGE_SIZE, ..rig.request(0, 1, 0) };
    (process, failing, request)
}

#[test]
fn of_many_pieces_all_are_mapped_or_none() {
    const PIECES: u64 = 600;
    let rig = Rig::new(&[(A0, plain()), (B0, plain())]);
    let _a = rig.first(A0, V2);
    let b = rig.join(B0).unwrap();
    let (process, memory, request) = scattered(&rig, PIECES);
    for n in [0, 1, 31, 32, 33, 255, 256, 257, 511, 512, 599] {
        for failing in [A0, B0] {
            rig.hardware(failing).fail_nth(n, HardwareError::new(Errno::EIO, "on command"));
            assert_eq!(refused(&rig, &request, Errno::EIO).errno(), Errno::EIO);
            assert_eq!((process.pinned(), process.locked(Account::Process)), (0, 0));
        }
        memory.fail_nth(n);
        assert!(matches!(refused(&rig, &request, Errno::EFAULT), MapDmaError::BadAddress(_)));
        assert_eq!((process.pinned(), process.locked(Account::Process)), (0, 0));
        memory.panic_nth(n);
        assert!(catch_unwind(AssertUnwindSafe(|| rig.container.map(&request))).is_err());
        assert_eq!((process.pinned(), process.locked(Account::Process)), (0, 0));
        memory.heal();
    }
    b.unset_container().unwrap();
    rig.container.map(&request).unwrap();
    b.set_container(&rig.container).unwrap();
    for page in 0..PIECES {
        assert_eq!([A0, B0].map(|device| rig.reaches(device, page)), [Some(page + 1); 2], "the second is a copy");
    }
    assert_eq!(process.pinned(), PIECES);
    assert_eq!(rig.unmap(0, PIECES), Ok(PIECES));
    assert_eq!((process.pinned(), process.locked(Account::Process)), (0, 0));
}

/// Many pieces are taken out a part at a time: those stay pinned that hardware does not take out, and no others.
#[test]
fn of_many_pieces_those_stay_pinned_that_a_device_may_reach() {
    const PIECES: u64 = 600;
    const PART: u64 = 256;
    let reached = |rig: &Rig| (0..PIECES).filter(|page| rig.reaches(A0, *page).is_some()).count() as u64;
    // Each part takes an unmap and a flush.
    for (call, left) in [(2, PART), (3, 0)] {
        let (rig, a) = Rig::ready(V2);
        let (process, _, request) = scattered(&rig, PIECES);
        rig.container.map(&request).unwrap();
        rig.hardware(A0).fail_nth(call, HardwareError::new(Errno::EIO, "on command"));
        assert_eq!(rig.unmap(0, PIECES), Ok(PIECES));
        assert_eq!((reached(&rig), process.pinned(), process.locked(Account::Process)), (left, PART, 0));
        a.unset_container().unwrap();
        assert_eq!(process.pinned(), 0);
    }
    // A map is refused within the second part, and so is undoing either.
    let (rig, a) = Rig::ready(V2);
    let (process, _, request) = scattered(&rig, PIECES);
    rig.hardware(A0).fail_nth(300, HardwareError::new(Errno::EIO, "on command"));
    rig.hardware(A0).refuse(Operation::Unmap);
    assert_eq!(rig.container.map(&request).unwrap_err().errno(), Errno::EIO);
    assert_eq!((reached(&rig), process.pinned(), process.locked(Account::Process)), (300, 2 * PART, 0));
    rig.hardware(A0).heal();
    a.unset_container().unwrap();
    assert_eq!(process.pinned(), 0);
}
