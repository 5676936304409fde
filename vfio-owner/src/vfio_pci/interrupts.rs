//! Which interrupts are set up, and where each goes.
//!
//! Nothing is signalled here: what is due is handed back, for the caller to signal when it holds no lock.

use alloc::vec;
use alloc::vec::Vec;

use iommu_core::device_model::pci::PciFunction;

use crate::device_ops::{IrqAction, IrqError, IrqIndex, IrqInfo, IrqMasking, IrqSource, Trigger};

const INTERRUPT_PIN: u16 = 0x3d;
const MOST_MSI: u32 = 32;

/// Outcome of an interrupt that the device raised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Raised {
    /// The trigger was signalled.
    Signalled,
    /// INTx is masked, or disabled in the command register; it is signalled when it no longer is.
    Pending,
    /// No trigger is set.
    Lost,
}

/// Whether the command register lets the interrupt line through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IntxLine {
    On,
    Off,
}

/// How many interrupts a function has, by index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Available {
    intx: u32,
    msi: u32,
    msix: u32,
    error: u32,
}

impl Available {
    pub(super) fn of(function: &PciFunction) -> Self {
        let config = &function.config;
        let control = |capability| config.read_u16(super::capability(config, capability)?.checked_add(2)?);
        let has_pin = config.read_u8(INTERRUPT_PIN).is_some_and(|pin| pin != 0) && function.physical_function.is_none();
        Self {
            intx: has_pin.into(),
            msi: control(super::CAP_MSI).map_or(0, |control| MOST_MSI.min(1 << (control >> 1 & 7))),
            msix: control(super::CAP_MSIX).map_or(0, |control| u32::from(control & 0x7ff) + 1),
            error: config.pcie().is_some().into(),
        }
    }

    fn count(self, index: IrqIndex) -> Option<u32> {
        match index {
            IrqIndex::INTX => Some(self.intx),
            IrqIndex::MSI => Some(self.msi),
            IrqIndex::MSIX => Some(self.msix),
            // Only PCI Express reports errors this way.
            IrqIndex::ERR if self.error > 0 => Some(self.error),
            IrqIndex::REQ => Some(1),
            _ => None,
        }
    }

    /// What the interrupts of an index are. The number of MSI-X vectors in use may grow, as on x86.
    pub(super) fn describe(self, index: IrqIndex) -> Option<IrqInfo> {
        let count = self.count(index)?;
        let masking = if index == IrqIndex::INTX { IrqMasking::Automatic } else { IrqMasking::None };
        let noresize = index != IrqIndex::INTX && index != IrqIndex::MSIX;
        Some(IrqInfo { count, eventfd: true, masking, noresize })
    }
}

/// What a user has set up, from `open` to `close`.
#[derive(Debug)]
pub(super) struct Interrupts {
    available: Available,
    line: IntxLine,
    vectors: Vectors,
    error: Option<Trigger>,
    request: Option<Trigger>,
}

/// Of INTx, MSI and MSI-X, one is set up at a time.
#[derive(Debug, Default)]
enum Vectors {
    #[default]
    None,
    Intx(Intx),
    Msi(Vec<Option<Trigger>>),
    Msix(Vec<Option<Trigger>>),
}

/// The line: level-triggered, so what comes while it is masked waits.
#[derive(Debug)]
struct Intx {
    trigger: Option<Trigger>,
    masked: bool,
    pending: bool,
}

impl Intx {
    /// Tells the user if there is something to tell, and masks the line then.
    fn deliver(&mut self, line: IntxLine) -> Option<Trigger> {
        if self.pending && !self.masked && line == IntxLine::On {
            (self.pending, self.masked) = (false, true);
            return self.trigger.clone();
        }
        None
    }
}

impl Interrupts {
    /// Nothing is set up.
    pub(super) const fn new(available: Available, line: IntxLine) -> Self {
        Self { available, line, vectors: Vectors::None, error: None, request: None }
    }

    /// The device is reset, its command register too: what was pending is not any more. All stays set up.
    pub(super) fn reset(&mut self, line: IntxLine) {
        self.line = line;
        if let Vectors::Intx(intx) = &mut self.vectors {
            intx.pending = false;
        }
    }

    /// The command register has changed.
    pub(super) fn set_line(&mut self, line: IntxLine) -> Option<Trigger> {
        self.line = line;
        self.deliver_intx()
    }

