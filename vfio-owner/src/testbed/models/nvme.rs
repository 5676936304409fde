//! NVMe controller.

mod admin;
mod command;
mod controller;
mod data;
mod disk;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::fmt;

use iommu_core::Iova;
use iommu_core::device_model::pci::PciFunction;
use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::software::SimulatedDevice;
use zerocopy::IntoBytes as _;

use self::command::{COMMAND_SIZE, COMPLETION_SIZE, Command, Status};
use self::controller::{
    AQA, CC, CC_ENABLE, CSTS, Controller, DOORBELLS, DOORBELLS_SIZE, Fetched, INTMC, INTMS, REGISTERS_END,
};
pub use self::disk::{Disk, FileDisk, MemoryDisk};
use crate::device_ops::{Follow, IrqIndex, Polled, RegionIndex, RegionMemory};
use crate::testbed::Slot;
use crate::vfio_pci::{Available, FunctionModel, Level};

/// Size of a block.
const BLOCK: u64 = 512;
/// The one namespace.
const NAMESPACE: u32 = 1;
/// As much data can a command have.
const LARGEST_TRANSFER: usize = 128 << 10;
/// So many commands are executed before a poll returns.
const COMMANDS_A_POLL: usize = 64;
/// So many commands are executed before a write to a register returns: more than all queues hold.
const COMMANDS_A_WRITE: usize = 1 << 17;

/// An NVMe controller of version 1.3 with one namespace, a [`Disk`] in blocks of 512 bytes.
///
/// Firmware, kernels and user-space drivers find what they need: registers in BAR 0, admin queues and 64 pairs of queues
/// for reads, writes and flushes, PRPs, data up to 128 KiB a command, interrupts by MSI-X, MSI and INTx. The function in
/// whose slot it sits should have the class code `0x010802`, a BAR 0 of 16 KiB or more and MSI-X with 65 vectors, as in
/// [`workstation`](crate::testbed::workstation) or the layout `bar0=64:16K msix=65@0 intx flr`, where the table is moved
/// behind the doorbells.
///
/// ```
/// use vfio_owner::testbed::models::nvme::{MemoryDisk, Nvme};
/// use vfio_owner::testbed::{Machine, workstation};
///
/// let disk = MemoryDisk::new(vec![0; 1 << 20]);
/// let machine = Machine::builder(workstation()).model("0000:00:05.0", |slot| Nvme::new(slot, disk)).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Registers are accessed in words of 32 bits, or two at once. When a write returns, the controller has done what it was
/// told. A program that maps BAR 0 writes to memory, which the controller looks at whenever it is
/// [polled](FunctionModel::poll); `INTMC` reads as zero there.
///
/// A queue in memory that the device does not reach is a fatal error (`CSTS.CFS`), until the next reset. Data that it does
/// not reach fail the command (Data Transfer Error).
pub struct Nvme {
    slot: Slot,
    disk: Box<dyn Disk>,
    /// DMA is done, the disk accessed and interrupts are raised without it.
    state: Mutex<State>,
}

/// Held while mapped registers are read and written.
const CONTROLLER: LockClass = LockClass::new("NVMe controller", 900);

#[derive(Debug, Default)]
struct State {
    controller: Controller,
    /// The registers, as programs see them that have mapped them.
    mapped: Option<Arc<dyn RegionMemory>>,
}

impl State {
    /// Takes what programs have written to mapped registers.
    fn observe(&mut self) {
        let Some(mapped) = self.mapped.clone() else { return };
        let [mask, unmask, configuration] = words(&*mapped, INTMS);
        if (mask, unmask) != (self.controller.register(INTMS), 0) {
            self.controller.set_register(INTMS, mask);
            self.controller.set_register(INTMC, unmask);
            mapped.write(INTMS, &self.controller.register(INTMS).to_le_bytes());
            mapped.write(INTMC, &[0; 4]);
        }
        let before = self.controller.register(CC);
        if configuration != before {
            // Programs write these first, so they are read last.
            for (offset, value) in (AQA..).step_by(4).zip(words::<5>(&*mapped, AQA)) {
                self.controller.set_register(offset, value);
            }
            self.controller.set_register(CC, configuration);
            if (configuration ^ before) & CC_ENABLE != 0 {
                mapped.write(DOORBELLS, &[0; DOORBELLS_SIZE]);
            }
            self.show_status();
        }
        let mut rung = [0; DOORBELLS_SIZE];
        mapped.read(DOORBELLS, &mut rung);
        self.set_registers(DOORBELLS, &rung);
    }

