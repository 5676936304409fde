//! A device that does something: QEMU's `edu`.

use alloc::boxed::Box;
use core::fmt;
use core::ops::Range;

use iommu_core::Iova;
use iommu_core::device_model::sync::Mutex;

use crate::device_ops::{IrqIndex, RegionIndex};
use crate::testbed::Slot;
use crate::vfio_pci::{FunctionModel, Raised};

/// Size of the buffer between which and memory it copies.
const BUFFER: usize = 0x1000;
/// Where the device sees its buffer.
const BUFFER_AT: u64 = 0x4_0000;

/// An educational device (1234:11e8), as QEMU's `edu`: it computes factorials, raises interrupts, and copies between memory
/// and a buffer of its own by DMA. The testbed puts it behind every function with these ids.
///
/// BAR 0, in words of 32 bits below `0x80`, of 32 or 64 from there on:
///
/// | offset | register |
/// |---|---|
/// | `0x00` | identification, `0x010000ed` |
/// | `0x04` | liveness: reads as the complement of what was written |
/// | `0x08` | factorial: reads as that of what was written, modulo 2^32 |
/// | `0x20` | status: bit 7 raises interrupt 1 when a factorial has been computed |
/// | `0x24` | interrupt status, read-only |
/// | `0x60` | raises the interrupts whose bits are written |
/// | `0x64` | acknowledges the interrupts whose bits are written |
/// | `0x80` | DMA source |
/// | `0x88` | DMA destination |
/// | `0x90` | DMA count, at most 4096 |
/// | `0x98` | DMA command: bit 0 starts, bit 1 copies to memory (else from it), bit 2 raises interrupt `0x100` at the end |
///
/// The buffer is the device's addresses from `0x40000` on. Unlike QEMU's, it has done what it is told when the write
/// returns. DMA that faults ends there; everything else reads as ones, and is not written.
pub struct Edu {
    slot: Slot,
    /// Leaf lock.
    registers: Mutex<Registers>,
}

struct Registers {
    liveness: u32,
    factorial: u32,
    status: u32,
    interrupts: u32,
    source: u64,
    destination: u64,
    count: u64,
    buffer: Box<[u8; BUFFER]>,
}

impl Default for Registers {
    fn default() -> Self {
        let buffer = Box::new([0; BUFFER]);
        let [liveness, factorial, status, interrupts] = [0; 4];
        Self { liveness, factorial, status, interrupts, source: 0, destination: 0, count: 0, buffer }
    }
}

/// What a write makes the device do when it holds no lock.
enum Effect {
    None,
    Interrupt,
    Copy(Copy),
}

/// DMA between memory and a part of the buffer.
struct Copy {
    direction: Direction,
    memory: Iova,
    buffer: Range<usize>,
    /// Interrupts at the end.
    interrupts: u32,
}

enum Direction {
    FromMemory,
    ToMemory,
}

const IDENTIFICATION: u32 = 0x0100_00ed;
const STATUS_INTERRUPTS: u32 = 0x80;
const FACTORIAL_DONE: u32 = 0x001;
const DMA_DONE: u32 = 0x100;

impl Registers {
    fn read(&self, offset: u64) -> u64 {
        match offset {
            0x00 => IDENTIFICATION.into(),
            0x04 => self.liveness.into(),
            0x08 => self.factorial.into(),
            0x20 => self.status.into(),
            0x24 => self.interrupts.into(),
            0x80 => self.source,
            0x88 => self.destination,
            0x90 => self.count,
            0x98 => 0,
            _ => u64::MAX,
        }
    }

