//! Which interrupts are set up, and where each goes.
//!
//! Nothing is signalled here, and no listening ends: what is due is handed back, for the caller to do when it holds no
//! lock.

mod available;
mod due;

use alloc::vec;
use alloc::vec::Vec;
use core::mem;

pub(crate) use self::available::Available;
pub(super) use self::due::{Due, UnmaskToken};
use crate::device_ops::{Eventfd, IrqAction, IrqError, IrqIndex, IrqSource, Listening, Trigger};

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

/// Level of the interrupt line, as the device drives it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Level {
    /// The device waits for its driver. The line is signalled whenever it is not masked.
    High,
    /// It does not.
    Low,
}

/// Whether the command register lets the interrupt line through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IntxLine {
    On,
    Off,
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
#[derive(Debug, Default)]
struct Intx {
    trigger: Option<Trigger>,
    masked: bool,
    pending: bool,
    is_high: bool,
    unmasked_by: Option<Unmasking>,
}

/// An event that unmasks the line, until the last clone is dropped.
#[derive(Debug)]
struct Unmasking {
    token: UnmaskToken,
    /// Once the event is listened to.
    listening: Option<Listening>,
}

impl Intx {
    /// Tells the user if there is something to tell, and masks the line then.
    fn deliver(&mut self, line: IntxLine) -> Option<Trigger> {
        if (self.pending || self.is_high) && !self.masked && line == IntxLine::On {
            (self.pending, self.masked) = (false, true);
            return self.trigger.clone();
        }
        None
    }

    fn unmask(&mut self, line: IntxLine) -> Option<Trigger> {
        // Vt23.10: while the command register holds it back, it stays masked.
        if line == IntxLine::On {
            self.masked = false;
        }
        self.deliver(line)
    }
}

impl Interrupts {
    /// Nothing is set up.
    pub(super) const fn new(available: Available, line: IntxLine) -> Self {
        Self { available, line, vectors: Vectors::None, error: None, request: None }
    }

    /// The device is reset: what was pending is not any more. All stays set up.
    // V82.
    pub(super) fn reset(&mut self) {
        if let Vectors::Intx(intx) = &mut self.vectors {
            (intx.pending, intx.is_high) = (false, false);
        }
    }

    /// The device drives the line.
    pub(super) fn drive_intx(&mut self, level: Level) -> Option<Trigger> {
        let Vectors::Intx(intx) = &mut self.vectors else { return None };
        intx.is_high = level == Level::High;
        intx.deliver(self.line)
    }

    /// The command register has changed. To hold the line back masks it, to let it through unmasks it.
    pub(super) fn set_line(&mut self, line: IntxLine) -> Due {
        let changed = mem::replace(&mut self.line, line) != line;
        let Vectors::Intx(intx) = &mut self.vectors else { return Due::default() };
        if !changed {
            return Due::default();
        }
        match line {
            IntxLine::On => Due::signal(intx.unmask(line)),
            IntxLine::Off => {
                intx.masked = true;
                Due::default()
            }
        }
    }

    /// Whether MSI is set up, for how many vectors.
    pub(super) fn msi_vectors(&self) -> usize {
        if let Vectors::Msi(triggers) = &self.vectors { triggers.len() } else { 0 }
    }

    /// The event of this token was signalled.
    pub(super) fn unmask_by(&mut self, token: &UnmaskToken) -> Due {
        match &mut self.vectors {
            Vectors::Intx(intx) if intx.unmasked_by.as_ref().is_some_and(|by| by.token.is(token)) => {
                Due::signal(intx.unmask(self.line))
            }
            _ => Due::default(),
        }
    }