    fn set_registers(&mut self, offset: u64, bytes: &[u8]) {
        for (offset, word) in (offset..).step_by(4).zip(bytes.as_chunks().0) {
            self.controller.set_register(offset, u32::from_le_bytes(*word));
        }
    }

    /// Shows programs that have mapped the registers the status.
    fn show_status(&self) {
        if let Some(mapped) = &self.mapped {
            mapped.write(CSTS, &self.controller.register(CSTS).to_le_bytes());
        }
    }

    /// Shows programs that have mapped the registers all of them.
    fn show(&self) {
        if let Some(mapped) = &self.mapped {
            for offset in (0..REGISTERS_END).step_by(4) {
                mapped.write(offset, &self.controller.register(offset).to_le_bytes());
            }
            mapped.write(DOORBELLS, &[0; DOORBELLS_SIZE]);
        }
    }

    /// A queue was created, whose doorbell is at `offset`.
    fn show_doorbell(&self, offset: u64) {
        if let Some(mapped) = &self.mapped {
            mapped.write(offset, &[0; 4]);
        }
    }
}

fn words<const N: usize>(mapped: &dyn RegionMemory, offset: u64) -> [u32; N] {
    let mut words = [[0; 4]; N];
    mapped.read(offset, words.as_flattened_mut());
    words.map(u32::from_le_bytes)
}

impl Nvme {
    /// Creates the controller that sits in `slot`, with the whole blocks of `disk`.
    pub fn new(slot: Slot, disk: impl Disk + 'static) -> Self {
        Self { slot, disk: Box::new(disk), state: Mutex::of(CONTROLLER, State::default()) }
    }

    fn blocks(&self) -> u64 {
        self.disk.size() / BLOCK
    }

    /// Does what drivers asked for, up to `most` commands.
    fn work(&self, most: usize) -> Polled {
        let mut polled = Polled::Idle;
        if self.state.lock().controller.is_shutting_down() {
            // A driver that shuts down is not told of failure.
            let _ = self.disk.flush();
            let mut state = self.state.lock();
            state.controller.shut_down();
            state.show_status();
        }
        for _ in 0..most {
            let next = self.state.lock().controller.next();
            let Some(fetched) = next else { break };
            if self.execute(&fetched).is_err() {
                let mut state = self.state.lock();
                state.controller.fail(&fetched);
                state.show_status();
            }
            polled = Polled::Busy;
            self.raise_due();
        }
        self.raise_due();
        polled
    }

    fn raise_due(&self) {
        while let Some(vector) = self.next_interrupt() {
            match self.slot.enabled_irqs() {
                Some(IrqIndex::INTX) if self.is_waited_for() => self.slot.drive_intx(Level::High),
                Some(IrqIndex::INTX) | None => {}
                Some(index) => drop(self.slot.raise(index, vector.into())),
            }
        }
        if self.state.lock().controller.takes_line_back() {
            self.slot.drive_intx(Level::Low);
            // A completion may have come meanwhile, by another thread.
            if self.state.lock().controller.has_unseen() {
                self.slot.drive_intx(Level::High);
            }
        }
    }

    /// Whether the driver has not seen everything, as far as it has said by now.
    fn is_waited_for(&self) -> bool {
        let mut state = self.state.lock();
        state.observe();
        state.controller.has_unseen()
    }

    fn next_interrupt(&self) -> Option<u16> {
        self.state.lock().controller.next_interrupt()
    }