    fn deliver_intx(&mut self) -> Option<Trigger> {
        if let Vectors::Intx(intx) = &mut self.vectors { intx.deliver(self.line) } else { None }
    }

    /// The device raises an interrupt.
    pub(super) fn raise(&mut self, index: IrqIndex, vector: u32) -> (Raised, Option<Trigger>) {
        let place = usize::try_from(vector).unwrap_or(usize::MAX);
        let trigger = match (index, &mut self.vectors) {
            (IrqIndex::INTX, Vectors::Intx(intx)) if vector == 0 => {
                intx.pending = true;
                let due = intx.deliver(self.line);
                if intx.pending {
                    return (Raised::Pending, None);
                }
                due
            }
            (IrqIndex::MSI, Vectors::Msi(triggers)) | (IrqIndex::MSIX, Vectors::Msix(triggers)) => {
                triggers.get(place).cloned().flatten()
            }
            (IrqIndex::ERR, _) if vector == 0 => self.error.clone(),
            (IrqIndex::REQ, _) if vector == 0 => self.request.clone(),
            _ => None,
        };
        (if trigger.is_some() { Raised::Signalled } else { Raised::Lost }, trigger)
    }

    /// Does what the user asks; what is due at once.
    pub(super) fn set(
        &mut self,
        index: IrqIndex,
        start: u32,
        action: IrqAction,
        source: IrqSource<'_>,
    ) -> Result<Vec<Trigger>, IrqError> {
        let available = self.available.count(index).filter(|&count| count > 0).ok_or(IrqError::NoSuchIrq { index })?;
        let count = source.count();
        if start >= available || count > available - start {
            return Err(IrqError::OutOfRange { index, start, count, available });
        }
        match (index, action) {
            (IrqIndex::INTX, IrqAction::Trigger) => self.trigger_intx(source),
            (IrqIndex::INTX, IrqAction::Mask | IrqAction::Unmask) => self.mask_intx(action, source),
            (IrqIndex::MSI | IrqIndex::MSIX, IrqAction::Trigger) => self.trigger_messages(index, start, source),
            (IrqIndex::ERR, IrqAction::Trigger) => set_single(&mut self.error, index, source),
            (IrqIndex::REQ, IrqAction::Trigger) => set_single(&mut self.request, index, source),
            _ => Err(IrqError::Unsupported { index, action }),
        }
    }

    fn active(&self) -> Option<IrqIndex> {
        match self.vectors {
            Vectors::None => None,
            Vectors::Intx(_) => Some(IrqIndex::INTX),
            Vectors::Msi(_) => Some(IrqIndex::MSI),
            Vectors::Msix(_) => Some(IrqIndex::MSIX),
        }
    }

    /// Unless another index is set up.
    fn may_set_up(&self, index: IrqIndex) -> Result<(), IrqError> {
        match self.active() {
            Some(active) if active != index => Err(IrqError::OtherActive { index, active }),
            _ => Ok(()),
        }
    }

    fn trigger_intx(&mut self, source: IrqSource<'_>) -> Result<Vec<Trigger>, IrqError> {
        let index = IrqIndex::INTX;
        if matches!((&self.vectors, &source), (Vectors::Intx(_), IrqSource::None { count: 0 })) {
            self.vectors = Vectors::None;
            return Ok(Vec::new());
        }
        self.may_set_up(index)?;
        let wrong_count = IrqError::WrongCount { index, count: source.count() };
        match (&mut self.vectors, source) {
            (_, IrqSource::None { count: 0 } | IrqSource::Bool([]) | IrqSource::Eventfd([])) => Err(wrong_count),
            (Vectors::Intx(intx), IrqSource::Eventfd([trigger, ..])) => {
                intx.trigger.clone_from(trigger);
                Ok(Vec::new())
            }
            (vectors, IrqSource::Eventfd([trigger, ..])) => {
                *vectors = Vectors::Intx(Intx { trigger: trigger.clone(), masked: false, pending: false });
                Ok(Vec::new())
            }
            (Vectors::Intx(_), IrqSource::Bool([false, ..])) => Ok(Vec::new()),
            (Vectors::Intx(intx), IrqSource::None { .. } | IrqSource::Bool(_)) => {
                Ok(intx.trigger.iter().cloned().collect())
            }
            _ => Err(IrqError::NotSetUp { index }),
        }
    }

