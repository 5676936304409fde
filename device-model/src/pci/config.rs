//! PCI configuration space.

mod acs;
mod builder;
mod express;
mod sriov;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::{fmt, iter};

pub use acs::{Acs, AcsBits};
pub use builder::ConfigBuilder;
pub use express::{PcieCapability, PortType};
pub use sriov::Sriov;

/// Size of the configuration space of PCI Express. Conventional PCI has 256 bytes.
const LONGEST: usize = 4096;
/// Where the extended capabilities of PCI Express start.
const EXTENDED: u16 = 0x100;
/// Maximum number of capabilities; a longer list contains a loop.
const MOST_CAPABILITIES: usize = (256 - 64) / 4;
const MOST_EXTENDED_CAPABILITIES: usize = (LONGEST - 256) / 8;

/// Offsets and ids of PCI that are used in more than one place.
mod at {
    pub(super) const STATUS: u16 = 0x06;
    pub(super) const STATUS_HAS_CAPABILITIES: u16 = 1 << 4;
    pub(super) const REVISION: u16 = 0x08;
    pub(super) const CLASS: u16 = 0x09;
    pub(super) const HEADER_TYPE: u16 = 0x0e;
    pub(super) const MULTIFUNCTION: u8 = 1 << 7;
    pub(super) const SECONDARY_BUS: u16 = 0x19;
    pub(super) const SUBORDINATE_BUS: u16 = 0x1a;
    pub(super) const SUBSYSTEM: u16 = 0x2c;
    pub(super) const CAPABILITIES: u16 = 0x34;
    pub(super) const CAP_MSI: u8 = 0x05;
    pub(super) const CAP_BRIDGE_SUBSYSTEM: u8 = 0x0d;
    pub(super) const CAP_PCI_EXPRESS: u8 = 0x10;
    pub(super) const CAP_MSIX: u8 = 0x11;
    pub(super) const EXT_CAP_ACS: u16 = 0x0d;
    pub(super) const EXT_CAP_SRIOV: u16 = 0x10;
}

/// A copy of a function's configuration space: up to 4096 bytes, perhaps fewer than the function has (unprivileged
/// users of Linux can read 64).
///
/// Every byte sequence is valid. Fields beyond the end, or not present in this kind of function, read as `None`. Clones
/// share the bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ConfigSpace {
    /// The bytes up to the last that is not zero: most of the space is not used.
    used: Arc<[u8]>,
    /// The length with the zeros behind them, [`LONGEST`] at most.
    length: u16,
}

