//! The configuration space that a user sees.

mod capabilities;
mod gaps;

use alloc::vec;
use alloc::vec::Vec;
use core::iter;
use core::mem;
use core::ops::Range;

use iommu_core::device_model::pci::{Bar, BarKind, Bars, PciFunction};

use self::capabilities::ResetBit;
use super::interrupts::IntxLine;
use crate::device_ops::{RegionError, RegionIndex};

const CONVENTIONAL: usize = 256;
const EXPRESS: usize = 4096;

const COMMAND: usize = 0x04;
const COMMAND_IO: u16 = 1 << 0;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_SYSTEM_ERROR: u16 = 1 << 8;
const COMMAND_INTX_OFF: u16 = 1 << 10;
/// What the user's writes change. The hardware has no other bits.
// Vt31.2.
const COMMAND_WRITABLE: u16 =
    COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_SYSTEM_ERROR | COMMAND_INTX_OFF;

const STATUS: usize = 0x06;
const CACHE_LINE: usize = 0x0c;
const CAPABILITIES: usize = 0x34;
const BARS: usize = 0x10;
const ROM: usize = 0x30;
const ROM_ENABLE: u32 = 1;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;

/// A copy of a function's configuration space, of which the user may change some bits.
///
/// One rule for nearly all of it: a write changes the bits of the mask. That a BAR tells its size follows: the bits below
/// its size are not in the mask, so all-ones written come back as the size's complement.
#[derive(Debug)]
pub(super) struct VirtualConfig {
    bytes: Vec<u8>,
    /// Which bits a user may write. As long as `bytes`.
    writable: Vec<u8>,
    power_on: Vec<u8>,
    /// Nothing outside differs from `power_on`.
    changed: Range<usize>,
    /// Where the control register of MSI is.
    msi: Option<usize>,
    /// Where that of MSI-X is.
    msix: Option<usize>,
    /// Where the power state is.
    power: Option<usize>,
    reset_bits: Vec<ResetBit>,
}

/// What a write has done besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// It has asked for a function-level reset.
    FunctionReset,
}

impl VirtualConfig {
    /// As after power-on: decoding what there is, not a bus master, interrupts of no kind enabled.
    // Vt31.2.
    pub(super) fn new(function: &PciFunction) -> Self {
        let mut bytes = function.config.bytes();
        bytes.resize(if bytes.len() > CONVENTIONAL { EXPRESS } else { CONVENTIONAL }, 0);
        let writable = vec![0; bytes.len()];
        let mut config = Self {
            writable,
            bytes,
            power_on: Vec::new(),
            changed: 0..0,
            msi: None,
            msix: None,
            power: None,
            reset_bits: Vec::new(),
        };
        config.own_command(&function.bars);
        config.own_bars(&function.bars);
        config.set_writable(CACHE_LINE, &[u8::MAX]);
        config.set_writable(INTERRUPT_LINE, &[u8::MAX]);
        if function.physical_function.is_some() {
            // A virtual function has no pin, and its registers read as zero.
            config.set(INTERRUPT_PIN, &[0]);
        }
        config.own_capabilities(&function.config);
        config.power_on.clone_from(&config.bytes);
        config.changed = 0..0;
        config
    }

    /// Its length, 256 or 4096 bytes.
    pub(super) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Back to the state after power-on.
    pub(super) fn reset(&mut self) {
        let changed = mem::take(&mut self.changed);
        if let (Some(bytes), Some(fresh)) = (self.bytes.get_mut(changed.clone()), self.power_on.get(changed)) {
            bytes.copy_from_slice(fresh);
        }
    }

