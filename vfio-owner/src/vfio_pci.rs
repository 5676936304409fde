//! vfio-pci: PCI functions for user space.
//!
//! A [`VfioPciDevice`] serves a device file: a virtual configuration space of which a user may write some bits, regions
//! backed by a [`FunctionModel`], and interrupts that signal the user's [`Trigger`]s. [`admits`] says which functions
//! the driver binds, and [`reset_scope`] which of them are reset together.

mod admission;
mod config;
mod driver;
mod features;
mod interrupts;
mod ioeventfds;
mod model;
mod neighbours;
mod ops;
#[cfg(feature = "testbed")]
mod plain_memory;
mod reset_scope;
mod windows;

use alloc::sync::{Arc, Weak};
use core::fmt;

use iommu_core::device_model::AnyDevice;
use iommu_core::device_model::pci::{ConfigSpace, PciFunction};
use iommu_core::device_model::sync::atomic::{AtomicBool, Ordering};
use iommu_core::device_model::sync::{LockClass, Mutex, Users};

pub use self::admission::{IDS, NAME, VfioPciRefusal, admits};
use self::config::VirtualConfig;
pub use self::driver::VfioPciDriver;
use self::features::{Power, Token};
pub(crate) use self::interrupts::Available;
use self::interrupts::{Due, Interrupts, UnmaskToken};
pub use self::interrupts::{Level, Raised};
use self::ioeventfds::IoEventfds;
pub use self::model::FunctionModel;
use self::neighbours::Neighbours;
#[cfg(feature = "testbed")]
pub use self::plain_memory::PlainMemory;
pub use self::reset_scope::{ResetScope, reset_scope};
use self::windows::MsixTable;
#[cfg(doc)]
use crate::device_ops::DeviceOps;
use crate::device_ops::{IrqIndex, ResetError, Trigger};

pub(crate) const CAP_POWER: u16 = 0x01;
const CAP_MSI: u16 = 0x05;
pub(crate) const CAP_EXPRESS: u16 = 0x10;
pub(crate) const CAP_MSIX: u16 = 0x11;
const CAP_ADVANCED_FEATURES: u16 = 0x13;

const FUNCTION: LockClass = LockClass::new("vfio-pci function", 650);

/// A PCI function as served by vfio-pci.
///
/// [`open`](DeviceOps::open) gives it a fresh virtual configuration space, bus mastering off, and resets it if it can be
/// reset alone. While it is closed, no trigger is called.
pub struct VfioPciDevice {
    /// For what calls it later: eventfds that it listens to.
    me: Weak<Self>,
    function: PciFunction,
    /// Whether it can be reset by what it has itself.
    // V87.
    by_itself: ResetAlone,
    irqs: Available,
    msix_table: Option<MsixTable>,
    model: Arc<dyn FunctionModel>,
    neighbours: Neighbours,
    /// Who is calling triggers of the session. `close` waits for them.
    signalling: Arc<Users>,
    /// Whether the driver has been told to let the device go.
    leaving: AtomicBool,
    /// The function's lock: the innermost but for leaf locks; no trigger and no model is called under it.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: VirtualConfig,
    /// What the users of its virtual functions show; nobody knows the one that is not set.
    token: Option<Token>,
    /// While the device is open.
    session: Option<Session>,
}

/// From `open` to `close`.
#[derive(Debug)]
struct Session {
    interrupts: Interrupts,
    ioeventfds: IoEventfds,
    power: Power,
    /// Whether the device was reset when it was opened, and so can be.
    // V99.
    reset: ResetAlone,
}

/// Whether a device can be reset alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResetAlone {
    Works,
    Fails,
}

impl VfioPciDevice {
    /// Creates the device of `function`, with `model` behind its regions.
    pub fn new(function: PciFunction, model: Arc<dyn FunctionModel>) -> Arc<Self> {
        Self::below(function, model, None)
    }

