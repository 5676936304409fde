//! Drivers that come and go.

use super::{DEVICE, DEVICE_OR_EXPLORE, EXPLORE, Mutant};

const BINDING: &str = "device-model/src/binding.rs";
const UNBIND: &str = "device-model/src/unbind.rs";
const DEFERRED: &str = "device-model/src/deferred.rs";
const BUSES: &str = "device-model/src/registry.rs";
const USERS: &str = "device-model/src/sync/users.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "failed-probe-keeps-dma",
        file: BINDING,
        rule: "D34, E2: a probe that fails ends the right to DMA",
        old: "bus.notify(&BusEvent::NotBound(guard));
        detach(guard);",
        new: "bus.notify(&BusEvent::NotBound(guard));",
        suites: DEVICE_OR_EXPLORE,
    },
    Mutant {
        name: "refused-dma-keeps-driver",
        file: BINDING,
        rule: "E3: a refused driver leaves the device",
        old: "        Err(error) => {
            detach(guard);",
        new: "        Err(error) => {",
        suites: DEVICE_OR_EXPLORE,
    },
    Mutant {
        name: "resources-before-dma",
        file: BINDING,
        rule: "D41: the right to DMA ends before resources go",
        old: "    if let Some(attached) = guard.attached_mut() {
        drop(attached.dma.take());
    }
    guard.release_resources();",
        new: "    guard.release_resources();
    if let Some(attached) = guard.attached_mut() {
        drop(attached.dma.take());
    }",
        suites: DEVICE,
    },
    Mutant {
        name: "two-drivers",
        file: BINDING,
        rule: "Dt3.2: a device that has a driver gets no other",
        old: "    if let Some(attached) = guard.attached() {
        return Err(ProbeFailure::HasDriver { driver: attached.entry.driver().name().clone() });
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
        name: "stale-resources",
        file: BINDING,
        rule: "P3: no driver comes to resources of another",
        old: "if guard.has_resources() {",
        new: "if guard.has_resources() && false {",
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
        old: "attached.entry.strike(attached.place);",
        new: "let _ = attached.place;",
        suites: DEVICE,
    },
    Mutant {
        name: "unbinds-any-driver",
        file: UNBIND,
        rule: "D49: unbind lets only that driver go",
        old: "|now| expected.is_none_or(|entry| Arc::ptr_eq(&now.entry, entry))",
        new: "|now| expected.is_none_or(|entry| Arc::ptr_eq(&now.entry, entry) || true)",
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
        old: "guard.state().life = Life::Dying;",
        new: "let _ = &mut guard;",
        suites: DEVICE,
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
        name: "triggers-read-without-order",
        file: DEFERRED,
        rule: "D56: whoever defers sees what came meanwhile, whichever core it came on",
        old: "let now = deferral.clock.load(Ordering::SeqCst)",
        new: "let now = deferral.clock.load(Ordering::Relaxed)",
        suites: EXPLORE,
    },
    Mutant {
        name: "waiters-read-without-order",
        file: DEFERRED,
        rule: "D56: whoever binds sees who waits, whichever core it waits on",
        old: "        if deferral.listed.load(Ordering::SeqCst) == 0 {",
        new: "        if deferral.listed.load(Ordering::Relaxed) == 0 {",
        suites: EXPLORE,
    },
    Mutant {
        name: "unregistered-driver-takes",
        file: BUSES,
        rule: "D46: an unregistered driver takes no device",
        old: "        if devices.registration == Registration::Closed {
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
        old: "            self.0.left.notify_all();",
        new: "",
        suites: EXPLORE,
    },
];
