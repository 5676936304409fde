//! What hardware shows and what is pinned, exactly: random lives of address spaces with two domains, hardware whose pages are
//! smaller than the CPU's, and memory in scattered pieces; hardware, pins and the limit fail half-way.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use iommu_core::address::{Geometry, PAGE_SIZE, PageSizes, Protection};
use iommu_core::device_model::sync::Mutex;
use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::hardware::{
    Capabilities, DomainKind, Endpoint, EndpointProperties, FaultSink, Gather, HardwareDomain, HardwareError,
    IommuDriver, Paging,
};
use iommu_core::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun};
use iommu_core::{Access, DeviceGroup, IommuSubsystem, Iova, IovaRange, PhysAddr, UserAddr, UserMemory};
use iommufd_owner::{BoundDevice, Context, CopyRequest, Extension, LargePages, MapRequest, ObjectId, Place};
use proptest::prelude::*;

use crate::space::{Mapping, Space};

/// Pages of the user's memory.
const PAGES: u64 = 12;
/// Where the process sees it.
const RAM: u64 = 0x100_0000;
/// The smallest page of the hardware.
const GRANULE: u64 = 512;
/// How many pages of the user's memory are in one piece.
const PIECE: u64 = 3;

/// Where a page of memory lies.
fn phys(page: u64) -> u64 {
    (page + page / PIECE * 5 + 16) * PAGE_SIZE
}

/// What a domain shows: by granule, where it leads and what it permits.
type Shown = BTreeMap<u64, (u64, Protection)>;

/// An IOMMU that does nothing for nothing: to map what is mapped, and to unmap what is not, is noted as wrong.
#[derive(Debug, Default)]
struct Hardware {
    /// By domain, in the order in which they were made.
    shown: Mutex<BTreeMap<u32, Shown>>,
    made: AtomicU32,
    /// How many maps go well before one fails.
    left: AtomicU32,
    /// From here on nothing is unmapped, if that is not 0.
    stuck_from: AtomicU64,
    wrong: Mutex<Vec<String>>,
    /// The most that one call maps, in pages.
    largest: AtomicU64,
}

impl Hardware {
    /// Whether a domain shows something of a page of memory.
    fn shows(&self, page: u64) -> bool {
        let shown = self.shown.lock();
        shown.values().flat_map(BTreeMap::values).any(|(to, _)| to / PAGE_SIZE * PAGE_SIZE == phys(page))
    }
}

#[derive(Debug)]
struct Unit {
    hardware: Arc<Hardware>,
    page_sizes: u64,
}

#[derive(Debug)]
struct Domain {
    hardware: Arc<Hardware>,
    number: u32,
    page_sizes: u64,
}

impl IommuDriver for Unit {
    fn name(&self) -> &'static str {
        "exact"
    }

    fn probe(&self, _dev: &Endpoint, _faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        let capabilities = Capabilities::CACHE_COHERENCY.union(Capabilities::MSI_ISOLATION);
        Ok(EndpointProperties { capabilities, ..EndpointProperties::default() })
    }

    fn release(&self, _dev: &Endpoint) {}

    fn allocate(&self, _kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let (hardware, page_sizes) = (self.hardware.clone(), self.page_sizes);
        let number = hardware.made.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Domain { hardware, number, page_sizes }))
    }

    fn block(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }
}

impl HardwareDomain for Domain {
    fn attach(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }

    fn paging(&self) -> Option<&dyn Paging> {
        Some(self)
    }
}

impl Paging for Domain {
    fn geometry(&self) -> Geometry {
        let page_sizes = PageSizes::from_bitmap(self.page_sizes).unwrap();
        Geometry { page_sizes, first: Iova::new(0), last: Iova::new(0xffff_ffff) }
    }