    /// Fills `into` from `offset` on; zeros beyond the end.
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) {
        let bytes = self.bytes.get(offset..).unwrap_or_default().iter().copied();
        for (byte, value) in into.iter_mut().zip(bytes.chain(iter::repeat(0))) {
            *byte = value;
        }
    }

    /// Writes what may be written of `from` at `offset`, while MSI is set up for so many vectors.
    pub(super) fn write(&mut self, offset: usize, from: &[u8], msi_vectors: usize) -> Effect {
        for ((byte, writable), new) in self.bytes.iter_mut().zip(&self.writable).skip(offset).zip(from) {
            *byte = *byte & !writable | new & writable;
        }
        self.has_changed(offset, from.len());
        self.settle_msi(msi_vectors);
        let written = |reset: &ResetBit| from.get(reset.at.checked_sub(offset)?).map(|byte| byte & reset.bit != 0);
        if self.reset_bits.iter().any(|reset| written(reset) == Some(true)) {
            Effect::FunctionReset
        } else {
            Effect::None
        }
    }

    /// Checks that an access lies within.
    pub(super) fn may_access(&self, offset: u64, bytes: usize) -> Result<(), RegionError> {
        RegionIndex::CONFIG.clip(self.size(), offset, bytes as u64).map(drop)
    }

    pub(super) fn ports_on(&self) -> bool {
        self.command() & COMMAND_IO != 0
    }

    /// Whether memory windows answer: decoding is on, and the device is in D0.
    // Vt30.1.
    pub(super) fn memory_on(&self) -> bool {
        let state = self.power.and_then(|at| self.bytes.get(at)).map_or(0, |control| control & 0b11);
        self.command() & COMMAND_MEMORY != 0 && state == 0
    }

    pub(super) fn bus_master(&self) -> bool {
        self.command() & COMMAND_BUS_MASTER != 0
    }

    pub(super) fn intx_line(&self) -> IntxLine {
        if self.command() & COMMAND_INTX_OFF == 0 { IntxLine::On } else { IntxLine::Off }
    }

    fn command(&self) -> u16 {
        self.word(COMMAND)
    }

    fn word(&self, offset: usize) -> u16 {
        let word = self.bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
        word.map_or(0, |word| u16::from_le_bytes(*word))
    }

    fn own_command(&mut self, bars: &Bars) {
        let is_io = |bar: Bar| bar.kind() == BarKind::Io;
        // Whatever firmware has switched on stays on.
        let mut command = self.command() & !(COMMAND_BUS_MASTER | COMMAND_INTX_OFF);
        if bars.iter().any(|(_, bar)| is_io(bar)) {
            command |= COMMAND_IO;
        }
        if bars.rom().is_some() || bars.iter().any(|(_, bar)| !is_io(bar)) {
            command |= COMMAND_MEMORY;
        }
        self.set(COMMAND, &command.to_le_bytes());
        self.set_writable(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
    }

    /// The registers of windows, and nothing where there are none.
    fn own_bars(&mut self, bars: &Bars) {
        let mut registers = [Register::default(); Bars::SLOTS];
        for (slot, bar) in bars.iter() {
            let [low, high] = Register::of(bar);
            let wide = matches!(bar.kind(), BarKind::Memory64 { .. });
            let places = registers.iter_mut().skip(slot).take(if wide { 2 } else { 1 });
            for (place, register) in places.zip([low, high]) {
                *place = register;
            }
        }
        for (register, offset) in registers.into_iter().zip((BARS..).step_by(4)) {
            self.own_register(offset, register);
        }
        let rom = bars.rom().map(|rom| Register { writable: Register::of(rom)[0].writable | ROM_ENABLE, fixed: 0 });
        self.own_register(ROM, rom.unwrap_or_default());
    }

    fn own_register(&mut self, offset: usize, register: Register) {
        let mut value = [0; 4];
        self.read(offset, &mut value);
        let address = u32::from_le_bytes(value) & register.writable;
        self.set(offset, &(address | register.fixed).to_le_bytes());
        self.set_writable(offset, &register.writable.to_le_bytes());
    }

    fn set(&mut self, offset: usize, value: &[u8]) {
        put(&mut self.bytes, offset, value);
        self.has_changed(offset, value.len());
    }

    fn has_changed(&mut self, offset: usize, bytes: usize) {
        let written = offset..offset.saturating_add(bytes).min(self.bytes.len());
        if self.changed.is_empty() {
            self.changed = written;
        } else {
            self.changed = self.changed.start.min(written.start)..self.changed.end.max(written.end);
        }
    }

    fn set_writable(&mut self, offset: usize, mask: &[u8]) {
        put(&mut self.writable, offset, mask);
    }
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(offset).zip(value) {
        *byte = *new;
    }
}

/// A base address register: which bits hold the address, and what the others say.
#[derive(Clone, Copy, Default)]
struct Register {
    writable: u32,
    fixed: u32,
}

impl Register {
    /// The register of a window, and the one for the upper half of its address.
    fn of(bar: Bar) -> [Self; 2] {
        let (fixed, flags) = match bar.kind() {
            BarKind::Io => (1, 0b11),
            BarKind::Memory32 { prefetchable } => (u32::from(prefetchable) << 3, 0b1111),
            BarKind::Memory64 { prefetchable } => (u32::from(prefetchable) << 3 | 0b100, 0b1111),
        };
        let address = !(bar.size() - 1);
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let (low, high) = (address as u32, (address >> 32) as u32);
        [Self { writable: low & !flags, fixed }, Self { writable: high, fixed: 0 }]
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
