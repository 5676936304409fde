//! What the argument was about: the interleavings H8 to H16 and H19, asked of the designs.

use device_model::sync::atomic::Ordering;
use iommu_core::{KernelUse, Owner};

use super::Expected::{Fails, Holds};
use super::{DEVICES, Question, memory, start, won};
use crate::counted::Counted;
use crate::design::{A, B, Design, Kind};
use crate::designs::{
    BEST, COUNTED_ALONE, RELAXED, RELEASE_ACQUIRE, WALK, WALK_BEFORE, WALK_GIVES_BACK, WALK_INSIDE, WALK_PUBLISHED,
    WALK_TWICE,
};
use crate::proposed::Proposed;
use crate::search::Memory;
use crate::stage::{self, Rule};
use crate::user::{claim_device, claim_group};
use crate::walk::Walk;

pub(super) fn questions() -> Vec<Question> {
    vec![
        Question::new("freed-driver", "Does a claim read a driver whose module has been freed?", "H8")
            .counted(freed_driver)
            .walk(Fails, WALK, freed_driver),
        Question::new("not-yet", "Is a claim refused because of a driver that has no right to DMA yet?", "H9, Lt4.1")
            .counted(bind_and_claim)
            .walk(Fails, WALK, bind_and_claim)
            .walk(Holds, WALK_BEFORE, bind_and_claim)
            .run(BEST.0, Holds, || bind_and_claim(&owned_through_c())),
        Question::new(
            "no-winner",
            "Can a bind and a claim refuse each other, so that nobody has the group?",
            "H10, L40",
        )
        .counted(one_winner)
        .walk(Holds, WALK, one_winner)
        .walk(Fails, WALK_PUBLISHED, one_winner)
        .run(BEST.0, Holds, || one_winner(&owned_through_c())),
        Question::new("no-more", "Is a claim refused because of a driver whose DMA has ended?", "H11, Lt4.5")
            .counted(unbind_and_claim)
            .walk(Fails, WALK, unbind_and_claim)
            .proposed(Fails, BEST, unbind_and_claim),
        Question::new("other-driver", "Does the answer to a claim hang on when a driver was looked at?", "H12")
            .ships(|| replaced_driver(&Counted::new(), None))
            .run(WALK_TWICE.0, Fails, || replaced_driver(&Walk::new(WALK_TWICE.1), Some(Rule::JustRefusal))),
        Question::new("never-released", "Is the group kept after the only claim was released?", "H13")
            .counted(bound_but_not_claimed)
            .walk(Fails, WALK_GIVES_BACK, bound_but_not_claimed),
        Question::new("nesting", "Does the release of one claim take the group from another claim?", "H13, H14, I25")
            .counted(nested_claims)
            .walk(Fails, WALK, nested_claims),
        Question::new("lock-inside", "Can a bind and a claim deadlock?", "H15, L33")
            .counted(bind_and_claim_only)
            .walk(Fails, WALK_INSIDE, bind_and_claim_only)
            .run(BEST.0, Holds, || bind_and_claim_only(&owned_through_c())),
        Question::new("lock-before", "Can an unbind that waits for a user and the user's claim deadlock?", "H16, L35")
            .counted(waiting_unbind)
            .walk(Holds, WALK, waiting_unbind)
            .walk(Fails, WALK_BEFORE, waiting_unbind)
            .proposed(Holds, BEST, waiting_unbind),
        Question::new("false-free", "Do kernel DMA and user space ever have the group at once?", "H19, I4")
            .counted(false_free)
            .walk(Holds, WALK, false_free)
            .walk(Holds, WALK_BEFORE, false_free)
            .walk(Holds, WALK_PUBLISHED, false_free)
            .run(BEST.0, Holds, || false_free(&owned_through_c())),
        Question::new("search", "Does the search miss an outcome because it leaves orders out?", "L40")
            .compared(Memory::Sequential, COUNTED_ALONE, uses_and_claims)
            .compared(Memory::Sequential, BEST.0, || one_winner(&Proposed::new(BEST.1)))
            .compared(Memory::Weak, RELAXED, || memory::store_buffering(Ordering::Relaxed))
            .compared(Memory::Weak, RELEASE_ACQUIRE, || memory::message(Ordering::AcqRel)),
    ]
}

/// The owner is known by the driver of a device, so there must be one: C has it.
fn owned_through_c() -> Proposed {
    let proposed = Proposed::with(BEST.1, &DEVICES);
    proposed.bind(Kind::Managed, "C");
    proposed
}

fn freed_driver<D: Design>(design: &D) -> String {
    stage::tolerate(Rule::JustRefusal);
    design.bind(Kind::Kernel, A);
    let unload = start(design, "rmmod nic", move |unloader| unloader.unload(Kind::Kernel));
    let claim = start(design, "claim by X", move |claimer| claim_group(claimer, "X").is_some());
    unload.join();
    won("claim", claim.join())
}