    /// Executes a command.
    ///
    /// # Errors
    /// Fails if a queue cannot be reached.
    fn execute(&self, fetched: &Fetched) -> Result<(), Unreachable> {
        let dma = self.slot.dma().map_err(|_| Unreachable)?;
        let mut bytes = [0; COMMAND_SIZE];
        dma.read(fetched.at, &mut bytes).map_err(|_| Unreachable)?;
        let command: Command = zerocopy::transmute!(bytes);
        let outcome = match (command.is_plain(), fetched.queue) {
            (false, _) => Err(Status::INVALID_FIELD),
            (true, 0) if command.opcode == admin::ASYNC_EVENT_REQUEST => {
                let mut state = self.state.lock();
                match state.controller.keep_event_request() {
                    Ok(()) => {
                        state.controller.end(fetched);
                        return Ok(());
                    }
                    Err(status) => Err(status),
                }
            }
            (true, 0) => self.administrate(&dma, &command),
            (true, _) => self.transfer(&dma, &command).map(|()| 0),
        };
        let completed = self.state.lock().controller.complete(fetched, command.id.get(), outcome);
        let Some((at, completion)) = completed else { return Ok(()) };
        // The phase comes last: it tells the driver that the rest is there.
        let (rest, status) = completion.as_bytes().split_at(COMPLETION_SIZE - 4);
        let behind = Iova::new(at.get().wrapping_add(rest.len() as u64));
        dma.write(at, rest).and_then(|()| dma.write(behind, status)).map_err(|_| Unreachable)?;
        self.state.lock().controller.has_completed(fetched);
        Ok(())
    }

    fn administrate(&self, dma: &SimulatedDevice, command: &Command) -> Result<u32, Status> {
        let (number, last) = command.halves(0);
        let at = command.prp[0].get();
        let feature = command.word(0).to_le_bytes()[0];
        match command.opcode {
            admin::IDENTIFY => {
                let page = admin::identify(&self.slot, self.blocks(), command)?;
                data::write(dma, command, &page)?;
            }
            admin::GET_LOG_PAGE => data::write(dma, command, &admin::log_page(command)?)?,
            admin::ABORT => return Ok(1),
            admin::GET_FEATURES | admin::SET_FEATURES if feature == admin::NUMBER_OF_QUEUES => {
                return Ok(admin::number_of_queues());
            }
            admin::GET_FEATURES => return self.state.lock().controller.feature(feature),
            admin::SET_FEATURES if command.word(0) & admin::SAVE != 0 => return Err(Status::NOT_SAVEABLE),
            admin::SET_FEATURES => self.state.lock().controller.set_feature(feature, command.word(1))?,
            admin::CREATE_COMPLETION_QUEUE => {
                let (flags, vector) = command.halves(1);
                let vector = match flags & 0b11 {
                    0b01 => None,
                    0b11 if u32::from(vector) < vectors(self.slot.function()) => Some(vector),
                    0b11 => return Err(Status::INVALID_VECTOR),
                    _ => return Err(Status::INVALID_FIELD),
                };
                let mut state = self.state.lock();
                state.controller.create_completion_queue(number, at, last, vector)?;
                state.show_doorbell(DOORBELLS + u64::from(number) * 8 + 4);
            }
            admin::CREATE_SUBMISSION_QUEUE => {
                let (flags, completion) = command.halves(1);
                if flags & 1 == 0 {
                    return Err(Status::INVALID_FIELD);
                }
                let mut state = self.state.lock();
                state.controller.create_submission_queue(number, at, last, completion)?;
                state.show_doorbell(DOORBELLS + u64::from(number) * 8);
            }
            admin::DELETE_COMPLETION_QUEUE => self.state.lock().controller.delete_completion_queue(number)?,
            admin::DELETE_SUBMISSION_QUEUE => self.state.lock().controller.delete_submission_queue(number)?,
            _ => return Err(Status::INVALID_OPCODE),
        }
        Ok(0)
    }

