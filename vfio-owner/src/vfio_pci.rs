//! vfio-pci: PCI functions for user space.
//!
//! A [`VfioPciDevice`] serves a device file: a virtual configuration space of which a user may write some bits, regions
//! backed by a [`FunctionModel`], and interrupts that signal the user's [`Trigger`]s. [`admits`] says which functions
//! the driver binds, and [`reset_scope`] which of them are reset together.

mod admission;
mod config;
mod driver;
mod interrupts;
mod model;
#[cfg(feature = "testbed")]
mod plain_memory;
mod reset_scope;

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_model::pci::{Bar, BarKind, ConfigSpace, PciFunction};
use iommu_core::device_model::sync::{LockClass, Mutex, Users};
use iommu_core::device_model::{AnyDevice, Errno};

pub use self::admission::{IDS, NAME, VfioPciRefusal, admits};
use self::config::VirtualConfig;
pub use self::driver::VfioPciDriver;
pub use self::interrupts::Raised;
use self::interrupts::{Available, Interrupts};
pub use self::model::FunctionModel;
#[cfg(feature = "testbed")]
pub use self::plain_memory::PlainMemory;
pub use self::reset_scope::{ResetScope, reset_scope};
use crate::device_ops::{
    DeviceInfo, DeviceKind, DeviceOps, IrqAction, IrqError, IrqIndex, IrqInfo, IrqSource, RegionError, RegionIndex,
    RegionInfo, ResetError, Trigger,
};

const CAP_POWER: u16 = 0x01;
const CAP_MSI: u16 = 0x05;
const CAP_EXPRESS: u16 = 0x10;
const CAP_MSIX: u16 = 0x11;
const CAP_ADVANCED_FEATURES: u16 = 0x13;

const PAGE: u64 = 0x1000;

const FUNCTION: LockClass = LockClass::new("vfio-pci function", 650);

/// A PCI function as served by vfio-pci.
///
/// [`open`](DeviceOps::open) puts it into its state after power-on: memory decoding on, bus mastering off. While it is
/// closed, no trigger is called.
pub struct VfioPciDevice {
    function: PciFunction,
    own_reset: OwnReset,
    irqs: Available,
    model: Arc<dyn FunctionModel>,
    /// The bridge whose reset resets it.
    bridge: Option<Weak<dyn AnyDevice>>,
    /// The function's lock: the innermost but for leaf locks; no trigger and no model is called under it.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: VirtualConfig,
    binding: Binding,
    /// While the device is open.
    session: Option<Session>,
}

/// How the function is reset without its neighbours.
// V87.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnReset {
    Never,
    /// By itself.
    Function,
    /// By the bridge above, which was chosen when the function was found alone on its bus: tried at each opening, and
    /// done while it is alone.
    AloneOnBus,
}

/// Whether the driver stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binding {
    Bound,
    /// It has been told to let the device go.
    Leaving,
}

/// From `open` to `close`.
#[derive(Debug)]
struct Session {
    /// Whether the reset that was tried at the opening was done.
    // V73, V99.
    resettable: bool,
    interrupts: Interrupts,
    /// Who is calling triggers. `close` waits for them.
    signalling: Arc<Users>,
}

impl VfioPciDevice {
    /// Creates the device of `function`, with `model` behind its regions.
    pub fn new(function: PciFunction, model: Arc<dyn FunctionModel>) -> Self {
        let state = State { config: VirtualConfig::new(&function), binding: Binding::Bound, session: None };
        Self {
            own_reset: if has_own_reset(&function.config) { OwnReset::Function } else { OwnReset::Never },
            irqs: Available::of(&function),
            function,
            model,
            bridge: None,
            state: Mutex::of(FUNCTION, state),
        }
    }

    /// Sets the bridge whose secondary bus reset resets the device, with all that is below `bridge`.
    #[must_use]
    pub fn below(self, bridge: Option<Weak<dyn AnyDevice>>) -> Self {
        Self { bridge, ..self }
    }

    /// The device was alone on its bus when it was found.
    #[must_use]
    pub(crate) fn found_alone(self) -> Self {
        let own_reset = if self.own_reset == OwnReset::Never { OwnReset::AloneOnBus } else { self.own_reset };
        Self { own_reset, ..self }
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
        self.change(|state| match &mut state.session {
            Some(session) => session.interrupts.raise(index, vector),
            None => (Raised::Lost, None),
        })
    }

