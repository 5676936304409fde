//! What the shipping design has to hold in all schedules, whatever the others do.

use device_model::sync::Arc;
use iommu_core::{Attached, DefaultDomainType, Group, Ownership, TypeRequest};

use super::{Question, bind, start, won};
use crate::counted::Counted;
use crate::design::{A, B, Design, Kind};
use crate::stage;
use crate::user::{claim_device, claim_group};

pub(super) fn questions() -> Vec<Question> {
    vec![
        Question::new(
            "two-binds",
            "Two binds and a group claim: do both sides ever win, or neither?",
            "Lt4.1, Lt4.2, I20",
        )
        .ships(two_binds),
        Question::new("unbind", "A bind, its unbind and a device claim: is the count ever off?", "Lt4.3, Lt4.4, Lt4.5")
            .ships(unbind),
        Question::new("two-contexts", "Device claims of two contexts and a bind: do two ever win?", "It6.3, It6.5")
            .ships(two_contexts),
        Question::new("hot-add", "A claim and a new device: can a driver bind to it?", "Lt4.7, Lt4.8, I13, I14")
            .ships(hot_add),
        Question::new("hot-remove", "A claim and a device that goes: is a claim lost, or left over?", "Lt4.9, I19")
            .ships(hot_remove),
        Question::new("failing-probe", "A probe that fails and a claim: does a use outlive the failure?", "D34, Lt4.3")
            .ships(failing_probe),
        Question::new("type", "A change of type and a bind: does the type change under a driver?", "It10.5")
            .ships(change_type),
        Question::new("replace", "Attach, replace and a release: is the group ever back too early?", "I28, It8.12")
            .ships(replace),
        Question::new("close", "An unbind that waits, the close that frees it, a lock: is a wake-up lost?", "V13, D50")
            .ships(close),
        Question::new(
            "turns",
            "A kernel driver and two contexts take turns: is anything left behind?",
            "I28, It7, L40",
        )
        .ships(turns),
        Question::new("crowd", "Five threads on three devices: does anything of this break in a crowd?", "L40")
            .sampled(CROWD, crowd),
    ]
}

/// Schedules of the crowd that are tried.
const CROWD: usize = 4_000;

/// Everybody has left: nobody has the group, the devices are where the kernel wants them.
fn deserted(group: &Group) {
    stage::curtain();
    stage::must(group.ownership() == Ownership::Idle, "all have left, and the group is not idle");
    stage::must(matches!(group.attached(), Attached::Default(_)), "all have left, and the group is blocked");
}

fn two_binds() -> String {
    let counted = Counted::new();
    let binds = [bind(&counted, "bind nic to A", Kind::Kernel, A), bind(&counted, "bind nic to B", Kind::Kernel, B)];
    let claim = start(&counted, "claim by X", move |claimer| claim_group(claimer, "X"));
    let [a, b] = binds.map(stage::Thread::join);
    let claim = claim.join();
    stage::must(a != claim.is_some() && b != claim.is_some(), "the binds and the claim have not one winner");
    let users = counted.group().map_or(0, |group| match group.ownership() {
        Ownership::Kernel { users } => users.get(),
        Ownership::Idle | Ownership::User { .. } => 0,
    });
    stage::must(users == u32::from(a) + u32::from(b), "not every bound driver is counted");
    let outcome = won("claim", claim.is_some());
    drop(claim);
    [(a, A), (b, B)]
        .into_iter()
        .filter(|(bound, _)| *bound)
        .for_each(|(_, device)| counted.unbind(Kind::Kernel, device));
    counted.group().map(Arc::as_ref).into_iter().for_each(deserted);
    outcome
}

fn unbind() -> String {
    let counted = Counted::new();
    let kernel = start(&counted, "bind, unbind", move |kernel| {
        let bound = kernel.bind(Kind::Kernel, A);
        kernel.unbind(Kind::Kernel, A);
        bound
    });
    let user = start(&counted, "claim by X, release", move |user| claim_device(user, "X", B).is_some());
    let (bound, claimed) = (kernel.join(), user.join());
    counted.group().map(Arc::as_ref).into_iter().for_each(deserted);
    format!("{}, {}", won("bind", bound), won("claim", claimed))
}

