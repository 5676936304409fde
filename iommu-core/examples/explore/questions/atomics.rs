//! Every atomic that ships, in a scene of its own, under weak memory and with the order that the code gives.
//!
//! A test of the workspace compares this table with the sources: an atomic without a row, or a row without an atomic,
//! fails it.
//!
//! | file | atomic | question |
//! |---|---|---|
//! | `device-model/src/deferred.rs` | `listed` | `atomic-deferral` |
//! | `device-model/src/deferred.rs` | `due` | `atomic-deferral` |
//! | `device-model/src/deferred.rs` | `searches` | `atomic-deferral` |
//! | `device-model/src/deferred.rs` | `triggers` | `atomic-deferral` |
//! | `device-model/src/deferred.rs` | `holds` | `atomic-holds` |
//! | `device-model/src/device.rs` | `close` | `atomic-left` |
//! | `device-model/src/device.rs` | `close_after_turn` | `atomic-left` |
//! | `device-model/src/device.rs` | `probe` | `atomic-left` |
//! | `device-model/src/device.rs` | `repeats` | `atomic-left` |
//! | `device-model/src/pci/bus.rs` | `drivers` | `atomic-flag` |
//! | `device-model/src/registry.rs` | `autoprobe` | `atomic-autoprobe` |
//! | `iommu-core/src/dma_api/space.rs` | `lazy` | `atomic-flag` |
//! | `iommu-core/src/failing/memory.rs` | `left` | `atomic-pins` |
//! | `iommu-core/src/software/domain.rs` | `cached_in` | `atomic-flag` |
//! | `iommu-core/src/software/domain.rs` | `coherent` | `atomic-flag` |
//! | `iommu-core/src/software/process.rs` | `lifted` | `atomic-flag` |
//! | `iommu-core/src/software/process.rs` | `most` | `atomic-accounts` |
//! | `iommu-core/src/software/process.rs` | `pages` | `atomic-accounts` |
//! | `vfio-owner/src/vfio_pci.rs` | `leaving` | `atomic-flag` |

use device_model::sync::Arc;
use device_model::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use iommu_core::address::PAGE_SIZE;
use iommu_core::failing::FailingMemory;
use iommu_core::software::{self, LockedPages, Process};
use iommu_core::user_memory::Limit;
use iommu_core::{Access, UserMemory as _};

use super::Expected::Holds;
use super::Question;
use crate::design::{A, B};
use crate::designs::COUNTED;
use crate::probing::Probing;
use crate::search::{Memory, Method};
use crate::stage;

pub(super) fn questions() -> Vec<Question> {
    vec![
        Question::new("atomic-deferral", "A probe defers while what it waits for comes: is it forgotten?", "D54, D56")
            .under(Memory::Weak, COUNTED, Holds, Method::Sampled(MANY), deferral),
        Question::new("atomic-holds", "A probe comes while the last hold on probes ends: is it forgotten?", "P1")
            .under(Memory::Weak, COUNTED, Holds, Method::Sampled(MANY), holds),
        Question::new("atomic-left", "A probe is due while its device is locked: does the holder forget it?", "D56")
            .ships(left),
        Question::new("atomic-autoprobe", "Does a thread that has switched probing off still probe?", "D45")
            .ships(autoprobe),
        Question::new("atomic-pins", "Does the memory that fails one pin fail none, or two?", "").ships(pins),
        Question::new("atomic-accounts", "Two processes of a user lock the last page: do both get it?", "")
            .ships(accounts),
        Question::new("atomic-flag", "A flag says that something is there: may what made it be unseen?", "")
            .ships(flag),
    ]
}

/// Schedules of those scenes that have too many to try all.
const MANY: usize = 20_000;

fn deferral() -> String {
    let probing = Probing::plugged();
    let probes = [("probe A, which waits", A), ("probe B", B)].map(|(title, device)| {
        let probing = probing.clone();
        stage::thread(title, move || probing.probe(device))
    });
    probes.into_iter().for_each(stage::Thread::join);
    probing.repeat();
    stage::must(probing.is_bound(B), "B is not bound");
    stage::must(probing.is_bound(A), "what the probe of A waited for is there, and A is not probed again");
    String::new()
}

fn holds() -> String {
    let probing = Probing::plugged();
    let hold = probing.hold_probes();
    let prober = probing.clone();
    let probe = stage::thread("probe B", move || prober.probe(B));
    let release = stage::thread("let probes go on", move || drop(hold));
    probe.join();
    release.join();
    probing.repeat();
    stage::must(probing.is_bound(B), "probes are no longer held, and B is not probed");
    String::new()
}

fn left() -> String {
    let probing = Probing::plugged();
    probing.probe(A);
    let holder = probing.clone();
    let hold = stage::thread("lock and unlock A", move || holder.is_bound(A));
    let prober = probing.clone();
    let probe = stage::thread("probe B, repeat A", move || prober.probe(B));
    hold.join();
    probe.join();
    // Whoever found the lock held has left the repeat to its holder: by now it is done.
    stage::must(probing.is_bound(A), "the probe of A was left to the holder of its lock, who has forgotten it");
    String::new()
}

fn autoprobe() -> String {
    let probing = Probing::new();
    let stopper = probing.clone();
    let stop = stage::thread("stop probing, add B", move || {
        stopper.stop_probing();
        stopper.plug(B)
    });
    let looker = probing.clone();
    let look = stage::thread("look at B", move || looker.is_bound(B));
    let (added, bound) = (stop.join(), look.join());
    stage::must(added, "a device was not added");
    stage::must(!bound && !probing.is_bound(B), "B is probed by a thread that has switched probing off");
    String::new()
}

fn pins() -> String {
    let process = Process::new(&software::Memory::new(), LockedPages::unlimited());
    let Some(at) = process.allocate(0x1000, Access::ReadWrite) else { return "no memory".to_owned() };
    let memory = FailingMemory::new(process);
    memory.fail_nth(1);
    let pinned = ["pin", "pin as well"].map(|title| {
        let memory = memory.clone();
        stage::thread(title, move || memory.pin(at, 0x1000, Access::ReadWrite).is_ok())
    });
    let [one, other] = pinned.map(stage::Thread::join);
    stage::must(one != other && memory.has_failed(), "not exactly one pin has failed");
    String::new()
}

fn accounts() -> String {
    let user = LockedPages::limited(PAGE_SIZE);
    let charged = ["one charges", "the other charges"].map(|title| {
        let user = user.clone();
        stage::thread(title, move || user.charge(Limit::Enforced, 1).is_ok())
    });
    let [one, other] = charged.map(stage::Thread::join);
    stage::must(one != other && user.pages() == 1, "not exactly one has the page");
    user.uncharge(1);
    stage::must(user.pages() == 0, "a page is lost");
    String::new()
}

/// A copy of what the code does, which is not to be reached from here: what comes first is written, then the flag is
/// set with `Release`; whoever sees it set with `Acquire` goes on without a lock.
fn flag() -> String {
    let (bound, granted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (binds, grants) = (bound.clone(), granted.clone());
    let bind = stage::thread("bind, grant", move || {
        binds.store(1, Ordering::Relaxed);
        grants.store(true, Ordering::Release);
    });
    let call = stage::thread("a call", move || granted.load(Ordering::Acquire).then(|| bound.load(Ordering::Relaxed)));
    bind.join();
    let seen = call.join();
    stage::must(seen != Some(0), "a call goes on, and does not see what bound the device");
    if seen.is_some() { "went on" } else { "refused" }.to_owned()
}
