//! What else is asked of the walk at the release: the objections in the message and what follows from them (H27).

use super::Expected::{Fails, Holds};
use super::{DEVICES, Question, bind, defence, start, unbind, won};
use crate::counted::Counted;
use crate::design::{A, B, Design, Kind};
use crate::designs::{BEFORE, BEST, CALLERS, CLAIMS_WALK, NOTIFIER, ONE_CLAIM, TWICE};
use crate::proposed::Proposed;
use crate::stage::{self, Rule};
use crate::user::{claim_device, claim_group};

pub(super) fn questions() -> Vec<Question> {
    vec![
        Question::new("vfio-closes", "VFIO closes without an unbind: is the group kept?", "H27, V16")
            .counted(closes)
            .proposed(Holds, BEST, closes)
            .proposed(Holds, CALLERS, closes)
            .proposed(Fails, CLAIMS_WALK, closes),
        Question::new(
            "nested-claims",
            "One claim a device: does the end of one take the group from the other, keep it, or is one refused?",
            "H13, H14, H27",
        )
        .counted(two_claims)
        .proposed(Fails, BEST, two_claims)
        .proposed(Fails, CLAIMS_WALK, two_claims)
        .proposed(Fails, ONE_CLAIM, two_claims)
        .proposed(Fails, CALLERS, two_claims),
        Question::new("two-owners", "Two contexts on devices of one driver: are both in?", "It6.5, H22")
            .counted(two_owners)
            .proposed(Fails, BEST, two_owners)
            .proposed(Holds, CALLERS, two_owners),
        Question::new("freed-token", "Does the walk read a driver that is unbound and freed meanwhile?", "H8, H27")
            .counted(freed_after_unbind)
            .proposed(Holds, BEST, freed_after_unbind)
            .proposed(Holds, NOTIFIER, freed_after_unbind)
            .proposed(Fails, BEFORE, freed_after_unbind),
        Question::new("freed-early", "Does it read a driver whose bind fails early and that is freed?", "H8, H26")
            .counted(freed_after_failure)
            .proposed(Holds, BEST, freed_after_failure)
            .proposed(Fails, NOTIFIER, freed_after_failure),
        Question::new("read-once", "Does the walk follow a pointer that was cleared between two reads?", "H12")
            .counted(defence::sibling_unbinds)
            .proposed(Holds, BEST, defence::sibling_unbinds)
            .proposed(Fails, TWICE, defence::sibling_unbinds),
        Question::new(
            "passed-over",
            "The only user has left: is a claim refused because of a driver that has not asked yet?",
            "H25 2.a.i, H9",
        )
        .ships(|| passed_over(&Counted::with(&DEVICES)))
        .run(BEST.0, Fails, || passed_over(&Proposed::with(BEST.1, &DEVICES))),
        Question::new(
            "one-user-yes",
            "Is an attach allowed that relies on one user, though there are two?",
            "H27, It8",
        )
        .counted(attach_beside_binds)
        .proposed(Holds, BEST, attach_beside_binds),
        Question::new(
            "one-user-no",
            "Is an attach that relies on one user refused though there is one?",
            "H27, H9, H11",
        )
        .counted(attach_alone)
        .proposed(Fails, BEST, attach_alone),
        Question::new(
            "one-claim-no",
            "Is it refused because the neighbour is bound for user space, and not claimed?",
            "H27, H13",
        )
        .counted(attach_beside_bound)
        .proposed(Fails, BEST, attach_beside_bound),
    ]
}

fn closes<D: Design>(design: &D) -> String {
    design.bind(Kind::Managed, A);
    design.bind(Kind::Managed, B);
    let user = start(design, "VFIO: claim, close", move |user| claim_group(user, "X").is_some());
    let change = start(design, "A from vfio-pci to nic", move |changer| {
        changer.unbind(Kind::Managed, A);
        changer.bind(Kind::Kernel, A)
    });
    let (claimed, bound) = (user.join(), change.join());
    stage::must(design.bind(Kind::Kernel, A) != bound, "VFIO has closed the group, and kernel drivers are refused");
    design.unbind(Kind::Kernel, A);
    defence::deserted(design);
    format!("{}, {}", won("claim", claimed), won("bind", bound))
}

