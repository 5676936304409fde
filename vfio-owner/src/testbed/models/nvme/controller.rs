//! Registers and queues of the controller: what it knows, without what it does.

use alloc::collections::BTreeMap;
use core::ops::Bound::{Excluded, Unbounded};

use iommu_core::Iova;

use super::command::{COMMAND_SIZE, COMPLETION_SIZE, Completion, Status};
use super::data::PAGE;

pub(super) const CAP: u64 = 0x00;
pub(super) const VS: u64 = 0x08;
pub(super) const INTMS: u64 = 0x0c;
pub(super) const INTMC: u64 = 0x10;
pub(super) const CC: u64 = 0x14;
pub(super) const CSTS: u64 = 0x1c;
pub(super) const AQA: u64 = 0x24;
pub(super) const ASQ: u64 = 0x28;
pub(super) const ACQ: u64 = 0x30;
/// Behind the last of the registers below the doorbells.
pub(super) const REGISTERS_END: u64 = 0x38;
pub(super) const DOORBELLS: u64 = 0x1000;

/// How many pairs of queues there can be, beside the admin queues.
pub(super) const QUEUES: u16 = 64;
pub(super) const DOORBELLS_SIZE: usize = 8 * (QUEUES as usize + 1);
/// How many entries a queue can have.
const ENTRIES: u16 = 1024;

/// NVM command set, pages of 4 KiB, contiguous queues, ready within ten seconds.
const CAPABILITIES: u64 = 1 << 37 | 20 << 24 | 1 << 16 | (ENTRIES as u64 - 1);
/// 1.3.
pub(super) const VERSION: u32 = 0x0001_0300;

pub(super) const CC_ENABLE: u32 = 1;
/// The command set and the size of pages.
const CC_CHOICES: u32 = 0x7 << 4 | 0xf << 7;
const CC_SHUTDOWN: u32 = 0x3 << 14;
const CC_ENTRY_SIZES: u32 = 0xff << 16;
/// The sizes of [`Command`](super::command::Command) and [`Completion`], as powers of two.
const ENTRY_SIZES: u32 = 4 << 20 | 6 << 16;
const CSTS_READY: u32 = 1;
const CSTS_FATAL: u32 = 1 << 1;
const CSTS_SHUTDOWN: u32 = 0x3 << 2;
const CSTS_SHUTTING_DOWN: u32 = 1 << 2;
const CSTS_SHUT_DOWN: u32 = 2 << 2;

/// Features, and what they are after a reset.
const FEATURES: [(u8, u32); 9] =
    [(0x01, 0), (0x02, 0), (0x04, 0x157), (0x05, 0), (0x06, 1), (0x08, 0), (0x09, 0), (0x0a, 0), (0x0b, 0)];
/// How many requests for events can be outstanding.
const EVENT_REQUESTS: u8 = 4;

/// State of the controller.
#[derive(Debug)]
pub(super) struct Controller {
    /// Counts resets, which commands that are under way do not survive.
    generation: u64,
    cc: u32,
    csts: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    masked: u32,
    /// The driver has been interrupted, and there may be completions that it has not seen.
    has_interrupted: bool,
    submission: BTreeMap<u16, SubmissionQueue>,
    completion: BTreeMap<u16, CompletionQueue>,
    /// The queue from which the last command came.
    last: u16,
    /// A command is under way. There is one at a time.
    is_busy: bool,
    features: BTreeMap<u8, u32>,
    event_requests: u8,
}

#[derive(Debug)]
struct SubmissionQueue {
    at: u64,
    size: u16,
    head: u16,
    tail: u16,
    completion: u16,
}

#[derive(Debug)]
struct CompletionQueue {
    at: u64,
    size: u16,
    head: u16,
    tail: u16,
    phase: bool,
    /// Which interrupt tells of new completions.
    vector: Option<u16>,
    /// It is to be raised.
    is_due: bool,
}

impl CompletionQueue {
    /// Returns how many completions the driver has not seen.
    const fn unseen(&self) -> u16 {
        distance(self.head, self.tail, self.size)
    }
}

/// How far it is from one place in a ring to another.
const fn distance(from: u16, to: u16, size: u16) -> u16 {
    if to >= from { to - from } else { size - from + to }
}