    fn map_pages(
        &self,
        iova: Iova,
        phys: PhysAddr,
        page_size: u64,
        count: usize,
        protection: Protection,
    ) -> Result<usize, HardwareError> {
        if self.hardware.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            return Err(HardwareError::new(Errno::EIO, "on command"));
        }
        let bytes = page_size * count as u64;
        self.hardware.largest.fetch_max(bytes, Ordering::Relaxed);
        let mut shown = self.hardware.shown.lock();
        let here = shown.entry(self.number).or_default();
        let mapped = (0..bytes).step_by(GRANULE as usize).map(|at| (iova.get() + at, (phys.get() + at, protection)));
        let twice = mapped.filter(|(at, to)| here.insert(*at, *to).is_some()).count();
        drop(shown);
        if twice > 0 {
            self.hardware.wrong.lock().push(format!("{iova} is mapped twice"));
        }
        Ok(count)
    }

    fn unmap_pages(&self, iova: Iova, page_size: u64, count: usize, gather: &mut Gather) -> Result<u64, HardwareError> {
        let mut shown = self.hardware.shown.lock();
        let (here, mut bytes) = (shown.entry(self.number).or_default(), 0);
        let stuck_from = self.hardware.stuck_from.load(Ordering::Relaxed);
        let stuck = |at: u64| stuck_from > 0 && at >= stuck_from;
        while bytes < page_size * count as u64 {
            let at = iova.get() + bytes;
            if stuck(at) || here.remove(&at).is_none() {
                break;
            }
            bytes += GRANULE;
        }
        drop(shown);
        match IovaRange::sized(iova, bytes) {
            Some(range) => gather.add(range, page_size),
            None if stuck(iova.get()) => {}
            None => self.hardware.wrong.lock().push(format!("{iova} is unmapped for nothing")),
        }
        Ok(bytes)
    }

    fn flush(&self, _gather: &Gather) -> Result<(), HardwareError> {
        Ok(())
    }

    fn flush_all(&self) -> Result<(), HardwareError> {
        Ok(())
    }

    fn iova_to_phys(&self, _iova: Iova) -> Option<PhysAddr> {
        None
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let shown = self.hardware.shown.lock().remove(&self.number);
        if shown.is_some_and(|shown| !shown.is_empty()) {
            self.hardware.wrong.lock().push("a domain ends that shows something".into());
        }
    }
}

/// Memory in pieces of three pages. What hardware shows must not be unpinned.
#[derive(Debug)]
struct Scattered {
    hardware: Arc<Hardware>,
    /// By page.
    pins: Mutex<BTreeMap<u64, u32>>,
    /// How many pins go well before one fails.
    left: AtomicU32,
    charged: AtomicU64,
    limit: AtomicU64,
}

impl Scattered {
    /// Takes one pin of a page and returns how many are left.
    fn unpin_page(&self, page: u64) -> Option<u32> {
        let mut pins = self.pins.lock();
        let count = pins.get_mut(&page)?;
        *count -= 1;
        let left = *count;
        if left == 0 {
            pins.remove(&page);
        }
        Some(left)
    }
}

impl UserMemory for Scattered {
    fn pin(&self, at: UserAddr, bytes: u64, _access: Access) -> Result<PinnedRun, BadAddress> {
        let first = (at.get() - RAM) / PAGE_SIZE;
        if first >= PAGES || self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            return Err(BadAddress { at });
        }
        let pages = (bytes / PAGE_SIZE).min(PIECE - first % PIECE);
        for page in first..first + pages {
            *self.pins.lock().entry(page).or_default() += 1;
        }
        Ok(PinnedRun { phys: PhysAddr::new(phys(first)), bytes: pages * PAGE_SIZE })
    }

    fn unpin(&self, run: PinnedRun) {
        let (begin, end) = (run.phys.get(), run.phys.get() + run.bytes);
        for page in (0..PAGES).filter(|page| (begin..end).contains(&phys(*page))) {
            let wrong = match self.unpin_page(page) {
                None => "once too often",
                Some(0) if self.hardware.shows(page) => "before it is unmapped",
                Some(_) => continue,
            };
            self.hardware.wrong.lock().push(format!("page {page} is unpinned {wrong}"));
        }
    }

    fn read(&self, at: UserAddr, _into: &mut [u8]) -> Result<(), BadAddress> {
        Err(BadAddress { at })
    }

    fn write(&self, at: UserAddr, _from: &[u8]) -> Result<(), BadAddress> {
        Err(BadAddress { at })
    }

    fn charge(&self, account: Account, _limit: Limit, pages: u64) -> Result<(), OverLimit> {
        // What is pinned has no limit.
        if account == Account::Pinned {
            return Ok(());
        }
        let (locked, limit) = (self.charged.load(Ordering::Relaxed), self.limit.load(Ordering::Relaxed));
        if locked + pages > limit {
            return Err(OverLimit { locked, limit, wanted: pages });
        }
        self.charged.fetch_add(pages, Ordering::Relaxed);
        Ok(())
    }

    fn uncharge(&self, account: Account, pages: u64) {
        if account != Account::Pinned {
            self.charged.fetch_sub(pages, Ordering::Relaxed);
        }
    }
}

