//! Random lives of address spaces against a map of every page.

use std::collections::BTreeMap;
use std::sync::Arc;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::sync::Mutex;
use iommu_core::{Access, Iova};
use iommufd_owner::{AccessPins, BoundDevice, Context, CopyRequest, IoasAccess, ObjectId, Place};
use proptest::prelude::*;

use crate::rig::{Fails, PAGES, Rig};

const SPACES: usize = 2;
const DEVICES: usize = 3;
/// Pages of an I/O address space that are played with.
const SPACE: u64 = 20;

#[derive(Debug, Clone)]
enum Op {
    Map {
        space: usize,
        at: u64,
        pages: u64,
        from: u64,
    },
    MapAnywhere {
        space: usize,
        pages: u64,
        from: u64,
    },
    Unmap {
        space: usize,
        at: u64,
        pages: u64,
    },
    Copy {
        to: usize,
        source: usize,
        from: u64,
        pages: u64,
        at: u64,
    },
    Allow {
        space: usize,
        ranges: Vec<(u64, u64)>,
    },
    Bind {
        device: usize,
    },
    Unbind {
        device: usize,
    },
    Attach {
        device: usize,
        space: usize,
    },
    Detach {
        device: usize,
    },
    /// Attaches to a page table made by hand.
    AttachByHand {
        device: usize,
        space: usize,
    },
    /// Destroys the page tables made by hand that nobody uses.
    DestroyUnused,
    /// An access pins; it lets go when asked.
    Pin {
        space: usize,
        at: u64,
        pages: u64,
    },
    LetGo,
    Fail {
        what: Fails,
        n: u32,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (space, device) = (0..SPACES, 0..DEVICES);
    let pages = 1..5_u64;
    prop_oneof![
        6 => (space.clone(), 0..SPACE, pages.clone(), 0..PAGES - 4)
            .prop_map(|(space, at, pages, from)| Op::Map { space, at, pages, from }),
        2 => (space.clone(), pages.clone(), 0..PAGES - 4)
            .prop_map(|(space, pages, from)| Op::MapAnywhere { space, pages, from }),
        4 => (space.clone(), 0..SPACE, 1..8_u64).prop_map(|(space, at, pages)| Op::Unmap { space, at, pages }),
        3 => (space.clone(), space.clone(), 0..SPACE, pages, 0..SPACE)
            .prop_map(|(to, source, from, pages, at)| Op::Copy { to, source, from, pages, at }),
        1 => (space.clone(), prop::collection::vec((0..SPACE, 0..6_u64), 0..2))
            .prop_map(|(space, ranges)| Op::Allow { space, ranges }),
        4 => device.clone().prop_map(|device| Op::Bind { device }),
        1 => device.clone().prop_map(|device| Op::Unbind { device }),
        5 => (device.clone(), space.clone()).prop_map(|(device, space)| Op::Attach { device, space }),
        2 => device.clone().prop_map(|device| Op::Detach { device }),
        2 => (device, space.clone()).prop_map(|(device, space)| Op::AttachByHand { device, space }),
        1 => Just(Op::DestroyUnused),
        2 => (space, 0..SPACE, 1..4_u64).prop_map(|(space, at, pages)| Op::Pin { space, at, pages }),
        1 => Just(Op::LetGo),
        2 => (prop::sample::select(vec![Fails::Hardware, Fails::Pin]), 0..8_u32)
            .prop_map(|(what, n)| Op::Fail { what, n }),
    ]
}

/// An address space as it should be.
#[derive(Default)]
struct Reference {
    /// Memory page (from 1) of each mapped page, and the first page of its area.
    pages: BTreeMap<u64, (u64, u64)>,
    /// How many pages each area has, by its first.
    areas: BTreeMap<u64, u64>,
}

impl Reference {
    fn map(&mut self, at: u64, pages: u64, from: u64) {
        assert!(self.areas.insert(at, pages).is_none());
        for page in 0..pages {
            assert!(self.pages.insert(at + page, (from + page + 1, at)).is_none(), "mapped twice");
        }
    }