    /// The event of this token is listened to, unless it was removed meanwhile.
    pub(super) fn listens(&mut self, token: &UnmaskToken, listening: Listening) -> Due {
        match &mut self.vectors {
            Vectors::Intx(Intx { unmasked_by: Some(by), .. }) if by.token.is(token) => {
                by.listening = Some(listening);
                Due::default()
            }
            _ => Due::end(Some(listening)),
        }
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
    ) -> Result<Due, IrqError> {
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

    /// Which of INTx, MSI and MSI-X is set up.
    pub(super) fn active(&self) -> Option<IrqIndex> {
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

    // Table Vt23.
    fn trigger_intx(&mut self, source: IrqSource<'_>) -> Result<Due, IrqError> {
        let index = IrqIndex::INTX;
        if matches!((&self.vectors, &source), (Vectors::Intx(_), IrqSource::None { count: 0 })) {
            return Ok(match mem::take(&mut self.vectors) {
                Vectors::Intx(intx) => Due::end(intx.unmasked_by.and_then(|by| by.listening)),
                _ => Due::default(),
            });
        }
        self.may_set_up(index)?;
        if source.count() != 1 {
            return Err(IrqError::WrongCount { index, count: source.count() });
        }
        match (&mut self.vectors, source) {
            (vectors, IrqSource::Eventfd(events)) => {
                let trigger = single(index, events)?;
                if let Vectors::Intx(intx) = vectors {
                    intx.trigger = trigger;
                } else {
                    let masked = self.line == IntxLine::Off;
                    *vectors = Vectors::Intx(Intx { trigger, masked, ..Intx::default() });
                }
                Ok(Due::default())
            }
            (Vectors::Intx(_), IrqSource::Bool([false, ..])) => Ok(Due::default()),
            (Vectors::Intx(intx), IrqSource::None { .. } | IrqSource::Bool(_)) => {
                let due = if self.line == IntxLine::On { intx.trigger.clone() } else { None };
                Ok(Due::signal(due))
            }
            _ => Err(IrqError::NotSetUp { index }),
        }
    }

    // Vt23.7 to Vt23.11.
    fn mask_intx(&mut self, action: IrqAction, source: IrqSource<'_>) -> Result<Due, IrqError> {
        let index = IrqIndex::INTX;
        let Vectors::Intx(intx) = &mut self.vectors else { return Err(IrqError::NotSetUp { index }) };
        if source.count() != 1 {
            return Err(IrqError::WrongCount { index, count: source.count() });
        }
        match (source, action) {
            (IrqSource::Bool([false, ..]), _) => Ok(Due::default()),
            (IrqSource::None { .. } | IrqSource::Bool(_), IrqAction::Mask) => {
                intx.masked = true;
                Ok(Due::default())
            }
            (IrqSource::None { .. } | IrqSource::Bool(_), _) => Ok(Due::signal(intx.unmask(self.line))),
            (IrqSource::Eventfd(events), IrqAction::Unmask) => match single(index, events)? {
                None => Ok(Due::end(intx.unmasked_by.take().and_then(|by| by.listening))),
                Some(_) if intx.unmasked_by.is_some() => Err(IrqError::UnmaskSet { index }),
                Some(event) => {
                    let token = UnmaskToken::default();
                    intx.unmasked_by = Some(Unmasking { token: token.clone(), listening: None });
                    Ok(Due { listen: Some((event, token)), ..Due::default() })
                }
            },
            (IrqSource::Eventfd(_), _) => Err(IrqError::Unsupported { index, action }),
        }
    }

    // Table Vt24.
    fn trigger_messages(&mut self, index: IrqIndex, start: u32, source: IrqSource<'_>) -> Result<Due, IrqError> {
        let first = usize::try_from(start).unwrap_or(usize::MAX);
        let active = self.active() == Some(index);
        match source {
            IrqSource::None { count: 0 } if active => {
                self.vectors = Vectors::None;
                Ok(Due::default())
            }
            IrqSource::Eventfd(events) => {
                self.may_set_up(index)?;
                self.place_messages(index, start, events)?;
                Ok(Due::default())
            }
            _ if !active => Err(IrqError::NotSetUp { index }),
            IrqSource::None { count } => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                Ok(Due::signal(self.messages().iter().skip(first).take(count).flatten().cloned()))
            }
            IrqSource::Bool(each) => {
                let chosen = self.messages().iter().skip(first).zip(each).filter(|(_, wanted)| **wanted);
                Ok(Due::signal(chosen.filter_map(|(trigger, _)| trigger.clone())))
            }
        }
    }

    fn messages(&self) -> &[Option<Trigger>] {
        match &self.vectors {
            Vectors::Msi(triggers) | Vectors::Msix(triggers) => triggers,
            Vectors::None | Vectors::Intx(_) => &[],
        }
    }

    /// Sets events from `start` on, which with `events` is within what the function has.
    // Vt24.3, Vt24.4.
    fn place_messages(&mut self, index: IrqIndex, start: u32, events: &[Eventfd]) -> Result<(), IrqError> {
        let first = usize::try_from(start).unwrap_or(usize::MAX);
        match &mut self.vectors {
            Vectors::Msi(placed) => place(placed, index, first, events),
            Vectors::Msix(placed) => {
                placed.resize(first.saturating_add(events.len()).max(placed.len()), None);
                place(placed, index, first, events)
            }
            Vectors::None | Vectors::Intx(_) => {
                if start == 0 && events.is_empty() {
                    return Err(IrqError::NoVectors { index });
                }
                let mut placed = vec![None; first.saturating_add(events.len())];
                place(&mut placed, index, first, events)?;
                self.vectors = if index == IrqIndex::MSI { Vectors::Msi(placed) } else { Vectors::Msix(placed) };
                Ok(())
            }
        }
    }
}

/// Sets one after the other. On failure those up to it are removed, and those behind it are as they were.
fn place(placed: &mut [Option<Trigger>], index: IrqIndex, first: usize, events: &[Eventfd]) -> Result<(), IrqError> {
    let available = u32::try_from(placed.len()).unwrap_or(u32::MAX);
    for (at, event) in events.iter().enumerate() {
        let vector = u32::try_from(first.saturating_add(at)).unwrap_or(u32::MAX);
        let set = match (event.trigger(), placed.get_mut(first.saturating_add(at))) {
            (Ok(trigger), Some(slot)) => {
                *slot = trigger;
                Ok(())
            }
            (Ok(None), None) => Ok(()),
            (_, None) => Err(IrqError::OutOfRange { index, start: vector, count: 1, available }),
            (Err(errno), Some(_)) => Err(IrqError::BadEventfd { index, vector, errno }),
        };
        if let Err(error) = set {
            placed.iter_mut().skip(first).take(at + 1).for_each(|slot| *slot = None);
            return Err(error);
        }
    }
    Ok(())
}

/// The event of an index that has one interrupt.
fn single(index: IrqIndex, events: &[Eventfd]) -> Result<Option<Trigger>, IrqError> {
    let event = events.first().ok_or(IrqError::WrongCount { index, count: 0 })?;
    event.trigger().map_err(|errno| IrqError::BadEventfd { index, vector: 0, errno })
}

/// ERR and REQ: one trigger each, which nothing but another one, or its absence, takes away.
// Table Vt25.
fn set_single(set: &mut Option<Trigger>, index: IrqIndex, source: IrqSource<'_>) -> Result<Due, IrqError> {
    match source {
        IrqSource::Eventfd(events) => {
            *set = single(index, events)?;
            Ok(Due::default())
        }
        IrqSource::Bool([]) => Err(IrqError::WrongCount { index, count: 0 }),
        IrqSource::None { .. } if set.is_none() => Err(IrqError::NotSetUp { index }),
        IrqSource::None { count: 0 } => {
            *set = None;
            Ok(Due::default())
        }
        IrqSource::Bool([false, ..]) => Ok(Due::default()),
        IrqSource::None { .. } | IrqSource::Bool(_) => Ok(Due::signal(set.clone())),
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
