//! The windows of a function: its BARs and its ROM.

use core::ops::Range;

use iommu_core::device_model::pci::{Bar, BarKind, ConfigSpace};

use super::{CAP_MSIX, VfioPciDevice, capability};
use crate::device_ops::{RegionCapability, RegionError, RegionIndex, RegionInfo};

const PAGE: u64 = 0x1000;

/// The address of the legacy video ROM, which holds no image that a user could read.
// Vt20.3.
const SHADOW_ROM: u64 = 0xc_0000;

/// Where the MSI-X table is, which a user does not reach by reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MsixTable {
    pub(super) region: RegionIndex,
    pub(super) span: Range<u64>,
}

impl MsixTable {
    pub(super) fn of(config: &ConfigSpace) -> Option<Self> {
        const ENTRY: u64 = 16;
        let at = capability(config, CAP_MSIX)?;
        let control = config.read_u16(at.checked_add(2)?)?;
        let place = config.read_u32(at.checked_add(4)?)?;
        let start = u64::from(place & !0b111);
        let end = start + (u64::from(control & 0x7ff) + 1) * ENTRY;
        Some(Self { region: RegionIndex::new(place & 0b111), span: start..end })
    }
}

/// Whether a ROM window holds an image.
fn has_image(rom: Bar) -> bool {
    rom.address() != SHADOW_ROM
}

impl VfioPciDevice {
    /// The window of a region; `None` for the configuration space, and where there is none.
    pub(super) fn window(&self, index: RegionIndex) -> Option<Bar> {
        if index == RegionIndex::ROM {
            return self.function.bars.rom().filter(|rom| has_image(*rom));
        }
        self.function.bars.get(usize::try_from(index.number()).ok()?)
    }

    /// The MSI-X table, if it is in this region.
    pub(super) fn msix_table(&self, index: RegionIndex) -> Option<&MsixTable> {
        self.msix_table.as_ref().filter(|table| table.region == index)
    }

    // Table Vt20.
    pub(super) fn describe_window(&self, index: RegionIndex) -> RegionInfo {
        let empty = RegionInfo::empty(index);
        let Some(window) = self.window(index) else { return empty };
        let readable = RegionInfo { size: window.size(), readable: true, ..empty };
        if index == RegionIndex::ROM {
            return readable;
        }
        // V77.
        let mappable = window.kind() != BarKind::Io && window.size() >= PAGE;
        let has_table = mappable && self.msix_table(index).is_some();
        let capabilities = has_table.then_some(RegionCapability::MsixMappable);
        RegionInfo { writable: true, mappable, capabilities: capabilities.into_iter().collect(), ..readable }
    }

    /// How much of `length` bytes from `offset` on there is in the window, if the function answers there now.
    // Vt30.1.
    fn within(&self, index: RegionIndex, offset: u64, length: usize) -> Result<(usize, Bar), RegionError> {
        let window = self.window(index).ok_or(RegionError::NoSuchRegion { index })?;
        let length = super::whole(index.clip(window.size(), offset, length as u64)?);
        if window.kind() == BarKind::Io || self.memory_on() {
            Ok((length, window))
        } else if index == RegionIndex::ROM {
            Err(RegionError::NoRomImage)
        } else {
            Err(RegionError::MemoryOff { index })
        }
    }

    /// Whether memory windows answer. The memory of a virtual function is under the control of its physical function.
    fn memory_on(&self) -> bool {
        self.function.physical_function.is_some() || self.state.lock().config.memory_on()
    }

    fn ports_on(&self) -> bool {
        self.state.lock().config.ports_on()
    }

    pub(super) fn read_window(&self, index: RegionIndex, offset: u64, into: &mut [u8]) -> Result<usize, RegionError> {
        let (length, window) = self.within(index, offset, into.len())?;
        let into = into.get_mut(..length).unwrap_or_default();
        into.fill(u8::MAX);
        if window.kind() == BarKind::Io && !self.ports_on() {
            return Ok(length);
        }
        for part in self.outside_msix_table(index, offset, length) {
            let within = super::whole(part.start - offset)..super::whole(part.end - offset);
            self.model.read(index, part.start, into.get_mut(within).unwrap_or_default());
        }
        Ok(length)
    }

    pub(super) fn write_window(&self, index: RegionIndex, offset: u64, from: &[u8]) -> Result<usize, RegionError> {
        if index == RegionIndex::ROM && self.window(index).is_some() {
            return Err(RegionError::ReadOnly { index });
        }
        let (length, window) = self.within(index, offset, from.len())?;
        if window.kind() == BarKind::Io && !self.ports_on() {
            return Ok(length);
        }
        for part in self.outside_msix_table(index, offset, length) {
            let within = super::whole(part.start - offset)..super::whole(part.end - offset);
            self.model.write(index, part.start, from.get(within).unwrap_or_default());
        }
        Ok(length)
    }

    /// The parts of an access before and behind the MSI-X table: those that are not empty.
    // Vt30.2.
    fn outside_msix_table(
        &self,
        index: RegionIndex,
        offset: u64,
        length: usize,
    ) -> impl Iterator<Item = Range<u64>> + use<> {
        let end = offset.saturating_add(length as u64);
        let table = self.msix_table(index).map_or(end..end, |table| table.span.clone());
        let before = offset..end.min(table.start);
        let behind = offset.max(table.end)..end;
        [before, behind].into_iter().filter(|part| !part.is_empty())
    }
}