    /// F21: areas go in ascending order until one sticks out.
    fn unmap(&mut self, at: u64, pages: u64) -> Option<u64> {
        let mut bytes = 0;
        let hit: Vec<_> = self.areas.range(..at + pages).map(|(first, length)| (*first, *length)).collect();
        for (first, length) in hit.into_iter().filter(|(first, length)| first + length > at) {
            if first < at || first + length > at + pages {
                return None;
            }
            self.areas.remove(&first);
            for page in first..first + length {
                self.pages.remove(&page);
            }
            bytes += length;
        }
        (bytes > 0).then_some(bytes)
    }
}

struct Life {
    rig: Rig,
    context: Context,
    spaces: [ObjectId; SPACES],
    references: [Reference; SPACES],
    bound: [Option<BoundDevice>; DEVICES],
    /// The address space that each device is attached to.
    attached: [Option<usize>; DEVICES],
    by_hand: Vec<ObjectId>,
    accesses: [IoasAccess; SPACES],
    /// What the accesses have pinned.
    pins: Arc<Mutex<Vec<AccessPins>>>,
}

/// Devices 0 and 1 are of one group.
fn group(device: usize) -> usize {
    device / 2
}

impl Life {
    fn new() -> Self {
        let rig = Rig::new(&["a1", "a2", "b1"]);
        let context = rig.context("vmm");
        let spaces = [(); SPACES].map(|()| context.ioas_alloc().unwrap());
        let pins: Arc<Mutex<Vec<AccessPins>>> = Arc::default();
        let accesses = spaces.map(|space| {
            let pins = pins.clone();
            let access = context.access(move |_| {
                let pins = std::mem::take(&mut *pins.lock());
                drop(pins);
            });
            let access = access.unwrap();
            access.attach(space).unwrap();
            access
        });
        Self {
            rig,
            context,
            spaces,
            references: Default::default(),
            bound: Default::default(),
            attached: Default::default(),
            by_hand: Vec::new(),
            accesses,
            pins,
        }
    }

    /// Attaches a device, or moves it with its group.
    fn attach(&mut self, device: usize, to: ObjectId, space: usize) -> Result<(), String> {
        let bound = self.bound[device].as_ref().ok_or("not bound")?;
        if self.attached[device].is_some() {
            bound.replace(to).map_err(|error| error.to_string())?;
            for other in (0..DEVICES).filter(|other| group(*other) == group(device)) {
                self.attached[other] = self.attached[other].map(|_| space);
            }
        } else {
            bound.attach(to).map_err(|error| error.to_string())?;
            self.attached[device] = Some(space);
        }
        Ok(())
    }

    /// The address space that a group is attached to.
    fn space_of(&self, group_number: usize) -> Option<usize> {
        (0..DEVICES).filter(|device| group(*device) == group_number).find_map(|device| self.attached[device])
    }

    /// Plays one step; whether it was refused.
    fn play(&mut self, op: &Op) -> Result<(), String> {
        match *op {
            Op::Map { space, at, pages, from } => {
                let mapped = self.rig.map(&self.context, self.spaces[space], at, pages, from);
                mapped.map_err(|errno| errno.to_string())?;
                self.references[space].map(at, pages, from);
            }
            Op::MapAnywhere { space, pages, from } => {
                let request = self.rig.request(Place::Anywhere, pages, from);
                let iova = self.context.ioas_map(self.spaces[space], request).map_err(|error| error.to_string())?;
                self.references[space].map(iova.get() / PAGE_SIZE, pages, from);
            }
            Op::Unmap { space, at, pages } => {
                // What hardware refuses to unmap is still reached: no failure, and told apart elsewhere.
                self.rig.heal();
                let bytes = pages * PAGE_SIZE;
                let unmapped = self.context.ioas_unmap(self.spaces[space], Iova::new(at * PAGE_SIZE), bytes).ok();
                let expected = self.references[space].unmap(at, pages);
                assert_eq!(unmapped, expected.map(|pages| pages * PAGE_SIZE));
            }
            Op::Copy { to, source, from, pages, at } => self.copy(to, source, from, pages, at)?,
            Op::Allow { space, ref ranges } => {
                let ranges: Vec<_> = ranges
                    .iter()
                    .map(|(first, more)| (first * PAGE_SIZE, (first + more + 1) * PAGE_SIZE - 1))
                    .map(|(first, last)| (Iova::new(first), Iova::new(last)))
                    .collect();
                let allowed = self.context.ioas_allow_iovas(self.spaces[space], &ranges);
                allowed.map_err(|error| error.to_string())?;
            }
            Op::Bind { device } => {
                if self.bound[device].is_none() {
                    let bound = self.context.bind(&self.rig.members[device]).map_err(|error| error.to_string())?;
                    self.bound[device] = Some(bound);
                }
            }
            Op::Unbind { device } => {
                self.bound[device] = None;
                self.attached[device] = None;
            }
            Op::Attach { device, space } => self.attach(device, self.spaces[space], space)?,
            Op::AttachByHand { device, space } => {
                let id = self.bound[device].as_ref().ok_or("not bound")?.id();
                let hwpt = self.context.hwpt_alloc(id, self.spaces[space]).map_err(|error| error.to_string())?;
                if let Err(error) = self.attach(device, hwpt, space) {
                    self.context.destroy(hwpt).unwrap();
                    return Err(error);
                }
                self.by_hand.push(hwpt);
            }
            Op::DestroyUnused => self.by_hand.retain(|hwpt| self.context.destroy(*hwpt).is_err()),
            Op::Pin { space, at, pages } => {
                let (iova, bytes) = (Iova::new(at * PAGE_SIZE), pages * PAGE_SIZE);
                let pins = self.accesses[space].pin(iova, bytes, Access::Read).map_err(|error| error.to_string())?;
                let memory: Vec<_> = (at..at + pages).map(|page| self.references[space].pages[&page].0).collect();
                let runs: u64 = pins.runs().iter().map(|run| run.bytes).sum();
                assert_eq!(runs, memory.len() as u64 * PAGE_SIZE);
                self.pins.lock().push(pins);
            }
            Op::LetGo => {
                let pins = std::mem::take(&mut *self.pins.lock());
                drop(pins);
            }
            Op::Detach { device } => {
                if let Some(bound) = &self.bound[device] {
                    bound.detach();
                    self.attached[device] = None;
                }
            }
            Op::Fail { what, n } => {
                // One at a time: a roll-back that fails as well stops the device, which is a change.
                self.rig.heal();
                self.rig.fail(what, n);
            }
        }
        Ok(())
    }