/// Numbers are in units: of the hardware's smallest page, or of whole pages where mappings can be cut.
#[derive(Debug, Clone)]
enum Op {
    Map { at: u64, length: u64, from: u64, access: Access },
    Copy { from: u64, length: u64, at: u64, access: Access },
    Unmap { at: u64, length: u64 },
    Attach(usize),
    Detach(usize),
    FailMap(u32),
    FailPin(u32),
    Limit(u64),
}

fn op(units: u64) -> impl Strategy<Value = Op> {
    let access = || prop::sample::select(vec![Access::Read, Access::ReadWrite, Access::ReadWrite]);
    let (space, length) = (8 * units, 1..4 * units);
    prop_oneof![
        6 => (0..space, length.clone(), 0..(PAGES - 4) * units, access())
            .prop_map(|(at, length, from, access)| Op::Map { at, length, from, access }),
        4 => (0..space, length.clone(), 0..space, access())
            .prop_map(|(from, length, at, access)| Op::Copy { from, length, at, access }),
        4 => (0..space, length).prop_map(|(at, length)| Op::Unmap { at, length }),
        4 => (0..2_usize).prop_map(Op::Attach),
        2 => (0..2_usize).prop_map(Op::Detach),
        1 => (0..12_u32).prop_map(Op::FailMap),
        1 => (0..4_u32).prop_map(Op::FailPin),
        1 => (0..8_u64).prop_map(Op::Limit),
    ]
}

struct Life {
    unit: u64,
    large_pages: LargePages,
    hardware: Arc<Hardware>,
    memory: Arc<Scattered>,
    context: Context,
    ioas: ObjectId,
    bound: Vec<BoundDevice>,
    space: Space,
    /// The windows of mappings, by where those begin.
    windows: BTreeMap<u64, u32>,
    next_window: u32,
    /// Whether a pin or a map is to fail.
    armed: Cell<bool>,
    _iommu: IommuSubsystem,
}

impl Life {
    fn new(large_pages: LargePages) -> Self {
        Self::on(large_pages, [GRANULE | PAGE_SIZE; 2])
    }

