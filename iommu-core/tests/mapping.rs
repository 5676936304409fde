//! Mapping memory that lies in several pieces: all or nothing, in the largest pages that fit.
#![cfg(not(shuttle))]
#![expect(clippy::unwrap_used, reason = "what a test takes for granted may fail it")]

#[cfg(not(feature = "std"))]
dma_locks::provide!(dma_locks::Spinning);

use std::collections::BTreeMap;
use std::sync::Arc;

use iommu_core::address::PhysRun;
use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::failing::{FailingIommu, Operation};
use iommu_core::hardware::{Endpoint, HardwareError, IommuDriver, PagingFlags};
use iommu_core::software::{SoftIommu, SoftIommuConfig};
use iommu_core::{
    Access, Claim, Domain, DomainKind, IommuSubsystem, Iova, IovaRange, MapError, Member, Owner, PhysAddr,
    PhysicalMemory, Protection, generic_device_group,
};
use proptest::prelude::*;

const PAGE: u64 = 0x1000;
const LARGE_PAGES: u64 = 512;
/// The first page beyond the aperture.
const END: u64 = (1 << 39) / PAGE;

/// A domain for user space, and the right to map into it.
struct World {
    domain: Arc<Domain>,
    right: PhysicalMemory,
    _claim: Claim,
    member: Arc<Member>,
    _subsystem: IommuSubsystem,
}

impl World {
    fn of(driver: Arc<dyn IommuDriver>) -> Self {
        let placement = move |_: &Endpoint| Some(generic_device_group(&driver));
        let (subsystem, right) = IommuSubsystem::builder(placement).build();
        let member = subsystem.add_device(&Endpoint::new(DeviceId::new(1), "dev1")).unwrap().unwrap();
        let claim = member.claim(&Owner::new("vm")).unwrap();
        let domain = claim.group().allocate_for_user(PagingFlags::empty(), None).unwrap();
        claim.attach(&domain).unwrap();
        Self { domain, right, _claim: claim, member, _subsystem: subsystem }
    }

    fn soft() -> Arc<SoftIommu> {
        SoftIommu::new("soft", SoftIommuConfig { interrupt_window: None, ..SoftIommuConfig::default() })
    }

    /// Maps pieces of so many bytes at byte addresses.
    fn map_sg(&self, at: u64, pieces: &[(u64, u64)]) -> Result<(), MapError> {
        let pieces = pieces.iter().map(|(phys, bytes)| PhysRun { phys: PhysAddr::new(*phys), bytes: *bytes });
        self.domain.map_sg(&self.right, Iova::new(at), pieces, Access::ReadWrite)
    }

    /// Which of these pages are mapped, and to which frames.
    fn mapped(&self, pages: impl Iterator<Item = u64>) -> BTreeMap<u64, u64> {
        let leads_to = |page: u64| Some((page, self.domain.iova_to_phys(Iova::new(page * PAGE))?.get() / PAGE));
        pages.filter_map(leads_to).collect()
    }
}

/// So many pieces of a page each that do not touch.
fn apart(count: u64) -> Vec<(u64, u64)> {
    (0..count).map(|n| ((1000 - 2 * n) * PAGE, PAGE)).collect()
}

fn refusal() -> HardwareError {
    HardwareError::new(Errno::ENOMEM, "told to fail")
}

/// Frames and pages of a piece.
fn piece() -> impl Strategy<Value = (u64, u64)> {
    // More than a batch takes of those that do not touch, and of those that do.
    prop_oneof![4 => (0..64_u64, 1..3_u64), 1 => (0..2_u64, 500..600_u64)]
}

proptest! {
    /// Against a map of pages: at an end of the aperture or where a large page begins, with something in the way or not.
    #[test]
    fn pieces_lie_one_behind_the_other_or_nowhere(
        at in prop::sample::select(vec![0, 500, LARGE_PAGES, END - 300]),
        pieces in prop::collection::vec(piece(), 1..100),
        in_the_way in prop::option::of(0..300_u64),
        is_wrapped: bool,
    ) {
        let soft = World::soft();
        let world = World::of(if is_wrapped { FailingIommu::new(soft) } else { soft });
        let mut model = BTreeMap::new();
        if let Some(page) = in_the_way {
            world.map_sg((at + page) * PAGE, &[(PAGE, PAGE)]).unwrap();
            model.insert(at + page, 1);
        }
        let new: BTreeMap<u64, u64> = (at..).zip(pieces.iter().flat_map(|(frame, count)| *frame..frame + count)).collect();
        let pieces: Vec<_> = pieces.iter().map(|(frame, count)| (frame * PAGE, count * PAGE)).collect();
        let mapped = world.map_sg(at * PAGE, &pieces);
        let collides = in_the_way.is_some_and(|page| new.contains_key(&(at + page)));
        let leaves = new.keys().any(|page| *page >= END);
        match mapped {
            Ok(()) => {
                prop_assert!(!collides && !leaves);
                model.extend(&new);
            }
            Err(MapError::BeyondAperture { .. }) => prop_assert!(leaves),
            Err(error) => prop_assert_eq!((error.errno(), collides), (Errno::EEXIST, true)),
        }
        let end = at + 300.max(new.len() as u64);
        prop_assert_eq!(world.mapped(at.saturating_sub(2)..end), model);
    }
}