    fn copy(&mut self, to: usize, source: usize, from: u64, pages: u64, at: u64) -> Result<(), String> {
        let place = Place::Fixed(Iova::new(at * PAGE_SIZE));
        let (first, bytes) = (Iova::new(from * PAGE_SIZE), pages * PAGE_SIZE);
        let request = CopyRequest { from: first, bytes, place, access: Access::ReadWrite };
        let copied = self.context.ioas_copy(self.spaces[to], self.spaces[source], request);
        copied.map_err(|error| error.to_string())?;
        let pieces: Vec<(u64, u64)> = (from..from + pages).map(|page| self.references[source].pages[&page]).collect();
        let mut begin = 0;
        for end in 1..=pieces.len() {
            // One area for each area of the source.
            if end == pieces.len() || pieces[end].1 != pieces[begin].1 {
                let memory = pieces[begin].0 - 1;
                self.references[to].map(at + begin as u64, (end - begin) as u64, memory);
                begin = end;
            }
        }
        Ok(())
    }

    fn check(&self) {
        for device in 0..DEVICES {
            let space = self.space_of(group(device));
            for page in 0..SPACE + 4 {
                let expected =
                    space.and_then(|space| self.references[space].pages.get(&page)).map(|(memory, _)| *memory);
                assert_eq!(self.rig.reaches(device, page), expected, "device {device} at page {page}");
            }
            let owned = (0..DEVICES).any(|other| group(other) == group(device) && self.bound[other].is_some());
            assert_eq!(self.rig.members[device].group().ownership().is_held(), owned);
        }
        let unused = self.by_hand.is_empty() && self.pins.lock().is_empty();
        if unused && self.attached.iter().all(Option::is_none) {
            assert_eq!((self.rig.process.pinned(), self.rig.locked.pages()), (0, 0));
        }
        assert_eq!(self.rig.process.pinned(), self.rig.locked.pages(), "accounted once for each pin");
    }
}

/// Whether a step changed nothing that can be seen, but that a device which an earlier failure stopped may be back.
fn unchanged(before: &str, after: &str) -> bool {
    let [was, is] = [before, after].map(|picture| picture.replace("Stopped", "Attached"));
    let stopped = |picture: &str| picture.matches("Stopped").count();
    was == is && stopped(after) <= stopped(before)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_device_reaches_what_its_address_space_maps(ops in prop::collection::vec(op(), 1..60)) {
        let mut life = Life::new();
        for op in &ops {
            let before = life.rig.picture();
            if let Err(refusal) = life.play(op) {
                let after = life.rig.picture();
                prop_assert!(unchanged(&before, &after), "{op:?} was refused: {refusal}\n{before}\n{after}");
            }
            life.check();
            if !matches!(op, Op::Fail { .. }) {
                life.rig.heal();
            }
        }
        let Life { rig, context, spaces, bound, accesses, by_hand, .. } = life;
        drop((bound, accesses));
        for hwpt in by_hand {
            prop_assert_eq!(context.destroy(hwpt), Ok(()));
        }
        for ioas in spaces {
            prop_assert_eq!(context.destroy(ioas), Ok(()));
        }
        drop(context);
        rig.assert_idle();
    }
}