    /// Creates the device of a function that is on the bus below `bridge`, whose reset resets it with all that is there.
    pub fn below(
        function: PciFunction,
        model: Arc<dyn FunctionModel>,
        bridge: Option<&Arc<dyn AnyDevice>>,
    ) -> Arc<Self> {
        let state = State { config: VirtualConfig::new(&function), token: None, session: None };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            by_itself: if is_resettable(&function.config) { ResetAlone::Works } else { ResetAlone::Fails },
            irqs: Available::of(&function),
            msix_table: MsixTable::of(&function.config),
            neighbours: Neighbours::of(&function, bridge),
            signalling: Arc::new(Users::new()),
            function,
            model,
            leaving: AtomicBool::new(false),
            state: Mutex::of(FUNCTION, state),
        })
    }

    /// Returns the function.
    pub fn function(&self) -> &PciFunction {
        &self.function
    }

    /// Returns whether a user has the device open: `false` from the moment at which the last file is closed.
    pub fn is_open(&self) -> bool {
        self.state.lock().session.is_some()
    }

    /// Returns whether the user has enabled bus mastering. DMA is not blocked otherwise: that is the IOMMU's task.
    pub fn bus_master(&self) -> bool {
        self.state.lock().config.bus_master()
    }

    /// Raises interrupt `vector` of `index`, as the simulated hardware. Returns [`Raised::Lost`] while the device is
    /// closed and where no trigger is set.
    ///
    /// INTx is level-triggered: it is masked after it was signalled, and an interrupt raised while it is masked is
    /// signalled once when the user unmasks it.
    pub fn raise(&self, index: IrqIndex, vector: u32) -> Raised {
        self.change(|state| {
            let Some(session) = &mut state.session else { return (Raised::Lost, Due::default()) };
            let (raised, trigger) = session.interrupts.raise(index, vector);
            (raised, Due::signal(trigger))
        })
    }

    /// Drives the interrupt line, as the simulated hardware: while it is high, it is signalled whenever the user unmasks it.
    /// Does nothing unless the user has set up INTx.
    pub fn drive_intx(&self, level: Level) {
        self.change(|state| {
            let trigger = state.session.as_mut().and_then(|session| session.interrupts.drive_intx(level));
            ((), Due::signal(trigger))
        });
    }

    /// Returns which of INTx, MSI and MSI-X the user has set up, as the hardware knows it too: one at a time.
    pub fn enabled_irqs(&self) -> Option<IrqIndex> {
        self.state.lock().session.as_ref()?.interrupts.active()
    }

    /// Changes the state, then does what is due, with no lock held.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> (R, Due)) -> R {
        let mut state = self.state.lock();
        let (result, due) = change(&mut state);
        // Entered under the lock under which `close` ends the session, so it knows of all who saw a trigger.
        let inside = state.session.as_ref().and_then(|_| self.signalling.enter());
        drop(state);
        due.signals.iter().for_each(Trigger::signal);
        if let Some((event, token)) = due.listen {
            self.listen(&event, &token);
        }
        drop(due.ended);
        drop(inside);
        result
    }

    /// Has the event of this token unmask the line.
    fn listen(&self, event: &Trigger, token: &UnmaskToken) {
        let (me, heard) = (self.me.clone(), token.clone());
        let mut listening = event.listen(move || {
            if let Some(me) = me.upgrade() {
                // As for `set_irqs`.
                me.model.poll();
                me.change_interrupts(&mut |interrupts| interrupts.unmask_by(&heard));
            }
        });
        // Borrowed: if the device was closed meanwhile, it is dropped here, with no lock held.
        self.change_interrupts(&mut |interrupts| match listening.take() {
            Some(listening) => interrupts.listens(token, listening),
            None => Due::default(),
        });
    }

    /// Changes the interrupts while the device is open.
    fn change_interrupts(&self, change: &mut dyn FnMut(&mut Interrupts) -> Due) {
        self.change(|state| {
            let due = state.session.as_mut().map(|session| change(&mut session.interrupts));
            ((), due.unwrap_or_default())
        });
    }

    /// The driver is being unbound: from now on it cannot be reset for a user, which takes the device lock.
    fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    fn may_reset(&self) -> Result<(), ResetError> {
        if self.leaving.load(Ordering::Acquire) { Err(ResetError::Leaving) } else { Ok(()) }
    }

    /// Back to the hardware's state after power-on. What the user has set up of interrupts stays, and so does the
    /// configuration space, which is saved and restored.
    // V82, V86.
    fn power_on(&self) {
        self.model.reset();
        if let Some(session) = &mut self.state.lock().session {
            session.interrupts.reset();
        }
    }

    /// Whether it can be reset without its neighbours: by itself, or because it has none.
    // V87.
    fn resets_alone(&self) -> ResetAlone {
        match self.by_itself {
            ResetAlone::Fails if self.neighbours.is_alone() => ResetAlone::Works,
            by_itself => by_itself,
        }
    }

    /// What its user is told of it: as it was when the device was opened.
    // V99.
    fn reset_for_user(&self) -> ResetAlone {
        let opened = self.state.lock().session.as_ref().map(|session| session.reset);
        opened.unwrap_or_else(|| self.resets_alone())
    }

    /// No user sees what another left behind, as far as the function can be reset. Called while it has none.
    fn reset_model(&self, reset: ResetAlone) {
        if reset == ResetAlone::Works {
            self.model.reset();
        }
    }
}

impl fmt::Debug for VfioPciDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioPciDevice")
            .field("address", &self.function.address)
            .field("session", &self.state.lock().session)
            .finish_non_exhaustive()
    }
}

/// As an index into memory; what does not fit is beyond any memory.
fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(crate) fn capability(config: &ConfigSpace, id: u16) -> Option<u16> {
    config.capabilities().find(|found| found.id == id).map(|found| found.offset)
}

/// Whether the function can be reset without its neighbours.
// V87.
fn is_resettable(config: &ConfigSpace) -> bool {
    resets_by_itself(config) || resets_by_power(config)
}

/// Whether the function has a function-level reset, of PCI Express or of Advanced Features.
fn resets_by_itself(config: &ConfigSpace) -> bool {
    has_express_reset(config) || has_advanced_features_reset(config)
}

pub(crate) fn has_express_reset(config: &ConfigSpace) -> bool {
    register(config, CAP_EXPRESS, 4).is_some_and(|capabilities| capabilities & 1 << 28 != 0)
}

pub(crate) fn has_advanced_features_reset(config: &ConfigSpace) -> bool {
    register(config, CAP_ADVANCED_FEATURES, 0).is_some_and(|header| header >> 24 & 0b11 == 0b11)
}

/// Whether the function loses its state on the transition from D3hot to D0.
pub(crate) fn resets_by_power(config: &ConfigSpace) -> bool {
    register(config, CAP_POWER, 4).is_some_and(|control| control & 1 << 3 == 0)
}

/// A register of a capability.
fn register(config: &ConfigSpace, id: u16, at: u16) -> Option<u32> {
    config.read_u32(capability(config, id)?.checked_add(at)?)
}

#[cfg(test)]
#[cfg(all(feature = "testbed", not(shuttle)))]
mod tests;