fn two_contexts() -> String {
    let counted = Counted::new();
    let users = [("claim by X", "X", A), ("claim by Y", "Y", B)]
        .map(|(title, owner, device)| start(&counted, title, move |user| claim_device(user, owner, device)));
    let bound = bind(&counted, "bind nic to B", Kind::Kernel, B);
    let [x, y] = users.map(stage::Thread::join);
    let bound = bound.join();
    let winners = usize::from(x.is_some()) + usize::from(y.is_some()) + usize::from(bound);
    stage::must(winners == 1, format!("{winners} have the group"));
    let outcome = format!("{}, {}, {}", won("X", x.is_some()), won("Y", y.is_some()), won("bind", bound));
    drop((x, y));
    counted.unbind(Kind::Kernel, B);
    counted.group().map(Arc::as_ref).into_iter().for_each(deserted);
    outcome
}

fn hot_add() -> String {
    let counted = Counted::new();
    let plug = start(&counted, "plug C, bind nic to it", move |plugger| {
        let _device = plugger.machine().plug("C");
        plugger.bind(Kind::Kernel, "C")
    });
    let claim = start(&counted, "claim by X", move |claimer| claim_group(claimer, "X"));
    let (bound, claim) = (plug.join(), claim.join());
    stage::must(bound != claim.is_some(), "the bind to the new device and the claim have not one winner");
    let outcome = won("claim", claim.is_some());
    drop(claim);
    stage::must(bound || counted.bind(Kind::Kernel, "C"), "the new device cannot be bound after the release");
    counted.unbind(Kind::Kernel, "C");
    counted.group().map(Arc::as_ref).into_iter().for_each(deserted);
    outcome
}

fn hot_remove() -> String {
    let counted = Counted::new();
    let remove = start(&counted, "unplug B", move |remover| {
        remover.machine().unplug(B);
    });
    let user = start(&counted, "claim of B by X", move |user| claim_device(user, "X", B));
    remove.join();
    let claim = user.join();
    let held = counted.group().is_some_and(|group| group.ownership().is_held());
    stage::must(held == claim.is_some(), "the group is held, and there is no claim, or the other way round");
    stage::must(counted.bind(Kind::Kernel, A) != claim.is_some(), "the sibling binds in an owned group, or not at all");
    stage::must(claim_device(&counted, "X", B).is_none(), "a device that has gone claims its group");
    let outcome = won("claim", claim.is_some());
    counted.unbind(Kind::Kernel, A);
    drop(claim);
    counted.group().map(Arc::as_ref).into_iter().for_each(deserted);
    outcome
}

fn failing_probe() -> String {
    let counted = Counted::new();
    let bound = bind(&counted, "bind broken-nic to A", Kind::Failing, A);
    let user = start(&counted, "claim by X, release", move |user| claim_group(user, "X").is_some());
    let (bound, claimed) = (bound.join(), user.join());
    stage::must(!bound, "a driver whose probe fails is bound");
    counted.group().map(Arc::as_ref).into_iter().for_each(deserted);
    won("claim", claimed)
}

fn change_type() -> String {
    let counted = Counted::new();
    let Some(group) = counted.group().cloned() else { return "no group".to_owned() };
    let (iommu, changed) = (counted.iommu.clone(), group.clone());
    let change = stage::thread("type = identity", move || {
        let identity = TypeRequest::Explicit(DefaultDomainType::Identity);
        iommu.set_default_domain_type(&changed, identity).is_ok()
    });
    let (binder, watched) = (counted.clone(), group.clone());
    let bind = stage::thread("bind nic to A", move || {
        let bound = binder.bind(Kind::Kernel, A);
        (bound, watched.default_domain_type())
    });
    let (bound, seen) = bind.join();
    let changed = change.join();
    stage::must(bound, "a change of type keeps a driver from binding");
    stage::must(seen == group.default_domain_type(), "the type has changed under a driver");
    stage::must(changed == (seen == Some(DefaultDomainType::Identity)), "the type is not what was answered");
    counted.unbind(Kind::Kernel, A);
    deserted(&group);
    won("change", changed)
}