/// Pieces that touch are one: a large page lies across 512 small ones.
#[test]
fn pieces_that_touch_share_large_pages() {
    let world = World::of(World::soft());
    let small: Vec<_> = (0..LARGE_PAGES).map(|n| ((LARGE_PAGES + n) * PAGE, PAGE)).collect();
    world.map_sg(LARGE_PAGES * PAGE, &small).unwrap();
    assert_eq!(world.domain.unmap(Iova::new(LARGE_PAGES * PAGE), PAGE).unwrap(), LARGE_PAGES * PAGE);
    // Two pieces before it and behind it, none of which is large.
    let halves = [(0, LARGE_PAGES / 2), (LARGE_PAGES / 2, LARGE_PAGES), (3 * LARGE_PAGES / 2, LARGE_PAGES / 2)];
    world.map_sg(0, &halves.map(|(frame, pages)| (frame * PAGE, pages * PAGE))).unwrap();
    for at in [0, LARGE_PAGES] {
        assert_eq!(world.domain.unmap(Iova::new(at * PAGE), PAGE).unwrap(), LARGE_PAGES * PAGE);
    }
}

#[test]
fn arguments_are_checked_piece_by_piece() {
    let world = World::of(World::soft());
    let refused = |at, pieces: &[(u64, u64)]| {
        let error = world.map_sg(at, pieces).unwrap_err();
        assert_eq!((world.mapped((0..100).chain(END - 2..END)), error.errno()), (BTreeMap::new(), Errno::EINVAL));
        error
    };
    let misaligned = MapError::Misaligned { granule: PAGE };
    let beyond = MapError::BeyondAperture { first: Iova::new(0), last: Iova::new(END * PAGE - 1) };
    let mut many = apart(80);
    for wrong in [(PAGE, 0), (PAGE, 1), (1, PAGE), (PAGE + 1, PAGE - 1)] {
        assert_eq!(refused(0, &[wrong]), misaligned);
        many.push(wrong);
        assert_eq!(refused(0, &many), misaligned, "behind pieces that were mapped already");
        many.pop();
    }
    assert_eq!(refused(0, &[]), misaligned);
    assert_eq!(refused(1, &[(0, PAGE)]), misaligned);
    assert_eq!(refused(END * PAGE, &[(0, PAGE)]), beyond);
    assert_eq!(refused((END - 2) * PAGE, &apart(3)), beyond);
    assert_eq!(refused(0, &[(0, PAGE), (PAGE, (END - 1) * PAGE), (END * PAGE, PAGE)]), beyond);
    assert_eq!(refused(0, &[(0, PAGE), (0_u64.wrapping_sub(PAGE), 2 * PAGE)]), beyond, "the memory wraps");
    world.map_sg(0, &[(0_u64.wrapping_sub(PAGE), PAGE), (0, PAGE)]).unwrap();
    assert_eq!(world.mapped(0..3), BTreeMap::from([(0, u64::MAX / PAGE), (1, 0)]), "the last page, then the first");

    let run = PhysRun { phys: PhysAddr::new(0), bytes: PAGE };
    let no_access = world.domain.map_sg(&world.right, Iova::new(8 * PAGE), [run], Protection::NOEXEC);
    assert_eq!(no_access, Err(MapError::NoAccess));
    let stranger = World::of(World::soft());
    let no_right = world.domain.map_sg(&stranger.right, Iova::new(8 * PAGE), [run], Access::Read);
    assert_eq!(no_right, Err(MapError::NoRight));
    let identity = stranger.member.group().default_domain().unwrap();
    let mapped = identity.map_sg(&stranger.right, Iova::new(8 * PAGE), [run], Access::Read);
    assert_eq!(mapped.is_ok(), identity.kind() != DomainKind::Identity);
}

/// Wherever hardware refuses, in the middle of a batch or in a later one, nothing stays mapped; unless it refuses that as well:
/// then the error says what devices may reach.
#[test]
fn a_refusal_anywhere_is_undone_or_told() {
    const PIECES: u64 = 70;
    for refused in 0..PIECES {
        for undo in [None, Some(Operation::Unmap), Some(Operation::Flush)] {
            let failing = FailingIommu::new(World::soft());
            let world = World::of(failing.clone());
            failing.fail_nth(u32::try_from(refused).unwrap(), refusal());
            if let Some(undo) = undo {
                failing.refuse(undo);
            }
            let error = world.map_sg(PAGE, &apart(PIECES)).unwrap_err();
            if undo.is_none() || refused == 0 {
                assert_eq!(error, MapError::Hardware(refusal()), "nothing is left to undo");
            } else {
                let MapError::Reachable { range, cause } = error else { panic!("{error}") };
                assert_eq!(cause, refusal());
                assert!(range.covers(IovaRange::sized(Iova::new(PAGE), refused * PAGE).unwrap()), "{range}");
            }
            let left = if undo == Some(Operation::Unmap) { refused } else { 0 };
            assert_eq!(world.mapped(0..PIECES + 2).len() as u64, left);
        }
    }
}

/// A bad piece is told by its errno if what was mapped before it cannot be undone.
#[test]
fn a_bad_piece_behind_what_stays_mapped() {
    let failing = FailingIommu::new(World::soft());
    let world = World::of(failing.clone());
    failing.refuse(Operation::Unmap);
    let mut pieces = apart(40);
    pieces.push((0, 1));
    let error = world.map_sg(0, &pieces).unwrap_err();
    assert!(matches!(&error, MapError::Reachable { cause, .. } if cause.errno == Errno::EINVAL), "{error}");
}