    /// On units with these pages.
    fn on(large_pages: LargePages, page_sizes: [u64; 2]) -> Self {
        let hardware = Arc::new(Hardware { left: AtomicU32::new(u32::MAX), ..Hardware::default() });
        // Each group has a unit of its own, so no domain fits both.
        let unit = |page_sizes| Arc::new(Unit { hardware: hardware.clone(), page_sizes }) as Arc<dyn IommuDriver>;
        let units = page_sizes.map(unit);
        let by_letter =
            move |device: &Endpoint| Some(DeviceGroup::named(&units[usize::from(&*device.name == "b")], &*device.name));
        let (iommu, physical) = IommuSubsystem::builder(by_letter).build();
        let context = Context::new("vmm", &physical);
        let plug = |(number, name): (u64, &str)| {
            let member = iommu.add_device(&Endpoint::new(DeviceId::new(number), name)).unwrap().unwrap();
            context.bind(&member).unwrap()
        };
        let bound = (1..).zip(["a", "b"]).map(plug).collect();
        let memory = Arc::new(Scattered {
            hardware: hardware.clone(),
            pins: Mutex::default(),
            left: AtomicU32::new(u32::MAX),
            charged: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
        });
        let ioas = context.ensure_compat_ioas().unwrap();
        let unit = if large_pages == LargePages::Disabled { PAGE_SIZE } else { GRANULE };
        if large_pages == LargePages::Disabled {
            context.compat_set_iommu(Extension::TYPE1).unwrap();
        }
        let space = Space { ram: RAM, ..Space::default() };
        let windows = BTreeMap::new();
        Self {
            unit,
            large_pages,
            hardware,
            memory,
            context,
            ioas,
            bound,
            space,
            windows,
            next_window: 0,
            armed: Cell::new(false),
            _iommu: iommu,
        }
    }

    fn heal(&self) {
        self.armed.set(false);
        self.hardware.left.store(u32::MAX, Ordering::Relaxed);
        self.memory.left.store(u32::MAX, Ordering::Relaxed);
        self.memory.limit.store(u64::MAX, Ordering::Relaxed);
    }

    /// Whether something was to fail, and whether a pin or a map has.
    fn may_fail(&self) -> bool {
        // A countdown that has ended begins anew from its maximum.
        let ended = |left: &AtomicU32| left.load(Ordering::Relaxed) > u32::MAX / 2;
        let armed = self.armed.get();
        (armed && ended(&self.hardware.left) && ended(&self.memory.left))
            || self.memory.limit.load(Ordering::Relaxed) < u64::MAX
    }

    fn arm(&self, left: &AtomicU32, n: u32) {
        self.heal();
        self.armed.set(true);
        left.store(n, Ordering::Relaxed);
    }

    /// Where the new mappings from `first` on come from.
    fn note_windows(&mut self, first: u64, windows: &[(u64, u32)]) {
        for (offset, window) in windows {
            self.windows.insert(first + offset, *window);
        }
    }

    fn play(&mut self, op: &Op) {
        let unit = self.unit;
        let iova = |units: u64| Iova::new(units * unit);
        match *op {
            Op::Map { at, length, from, access } => {
                let (process, addr) = (self.memory.clone(), UserAddr::new(RAM + from * unit));
                let request = MapRequest { iova: Place::Fixed(iova(at)), bytes: length * unit, process, addr, access };
                let mapped = self.context.ioas_map(self.ioas, request).map(Iova::get);
                let part = Mapping { first: 0, bytes: length * unit, from: from * unit, access, most: access };
                let before = self.space.mappings.clone();
                let expected = self.space.map(Some(at * unit), &[part]);
                self.settle(before, mapped.map_err(|error| error.errno()), expected, &[(0, self.next_window)]);
                self.next_window += 1;
            }
            Op::Copy { from, length, at, access } => {
                let request =
                    CopyRequest { from: iova(from), bytes: length * unit, place: Place::Fixed(iova(at)), access };
                let copied = self.context.ioas_copy(self.ioas, self.ioas, request).map(Iova::get);
                let parts = self.space.parts(from * unit, length * unit);
                let window = |part: &Mapping| {
                    let (_, window) = self.windows.range(..=part.first).next_back().unwrap();
                    (part.first - from * unit, *window)
                };
                let windows: Vec<_> = parts.iter().map(window).collect();
                let before = self.space.mappings.clone();
                let expected = self.space.copy(from * unit, length * unit, Some(at * unit), access);
                self.settle(before, copied.map_err(|error| error.errno()), expected, &windows);
            }
            Op::Unmap { at, length } if self.large_pages == LargePages::Disabled => {
                let unmapped = self.context.compat_unmap(iova(at), length * unit).unwrap();
                for edge in [at * unit, (at + length) * unit] {
                    if let Some(window) = self.space.cut(edge).then(|| self.windows.range(..edge).next_back().unwrap())
                    {
                        let window = *window.1;
                        self.windows.insert(edge, window);
                    }
                }
                assert_eq!(unmapped, self.space.unmap(at * unit, length * unit).unwrap_or(0));
            }
            Op::Unmap { at, length } => {
                let unmapped = self.context.ioas_unmap(self.ioas, iova(at), length * unit);
                let expected = self.space.unmap(at * unit, length * unit);
                assert_eq!(unmapped.map_err(|error| error.errno()), expected);
            }
            Op::Attach(device) => {
                if !self.bound[device].is_attached() {
                    let attached = self.bound[device].attach(self.ioas);
                    assert!(attached.is_ok() || self.may_fail(), "{attached:?}");
                    assert_eq!(attached.is_ok(), self.bound[device].is_attached());
                }
            }
            Op::Detach(device) => self.bound[device].detach(),
            Op::FailMap(n) => self.arm(&self.hardware.left, n),
            Op::FailPin(n) => self.arm(&self.memory.left, n),
            Op::Limit(pages) => {
                let limit = self.memory.charged.load(Ordering::Relaxed) + pages;
                self.memory.limit.store(limit, Ordering::Relaxed);
            }
        }
        let first: BTreeSet<u64> = self.space.mappings.iter().map(|mapping| mapping.first).collect();
        self.windows.retain(|at, _| first.contains(at));
    }

