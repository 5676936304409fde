//! Capabilities, as far as a user sees and writes them.
// Vt31.6 to Vt31.13, V98.

use alloc::vec::Vec;

use iommu_core::device_model::pci::{Capability, ConfigSpace};

use super::super::{CAP_ADVANCED_FEATURES, CAP_EXPRESS, CAP_MSI, CAP_MSIX, CAP_POWER};
use super::{CAPABILITIES, STATUS, VirtualConfig, gaps};
use crate::device_ops::IrqIndex;

const STATUS_HAS_CAPABILITIES: u16 = 1 << 4;

/// Capabilities that are hidden: without an id, slots, hot plug, debugging, resources, subsystem ids, AGP, security.
const HIDDEN: [u16; 9] = [0x00, 0x04, 0x06, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f];

/// Extended capabilities that are shown.
const SHOWN_EXTENDED: [u16; 19] =
    [0x01, 0x02, 0x03, 0x04, 0x08, 0x09, 0x0b, 0x0d, 0x0e, 0x0f, 0x10, 0x12, 0x13, 0x15, 0x16, 0x17, 0x18, 0x1b, 0x23];
const EXTENDED: usize = 0x100;

/// Advanced error reporting: the registers behind its header that a user may write.
const AER_WRITABLE: [usize; 6] = [0x04, 0x08, 0x0c, 0x10, 0x14, 0x18];

const MSI_ENABLE: u16 = 1 << 0;
const MSI_QUEUE_SIZE: u16 = 0b111 << 4;
pub(super) const MSI_64_BIT: u16 = 1 << 7;
pub(super) const MSI_MASKABLE: u16 = 1 << 8;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

const POWER_PME_SUPPORT: u16 = 0xf800;
const POWER_PME: u16 = 1 << 15 | 1 << 8;
/// State, and what the data register shows.
const POWER_WRITABLE: u16 = 0b11 | 0b1111 << 9;

pub(super) const EXPRESS_VERSION: u16 = 0xf;
const EXPRESS_CONTROL: usize = 0x08;
const EXPRESS_CONTROL_2: usize = 0x28;
const EXPRESS_RESET: u16 = 1 << 15;
const EXPRESS_PHANTOM: u16 = 1 << 9;
const EXPRESS_ARI: u16 = 1 << 5;
const FEATURES_CONTROL: usize = 4;
const FEATURES_RESET: u8 = 1;

/// Where a user starts a function-level reset: the byte and the bit.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResetBit {
    pub(super) at: usize,
    pub(super) bit: u8,
}

impl VirtualConfig {
    /// Hides what is not for users, and takes over the registers that they write.
    pub(super) fn own_capabilities(&mut self, original: &ConfigSpace) {
        let all: Vec<Capability> = original.capabilities().collect();
        let shown: Vec<Capability> = all
            .iter()
            .copied()
            .filter(|found| !HIDDEN.contains(&found.id) && found.id <= CAP_ADVANCED_FEATURES)
            .collect();
        if !all.is_empty() {
            self.link(CAPABILITIES, shown.first());
            if shown.is_empty() {
                self.clear_bits(STATUS, STATUS_HAS_CAPABILITIES);
            }
        }
        let (extended, hidden): (Vec<_>, Vec<_>) =
            original.extended_capabilities().partition(|found| SHOWN_EXTENDED.contains(&found.id));
        let spans = shown.iter().map(|capability| gaps::span(original, *capability));
        let mut taken: Vec<_> =
            spans.chain(extended.iter().map(|found| gaps::extended_span(original, *found))).collect();
        // A hidden first one stays where it is, to point to the next.
        if hidden.iter().any(|found| usize::from(found.offset) == EXTENDED) {
            self.set(EXTENDED, &[0; 4]);
            self.link_extended(EXTENDED, extended.first());
            taken.push(EXTENDED..EXTENDED + 4);
        }
        self.own_gaps(&taken);
        for (at, capability) in shown.iter().enumerate() {
            self.link(usize::from(capability.offset) + 1, shown.get(at + 1));
            self.own_capability(*capability);
        }
        self.own_extended(&extended);
    }

    /// Points to the next capability.
    fn link(&mut self, at: usize, next: Option<&Capability>) {
        let [offset, _] = next.map_or(0, |next| next.offset).to_le_bytes();
        self.set(at, &[offset]);
    }