    /// Changes the state, then calls the triggers that are due, with no lock held.
    fn change<R, Due: IntoIterator<Item = Trigger>>(&self, change: impl FnOnce(&mut State) -> (R, Due)) -> R {
        let mut state = self.state.lock();
        let (result, due) = change(&mut state);
        // Entered under the lock under which `close` ends the session, so it knows of all who saw a trigger.
        let inside = state.session.as_ref().and_then(|session| session.signalling.enter());
        drop(state);
        for trigger in due {
            trigger.signal();
        }
        drop(inside);
        result
    }

    /// The driver is being unbound: from now on it cannot be reset for a user, which takes the device lock.
    fn leave(&self) {
        self.state.lock().binding = Binding::Leaving;
    }

    fn may_reset(&self) -> Result<(), ResetError> {
        match self.state.lock().binding {
            Binding::Bound => Ok(()),
            Binding::Leaving => Err(ResetError::Leaving),
        }
    }

    /// Back to the state after power-on. Of interrupts, what is set up stays.
    fn power_on(&self) {
        self.model.reset();
        let mut state = self.state.lock();
        let State { config, session, .. } = &mut *state;
        config.reset();
        if let Some(session) = session {
            session.interrupts.reset(config.intx_line());
        }
    }

    /// Whether a reset would be done now.
    fn is_resettable(&self) -> bool {
        match self.own_reset {
            OwnReset::Never => false,
            OwnReset::Function => true,
            OwnReset::AloneOnBus => driver::below(self.bridge.as_ref()).len() == 1,
        }
    }

    /// No user sees what another left behind, as far as the function can be reset; whether it can.
    fn clean(&self) -> bool {
        let resettable = self.is_resettable();
        if resettable {
            self.power_on();
        } else {
            self.state.lock().config.reset();
        }
        resettable
    }

    /// The window of a region; `None` for the configuration space, and where there is none.
    fn window(&self, index: RegionIndex) -> Option<Bar> {
        if index == RegionIndex::ROM {
            return self.function.bars.rom();
        }
        self.function.bars.get(usize::try_from(index.number()).ok()?)
    }

    /// How much of `length` bytes from `offset` on there is in the window, if the function answers there now.
    fn within(&self, index: RegionIndex, offset: u64, length: usize) -> Result<usize, RegionError> {
        let bar = self.window(index).ok_or(RegionError::NoSuchRegion { index })?;
        let length = clip(index, bar.size(), offset, length)?;
        // The memory of a virtual function is under the control of its physical function.
        let always_on = bar.kind() == BarKind::Io || self.function.physical_function.is_some();
        if always_on || self.state.lock().config.memory_on() {
            Ok(length)
        } else {
            Err(RegionError::MemoryOff { index })
        }
    }
}

impl DeviceOps for VfioPciDevice {
    fn open(&self) -> Result<(), Errno> {
        if self.own_reset != OwnReset::Never {
            self.may_reset().map_err(ResetError::errno)?;
        }
        let resettable = self.clean();
        let mut state = self.state.lock();
        let interrupts = Interrupts::new(self.irqs, state.config.intx_line());
        state.session = Some(Session { resettable, interrupts, signalling: Arc::new(Users::new()) });
        Ok(())
    }

    fn close(&self) {
        let session = self.state.lock().session.take();
        if let Some(session) = session {
            session.signalling.wait();
        }
        self.clean();
    }

    /// Signals the user's request trigger, each time anew.
    // V13.
    fn request(&self, _attempt: u32) {
        self.raise(IrqIndex::REQ, 0);
    }

    fn info(&self) -> DeviceInfo {
        let opened = self.state.lock().session.as_ref().map(|session| session.resettable);
        DeviceInfo {
            kind: DeviceKind::Pci,
            resettable: opened.unwrap_or_else(|| self.is_resettable()),
            regions: RegionIndex::PCI_COUNT,
            irqs: IrqIndex::PCI_COUNT,
        }
    }