    /// A map or a copy was done as expected, or failed on command and has changed nothing.
    fn settle(
        &mut self,
        before: Vec<Mapping>,
        done: Result<u64, Errno>,
        expected: Result<u64, Errno>,
        windows: &[(u64, u32)],
    ) {
        match (done, expected) {
            (Err(_), Ok(_)) if self.may_fail() => self.space.mappings = before,
            (Ok(first), Ok(_)) => {
                assert_eq!(done, expected);
                self.note_windows(first, windows);
            }
            _ => assert_eq!(done, expected),
        }
    }

    fn check(&self) {
        let attached = self.bound.iter().filter(|device| device.is_attached()).count();
        let mut shown = Shown::new();
        let mut pinned = BTreeSet::new();
        for mapping in &self.space.mappings {
            for at in (0..mapping.bytes).step_by(GRANULE as usize) {
                let from = mapping.from + at;
                let to = phys(from / PAGE_SIZE) + from % PAGE_SIZE;
                shown.insert(mapping.first + at, (to, mapping.access.into()));
                pinned.insert((self.windows[&mapping.first], from / PAGE_SIZE));
            }
        }
        let now: Vec<Shown> = self.hardware.shown.lock().values().filter(|shown| !shown.is_empty()).cloned().collect();
        assert_eq!(
            now,
            vec![shown.clone(); if shown.is_empty() { 0 } else { attached }],
            "what {attached} devices reach"
        );
        let mut pins: BTreeMap<u64, u32> = BTreeMap::new();
        if attached > 0 {
            for (_, page) in &pinned {
                *pins.entry(*page).or_default() += 1;
            }
        }
        assert_eq!(*self.memory.pins.lock(), pins, "pins of each page");
        let charged: u32 = pins.values().sum();
        assert_eq!(self.memory.charged.load(Ordering::Relaxed), u64::from(charged), "what is accounted for");
        assert_eq!(*self.hardware.wrong.lock(), Vec::<String>::new());
        if self.large_pages == LargePages::Disabled {
            assert!(self.hardware.largest.load(Ordering::Relaxed) <= PAGE_SIZE, "page by page");
        }
    }
}

