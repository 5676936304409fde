//! A probe that defers against what it waits for, of the lists alone: sampled interleavings, many of few steps.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use crate::any_device::AnyDevice;
use crate::any_device::internal::Internal;
use crate::deferred::ProbeHold;
use crate::device_id::DeviceId;
use crate::driver::Awaits;
use crate::driver_core::{CoreShared, Repeats};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Users, thread};
use crate::unbind::Removed;

/// A device that binds once `up` is set.
struct Consumer {
    core: Arc<CoreShared>,
    name: Arc<str>,
    up: AtomicBool,
    bound: AtomicBool,
}

impl Consumer {
    fn new() -> Arc<Self> {
        let core = Arc::new(CoreShared::new(Repeats::Inline));
        Arc::new(Self { core, name: "c".into(), up: AtomicBool::new(false), bound: AtomicBool::new(false) })
    }

    fn probe(self: &Arc<Self>) {
        let deferral = &self.core.deferral;
        let search = deferral.search();
        let any: Arc<dyn AnyDevice> = self.clone();
        if deferral.is_held() {
            deferral.defer_held(&any);
        } else if self.up.load(Ordering::SeqCst) {
            self.bound.store(true, Ordering::SeqCst);
            deferral.bound(self.id(), &self.name);
        } else {
            search.defer(&self.core, &any, &Awaits::Anything);
        }
    }
}

impl AnyDevice for Consumer {
    fn id(&self) -> DeviceId {
        DeviceId::new(1)
    }

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn bus_name(&self) -> &'static str {
        "none"
    }

    fn parent(&self) -> Option<Arc<dyn AnyDevice>> {
        None
    }

    fn children(&self) -> Vec<Arc<dyn AnyDevice>> {
        Vec::new()
    }

    fn driver_hint(&self) -> Option<Arc<str>> {
        None
    }
}

impl Internal for Consumer {
    fn adopt(&self, _id: DeviceId, _child: Weak<dyn AnyDevice>) -> bool {
        false
    }

    fn disown(&self, _child: DeviceId) {}

    fn take_parent(&self) -> Option<Arc<dyn AnyDevice>> {
        None
    }

    fn depth(&self) -> u16 {
        0
    }

    fn leaves_repeats_to_holder(self: Arc<Self>) -> bool {
        false
    }

    fn repeat(self: Arc<Self>) {
        self.probe();
    }

    fn close(self: Arc<Self>) {}

    fn step_removal(self: Arc<Self>) -> Result<Removed, Arc<Users>> {
        Ok(Removed::Done)
    }

    fn step_release(self: Arc<Self>, _registration: usize) -> Result<(), Arc<Users>> {
        Ok(())
    }

    fn ask_again(self: Arc<Self>) {}
}

/// Schedules tried by each of the two schedulers.
const BUDGET: usize = 20_000;

fn sample(scene: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(scene.clone(), BUDGET);
    shuttle::check_pct(scene, BUDGET, 3);
}

#[test]
fn a_bind_during_a_probe_that_defers_is_not_missed() {
    sample(|| {
        let consumer = Consumer::new();
        let other = consumer.clone();
        let supplier = thread::spawn(move || {
            other.up.store(true, Ordering::SeqCst);
            other.core.deferral.bound(DeviceId::new(2), &"s".into());
            other.core.deferral.settle(&*other);
        });
        consumer.probe();
        consumer.core.deferral.settle(&*consumer);
        let _ = supplier.join();
        assert!(consumer.bound.load(Ordering::SeqCst), "the bind was missed");
        assert_eq!((consumer.core.deferral.due(), consumer.core.deferral.waiting().len()), (0, 0));
    });
}

#[test]
fn the_end_of_a_hold_during_a_probe_is_not_missed() {
    sample(|| {
        let consumer = Consumer::new();
        consumer.up.store(true, Ordering::SeqCst);
        let hold = ProbeHold::new(consumer.core.clone());
        let other = thread::spawn(move || drop(hold));
        consumer.probe();
        consumer.core.deferral.settle(&*consumer);
        let _ = other.join();
        assert!(consumer.bound.load(Ordering::SeqCst), "the end of the hold was missed");
    });
}