fn two_claims<D: Design>(design: &D) -> String {
    for device in [A, B] {
        design.bind(Kind::Managed, device);
    }
    let users = [("X: claim A, release", A), ("X: claim B, release", B)].map(|(title, device)| {
        start(design, title, move |user| {
            let claim = claim_device(user, "X", device);
            if claim.is_none() {
                stage::broken("a context is refused a device of the group that it owns");
            }
            claim.is_some()
        })
    });
    let claims = users.map(stage::Thread::join);
    defence::deserted(design);
    format!("{}, {}", won("A", claims[0]), won("B", claims[1]))
}

fn two_owners<D: Design>(design: &D) -> String {
    for device in [A, B] {
        design.bind(Kind::Managed, device);
    }
    let users = [("claim of A by X", "X", A), ("claim of B by Y", "Y", B)]
        .map(|(title, owner, device)| start(design, title, move |user| claim_device(user, owner, device)));
    let [x, y] = users.map(stage::Thread::join);
    format!("{}, {}", won("X", x.is_some()), won("Y", y.is_some()))
}

fn freed_after_unbind<D: Design>(design: &D) -> String {
    design.bind(Kind::Kernel, A);
    design.bind(Kind::Managed, B);
    let unbind = unbind(design, "unbind nic from A", Kind::Kernel, A);
    let unload = start(design, "rmmod vfio-pci", move |unloader| unloader.unload(Kind::Managed));
    unbind.join();
    unload.join();
    defence::deserted(design);
    String::new()
}

fn freed_after_failure<D: Design>(design: &D) -> String {
    stage::tolerate(Rule::JustRefusal);
    design.bind(Kind::Kernel, A);
    let unbind = unbind(design, "unbind nic from A", Kind::Kernel, A);
    let load = start(design, "early-nic to B, rmmod it", move |loader| {
        loader.bind(Kind::Unready, B);
        loader.unload(Kind::Unready);
    });
    unbind.join();
    load.join();
    String::new()
}

fn passed_over<D: Design>(design: &D) -> String {
    design.bind(Kind::Managed, "C");
    design.bind(Kind::Kernel, A);
    let user = start(design, "unbind A, then claim C", move |user| {
        user.unbind(Kind::Kernel, A);
        claim_device(user, "X", "C").is_some()
    });
    let bind = bind(design, "bind nic to B", Kind::Kernel, B);
    let (claimed, bound) = (user.join(), bind.join());
    format!("{}, {}", won("claim", claimed), won("bind", bound))
}

/// Asks under a bind and an unbind of the neighbour whether the group has one user.
fn attach<D: Design>(design: &D) -> String {
    design.bind(Kind::Kernel, A);
    let change = start(design, "nic to B and away", move |changer| {
        changer.bind(Kind::Kernel, B);
        changer.unbind(Kind::Kernel, B);
    });
    let ask = start(design, "attach for A", move |asker| asker.has_one_user(A));
    change.join();
    won("attach", ask.join())
}

fn attach_beside_binds<D: Design>(design: &D) -> String {
    stage::tolerate(Rule::JustRefusal);
    attach(design)
}

fn attach_alone<D: Design>(design: &D) -> String {
    stage::tolerate(Rule::Exclusion);
    attach(design)
}

fn attach_beside_bound<D: Design>(design: &D) -> String {
    design.bind(Kind::Managed, A);
    let claim = claim_device(design, "X", A);
    let binder = bind(design, "bind vfio-pci to B", Kind::Managed, B);
    let ask = start(design, "X: attach for A", move |asker| asker.has_one_user(A));
    binder.join();
    let one = ask.join();
    drop(claim);
    won("attach", one)
}