/// A command that is under way.
#[derive(Debug)]
pub(super) struct Fetched {
    /// Where it is in memory.
    pub(super) at: Iova,
    pub(super) queue: u16,
    head: u16,
    completion: u16,
    generation: u64,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            generation: 0,
            cc: 0,
            csts: 0,
            aqa: 0,
            asq: 0,
            acq: 0,
            masked: 0,
            has_interrupted: false,
            submission: BTreeMap::new(),
            completion: BTreeMap::new(),
            last: 0,
            is_busy: false,
            features: FEATURES.into(),
            event_requests: 0,
        }
    }
}

impl Controller {
    /// Goes to the state after power-on.
    pub(super) fn reset(&mut self) {
        *self = Self { generation: self.generation.wrapping_add(1), ..Self::default() };
    }

    /// Returns the word at `offset`.
    pub(super) fn register(&self, offset: u64) -> u32 {
        match offset {
            CAP => low(CAPABILITIES),
            0x04 => high(CAPABILITIES),
            VS => VERSION,
            INTMS => self.masked,
            CC => self.cc,
            CSTS => self.csts,
            AQA => self.aqa,
            ASQ => low(self.asq),
            0x2c => high(self.asq),
            ACQ => low(self.acq),
            0x34 => high(self.acq),
            _ => match doorbell(offset) {
                Some(Doorbell::Submission(queue)) => self.submission.get(&queue).map_or(0, |queue| queue.tail.into()),
                Some(Doorbell::Completion(queue)) => self.completion.get(&queue).map_or(0, |queue| queue.head.into()),
                None => 0,
            },
        }
    }

