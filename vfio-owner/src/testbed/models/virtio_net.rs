//! A network device that is driven by reads and writes of an I/O BAR: virtio's, by the legacy interface.

mod virtqueue;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_model::pci::PciAddress;
use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::software::SimulatedDevice;

use self::virtqueue::{Broken, Virtqueue, Writer};
use super::wire::{Station, Wire};
use crate::device_ops::{IrqIndex, RegionIndex};
use crate::testbed::Slot;
use crate::vfio_pci::{Available, FunctionModel};

/// A transitional virtio network device (1af4:1000), by its legacy interface alone. The testbed puts it behind every
/// function with these ids, without anybody at the other end of its wire.
///
/// BAR 0, as the virtio specification has it under "Legacy Interfaces: A Note on PCI Device Layout":
///
/// | offset | bytes | register |
/// |---|---|---|
/// | 0 | 4 | features of the device: `MAC`, `STATUS`, `ANY_LAYOUT` |
/// | 4 | 4 | features that the driver takes |
/// | 8 | 4 | page number of the selected queue |
/// | 12 | 2 | size of the selected queue: 256; 0 where there is none |
/// | 14 | 2 | selects a queue: 0 receives, 1 transmits |
/// | 16 | 2 | notifies of buffers in a queue |
/// | 18 | 1 | status |
/// | 19 | 1 | interrupt status, cleared when it is read |
/// | 20 | 2 | vector of configuration changes, while MSI-X is enabled |
/// | 22 | 2 | vector of the selected queue, while MSI-X is enabled |
/// | then | 6 | MAC address: `02:00`, the end of the domain, bus, slot and function |
/// | | 2 | status of the link: up |
///
/// Queues are in memory, which the device reaches by DMA. It transmits when it is notified, and has done so when the write
/// returns; it receives every frame on its [`Wire`] that there is a buffer for, and drops others, as well as those that are
/// shorter than a header or longer than 1518 bytes.
///
/// Where a queue breaks the rules, or DMA faults, the device stops, sets `DEVICE_NEEDS_RESET` and raises the interrupt for
/// configuration changes.
pub struct VirtioNet {
    nic: Arc<Nic>,
    station: Station,
}

struct Nic {
    slot: Slot,
    mac: [u8; 6],
    state: Mutex<State>,
}

/// Held during DMA.
const DEVICE: LockClass = LockClass::new("virtio-net device", 900);

struct State {
    driver_features: u32,
    selected: u16,
    status: u8,
    interrupts: u8,
    config_vector: u16,
    mac: [u8; 6],
    /// Queue 0.
    receive: Virtqueue,
    /// Queue 1.
    transmit: Virtqueue,
}

const FEATURE_MAC: u32 = 1 << 5;
const FEATURE_STATUS: u32 = 1 << 16;
const FEATURE_ANY_LAYOUT: u32 = 1 << 27;
const FEATURES: u32 = FEATURE_MAC | FEATURE_STATUS | FEATURE_ANY_LAYOUT;

const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 64;

const NO_VECTOR: u16 = 0xffff;
/// The write that notifies of frames to transmit.
const NOTIFY_TRANSMIT: (u64, &[u8]) = (16, &[1, 0]);
const INTERRUPT_STATUS: u64 = 19;
/// Before every frame in a buffer, and zero: there are no offloads.
const HEADER: usize = 10;
const SHORTEST: usize = 14;
const LONGEST: usize = 1518;

/// What an interrupt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Received,
    Transmitted,
    Configuration,
}

/// The words of the registers after the interrupt status that are there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vectors {
    Absent,
    Present,
}

impl Vectors {
    fn of(slot: &Slot) -> Self {
        if slot.enabled_irqs() == Some(IrqIndex::MSIX) { Self::Present } else { Self::Absent }
    }

    /// Where the MAC address is.
    const fn end(self) -> u64 {
        match self {
            Self::Absent => 20,
            Self::Present => 24,
        }
    }
}

impl State {
    const fn new(mac: [u8; 6]) -> Self {
        Self {
            driver_features: 0,
            selected: 0,
            status: 0,
            interrupts: 0,
            config_vector: NO_VECTOR,
            mac,
            receive: Virtqueue::new(Writer::Device),
            transmit: Virtqueue::new(Writer::Driver),
        }
    }

    fn selected(&mut self) -> Option<&mut Virtqueue> {
        match self.selected {
            0 => Some(&mut self.receive),
            1 => Some(&mut self.transmit),
            _ => None,
        }
    }

