//! The defence of the walk at the release, case by case (H25): while the driver of `A` goes, its hook sees a sibling `B`
//! in some state. And what the table of H26 says.
//!
//! `C`, where there is one, is bound to vfio-pci for whoever claims.

use super::Expected::{Fails, Holds};
use super::{DEVICES, Question, bind, start, unbind, won};
use crate::counted::Counted;
use crate::design::{A, B, Design, Kind};
use crate::designs::{BEFORE, BEST, CALLERS, CLAIMS_WALK, CLEANUP, NOTIFIER, NOTIFIER_6_12};
use crate::proposed::Proposed;
use crate::stage::{self, Rule};
use crate::user::{claim_device, claim_group};

const C: &str = "C";

pub(super) fn questions() -> Vec<Question> {
    vec![
        Question::new("case-1a", "B has a kernel driver: is the group released under it?", "H25 1.a")
            .counted(sibling_bound)
            .proposed(Holds, BEST, sibling_bound),
        Question::new("case-1b", "B's driver owns the group: does A's going end a claim?", "H25 1.b")
            .counted(sibling_owns)
            .proposed(Holds, BEST, sibling_owns)
            .proposed(Holds, CALLERS, sibling_owns),
        Question::new("case-1c", "B has another user-space driver: is the owner kept because of it?", "H25 1.c")
            .counted(sibling_has_another_driver)
            .proposed(Holds, BEST, sibling_has_another_driver),
        Question::new(
            "case-2a",
            "B is being bound to a kernel driver: do two parties get in, or is the owner kept?",
            "H25 2.a.i, H26 row 4",
        )
        .ships(|| sibling_binds(&Counted::with(&DEVICES)))
        .run(BEST.0, Holds, || sibling_binds(&Proposed::with(BEST.1, &DEVICES)))
        .run(NOTIFIER.0, Holds, || sibling_binds(&Proposed::with(NOTIFIER.1, &DEVICES)))
        .run(BEFORE.0, Holds, || sibling_binds(&Proposed::with(BEFORE.1, &DEVICES))),
        Question::new(
            "case-2a-early",
            "B's bind fails before it asks for the group: is the owner kept for ever?",
            "H26 row 2",
        )
        .counted(sibling_fails_early)
        .proposed(Holds, BEST, sibling_fails_early)
        .proposed(Fails, NOTIFIER, sibling_fails_early)
        .proposed(Fails, NOTIFIER_6_12, sibling_fails_early)
        .proposed(Fails, BEFORE, sibling_fails_early)
        .proposed(Fails, CLEANUP, sibling_fails_early),
        Question::new("case-2a-probe", "B's bind fails in its probe: is the owner kept for ever?", "H26 row 3")
            .counted(sibling_fails_to_probe)
            .proposed(Holds, BEST, sibling_fails_to_probe)
            .proposed(Holds, NOTIFIER, sibling_fails_to_probe)
            .proposed(Fails, NOTIFIER_6_12, sibling_fails_to_probe)
            .proposed(Fails, BEFORE, sibling_fails_to_probe),
        Question::new(
            "case-2a-owned",
            "User space lets go while B is being bound: is B refused for ever?",
            "H25 2.a.ii",
        )
        .counted(sibling_binds_in_owned_group)
        .proposed(Holds, BEST, sibling_binds_in_owned_group),
        Question::new("case-2b", "B is being bound to a user-space driver: is the owner kept?", "H25 2.b")
            .counted(sibling_binds_to_vfio)
            .proposed(Holds, BEST, sibling_binds_to_vfio)
            .proposed(Holds, NOTIFIER, sibling_binds_to_vfio),
        Question::new(
            "case-2b-owned",
            "User space lets go of A while B is being bound to the same driver: is the owner kept?",
            "H25 2.b, H13",
        )
        .counted(sibling_binds_to_the_owner)
        .proposed(Holds, BEST, sibling_binds_to_the_owner)
        .proposed(Fails, CLAIMS_WALK, sibling_binds_to_the_owner),
        Question::new("case-3", "B has no driver: is the owner kept?", "H25 3")
            .counted(sibling_unbound)
            .proposed(Holds, BEST, sibling_unbound)
            .proposed(Holds, BEFORE, sibling_unbound),
        Question::new(
            "case-4a",
            "B is being unbound from a kernel driver, too: is the owner kept for ever?",
            "H25 4.a.i, H26 row 1",
        )
        .counted(sibling_unbinds)
        .proposed(Holds, BEST, sibling_unbinds)
        .proposed(Holds, NOTIFIER, sibling_unbinds)
        .proposed(Holds, NOTIFIER_6_12, sibling_unbinds)
        .proposed(Fails, BEFORE, sibling_unbinds),
        Question::new(
            "case-4a-claim",
            "A claim comes before B's own walk: does that walk take the group from it?",
            "H25 4.a.i",
        )
        .counted(claim_before_the_second_walk)
        .proposed(Holds, BEST, claim_before_the_second_walk),
        Question::new("case-4a-vfio", "B is being unbound from a user-space driver: is the owner kept?", "H25 4.a.ii")
            .counted(sibling_unbinds_from_vfio)
            .proposed(Holds, BEST, sibling_unbinds_from_vfio),
        Question::new("case-4b", "User space owns the group while both are unbound: is the owner kept?", "H25 4.b")
            .counted(owned_and_both_unbind)
            .proposed(Holds, BEST, owned_and_both_unbind)
            .proposed(Holds, CALLERS, owned_and_both_unbind),
        Question::new("two-failures", "Two binds fail at once, at each step: is an owner kept?", "H26, D34")
            .counted(two_failures)
            .proposed(Holds, BEST, two_failures)
            .proposed(Fails, NOTIFIER, two_failures)
            .proposed(Fails, NOTIFIER_6_12, two_failures),
        Question::new("kept-until", "Is an owner that was kept still there after one more bind and unbind?", "H26")
            .proposed(Holds, NOTIFIER, kept_until)
            .proposed(Holds, NOTIFIER_6_12, kept_until)
            .proposed(Holds, BEFORE, kept_until),
    ]
}

