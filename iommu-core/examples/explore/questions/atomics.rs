//! Every atomic that ships, in a scene of its own, under weak memory and with the order that the code gives.
//!
//! A test of the workspace compares this table with the sources: an atomic without a row, or a row without an atomic,
//! fails it.
//!
//! | file | atomic | question |
//! |---|---|---|
//! | `device-model/src/deferred.rs` | `clock` | `atomic-deferral` |
//! | `device-model/src/deferred.rs` | `listed` | `atomic-deferral` |
//! | `device-model/src/deferred.rs` | `holds` | `atomic-holds` |
//! | `device-model/src/registry.rs` | `next_device` | `atomic-ids` |
//! | `device-model/src/registry.rs` | `autoprobe` | `atomic-autoprobe` |
//! | `iommu-core/src/failing/memory.rs` | `left` | `atomic-pins` |
//! | `iommu-core/src/software/domain.rs` | `coherent` | `atomic-flag` |
//! | `vfio-owner/src/device_file.rs` | `granted` | `atomic-flag` |

use device_model::sync::Arc;
use device_model::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use iommu_core::failing::FailingMemory;
use iommu_core::software::{LockedPages, Memory, Process};
use iommu_core::{Access, UserMemory as _};

use super::Question;
use crate::design::{A, B};
use crate::probing::Probing;
use crate::stage;

pub(super) fn questions() -> Vec<Question> {
    vec![
        Question::new("atomic-deferral", "A probe defers while what it waits for comes: is it forgotten?", "D54, D56")
            .ships(deferral),
        Question::new("atomic-holds", "A probe comes while the last hold on probes ends: is it forgotten?", "P1")
            .ships(holds),
        Question::new("atomic-ids", "Can two devices that come at once get one id?", "D6").ships(ids),
        Question::new("atomic-autoprobe", "Does a thread that has switched probing off still probe?", "D45")
            .ships(autoprobe),
        Question::new("atomic-pins", "Does the memory that fails one pin fail none, or two?", "").ships(pins),
        Question::new("atomic-flag", "A device file is open to calls: may what bound it be unseen?", "V37").ships(flag),
    ]
}

fn deferral() -> String {
    let probing = Probing::new();
    let plugs = [("add A, which waits", A), ("add B", B)].map(|(title, device)| {
        let probing = probing.clone();
        stage::thread(title, move || probing.plug(device).is_some())
    });
    let added = plugs.map(stage::Thread::join);
    stage::must(added == [true, true] && probing.is_bound(B), "a device was not added and bound");
    stage::must(probing.is_bound(A), "what the probe of A waited for is there, and A is not probed again");
    String::new()
}

fn holds() -> String {
    let probing = Probing::new();
    let hold = probing.hold_probes();
    let plugger = probing.clone();
    let plug = stage::thread("add B", move || plugger.plug(B).is_some());
    let release = stage::thread("let probes go on", move || drop(hold));
    release.join();
    stage::must(plug.join(), "a device was not added");
    stage::must(probing.is_bound(B), "probes are no longer held, and B is not probed");
    String::new()
}

fn ids() -> String {
    let probing = Probing::new();
    let plugs = [("add A", A), ("add B", B)].map(|(title, device)| {
        let probing = probing.clone();
        stage::thread(title, move || probing.plug(device))
    });
    let [a, b] = plugs.map(stage::Thread::join);
    stage::must(a.is_some() && a != b, "two devices have one id");
    String::new()
}

fn autoprobe() -> String {
    let probing = Probing::new();
    let other = probing.clone();
    let bystander = stage::thread("add A", move || other.plug(A).is_some());
    let stopper = probing.clone();
    let stop = stage::thread("stop probing, add B", move || {
        stopper.stop_probing();
        stopper.plug(B).is_some()
    });
    let added = [bystander.join(), stop.join()];
    stage::must(added == [true, true], "a device was not added");
    stage::must(!probing.is_bound(B), "B is probed by a thread that has switched probing off");
    String::new()
}

fn pins() -> String {
    let process = Process::new(&Memory::new(), LockedPages::unlimited());
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