    /// Executes a command of an I/O queue.
    fn transfer(&self, dma: &SimulatedDevice, command: &Command) -> Result<(), Status> {
        const FLUSH: u8 = 0x00;
        const WRITE: u8 = 0x01;
        const READ: u8 = 0x02;
        match (command.opcode, command.namespace.get()) {
            (FLUSH, NAMESPACE | admin::EVERY_NAMESPACE) => self.disk.flush().map_err(|_| Status::WRITE_FAULT),
            (WRITE, NAMESPACE) => {
                let (offset, length) = self.place(command)?;
                let data = data::read(dma, command, length)?;
                self.disk.write(offset, &data).map_err(|_| Status::WRITE_FAULT)
            }
            (READ, NAMESPACE) => {
                let (offset, length) = self.place(command)?;
                let mut data = vec![0; length];
                self.disk.read(offset, &mut data).map_err(|_| Status::UNRECOVERED_READ)?;
                data::write(dma, command, &data)
            }
            (FLUSH | WRITE | READ, _) => Err(Status::INVALID_NAMESPACE),
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// Returns which bytes of the disk a command reads or writes: from where on, and how many.
    fn place(&self, command: &Command) -> Result<(u64, usize), Status> {
        let first = u64::from(command.word(1)) << 32 | u64::from(command.word(0));
        let count = u64::from(command.halves(2).0) + 1;
        let length = usize::try_from(count * BLOCK).unwrap_or(usize::MAX);
        if length > LARGEST_TRANSFER {
            return Err(Status::INVALID_FIELD);
        }
        match first.checked_add(count) {
            Some(end) if end <= self.blocks() => Ok((first * BLOCK, length)),
            _ => Err(Status::LBA_OUT_OF_RANGE),
        }
    }
}

/// A queue is in memory that the device does not reach.
struct Unreachable;

/// Returns how many interrupt vectors a function has.
fn vectors(function: &PciFunction) -> u32 {
    Available::of(function).count(IrqIndex::MSIX).map_or(1, |vectors| vectors.max(1))
}

impl FunctionModel for Nvme {
    fn read(&self, region: RegionIndex, offset: u64, into: &mut [u8]) {
        into.fill(0);
        if region != RegionIndex::BAR0 {
            return;
        }
        let state = self.state.lock();
        if let Some(mapped) = &state.mapped {
            return mapped.read(offset, into);
        }
        let last = DOORBELLS + DOORBELLS_SIZE as u64;
        for (offset, byte) in (offset..last).zip(into) {
            let word = state.controller.register(offset & !3).to_le_bytes();
            *byte = word.into_iter().nth(usize::try_from(offset & 3).unwrap_or_default()).unwrap_or_default();
        }
    }

    fn write(&self, region: RegionIndex, offset: u64, from: &[u8]) {
        if region != RegionIndex::BAR0 || !offset.is_multiple_of(4) || !from.len().is_multiple_of(4) {
            return;
        }
        let mut state = self.state.lock();
        match state.mapped.clone() {
            Some(mapped) => {
                mapped.write(offset, from);
                state.observe();
            }
            None => state.set_registers(offset, from),
        }
        drop(state);
        self.work(COMMANDS_A_WRITE);
    }

    fn follow(&self, region: RegionIndex, memory: &Arc<dyn RegionMemory>) -> Follow {
        if region != RegionIndex::BAR0 {
            return Follow::Ignores;
        }
        let mut state = self.state.lock();
        state.mapped = Some(memory.clone());
        Follow::WhenPolled
    }

    fn unfollow(&self, region: RegionIndex) {
        if region == RegionIndex::BAR0 {
            let mut state = self.state.lock();
            state.observe();
            state.mapped = None;
        }
    }

    fn poll(&self) -> Polled {
        self.state.lock().observe();
        self.work(COMMANDS_A_POLL)
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        state.controller.reset();
        state.show();
    }
}

impl fmt::Debug for Nvme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvme").field("slot", self.slot.name()).finish_non_exhaustive()
    }
}