    /// Writes the word at `offset`.
    pub(super) fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            INTMS => self.masked |= value,
            INTMC => self.unmask(value),
            CC => self.configure(value),
            AQA => self.aqa = value & 0x0fff_0fff,
            ASQ => self.asq = self.asq & !0xffff_ffff | u64::from(value) & !(PAGE - 1),
            0x2c => self.asq = self.asq & 0xffff_ffff | u64::from(value) << 32,
            ACQ => self.acq = self.acq & !0xffff_ffff | u64::from(value) & !(PAGE - 1),
            0x34 => self.acq = self.acq & 0xffff_ffff | u64::from(value) << 32,
            _ => self.ring(offset, value),
        }
    }

    /// Takes what a driver rings. Values that a queue cannot have are ignored.
    fn ring(&mut self, offset: u64, value: u32) {
        let Ok(place) = u16::try_from(value) else { return };
        match doorbell(offset) {
            Some(Doorbell::Submission(queue)) => {
                if let Some(queue) = self.submission.get_mut(&queue).filter(|queue| place < queue.size) {
                    queue.tail = place;
                }
            }
            Some(Doorbell::Completion(queue)) => {
                if let Some(queue) = self.completion.get_mut(&queue).filter(|queue| place < queue.size)
                    && distance(queue.head, place, queue.size) <= queue.unseen()
                {
                    queue.head = place;
                }
            }
            None => {}
        }
    }

    fn configure(&mut self, value: u32) {
        let before = core::mem::replace(&mut self.cc, value);
        match (before & CC_ENABLE, value & CC_ENABLE) {
            (0, CC_ENABLE) => self.enable(),
            (CC_ENABLE, 0) => self.disable(),
            _ => {}
        }
        if before & CC_SHUTDOWN == 0 && value & CC_SHUTDOWN != 0 {
            self.csts = self.csts & !CSTS_SHUTDOWN | CSTS_SHUTTING_DOWN;
        }
    }

    fn enable(&mut self) {
        let [submission, completion] = [self.aqa & 0xfff, self.aqa >> 16].map(entries);
        let (Ok(submission), Ok(completion), 0) = (submission, completion, self.cc & CC_CHOICES) else {
            self.csts = CSTS_FATAL;
            return;
        };
        self.csts = CSTS_READY;
        self.completion.insert(0, CompletionQueue::new(self.acq, completion, Some(0)));
        self.submission.insert(0, SubmissionQueue { at: self.asq, size: submission, head: 0, tail: 0, completion: 0 });
    }

    /// Resets all but the registers that describe the admin queues.
    fn disable(&mut self) {
        let Self { cc, aqa, asq, acq, .. } = *self;
        self.reset();
        *self = Self { cc, aqa, asq, acq, ..core::mem::take(self) };
    }

    /// Takes the next command, of each queue in turn, whose completion has a place; `None` while another is under way.
    pub(super) fn next(&mut self) -> Option<Fetched> {
        if self.is_busy || self.csts & (CSTS_READY | CSTS_FATAL) != CSTS_READY {
            return None;
        }
        let after = self.submission.range((Excluded(self.last), Unbounded));
        let mut queues = after.chain(self.submission.range(..=self.last));
        let has_place = |queue: &SubmissionQueue| {
            self.completion.get(&queue.completion).is_some_and(|to| to.unseen() < to.size - 1)
        };
        let number = *queues.find(|(_, queue)| queue.head != queue.tail && has_place(queue))?.0;
        let queue = self.submission.get_mut(&number)?;
        let at = Iova::new(queue.at.wrapping_add(u64::from(queue.head) * COMMAND_SIZE as u64));
        queue.head = (queue.head + 1) % queue.size;
        (self.last, self.is_busy) = (number, true);
        let (head, completion) = (queue.head, queue.completion);
        Some(Fetched { at, queue: number, head, completion, generation: self.generation })
    }

    /// Ends a command. Returns its completion, and where it is to be written; `None` if there was a reset meanwhile.
    pub(super) fn complete(
        &mut self,
        fetched: &Fetched,
        id: u16,
        outcome: Result<u32, Status>,
    ) -> Option<(Iova, Completion)> {
        self.end(fetched)?;
        let queue = self.completion.get_mut(&fetched.completion)?;
        let at = Iova::new(queue.at.wrapping_add(u64::from(queue.tail) * COMPLETION_SIZE as u64));
        let entry = Completion::new(fetched.queue, fetched.head, id, queue.phase, outcome);
        queue.tail = (queue.tail + 1) % queue.size;
        queue.phase ^= queue.tail == 0;
        Some((at, entry))
    }

    /// Ends a command without a completion.
    pub(super) fn end(&mut self, fetched: &Fetched) -> Option<()> {
        (fetched.generation == self.generation).then(|| self.is_busy = false)
    }

    /// Notes that a completion has been written.
    pub(super) fn has_completed(&mut self, fetched: &Fetched) {
        if let Some(queue) = self.completion.get_mut(&fetched.completion)
            && fetched.generation == self.generation
        {
            queue.is_due = true;
        }
    }

    /// Takes an interrupt that is to be raised.
    pub(super) fn next_interrupt(&mut self) -> Option<u16> {
        let masked = self.masked;
        let vector = self.completion.values_mut().find_map(|queue| {
            // Whoever has seen everything is not interrupted.
            queue.is_due &= queue.unseen() > 0;
            let vector = queue.vector.filter(|vector| queue.is_due && !has_bit(masked, *vector))?;
            queue.is_due = false;
            Some(vector)
        });
        self.has_interrupted |= vector.is_some();
        vector
    }

    /// Returns whether there are completions to interrupt the driver for that it has not seen.
    pub(super) fn has_unseen(&self) -> bool {
        let unmasked = |vector: u16| !has_bit(self.masked, vector);
        self.completion.values().any(|queue| queue.unseen() > 0 && queue.vector.is_some_and(unmasked))
    }

    /// Returns whether the driver has been interrupted, and has seen everything since.
    pub(super) fn takes_line_back(&mut self) -> bool {
        self.has_interrupted && !self.has_unseen() && core::mem::take(&mut self.has_interrupted)
    }

    fn unmask(&mut self, bits: u32) {
        self.masked &= !bits;
        for queue in self.completion.values_mut().filter(|queue| queue.unseen() > 0) {
            queue.is_due |= queue.vector.is_some_and(|vector| has_bit(bits, vector));
        }
    }

    /// Counts a request to be told of events, of which there never are any.
    pub(super) fn keep_event_request(&mut self) -> Result<(), Status> {
        if self.event_requests == EVENT_REQUESTS {
            return Err(Status::TOO_MANY_EVENT_REQUESTS);
        }
        self.event_requests += 1;
        Ok(())
    }

    /// Stops until the next reset: a queue cannot be reached.
    pub(super) fn fail(&mut self, fetched: &Fetched) {
        if self.end(fetched).is_some() {
            self.csts |= CSTS_FATAL;
        }
    }

    pub(super) const fn is_shutting_down(&self) -> bool {
        self.csts & CSTS_SHUTDOWN == CSTS_SHUTTING_DOWN
    }

    pub(super) fn shut_down(&mut self) {
        if self.is_shutting_down() {
            self.csts = self.csts & !CSTS_SHUTDOWN | CSTS_SHUT_DOWN;
        }
    }

    pub(super) fn feature(&self, id: u8) -> Result<u32, Status> {
        self.features.get(&id).copied().ok_or(Status::INVALID_FIELD)
    }

    pub(super) fn set_feature(&mut self, id: u8, value: u32) -> Result<(), Status> {
        *self.features.get_mut(&id).ok_or(Status::INVALID_FIELD)? = value;
        Ok(())
    }

    /// Creates a completion queue, with interrupts of `vector`.
    pub(super) fn create_completion_queue(
        &mut self,
        number: u16,
        at: u64,
        last: u16,
        vector: Option<u16>,
    ) -> Result<(), Status> {
        let free = (1..=QUEUES).contains(&number) && !self.completion.contains_key(&number);
        let size = self.new_queue(free, at, last)?;
        self.completion.insert(number, CompletionQueue::new(at, size, vector));
        Ok(())
    }

    /// Creates a submission queue, whose commands are completed in `completion`.
    pub(super) fn create_submission_queue(
        &mut self,
        number: u16,
        at: u64,
        last: u16,
        completion: u16,
    ) -> Result<(), Status> {
        if completion == 0 || !self.completion.contains_key(&completion) {
            return Err(Status::INVALID_COMPLETION_QUEUE);
        }
        let free = (1..=QUEUES).contains(&number) && !self.submission.contains_key(&number);
        let size = self.new_queue(free, at, last)?;
        self.submission.insert(number, SubmissionQueue { at, size, head: 0, tail: 0, completion });
        Ok(())
    }

    /// Returns the size of a queue that is to be at `at` with entries up to `last`.
    fn new_queue(&self, free: bool, at: u64, last: u16) -> Result<u16, Status> {
        if !free {
            return Err(Status::INVALID_QUEUE);
        }
        if !at.is_multiple_of(PAGE) {
            return Err(Status::INVALID_PRP_OFFSET);
        }
        if self.cc & CC_ENTRY_SIZES != ENTRY_SIZES {
            return Err(Status::INVALID_FIELD);
        }
        entries(last.into())
    }

    pub(super) fn delete_submission_queue(&mut self, number: u16) -> Result<(), Status> {
        match number {
            0 => Err(Status::INVALID_QUEUE),
            _ => self.submission.remove(&number).map(drop).ok_or(Status::INVALID_QUEUE),
        }
    }

    pub(super) fn delete_completion_queue(&mut self, number: u16) -> Result<(), Status> {
        if number == 0 || !self.completion.contains_key(&number) {
            return Err(Status::INVALID_QUEUE);
        }
        if self.submission.values().any(|queue| queue.completion == number) {
            return Err(Status::INVALID_QUEUE_DELETION);
        }
        self.completion.remove(&number);
        Ok(())
    }
}

impl CompletionQueue {
    fn new(at: u64, size: u16, vector: Option<u16>) -> Self {
        Self { at, size, head: 0, tail: 0, phase: true, vector, is_due: false }
    }
}

/// Returns how many entries a queue has whose last one is `last`.
fn entries(last: u32) -> Result<u16, Status> {
    let last = u16::try_from(last).ok().filter(|last| (1..ENTRIES).contains(last));
    last.map(|last| last + 1).ok_or(Status::INVALID_QUEUE_SIZE)
}

enum Doorbell {
    Submission(u16),
    Completion(u16),
}

fn doorbell(offset: u64) -> Option<Doorbell> {
    let number = u16::try_from(offset.checked_sub(DOORBELLS)? / 4).ok()?;
    let queue = Some(number / 2).filter(|queue| *queue <= QUEUES)?;
    Some(if number % 2 == 0 { Doorbell::Submission(queue) } else { Doorbell::Completion(queue) })
}

fn has_bit(bits: u32, place: u16) -> bool {
    bits.checked_shr(place.into()).is_some_and(|bits| bits & 1 != 0)
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or_default()
}

fn high(value: u64) -> u32 {
    u32::try_from(value >> 32).unwrap_or_default()
}
