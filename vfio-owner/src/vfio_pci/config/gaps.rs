//! What belongs to no capability that is shown.
// Vt31.14.

use core::ops::Range;

use iommu_core::device_model::pci::{Capability, ConfigSpace};

use super::super::admission::EXT_SRIOV;
use super::super::{CAP_EXPRESS, CAP_MSI, CAP_MSIX};
use super::VirtualConfig;
use super::capabilities::{EXPRESS_VERSION, MSI_64_BIT, MSI_MASKABLE};

const HEADER: usize = 0x40;

const CAP_VENDOR: u16 = 0x09;
const CAP_HYPERTRANSPORT: u16 = 0x08;

pub(super) const EXT_ERROR_REPORTING: u16 = 0x01;
const EXT_VIRTUAL_CHANNEL: [u16; 3] = [0x02, 0x08, 0x09];
const EXT_SERIAL_NUMBER: u16 = 0x03;
const EXT_VENDOR: u16 = 0x0b;
const EXT_MULTICAST: u16 = 0x12;
const EXT_DESIGNATED_VENDOR: u16 = 0x23;

/// The bytes of a capability.
pub(super) fn span(config: &ConfigSpace, capability: Capability) -> Range<usize> {
    let at = usize::from(capability.offset);
    let word = |offset: u16| capability.offset.checked_add(offset).and_then(|at| config.read_u16(at)).unwrap_or(0);
    let length = match capability.id {
        CAP_MSI => match (word(2) & MSI_64_BIT != 0, word(2) & MSI_MASKABLE != 0) {
            (false, false) => 10,
            (true, false) => 14,
            (false, true) => 20,
            (true, true) => 24,
        },
        CAP_MSIX => 12,
        CAP_VENDOR => usize::from(word(2) & 0xff).max(3),
        CAP_EXPRESS if word(2) & EXPRESS_VERSION < 2 => 0x14,
        CAP_EXPRESS => 0x3c,
        CAP_HYPERTRANSPORT => 4,
        _ => 8,
    };
    at..at + length
}

/// The bytes of an extended capability.
pub(super) fn extended_span(config: &ConfigSpace, capability: Capability) -> Range<usize> {
    let at = usize::from(capability.offset);
    let high = |offset: u16| capability.offset.checked_add(offset).and_then(|at| config.read_u16(at)).unwrap_or(0) >> 4;
    let length = match capability.id {
        EXT_ERROR_REPORTING => 0x48,
        id if EXT_VIRTUAL_CHANNEL.contains(&id) => 0x1c,
        EXT_SERIAL_NUMBER => 12,
        EXT_VENDOR | EXT_DESIGNATED_VENDOR => usize::from(high(6)).max(8),
        EXT_SRIOV => 0x40,
        EXT_MULTICAST => 0x30,
        // Of the others, none that is shown is longer.
        _ => 16,
    };
    at..at + length
}

impl VirtualConfig {
    /// Takes over what is behind the header and not in `taken`: users read and write the hardware there.
    pub(super) fn own_gaps(&mut self, taken: &[Range<usize>]) {
        let size = self.writable.len();
        for at in (HEADER..size).filter(|at| taken.iter().all(|span| !span.contains(at))) {
            self.set_writable(at, &[u8::MAX]);
        }
    }
}
