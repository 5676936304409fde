//! Drivers that come and go.

use super::{DEVICE, DEVICE_OR_EXPLORE, DEVICE_OR_MODEL, EXPLORE, MODEL_OR_EXPLORE, Mutant};

const BINDING: &str = "device-model/src/binding.rs";
const UNBIND: &str = "device-model/src/unbind.rs";
const DEFERRED: &str = "device-model/src/deferred.rs";
const DEVICE_LOCK: &str = "device-model/src/device.rs";
const REGISTRATION: &str = "device-model/src/registration.rs";
const RESOURCES: &str = "device-model/src/resources.rs";
const USERS: &str = "device-model/src/sync/users.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "leaving-device-hidden",
        file: UNBIND,
        rule: "D68: a device that is being removed is found until its driver has let go",
        old: "if first {
        dev.notify(&BusEvent::Deleting(dev));",
        new: "if first {
        dev.bus().hide(dev);
        dev.notify(&BusEvent::Deleting(dev));",
        suites: DEVICE,
    },
    Mutant {
        name: "failed-probe-keeps-dma",
        file: BINDING,
        rule: "D34, E2: a probe that fails ends the right to DMA",
        old: "return Err(ProbeFailure::Callback(error));",
        new: "core::mem::forget(undo);
        return Err(ProbeFailure::Callback(error));",
        suites: DEVICE_OR_EXPLORE,
    },
    Mutant {
        name: "refused-dma-keeps-driver",
        file: BINDING,
        rule: "E3: a refused driver leaves the device",
        old: "let right = configure_dma(driver, dev).map_err(ProbeFailure::Dma)?;",
        new: "let right = match configure_dma(driver, dev) {
        Ok(right) => right,
        Err(error) => {
            core::mem::forget(undo);
            return Err(ProbeFailure::Dma(error));
        }
    };",
        suites: DEVICE_OR_EXPLORE,
    },
    Mutant {
        name: "resources-before-dma",
        file: BINDING,
        rule: "D41: the right to DMA ends before resources go",
        old: "    let _release = scopeguard::guard(unset, |mut guard| guard.state_mut().resources.release());
    drop(right);",
        new: "    let mut unset = unset;
    unset.state_mut().resources.release();
    drop(right);",
        suites: DEVICE,
    },
    Mutant {
        name: "resources-stay",
        file: BINDING,
        rule: "P3: no driver comes to resources of another",
        old: "|mut guard| guard.state_mut().resources.release()",
        new: "|_| ()",
        suites: DEVICE,
    },
    Mutant {
        name: "two-drivers",
        file: BINDING,
        rule: "Dt3.2: a device that has a driver gets no other",
        old: "    if let Some(link) = guard.link() {
        return Err(ProbeFailure::HasDriver { driver: link.driver.name.clone() });
    }",
        new: "",
        suites: DEVICE,
    },
    Mutant {
        name: "bind-to-dying",
        file: BINDING,
        rule: "Dt3.1: no driver comes to a device that goes",
        old: "Life::Dying | Life::Gone => return Err(ProbeFailure::DeviceGone),",
        new: "Life::Dying | Life::Gone => {}",
        suites: DEVICE,
    },
    Mutant {
        name: "search-goes-on",
        file: BINDING,
        rule: "D25: a refusal of the core ends the search for a driver",
        old: "Err(ProbeFailure::Callback(_) | ProbeFailure::DriverGone) => {}",
        new: "Err(ProbeFailure::Callback(_) | ProbeFailure::DriverGone | ProbeFailure::Dma(_)) => {}",
        suites: DEVICE,
    },
    Mutant {
        name: "strike-forgotten",
        file: BINDING,
        rule: "R11: the driver forgets a device that it has left",
        old: "link.driver.strike(link.place);",
        new: "let _ = link.place;",
        suites: DEVICE,
    },
    Mutant {
        name: "unbinds-any-driver",
        file: UNBIND,
        rule: "D49: unbind lets only that driver go",
        old: "expected.is_none_or(|key| link.driver.key() == key)",
        new: "expected.is_none_or(|key| link.driver.key() == key || true)",
        suites: DEVICE,
    },
    Mutant {
        name: "unbind-does-not-wait",
        file: UNBIND,
        rule: "V13, D50: nobody gets the lock while a driver leaves",
        old: "        if users.inside() > 0 {
            return Err(users.clone());
        }
        ask(&mut guard)?;",
        new: "        let _ = users;",
        suites: DEVICE_OR_EXPLORE,
    },
    Mutant {
        name: "children-stay",
        file: UNBIND,
        rule: "D11: what sits below goes first",
        old: "return Ok(Removed::NotBefore(child));",
        new: "let _ = Removed::NotBefore(child);",
        suites: DEVICE,
    },
    Mutant {
        name: "removed-not-dying",
        file: UNBIND,
        rule: "D12: a device that goes takes no driver any more",
        old: "guard.state_mut().life = Life::Dying;",
        new: "let _ = &mut guard;",
        suites: DEVICE,
    },
    Mutant {
        name: "revoked-under-access",
        file: RESOURCES,
        rule: "R9: a resource is revoked before the unbind completes",
        old: "        self.users.close();
        self.users.wait();",
        new: "        self.users.close();",
        suites: DEVICE_OR_MODEL,
    },
    Mutant {
        name: "wake-up-lost",
        file: DEFERRED,
        rule: "D56: what came during the probe is not waited for",
        old: "        if missed {",
        new: "        if missed && false {",
        suites: DEVICE_OR_EXPLORE,
    },
    Mutant {
        name: "search-without-order",
        file: DEFERRED,
        rule: "D56: whoever binds sees that a probe may defer, whichever core it runs on",
        old: "        self.searches.fetch_add(1, Ordering::SeqCst);
        let triggers = self.triggers.load(Ordering::SeqCst);
        // Against the fence of whoever binds: either the search sees what was bound, or the bind sees the search.
        fence(Ordering::SeqCst);",
        new: "        self.searches.fetch_add(1, Ordering::Relaxed);
        let triggers = self.triggers.load(Ordering::Relaxed);",
        suites: EXPLORE,
    },
    Mutant {
        name: "waiters-read-without-order",
        file: DEFERRED,
        rule: "D56: whoever binds sees who waits, whichever core it waits on",
        old: "        fence(Ordering::SeqCst);
        // In this order: a search that ends in a deferral lists its device before it is over.
        if self.searches.load(Ordering::SeqCst) > 0 || self.listed.load(Ordering::SeqCst) > 0 {",
        new: "        if self.searches.load(Ordering::Relaxed) > 0 || self.listed.load(Ordering::Relaxed) > 0 {",
        suites: EXPLORE,
    },
    Mutant {
        name: "waiters-read-before-searches",
        file: DEFERRED,
        rule: "D56: a probe that defers is under way until it is listed",
        old: "if self.searches.load(Ordering::SeqCst) > 0 || self.listed.load(Ordering::SeqCst) > 0 {",
        new: "if self.listed.load(Ordering::SeqCst) > 0 || self.searches.load(Ordering::SeqCst) > 0 {",
        suites: MODEL_OR_EXPLORE,
    },
    Mutant {
        name: "left-read-without-order",
        file: DEVICE_LOCK,
        rule: "D56: whoever unlocks sees what was left to it, whichever core left it",
        old: "        // Against the fence of whoever left something and found the lock still held.
        fence(Ordering::SeqCst);",
        new: "",
        suites: EXPLORE,
    },
    Mutant {
        name: "left-probe-forgotten",
        file: DEVICE_LOCK,
        rule: "D56: whoever holds a device's lock repeats the probe that was left to it",
        old: "        if due {
            deferral.make_due(dev.id);
        }",
        new: "",
        suites: DEVICE_OR_EXPLORE,
    },
    Mutant {
        name: "unregistered-driver-takes",
        file: REGISTRATION,
        rule: "D46: an unregistered driver takes no device",
        old: "        if devices.stage != Stage::Open {
            return None;
        }",
        new: "",
        suites: DEVICE,
    },
    Mutant {
        name: "closed-door-opens",
        file: USERS,
        rule: "V14: nobody comes in behind a driver that leaves",
        old: "        if gate.door == Door::Closed {
            return None;
        }",
        new: "",
        suites: DEVICE,
    },
    Mutant {
        name: "last-user-tells-nobody",
        file: USERS,
        rule: "V13: the last user wakes who waits",
        old: "        self.0.left.notify_all();",
        new: "",
        suites: EXPLORE,
    },
];