/// Nobody uses the group any more: whoever comes now must get it.
pub(super) fn deserted<D: Design>(design: &D) {
    stage::curtain();
    stage::must(design.claim_group("X").is_ok(), "nobody uses the group, and yet every claim is refused from now on");
}

fn sibling_bound<D: Design>(design: &D) -> String {
    design.bind(Kind::Kernel, A);
    design.bind(Kind::Kernel, B);
    let unbind = unbind(design, "unbind nic from A", Kind::Kernel, A);
    let claim = start(design, "claim by X", move |user| claim_group(user, "X").is_some());
    unbind.join();
    let claimed = claim.join();
    stage::must(!claimed, "the group is claimed under a kernel driver");
    design.unbind(Kind::Kernel, B);
    deserted(design);
    won("claim", claimed)
}

fn sibling_owns<D: Design>(design: &D) -> String {
    design.bind(Kind::Managed, A);
    design.bind(Kind::Managed, B);
    let claim = claim_group(design, "X");
    let change = start(design, "A from vfio-pci to nic", move |changer| {
        changer.unbind(Kind::Managed, A);
        changer.bind(Kind::Kernel, A)
    });
    let release = stage::thread("X: release", move || drop(claim));
    let bound = change.join();
    release.join();
    design.unbind(Kind::Kernel, A);
    design.unbind(Kind::Managed, B);
    deserted(design);
    won("bind", bound)
}

fn sibling_has_another_driver<D: Design>(design: &D) -> String {
    stage::tolerate(Rule::JustRefusal);
    design.bind(Kind::Kernel, A);
    design.bind(Kind::OtherManaged, B);
    let unbind = unbind(design, "unbind nic from A", Kind::Kernel, A);
    let claim = start(design, "claim of B by X", move |user| claim_device(user, "X", B).is_some());
    unbind.join();
    let claimed = claim.join();
    deserted(design);
    won("claim", claimed)
}

fn sibling_binds<D: Design>(design: &D) -> String {
    stage::tolerate(Rule::JustRefusal);
    design.bind(Kind::Managed, C);
    design.bind(Kind::Kernel, A);
    let unbind = unbind(design, "unbind nic from A", Kind::Kernel, A);
    let bind = bind(design, "bind nic to B", Kind::Kernel, B);
    let claim = start(design, "claim of C by X", move |user| claim_device(user, "X", C));
    unbind.join();
    let (bound, claim) = (bind.join(), claim.join());
    stage::must(bound != claim.is_some(), "the bind and the claim have not one winner");
    let outcome = won("claim", claim.is_some());
    drop(claim);
    design.unbind(Kind::Kernel, B);
    deserted(design);
    outcome
}

fn unbind_while_bind_fails<D: Design>(design: &D, title: &'static str, driver: Kind) -> String {
    design.bind(Kind::Kernel, A);
    let unbind = unbind(design, "unbind nic from A", Kind::Kernel, A);
    let bind = bind(design, title, driver, B);
    unbind.join();
    let bound = bind.join();
    deserted(design);
    won("bind", bound)
}

fn sibling_fails_early<D: Design>(design: &D) -> String {
    unbind_while_bind_fails(design, "bind early-nic to B", Kind::Unready)
}

fn sibling_fails_to_probe<D: Design>(design: &D) -> String {
    unbind_while_bind_fails(design, "bind broken-nic to B", Kind::Failing)
}

fn sibling_binds_in_owned_group<D: Design>(design: &D) -> String {
    design.bind(Kind::Managed, A);
    let claim = claim_device(design, "X", A);
    let user = start(design, "X: release A, unbind it", move |user| {
        drop(claim);
        user.unbind(Kind::Managed, A);
    });
    let bind = bind(design, "bind nic to B", Kind::Kernel, B);
    user.join();
    let bound = bind.join();
    stage::must(design.bind(Kind::Kernel, B) != bound, "a driver is refused though user space has let go");
    design.unbind(Kind::Kernel, B);
    deserted(design);
    won("bind", bound)
}