/// A bind and a claim, each for itself; with all rules.
fn bind_and_claim<D: Design>(design: &D) -> String {
    let bind = start(design, "bind nic to A", move |binder| binder.bind(Kind::Kernel, A));
    let claim = start(design, "claim by X", move |claimer| claim_group(claimer, "X"));
    let (bound, claim) = (bind.join(), claim.join());
    format!("{}, {}", won("bind", bound), won("claim", claim.is_some()))
}

fn bind_and_claim_only<D: Design>(design: &D) -> String {
    stage::tolerate(Rule::JustRefusal);
    bind_and_claim(design)
}

fn one_winner<D: Design>(design: &D) -> String {
    stage::tolerate(Rule::JustRefusal);
    let bind = start(design, "bind nic to A", move |binder| binder.bind(Kind::Kernel, A));
    let claim = start(design, "claim by X", move |claimer| claim_group(claimer, "X"));
    let (bound, claim) = (bind.join(), claim.join());
    stage::must(bound || claim.is_some(), "bind and claim have refused each other: nobody has the group");
    stage::must(!(bound && claim.is_some()), "bind and claim have both succeeded");
    format!("{}, {}", won("bind", bound), won("claim", claim.is_some()))
}

fn unbind_and_claim<D: Design>(design: &D) -> String {
    design.bind(Kind::Kernel, A);
    let unbind = start(design, "unbind nic from A", move |unbinder| unbinder.unbind(Kind::Kernel, A));
    let claim = start(design, "claim by X", move |claimer| claim_group(claimer, "X").is_some());
    unbind.join();
    won("claim", claim.join())
}

fn replaced_driver<D: Design>(design: &D, tolerated: Option<Rule>) -> String {
    tolerated.into_iter().for_each(stage::tolerate);
    design.bind(Kind::Kernel, A);
    let rebind = start(design, "nic to vfio-pci", move |binder| {
        binder.unbind(Kind::Kernel, A);
        binder.bind(Kind::Managed, A)
    });
    let claim = start(design, "claim by X", move |claimer| claim_group(claimer, "X").is_some());
    format!("{}, {}", won("bind", rebind.join()), won("claim", claim.join()))
}

fn bound_but_not_claimed<D: Design>(design: &D) -> String {
    design.bind(Kind::Managed, A);
    let bind = start(design, "bind vfio-pci to B", move |binder| binder.bind(Kind::Managed, B));
    let user = start(design, "X: claim A, release", move |user| claim_device(user, "X", A).is_some());
    bind.join();
    let claimed = user.join();
    stage::curtain();
    won("claim", claimed)
}

fn nested_claims<D: Design>(design: &D) -> String {
    for device in [A, B] {
        design.bind(Kind::Managed, device);
    }
    let users = [("X: claim A, release", A), ("X: claim B, release", B)]
        .map(|(title, device)| start(design, title, move |user| claim_device(user, "X", device).is_some()));
    let claims = users.map(stage::Thread::join);
    stage::curtain();
    format!("{}, {}", won("A", claims[0]), won("B", claims[1]))
}

fn waiting_unbind<D: Design>(design: &D) -> String {
    design.bind(Kind::Managed, A);
    let open = design.open(A);
    let unbind = start(design, "unbind vfio-pci", move |unbinder| unbinder.unbind(Kind::Managed, A));
    let user = start(design, "user of A", move |user| {
        let claimed = claim_device(user, "X", A).is_some();
        stage::step("closes A");
        drop(open);
        claimed
    });
    unbind.join();
    let claimed = user.join();
    stage::curtain();
    won("claim", claimed)
}

fn false_free<D: Design>(design: &D) -> String {
    stage::tolerate(Rule::JustRefusal);
    let binds = [("bind nic to A", A), ("bind nic to B", B)]
        .map(|(title, device)| start(design, title, move |binder| binder.bind(Kind::Kernel, device)));
    let claim = start(design, "claim by X", move |claimer| claim_group(claimer, "X"));
    let binds = binds.map(stage::Thread::join);
    let claim = claim.join();
    stage::must(!(claim.is_some() && (binds[0] || binds[1])), "a bind and the claim have both succeeded");
    format!("{}, {}, {}", won("A", binds[0]), won("B", binds[1]), won("claim", claim.is_some()))
}

/// Small enough to be played in every order: the shipping code, without a driver core around it.
fn uses_and_claims() -> String {
    let counted = Counted::new();
    let [Some(a), Some(b)] = [A, B].map(|device| counted.member(device).cloned()) else { return "no group".to_owned() };
    let user = stage::thread("use of A", move || {
        let begun = KernelUse::begin(a, &Kind::Kernel.name().into()).inspect(|_| stage::dma_begins(A, "nic"));
        let used = begun.is_ok();
        drop(begun);
        stage::dma_ends(A);
        used
    });
    let owner = Owner::new("X");
    let claim = stage::thread("claim of B", move || {
        let (first, again) = (b.claim(&owner), b.claim(&owner));
        format!("{}, {}", won("claim", first.is_ok()), won("another", again.is_ok()))
    });
    format!("{}, {}", won("use", user.join()), claim.join())
}