    fn write(&mut self, offset: u64, value: u64) -> Effect {
        let word = u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default();
        match offset {
            0x04 => self.liveness = !word,
            0x08 => {
                self.factorial = (1..=word).take(64).fold(1, u32::wrapping_mul);
                if self.status & STATUS_INTERRUPTS != 0 {
                    return self.interrupt(FACTORIAL_DONE);
                }
            }
            0x20 => self.status = word & STATUS_INTERRUPTS,
            0x60 => return self.interrupt(word),
            0x64 => self.interrupts &= !word,
            0x80 => self.source = value,
            0x88 => self.destination = value,
            0x90 => self.count = value,
            0x98 => return self.copy(value),
            _ => {}
        }
        Effect::None
    }

    fn interrupt(&mut self, bits: u32) -> Effect {
        self.interrupts |= bits;
        if self.interrupts == 0 { Effect::None } else { Effect::Interrupt }
    }

    fn copy(&self, command: u64) -> Effect {
        let (direction, memory, own) = match command & 2 {
            0 => (Direction::FromMemory, self.source, self.destination),
            _ => (Direction::ToMemory, self.destination, self.source),
        };
        let first = own.checked_sub(BUFFER_AT).and_then(|at| usize::try_from(at).ok());
        let length = usize::try_from(self.count).ok();
        let buffer = first.zip(length).and_then(|(first, length)| Some(first..first.checked_add(length)?));
        let interrupts = if command & 4 != 0 { DMA_DONE } else { 0 };
        match buffer.filter(|buffer| command & 1 != 0 && buffer.end <= BUFFER) {
            Some(buffer) => Effect::Copy(Copy { direction, memory: Iova::new(memory), buffer, interrupts }),
            None => Effect::None,
        }
    }
}

impl Edu {
    /// Creates the device that sits in `slot`.
    pub fn new(slot: Slot) -> Self {
        Self { slot, registers: Mutex::default() }
    }

    /// By MSI, if the user has set it up.
    fn raise(&self) {
        if self.slot.raise(IrqIndex::MSI, 0) == Raised::Lost {
            self.slot.raise(IrqIndex::INTX, 0);
        }
    }

    fn copy(&self, copy: Copy) {
        let Copy { direction, memory, buffer, interrupts } = copy;
        let Ok(device) = self.slot.dma() else { return };
        let mut bytes = self.registers.lock().buffer.get(buffer.clone()).unwrap_or_default().to_vec();
        let copied = match direction {
            Direction::ToMemory => device.write(memory, &bytes),
            Direction::FromMemory => device.read(memory, &mut bytes),
        };
        if copied.is_err() {
            return;
        }
        let mut registers = self.registers.lock();
        if let (Direction::FromMemory, Some(part)) = (direction, registers.buffer.get_mut(buffer)) {
            part.copy_from_slice(&bytes);
        }
        registers.interrupts |= interrupts;
        drop(registers);
        if interrupts != 0 {
            self.raise();
        }
    }
}

/// Whether a register can be accessed so.
fn is_access(region: RegionIndex, offset: u64, length: usize) -> bool {
    region == RegionIndex::BAR0 && (length == 4 || length == 8 && offset >= 0x80)
}

impl FunctionModel for Edu {
    fn read(&self, region: RegionIndex, offset: u64, into: &mut [u8]) {
        into.fill(0xff);
        if is_access(region, offset, into.len()) {
            let value = self.registers.lock().read(offset);
            into.iter_mut().zip(value.to_le_bytes()).for_each(|(byte, new)| *byte = new);
        }
    }

    fn write(&self, region: RegionIndex, offset: u64, from: &[u8]) {
        if !is_access(region, offset, from.len()) {
            return;
        }
        let mut value = [0; 8];
        value.iter_mut().zip(from).for_each(|(byte, new)| *byte = *new);
        let effect = self.registers.lock().write(offset, u64::from_le_bytes(value));
        match effect {
            Effect::None => {}
            Effect::Interrupt => self.raise(),
            Effect::Copy(copy) => self.copy(copy),
        }
    }

    fn reset(&self) {
        *self.registers.lock() = Registers::default();
    }
}

impl fmt::Debug for Edu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edu").field("slot", self.slot.name()).finish_non_exhaustive()
    }
}