impl ConfigSpace {
    /// Creates a configuration space from bytes; what exceeds 4096 is cut off.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        let mut bytes = bytes.into();
        bytes.truncate(LONGEST);
        let used = bytes.get(..used(&bytes)).unwrap_or_default();
        Self { used: used.into(), length: u16::try_from(bytes.len()).unwrap_or(u16::MAX) }
    }

    /// Returns a builder for a configuration space.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// Returns all bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.used.to_vec();
        bytes.resize(self.len(), 0);
        bytes
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.length.into()
    }

    /// Returns whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Reads the byte at `offset`.
    pub fn read_u8(&self, offset: u16) -> Option<u8> {
        self.array(offset).map(|[byte]| byte)
    }

    /// Reads the little-endian word at `offset`, which need not be aligned.
    pub fn read_u16(&self, offset: u16) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    /// Reads the little-endian double word at `offset`, which need not be aligned.
    pub fn read_u32(&self, offset: u16) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn array<const N: usize>(&self, offset: u16) -> Option<[u8; N]> {
        let offset = usize::from(offset);
        if let Some(bytes) = self.used.get(offset..).and_then(|rest| rest.first_chunk()) {
            return Some(*bytes);
        }
        if offset + N > self.len() {
            return None;
        }
        let mut bytes = [0; N];
        let used = self.used.get(offset..).unwrap_or_default();
        bytes.iter_mut().zip(used).for_each(|(byte, used)| *byte = *used);
        Some(bytes)
    }

    /// Returns the vendor id. `0xffff` in a virtual function, whose physical function has it.
    pub fn vendor(&self) -> Option<u16> {
        self.read_u16(0x00)
    }

    /// Returns the device id.
    pub fn device(&self) -> Option<u16> {
        self.read_u16(0x02)
    }

    /// Returns the revision.
    pub fn revision(&self) -> Option<u8> {
        self.read_u8(at::REVISION)
    }

    /// Returns base class, sub-class and programming interface, 24 bits (`0x020000`: Ethernet controller).
    pub fn class(&self) -> Option<u32> {
        self.array(at::CLASS).map(|[interface, sub, base]| u32::from_le_bytes([interface, sub, base, 0]))
    }

    /// Returns the layout of the header.
    pub fn layout(&self) -> Option<HeaderLayout> {
        self.read_u8(at::HEADER_TYPE).map(|byte| HeaderLayout::from_code(byte & !at::MULTIFUNCTION))
    }

    /// Returns whether the multifunction bit is set; `false` if the byte cannot be read.
    pub fn has_multifunction_bit(&self) -> bool {
        self.read_u8(at::HEADER_TYPE).is_some_and(|byte| byte & at::MULTIFUNCTION != 0)
    }

    /// Returns the subsystem vendor id; of a bridge, from its capability.
    pub fn subsystem_vendor(&self) -> Option<u16> {
        self.read_u16(self.subsystem_offset()?)
    }

    /// Returns the subsystem id.
    pub fn subsystem_device(&self) -> Option<u16> {
        self.read_u16(self.subsystem_offset()?.checked_add(2)?)
    }

    fn subsystem_offset(&self) -> Option<u16> {
        match self.layout()? {
            HeaderLayout::Endpoint => Some(at::SUBSYSTEM),
            HeaderLayout::Bridge => self.capability(at::CAP_BRIDGE_SUBSYSTEM)?.checked_add(4),
            HeaderLayout::Other(_) => None,
        }
    }

    /// Returns the secondary bus of a bridge.
    pub fn secondary_bus(&self) -> Option<u8> {
        self.bridge_byte(at::SECONDARY_BUS)
    }

    /// Returns the subordinate bus of a bridge, the highest below it.
    pub fn subordinate_bus(&self) -> Option<u8> {
        self.bridge_byte(at::SUBORDINATE_BUS)
    }

    fn bridge_byte(&self, offset: u16) -> Option<u8> {
        if self.layout()? == HeaderLayout::Bridge { self.read_u8(offset) } else { None }
    }

    /// Returns the capabilities in the order of their list. A list that contains a loop is cut off at the maximum
    /// length.
    pub fn capabilities(&self) -> impl Iterator<Item = Capability> {
        let has_list = self.read_u16(at::STATUS).is_some_and(|status| status & at::STATUS_HAS_CAPABILITIES != 0);
        let known_layout = matches!(self.layout(), Some(HeaderLayout::Endpoint | HeaderLayout::Bridge));
        let first = if has_list && known_layout { self.read_u8(at::CAPABILITIES) } else { None };
        let entry = |pointer: u8| {
            let offset = u16::from(pointer & !3);
            let id = self.read_u8(offset).filter(|&id| offset >= 0x40 && id != 0xff)?;
            Some(Capability { id: id.into(), offset })
        };
        iter::successors(first.and_then(entry), move |last| self.read_u8(last.offset + 1).and_then(entry))
            .take(MOST_CAPABILITIES)
    }

    /// Returns the extended capabilities in the order of their list, cut off as [`capabilities`](Self::capabilities)
    /// are.
    pub fn extended_capabilities(&self) -> impl Iterator<Item = Capability> {
        let entry = |offset: u16| {
            let header = self.read_u32(offset).filter(|&header| header != 0 && header != u32::MAX)?;
            let [id_low, id_high, ..] = header.to_le_bytes();
            Some(Capability { id: u16::from_le_bytes([id_low, id_high]), offset })
        };
        let next = |last: &Capability| {
            let pointer = (self.read_u16(last.offset + 2)? >> 4) & !3;
            if pointer >= EXTENDED { Some(pointer) } else { None }
        };
        iter::successors(entry(EXTENDED), move |last| next(last).and_then(entry)).take(MOST_EXTENDED_CAPABILITIES)
    }

    fn capability(&self, id: u8) -> Option<u16> {
        self.capabilities().find(|found| found.id == u16::from(id)).map(|found| found.offset)
    }

    fn extended_capability(&self, id: u16) -> Option<u16> {
        self.extended_capabilities().find(|found| found.id == id).map(|found| found.offset)
    }

    /// Returns the PCI Express capability; `None` for a conventional function.
    pub fn pcie(&self) -> Option<PcieCapability> {
        let flags = self.read_u16(self.capability(at::CAP_PCI_EXPRESS)?.checked_add(2)?)?;
        let [flags, _] = flags.to_le_bytes();
        Some(PcieCapability { port_type: PortType::from_code(flags >> 4) })
    }

    /// Returns the ACS capability.
    pub fn acs(&self) -> Option<Acs> {
        let offset = self.extended_capability(at::EXT_CAP_ACS)?;
        let bits = |at: u16| Some(AcsBits::from_bits(self.read_u16(offset.checked_add(at)?)?));
        Some(Acs { capability: bits(4)?, control: bits(6)? })
    }
}

/// Writes into a configuration space, as far as it goes.
fn write(bytes: &mut [u8], offset: u16, value: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(offset.into()).zip(value) {
        *byte = *new;
    }
}

/// The length without the zeros at the end.
fn used(bytes: &[u8]) -> usize {
    let is_zero = |chunk: &&[u8]| chunk.iter().fold(0, |all, byte| all | byte) == 0;
    let zeros: usize = bytes.rchunks(64).take_while(is_zero).map(<[u8]>::len).sum();
    let rest = bytes.get(..bytes.len() - zeros).unwrap_or_default();
    rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

impl fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigSpace")
            .field("length", &self.length)
            .field("vendor", &self.vendor())
            .field("device", &self.device())
            .field("class", &self.class())
            .field("pcie", &self.pcie())
            .finish_non_exhaustive()
    }
}

/// An entry of a capability list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// Capability id; ids of the extended list are separate.
    pub id: u16,
    /// Offset of its first byte.
    pub offset: u16,
}

/// The layout of a header: the header type without the multifunction bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HeaderLayout {
    /// Type 0: an endpoint.
    Endpoint,
    /// Type 1: a bridge to another PCI bus.
    Bridge,
    /// Another type, 2 to 127 (2: CardBus bridge).
    Other(u8),
}

impl HeaderLayout {
    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Endpoint,
            1 => Self::Bridge,
            other => Self::Other(other),
        }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