fn live(large_pages: LargePages, ops: &[Op]) {
    let mut life = Life::new(large_pages);
    for op in ops {
        life.play(op);
        life.check();
        if !matches!(op, Op::FailMap(_) | Op::FailPin(_) | Op::Limit(_)) {
            life.heal();
        }
    }
    let Life { context, ioas, bound, hardware, memory, .. } = life;
    drop(bound);
    context.destroy(ioas).unwrap();
    assert_eq!((memory.pins.lock().len(), memory.charged.load(Ordering::Relaxed)), (0, 0));
    assert_eq!(hardware.shown.lock().len(), 0);
    assert_eq!(hardware.wrong.lock().len(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_domain_shows_all_and_what_is_shown_is_pinned(ops in prop::collection::vec(op(PAGE_SIZE / GRANULE), 1..40)) {
        live(LargePages::Enabled, &ops);
    }

    #[test]
    fn what_is_cut_stays_where_it_was(ops in prop::collection::vec(op(1), 1..40)) {
        live(LargePages::Disabled, &ops);
    }
}

#[test]
fn what_hardware_does_not_unmap_stays_pinned_with_its_domain() {
    let life = Life::new(LargePages::Enabled);
    life.bound[0].attach(life.ioas).unwrap();
    let map = |page: u64| {
        let (place, process) = (Place::Fixed(Iova::new(page * PAGE_SIZE)), life.memory.clone());
        let addr = UserAddr::new(RAM + page * PAGE_SIZE);
        let request = MapRequest { iova: place, bytes: 2 * PAGE_SIZE, process, addr, access: Access::Read };
        life.context.ioas_map(life.ioas, request).unwrap();
    };
    map(0);
    map(4);
    // The second page of the second mapping.
    life.hardware.stuck_from.store(5 * PAGE_SIZE, Ordering::Relaxed);
    assert_eq!(life.context.ioas_unmap(life.ioas, Iova::new(0), u64::MAX), Ok(4 * PAGE_SIZE));
    assert_eq!(life.memory.pins.lock().keys().copied().collect::<Vec<_>>(), [4, 5]);
    life.bound[0].detach();
    assert_eq!(life.memory.pins.lock().len(), 0);
    assert_eq!(life.hardware.wrong.lock().len(), 1, "the domain ended with a page in it, and nothing else was wrong");
}

#[test]
fn f61_a_mapping_goes_page_by_page_in_every_order() {
    let pages = 0..4_u64;
    let orders =
        pages.clone().flat_map(|one| pages.clone().flat_map(move |two| (0..4).map(move |three| [one, two, three])));
    for order in orders.filter(|[one, two, three]| one != two && two != three && one != three) {
        let mut ops = vec![Op::Map { at: 2, length: 4, from: 1, access: Access::ReadWrite }, Op::Attach(0)];
        ops.extend(order.map(|page| Op::Unmap { at: 2 + page, length: 1 }));
        live(LargePages::Disabled, &ops);
    }
}

#[test]
fn f98c_page_sizes_are_those_that_every_domain_has() {
    let large = 2 << 20;
    for (units, sizes) in [
        ([GRANULE | PAGE_SIZE; 2], [!(PAGE_SIZE - 1), PAGE_SIZE, PAGE_SIZE]),
        ([GRANULE | large, GRANULE | PAGE_SIZE | large], [!(PAGE_SIZE - 1), PAGE_SIZE | large, PAGE_SIZE | large]),
        ([PAGE_SIZE | large, GRANULE | PAGE_SIZE], [!(PAGE_SIZE - 1), PAGE_SIZE | large, PAGE_SIZE]),
        // The second maps smaller pages than the first, and neither the other's.
        ([PAGE_SIZE | large, GRANULE | large], [!(PAGE_SIZE - 1), PAGE_SIZE | large, large]),
        ([PAGE_SIZE, GRANULE], [!(PAGE_SIZE - 1), PAGE_SIZE, PAGE_SIZE]),
    ] {
        let life = Life::on(LargePages::Enabled, units);
        let told = || life.context.compat_info().unwrap().page_sizes;
        let mut now = vec![told()];
        for bound in &life.bound {
            bound.attach(life.ioas).unwrap();
            now.push(told());
        }
        assert_eq!(now, sizes, "{units:#x?}");
    }
}