    fn own_capability(&mut self, capability: Capability) {
        let at = usize::from(capability.offset);
        match capability.id {
            CAP_POWER => {
                self.clear_bits(at + 2, POWER_PME_SUPPORT);
                self.clear_bits(at + 4, POWER_PME);
                self.own_bits(at + 4, POWER_WRITABLE);
                self.power = Some(at + 4);
            }
            CAP_MSI => self.own_msi(at),
            CAP_MSIX => {
                self.clear_bits(at + 2, MSIX_ENABLE | MSIX_MASK_ALL);
                self.msix = Some(at + 2);
            }
            CAP_EXPRESS => {
                self.clear_bits(at + EXPRESS_CONTROL, EXPRESS_RESET);
                self.own_bits(at + EXPRESS_CONTROL, !(EXPRESS_RESET | EXPRESS_PHANTOM));
                self.reset_bits.push(ResetBit { at: at + EXPRESS_CONTROL + 1, bit: 1 << 7 });
                if self.word(at + 2) & EXPRESS_VERSION >= 2 {
                    self.own_bits(at + EXPRESS_CONTROL_2, !EXPRESS_ARI);
                }
            }
            CAP_ADVANCED_FEATURES => self.reset_bits.push(ResetBit { at: at + FEATURES_CONTROL, bit: FEATURES_RESET }),
            _ => {}
        }
    }

    fn own_msi(&mut self, at: usize) {
        let control = self.word(at + 2);
        self.clear_bits(at + 2, MSI_ENABLE | MSI_QUEUE_SIZE);
        self.own_bits(at + 2, MSI_ENABLE | MSI_QUEUE_SIZE);
        self.set_writable(at + 4, &0xffff_fffc_u32.to_le_bytes());
        let data = if control & MSI_64_BIT == 0 {
            at + 8
        } else {
            self.set_writable(at + 8, &[0xff; 4]);
            at + 12
        };
        self.set_writable(data, &[0xff; 2]);
        if control & MSI_MASKABLE != 0 {
            self.set_writable(data + 4, &[0xff; 4]);
        }
        self.msi = Some(at + 2);
    }

    /// Shows what is set up: MSI-X is enabled then, which the user cannot do here.
    // Vt31.11.
    pub(in super::super) fn show_msix(&mut self, set_up: Option<IrqIndex>) {
        if let Some(at) = self.msix {
            let control = self.word(at) & !MSIX_ENABLE;
            let enable = if set_up == Some(IrqIndex::MSIX) { MSIX_ENABLE } else { 0 };
            self.set(at, &(control | enable).to_le_bytes());
        }
    }

    fn own_extended(&mut self, shown: &[Capability]) {
        for (at, capability) in shown.iter().enumerate() {
            let offset = usize::from(capability.offset);
            self.link_extended(offset, shown.get(at + 1));
            if capability.id == gaps::EXT_ERROR_REPORTING {
                for register in AER_WRITABLE {
                    self.set_writable(offset + register, &[0xff; 4]);
                }
            }
        }
    }

    /// Points to the next extended capability, in the upper twelve bits.
    fn link_extended(&mut self, at: usize, next: Option<&Capability>) {
        let version = self.word(at + 2) & 0xf;
        self.set(at + 2, &(next.map_or(0, |next| next.offset) << 4 | version).to_le_bytes());
    }

    /// Keeps what MSI shows within what is set up.
    // Vt31.10.
    pub(super) fn settle_msi(&mut self, vectors: usize) {
        let Some(at) = self.msi else { return };
        let control = self.word(at);
        let most = u16::try_from(vectors.max(1).ilog2()).unwrap_or(0);
        let queue = ((control & MSI_QUEUE_SIZE) >> 4).min(most) << 4;
        let enable = if vectors > 0 { control & MSI_ENABLE } else { 0 };
        self.set(at, &(control & !(MSI_ENABLE | MSI_QUEUE_SIZE) | queue | enable).to_le_bytes());
    }

    fn clear_bits(&mut self, at: usize, bits: u16) {
        self.set(at, &(self.word(at) & !bits).to_le_bytes());
    }

    fn own_bits(&mut self, at: usize, bits: u16) {
        self.set_writable(at, &bits.to_le_bytes());
    }
}