    /// All registers, in their order.
    fn registers(&mut self, vectors: Vectors) -> Vec<u8> {
        let (page, size, vector) = match self.selected() {
            Some(queue) => (queue.page(), virtqueue::SIZE, queue.vector),
            None => (0, 0, NO_VECTOR),
        };
        let mut bytes: Vec<u8> =
            [FEATURES, self.driver_features, page].iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend([size, self.selected, 0].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend([self.status, self.interrupts]);
        if vectors == Vectors::Present {
            bytes.extend([self.config_vector, vector].iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes.extend(self.mac);
        bytes.extend([1, 0]);
        bytes
    }

    fn write(&mut self, offset: u64, from: &[u8], vectors: Vectors, count: u32) {
        let mut value = [0; 4];
        value.iter_mut().zip(from).for_each(|(byte, new)| *byte = *new);
        let value = u32::from_le_bytes(value);
        let [low, high, ..] = value.to_le_bytes();
        let word = u16::from_le_bytes([low, high]);
        let vector = if u32::from(word) < count { word } else { NO_VECTOR };
        match (offset, from.len()) {
            (4, 4) => self.driver_features = value & FEATURES,
            (8, 4) => self.selected().into_iter().for_each(|queue| queue.place(value)),
            (14, 2) => self.selected = word,
            (18, 1) if low == 0 => *self = Self::new(self.mac),
            (18, 1) => self.status = low | self.status & NEEDS_RESET,
            (20, 2) if vectors == Vectors::Present => self.config_vector = vector,
            (22, 2) if vectors == Vectors::Present => {
                self.selected().into_iter().for_each(|queue| queue.vector = vector);
            }
            _ => {
                let place = offset.checked_sub(vectors.end()).and_then(|place| usize::try_from(place).ok());
                let mac = place.and_then(|place| self.mac.get_mut(place..));
                mac.into_iter().flatten().zip(from).for_each(|(byte, new)| *byte = *new);
            }
        }
    }

    fn is_running(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }
}

impl Nic {
    /// Has the device use its queues, if they can be used, and raises the interrupt that is due then.
    fn run(&self, work: impl FnOnce(&mut State, &SimulatedDevice) -> Result<Option<Cause>, Broken>) {
        let Ok(dma) = self.slot.dma() else { return };
        let mut state = self.state.lock();
        if !state.is_running() {
            return;
        }
        let cause = work(&mut state, &dma).unwrap_or_else(|Broken| {
            state.status |= NEEDS_RESET;
            Some(Cause::Configuration)
        });
        drop(state);
        if let Some(cause) = cause {
            self.interrupt(cause);
        }
    }

    /// Takes the frames that the driver has made available.
    fn transmitted(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.run(|state, dma| {
            let queue = &mut state.transmit;
            let mut done = 0;
            for _ in 0..virtqueue::SIZE {
                let Some(chain) = queue.peek(dma)? else { break };
                if let Some(mut bytes) = chain.read(dma, HEADER + LONGEST)? {
                    frames.push(bytes.split_off(HEADER.min(bytes.len())));
                }
                queue.finish(dma, &chain, 0)?;
                done += 1;
            }
            Ok((done > 0 && queue.wants_interrupts(dma)?).then_some(Cause::Transmitted))
        });
        frames.retain(|frame| frame.len() >= SHORTEST);
        frames
    }

    fn receive(&self, frame: &[u8]) {
        if !(SHORTEST..=LONGEST).contains(&frame.len()) {
            return;
        }
        self.run(|state, dma| {
            let queue = &mut state.receive;
            let Some(chain) = queue.peek(dma)? else { return Ok(None) };
            let Some(written) = chain.write(dma, &[&[0; HEADER], frame].concat())? else { return Ok(None) };
            queue.finish(dma, &chain, written)?;
            Ok(queue.wants_interrupts(dma)?.then_some(Cause::Received))
        });
    }

    fn interrupt(&self, cause: Cause) {
        let vectors = Vectors::of(&self.slot);
        let mut state = self.state.lock();
        let vector = match (vectors, cause) {
            (Vectors::Present, Cause::Configuration) => state.config_vector,
            (Vectors::Present, Cause::Received) => state.receive.vector,
            (Vectors::Present, Cause::Transmitted) => state.transmit.vector,
            (Vectors::Absent, cause) => {
                state.interrupts |= if cause == Cause::Configuration { 0b10 } else { 0b01 };
                0
            }
        };
        drop(state);
        let index = if vectors == Vectors::Present { IrqIndex::MSIX } else { IrqIndex::INTX };
        if vector != NO_VECTOR {
            self.slot.raise(index, vector.into());
        }
    }
}

impl VirtioNet {
    /// Creates the device that sits in `slot`, connected to `wire`.
    pub fn new(slot: Slot, wire: &Wire) -> Self {
        let mac = mac_of(slot.function().address);
        let nic = Arc::new(Nic { slot, mac, state: Mutex::of(DEVICE, State::new(mac)) });
        let receiver = nic.clone();
        Self { nic, station: wire.connect(move |frame| receiver.receive(frame)) }
    }
}

/// An address that is administered locally.
fn mac_of(address: PciAddress) -> [u8; 6] {
    let [.., domain] = address.domain().to_be_bytes();
    [0x02, 0, domain, address.bus(), address.slot(), address.function()]
}

impl FunctionModel for VirtioNet {
    fn read(&self, region: RegionIndex, offset: u64, into: &mut [u8]) {
        into.fill(0xff);
        if region != RegionIndex::BAR0 {
            return;
        }
        let vectors = Vectors::of(&self.nic.slot);
        let mut state = self.nic.state.lock();
        let registers = state.registers(vectors);
        let from = usize::try_from(offset).ok().and_then(|offset| registers.get(offset..)).unwrap_or_default();
        into.iter_mut().zip(from).for_each(|(byte, register)| *byte = *register);
        if (offset..offset.saturating_add(into.len() as u64)).contains(&INTERRUPT_STATUS) {
            state.interrupts = 0;
        }
    }

    fn write(&self, region: RegionIndex, offset: u64, from: &[u8]) {
        if region != RegionIndex::BAR0 {
            return;
        }
        if (offset, from) == NOTIFY_TRANSMIT {
            for frame in self.nic.transmitted() {
                self.station.send(&frame);
            }
            return;
        }
        let slot = &self.nic.slot;
        let count = Available::of(slot.function()).count(IrqIndex::MSIX).unwrap_or(0);
        let vectors = Vectors::of(slot);
        self.nic.state.lock().write(offset, from, vectors, count);
    }

    fn reset(&self) {
        *self.nic.state.lock() = State::new(self.nic.mac);
    }
}

impl fmt::Debug for VirtioNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioNet")
            .field("slot", self.nic.slot.name())
            .field("wire", &self.station)
            .finish_non_exhaustive()
    }
}
