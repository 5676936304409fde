//! The configuration space that a user sees.

use alloc::vec;
use alloc::vec::Vec;
use core::iter;

use iommu_core::device_model::pci::{Bar, BarKind, Bars, ConfigSpace, PciFunction};

use super::interrupts::IntxLine;

const CONVENTIONAL: usize = 256;
const EXPRESS: usize = 4096;

const COMMAND: usize = 0x04;
const COMMAND_IO: u16 = 1 << 0;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_PARITY: u16 = 1 << 6;
const COMMAND_SYSTEM_ERROR: u16 = 1 << 8;
const COMMAND_INTX_OFF: u16 = 1 << 10;
const COMMAND_WRITABLE: u16 =
    COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_PARITY | COMMAND_SYSTEM_ERROR | COMMAND_INTX_OFF;

const BARS: usize = 0x10;
const ROM: usize = 0x30;
const ROM_ENABLE: u32 = 1;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;

/// The enable bit of MSI and that of MSI-X, each in the word after the capability's header.
const MESSAGES: [(u16, u16); 2] = [(super::CAP_MSI, 1 << 0), (super::CAP_MSIX, 1 << 15)];

/// A copy of a function's configuration space, of which the user may change some bits.
///
/// One rule for all of it: a write changes the bits of the mask. That a BAR tells its size follows: the bits below its
/// size are not in the mask, so all-ones written come back as the size's complement.
#[derive(Debug)]
pub(super) struct VirtualConfig {
    bytes: Vec<u8>,
    /// Which bits a user may write. As long as `bytes`.
    writable: Vec<u8>,
    power_on: Vec<u8>,
}

impl VirtualConfig {
    /// As after power-on: decoding what there is, not a bus master, interrupts of no kind enabled.
    pub(super) fn new(function: &PciFunction) -> Self {
        let mut bytes = function.config.bytes();
        bytes.resize(if bytes.len() > CONVENTIONAL { EXPRESS } else { CONVENTIONAL }, 0);
        let mut config = Self { writable: vec![0; bytes.len()], bytes, power_on: Vec::new() };
        config.own_command(&function.bars);
        config.own_bars(&function.bars);
        config.own_u8(INTERRUPT_LINE, u8::MAX);
        if function.physical_function.is_some() {
            // A virtual function has no pin, and its registers read as zero.
            config.set(INTERRUPT_PIN, &[0]);
        }
        for (capability, enable) in MESSAGES {
            if let Some(offset) = super::capability(&function.config, capability) {
                config.own_message_control(&function.config, offset.saturating_add(2), enable);
            }
        }
        config.power_on.clone_from(&config.bytes);
        config
    }

    /// Its length, 256 or 4096 bytes.
    pub(super) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Back to the state after power-on.
    pub(super) fn reset(&mut self) {
        self.bytes.clone_from(&self.power_on);
    }

    /// Fills `into` from `offset` on; zeros beyond the end.
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) {
        let bytes = self.bytes.get(offset..).unwrap_or_default().iter().copied();
        for (byte, value) in into.iter_mut().zip(bytes.chain(iter::repeat(0))) {
            *byte = value;
        }
    }

    /// Writes what may be written of `from` at `offset`.
    pub(super) fn write(&mut self, offset: usize, from: &[u8]) {
        for ((byte, writable), new) in self.bytes.iter_mut().zip(&self.writable).skip(offset).zip(from) {
            *byte = *byte & !writable | new & writable;
        }
    }

    pub(super) fn memory_on(&self) -> bool {
        self.command() & COMMAND_MEMORY != 0
    }

    pub(super) fn bus_master(&self) -> bool {
        self.command() & COMMAND_BUS_MASTER != 0
    }

    pub(super) fn intx_line(&self) -> IntxLine {
        if self.command() & COMMAND_INTX_OFF == 0 { IntxLine::On } else { IntxLine::Off }
    }

    fn command(&self) -> u16 {
        let mut word = [0; 2];
        self.read(COMMAND, &mut word);
        u16::from_le_bytes(word)
    }

    fn own_command(&mut self, bars: &Bars) {
        let is_io = |bar: Bar| bar.kind() == BarKind::Io;
        let mut command = self.command() & !COMMAND_WRITABLE;
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

    fn own_message_control(&mut self, original: &ConfigSpace, offset: u16, enable: u16) {
        let Some(control) = original.read_u16(offset) else { return };
        self.set(offset.into(), &(control & !enable).to_le_bytes());
        self.set_writable(offset.into(), &enable.to_le_bytes());
    }

    fn own_u8(&mut self, offset: usize, writable: u8) {
        self.set_writable(offset, &[writable]);
    }

    fn set(&mut self, offset: usize, value: &[u8]) {
        put(&mut self.bytes, offset, value);
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