fn sibling_binds_to_vfio<D: Design>(design: &D) -> String {
    design.bind(Kind::Kernel, A);
    let unbind = unbind(design, "unbind nic from A", Kind::Kernel, A);
    let bind = start(design, "vfio drivers to B", move |binder| {
        binder.bind(Kind::FailingManaged, B);
        binder.bind(Kind::Managed, B)
    });
    unbind.join();
    let bound = bind.join();
    deserted(design);
    won("bind", bound)
}

fn sibling_binds_to_the_owner<D: Design>(design: &D) -> String {
    design.bind(Kind::Managed, A);
    let claim = claim_device(design, "X", A);
    let user = start(design, "X: release A, unbind it", move |user| {
        drop(claim);
        user.unbind(Kind::Managed, A);
    });
    let bind = bind(design, "bind vfio-pci to B", Kind::Managed, B);
    user.join();
    let bound = bind.join();
    stage::must(design.bind(Kind::Kernel, A), "a kernel driver is refused though user space has let go");
    design.unbind(Kind::Kernel, A);
    deserted(design);
    won("bind", bound)
}

fn sibling_unbound<D: Design>(design: &D) -> String {
    stage::tolerate(Rule::JustRefusal);
    design.bind(Kind::Kernel, A);
    let unbind = unbind(design, "unbind nic from A", Kind::Kernel, A);
    let claim = start(design, "claim by X, release", move |user| claim_group(user, "X").is_some());
    unbind.join();
    let claimed = claim.join();
    deserted(design);
    won("claim", claimed)
}

pub(super) fn sibling_unbinds<D: Design>(design: &D) -> String {
    design.bind(Kind::Kernel, A);
    design.bind(Kind::Kernel, B);
    let unbinds = [("unbind nic from A", A), ("unbind nic from B", B)];
    unbinds
        .map(|(title, device)| unbind(design, title, Kind::Kernel, device))
        .into_iter()
        .for_each(stage::Thread::join);
    deserted(design);
    String::new()
}

fn claim_before_the_second_walk<D: Design>(design: &D) -> String {
    stage::tolerate(Rule::JustRefusal);
    design.bind(Kind::Kernel, A);
    design.bind(Kind::Kernel, B);
    let change = start(design, "A to vfio-pci, claim by X", move |changer| {
        changer.unbind(Kind::Kernel, A);
        changer.bind(Kind::Managed, A);
        claim_device(changer, "X", A)
    });
    let unbind = unbind(design, "unbind nic from B", Kind::Kernel, B);
    let claim = change.join();
    unbind.join();
    let claimed = claim.is_some();
    stage::must(design.bind(Kind::Kernel, B) != claimed, "a kernel driver binds in a claimed group, or not at all");
    design.unbind(Kind::Kernel, B);
    drop(claim);
    design.unbind(Kind::Managed, A);
    deserted(design);
    won("claim", claimed)
}

fn sibling_unbinds_from_vfio<D: Design>(design: &D) -> String {
    design.bind(Kind::Kernel, A);
    design.bind(Kind::Managed, B);
    let unbinds = [("unbind nic from A", Kind::Kernel, A), ("unbind vfio-pci from B", Kind::Managed, B)];
    unbinds
        .map(|(title, driver, device)| unbind(design, title, driver, device))
        .into_iter()
        .for_each(stage::Thread::join);
    deserted(design);
    String::new()
}

fn owned_and_both_unbind<D: Design>(design: &D) -> String {
    design.bind(Kind::Managed, A);
    design.bind(Kind::Managed, B);
    let (claim, open) = (claim_device(design, "X", A), design.open(A));
    let user = stage::thread("X: release A, close it", move || {
        drop(claim);
        stage::step("closes A");
        drop(open);
    });
    let unbinds = [("unbind vfio-pci from A", A), ("unbind vfio-pci from B", B)];
    let unbinds = unbinds.map(|(title, device)| unbind(design, title, Kind::Managed, device));
    user.join();
    unbinds.into_iter().for_each(stage::Thread::join);
    deserted(design);
    String::new()
}

fn two_failures<D: Design>(design: &D) -> String {
    let first = start(design, "broken-nic to A", move |binder| binder.bind(Kind::Failing, A));
    let second = start(design, "broken-nic, early-nic to B", move |binder| {
        binder.bind(Kind::Failing, B);
        binder.bind(Kind::Unready, B)
    });
    first.join();
    second.join();
    deserted(design);
    String::new()
}

fn kept_until<D: Design>(design: &D) -> String {
    design.bind(Kind::Kernel, A);
    let unbind = unbind(design, "unbind nic from A", Kind::Kernel, A);
    let bind = start(design, "early-nic, broken-nic to B", move |binder| {
        binder.bind(Kind::Unready, B);
        binder.bind(Kind::Failing, B);
    });
    unbind.join();
    bind.join();
    let kept = design.claim_group("X").is_err();
    design.bind(Kind::Kernel, B);
    design.unbind(Kind::Kernel, B);
    deserted(design);
    if kept { "kept until then" } else { "not kept" }.to_owned()
}