    fn mask_intx(&mut self, action: IrqAction, source: IrqSource<'_>) -> Result<Vec<Trigger>, IrqError> {
        let index = IrqIndex::INTX;
        let Vectors::Intx(intx) = &mut self.vectors else { return Err(IrqError::NotSetUp { index }) };
        match source {
            IrqSource::None { count: 1.. } | IrqSource::Bool([true, ..]) => {
                intx.masked = action == IrqAction::Mask;
                Ok(intx.deliver(self.line).into_iter().collect())
            }
            IrqSource::Bool([false, ..]) => Ok(Vec::new()),
            IrqSource::Eventfd([_, ..]) => Err(IrqError::Unsupported { index, action }),
            _ => Err(IrqError::WrongCount { index, count: 0 }),
        }
    }

    fn trigger_messages(
        &mut self,
        index: IrqIndex,
        start: u32,
        source: IrqSource<'_>,
    ) -> Result<Vec<Trigger>, IrqError> {
        let first = usize::try_from(start).unwrap_or(usize::MAX);
        let active = self.active() == Some(index);
        match source {
            IrqSource::None { count: 0 } if active => {
                self.vectors = Vectors::None;
                Ok(Vec::new())
            }
            IrqSource::Eventfd(triggers) => {
                self.may_set_up(index)?;
                self.place_messages(index, start, triggers)?;
                Ok(Vec::new())
            }
            _ if !active => Err(IrqError::NotSetUp { index }),
            IrqSource::None { count } => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                Ok(self.messages().iter().skip(first).take(count).flatten().cloned().collect())
            }
            IrqSource::Bool(each) => {
                let chosen = self.messages().iter().skip(first).zip(each).filter(|(_, wanted)| **wanted);
                Ok(chosen.filter_map(|(trigger, _)| trigger.clone()).collect())
            }
        }
    }

    fn messages(&self) -> &[Option<Trigger>] {
        match &self.vectors {
            Vectors::Msi(triggers) | Vectors::Msix(triggers) => triggers,
            Vectors::None | Vectors::Intx(_) => &[],
        }
    }

    /// Sets triggers from `start` on, which with `triggers` is within what the function has.
    fn place_messages(&mut self, index: IrqIndex, start: u32, triggers: &[Option<Trigger>]) -> Result<(), IrqError> {
        let first = usize::try_from(start).unwrap_or(usize::MAX);
        let end = first.saturating_add(triggers.len());
        match &mut self.vectors {
            Vectors::Msi(placed) if end > placed.len() => {
                let (count, available) = (IrqSource::Eventfd(triggers).count(), placed.len());
                let available = u32::try_from(available).unwrap_or(u32::MAX);
                return Err(IrqError::OutOfRange { index, start, count, available });
            }
            Vectors::Msi(placed) | Vectors::Msix(placed) => {
                placed.resize(end.max(placed.len()), None);
                place(placed, first, triggers);
            }
            Vectors::None | Vectors::Intx(_) => {
                if triggers.is_empty() {
                    return Err(IrqError::WrongCount { index, count: 0 });
                }
                let mut placed = vec![None; end];
                place(&mut placed, first, triggers);
                self.vectors = if index == IrqIndex::MSI { Vectors::Msi(placed) } else { Vectors::Msix(placed) };
            }
        }
        Ok(())
    }
}

fn place(placed: &mut [Option<Trigger>], first: usize, triggers: &[Option<Trigger>]) {
    for (slot, trigger) in placed.iter_mut().skip(first).zip(triggers) {
        slot.clone_from(trigger);
    }
}

/// ERR and REQ: one trigger each, which nothing but another one, or its absence, takes away.
fn set_single(single: &mut Option<Trigger>, index: IrqIndex, source: IrqSource<'_>) -> Result<Vec<Trigger>, IrqError> {
    match source {
        IrqSource::Eventfd([trigger, ..]) => {
            single.clone_from(trigger);
            Ok(Vec::new())
        }
        IrqSource::Eventfd([]) | IrqSource::Bool([]) => Err(IrqError::WrongCount { index, count: 0 }),
        IrqSource::None { .. } if single.is_none() => Err(IrqError::NotSetUp { index }),
        IrqSource::None { count: 0 } => {
            *single = None;
            Ok(Vec::new())
        }
        IrqSource::Bool([false, ..]) => Ok(Vec::new()),
        IrqSource::None { .. } | IrqSource::Bool(_) => Ok(single.iter().cloned().collect()),
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