    fn region(&self, index: RegionIndex) -> Option<RegionInfo> {
        let offset = index.offset();
        let empty = RegionInfo { size: 0, offset, readable: false, writable: false, mappable: false };
        match index {
            RegionIndex::CONFIG => {
                let size = self.state.lock().config.size();
                Some(RegionInfo { size, readable: true, writable: true, ..empty })
            }
            _ if index.number() < RegionIndex::CONFIG.number() => {
                let Some(bar) = self.window(index) else { return Some(empty) };
                let is_rom = index == RegionIndex::ROM;
                let mappable = !is_rom && bar.kind() != BarKind::Io && bar.size() >= PAGE;
                Some(RegionInfo { size: bar.size(), offset, readable: true, writable: !is_rom, mappable })
            }
            _ => None,
        }
    }

    fn read(&self, index: RegionIndex, offset: u64, into: &mut [u8]) -> Result<usize, RegionError> {
        if into.is_empty() {
            return Ok(0);
        }
        if index == RegionIndex::CONFIG {
            let state = self.state.lock();
            let length = clip(index, state.config.size(), offset, into.len())?;
            state.config.read(whole(offset), into.get_mut(..length).unwrap_or_default());
            return Ok(length);
        }
        let length = self.within(index, offset, into.len())?;
        self.model.read(index, offset, into.get_mut(..length).unwrap_or_default());
        Ok(length)
    }

    fn write(&self, index: RegionIndex, offset: u64, from: &[u8]) -> Result<usize, RegionError> {
        if from.is_empty() {
            return Ok(0);
        }
        if index == RegionIndex::CONFIG {
            return self.change(|state| {
                let length = match clip(index, state.config.size(), offset, from.len()) {
                    Ok(length) => length,
                    Err(error) => return (Err(error), None),
                };
                state.config.write(whole(offset), from.get(..length).unwrap_or_default());
                let line = state.config.intx_line();
                (Ok(length), state.session.as_mut().and_then(|session| session.interrupts.set_line(line)))
            });
        }
        if index == RegionIndex::ROM && self.window(index).is_some() {
            return Err(RegionError::ReadOnly { index });
        }
        let length = self.within(index, offset, from.len())?;
        self.model.write(index, offset, from.get(..length).unwrap_or_default());
        Ok(length)
    }

    fn irq(&self, index: IrqIndex) -> Option<IrqInfo> {
        self.irqs.describe(index)
    }

    fn set_irqs(&self, index: IrqIndex, start: u32, action: IrqAction, source: IrqSource<'_>) -> Result<(), IrqError> {
        self.change(|state| {
            let Some(session) = &mut state.session else { return (Err(IrqError::NotOpen), Vec::new()) };
            match session.interrupts.set(index, start, action, source) {
                Ok(due) => (Ok(()), due),
                Err(error) => (Err(error), Vec::new()),
            }
        })
    }

    fn reset(&self) -> Result<(), ResetError> {
        if !self.info().resettable {
            return Err(ResetError::NotResettable);
        }
        self.may_reset()?;
        self.power_on();
        Ok(())
    }

    fn reset_with(&self) -> Vec<Arc<str>> {
        driver::below(self.bridge.as_ref())
    }

    fn hot_reset(&self) {
        self.power_on();
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

/// How much of `length` bytes from `offset` on there is in a region of this size.
fn clip(index: RegionIndex, size: u64, offset: u64, length: usize) -> Result<usize, RegionError> {
    match size.checked_sub(offset) {
        None | Some(0) => Err(RegionError::BeyondEnd { index, offset, size }),
        Some(rest) => Ok(length.min(whole(rest))),
    }
}

/// As an index into memory; what does not fit is beyond any memory.
fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn capability(config: &ConfigSpace, id: u16) -> Option<u16> {
    config.capabilities().find(|found| found.id == id).map(|found| found.offset)
}

/// Whether the function can be reset without its neighbours: by a function-level reset (PCI Express, or Advanced
/// Features), or because it loses its state on the transition from D3hot to D0.
fn has_own_reset(config: &ConfigSpace) -> bool {
    let register = |id, at: u16| config.read_u32(capability(config, id)?.checked_add(at)?);
    let own_reset = register(CAP_EXPRESS, 4).is_some_and(|capabilities| capabilities & 1 << 28 != 0)
        || register(CAP_ADVANCED_FEATURES, 0).is_some_and(|header| header >> 24 & 0b11 == 0b11);
    own_reset || register(CAP_POWER, 4).is_some_and(|control| control & 1 << 3 == 0)
}

#[cfg(test)]
#[cfg(all(feature = "testbed", not(shuttle)))]
mod tests;