fn replace() -> String {
    let counted = Counted::new();
    let Some(group) = counted.group().cloned() else { return "no group".to_owned() };
    let claims = [A, B].map(|device| claim_device(&counted, "X", device));
    let domains = [(); 2].map(|()| group.allocate_paging().ok());
    let [(first, one), (second, two)] = {
        let [first, second] = claims;
        let [one, two] = domains;
        [(first, one), (second, two)]
    };
    let attach = stage::thread("attach, release A", move || {
        let Some((claim, domain)) = first.as_ref().and_then(|held| held.claim()).zip(one) else { return false };
        claim.attach(&domain).is_ok()
    });
    let replace = stage::thread("replace, release B", move || {
        let Some((claim, domain)) = second.as_ref().and_then(|held| held.claim()).zip(two) else { return false };
        claim.replace(&domain).is_ok()
    });
    let (attached, replaced) = (attach.join(), replace.join());
    stage::must(replaced, "a replace is refused");
    deserted(&group);
    won("attach", attached)
}

fn close() -> String {
    let counted = Counted::new();
    counted.bind(Kind::Managed, A);
    let open = counted.open(A);
    let unbind = start(&counted, "unbind vfio-pci", move |unbinder| {
        unbinder.unbind(Kind::Managed, A);
        stage::step("the unbind has returned");
    });
    let user = stage::thread("user of A", move || {
        let left = open.is_some();
        stage::step("closes A");
        drop(open);
        left
    });
    let lock = start(&counted, "lock of A", move |locker| locker.machine().is_bound(A));
    unbind.join();
    stage::must(user.join(), "the device could not be opened");
    let seen = lock.join();
    stage::must(!counted.machine().is_bound(A), "the driver is there after the unbind");
    if seen { "locked while bound" } else { "locked after the unbind" }.to_owned()
}

fn turns() -> String {
    let counted = Counted::new();
    let kernel = start(&counted, "bind, unbind nic", move |kernel| {
        let bound = kernel.bind(Kind::Kernel, A);
        kernel.unbind(Kind::Kernel, A);
        bound
    });
    let users = [("X: claim A, release", "X", A), ("Y: claim B, release", "Y", B)]
        .map(|(title, owner, device)| start(&counted, title, move |user| claim_device(user, owner, device).is_some()));
    let bound = kernel.join();
    let [x, y] = users.map(stage::Thread::join);
    stage::must(bound || x || y, "everybody was refused");
    counted.group().map(Arc::as_ref).into_iter().for_each(deserted);
    format!("{}, {}, {}", won("bind", bound), won("X", x), won("Y", y))
}

fn crowd() -> String {
    let counted = Counted::with(&super::DEVICES);
    let binds =
        [bind(&counted, "bind nic to A", Kind::Kernel, A), bind(&counted, "bind broken-nic to B", Kind::Failing, B)];
    let users = [("claim by X", "X", A), ("claim by Y", "Y", "C")]
        .map(|(title, owner, device)| start(&counted, title, move |user| claim_device(user, owner, device).is_some()));
    let remove = start(&counted, "unplug C", move |remover| {
        remover.machine().unplug("C");
    });
    let [bound, _] = binds.map(stage::Thread::join);
    let [x, y] = users.map(stage::Thread::join);
    remove.join();
    counted.unbind(Kind::Kernel, A);
    counted.group().map(Arc::as_ref).into_iter().for_each(deserted);
    format!("{}, {}, {}", won("bind", bound), won("X", x), won("Y", y))
}
