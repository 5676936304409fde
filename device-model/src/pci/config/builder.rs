//! Builder for configuration spaces.

use alloc::vec;

use super::{Acs, AcsBits, ConfigSpace, EXTENDED, LONGEST, PortType, at};

/// Where the builder puts the PCI Express capability.
const PCI_EXPRESS: u16 = 0x40;

/// Builds a [`ConfigSpace`]. Unset fields are zero: a conventional endpoint, alone in its slot.
#[derive(Clone, Debug, Default)]
pub struct ConfigBuilder {
    vendor: u16,
    device: u16,
    subsystem: Option<(u16, u16)>,
    class: u32,
    revision: u8,
    header_type: u8,
    buses: Option<(u8, u8)>,
    port_type: Option<PortType>,
    acs: Option<Acs>,
}

impl ConfigBuilder {
    /// Sets vendor and device id.
    #[must_use]
    pub const fn ids(mut self, vendor: u16, device: u16) -> Self {
        self.vendor = vendor;
        self.device = device;
        self
    }

    /// Sets subsystem vendor id and subsystem id. Ignored for a bridge, whose header has no such fields.
    #[must_use]
    pub const fn subsystem(mut self, vendor: u16, device: u16) -> Self {
        self.subsystem = Some((vendor, device));
        self
    }

    /// Sets the class, 24 bits; higher bits are cut off.
    #[must_use]
    pub const fn class(mut self, class: u32) -> Self {
        self.class = class;
        self
    }

    /// Sets the revision.
    #[must_use]
    pub const fn revision(mut self, revision: u8) -> Self {
        self.revision = revision;
        self
    }

    /// Sets the multifunction bit.
    #[must_use]
    pub const fn multifunction(mut self) -> Self {
        self.header_type |= at::MULTIFUNCTION;
        self
    }

    /// Turns it into a bridge (also its class, unless [`class`](Self::class) is called later) with secondary bus
    /// `secondary` and subordinate bus `subordinate`.
    #[must_use]
    pub const fn bridge(mut self, secondary: u8, subordinate: u8) -> Self {
        self.header_type |= 1;
        self.buses = Some((secondary, subordinate));
        self.class = 0x06_0400;
        self
    }

    /// Adds the PCI Express capability.
    #[must_use]
    pub const fn pcie(mut self, port_type: PortType) -> Self {
        self.port_type = Some(port_type);
        self
    }

    /// Adds the ACS capability: services that are implemented, and those enabled.
    #[must_use]
    pub const fn acs(mut self, capability: AcsBits, control: AcsBits) -> Self {
        self.acs = Some(Acs { capability, control });
        self
    }

    /// Builds the configuration space: 4096 bytes with PCI Express or ACS, else 256.
    pub fn build(self) -> ConfigSpace {
        let length = if self.port_type.is_some() || self.acs.is_some() { LONGEST } else { 256 };
        let mut bytes = vec![0; length];
        write(&mut bytes, 0x00, &self.vendor.to_le_bytes());
        write(&mut bytes, 0x02, &self.device.to_le_bytes());
        // The class stands above the revision's byte in one double word.
        write(&mut bytes, at::REVISION, &(self.class << 8 | u32::from(self.revision)).to_le_bytes());
        write(&mut bytes, at::HEADER_TYPE, &[self.header_type]);
        if let Some((secondary, subordinate)) = self.buses {
            write(&mut bytes, at::SECONDARY_BUS, &[secondary, subordinate]);
        } else if let Some((vendor, device)) = self.subsystem {
            write(&mut bytes, at::SUBSYSTEM, &vendor.to_le_bytes());
            write(&mut bytes, at::SUBSYSTEM + 2, &device.to_le_bytes());
        }
        if let Some(port_type) = self.port_type {
            write(&mut bytes, at::STATUS, &at::STATUS_HAS_CAPABILITIES.to_le_bytes());
            write(&mut bytes, at::CAPABILITIES, &PCI_EXPRESS.to_le_bytes());
            // The last of the list; version 2 of the capability.
            write(&mut bytes, PCI_EXPRESS, &[at::CAP_PCI_EXPRESS, 0, port_type.code() << 4 | 2]);
        }
        if let Some(acs) = self.acs {
            // The last of the list; version 1 of the capability.
            write(&mut bytes, EXTENDED, &(1 << 16 | u32::from(at::EXT_CAP_ACS)).to_le_bytes());
            write(&mut bytes, EXTENDED + 4, &acs.capability.bits().to_le_bytes());
            write(&mut bytes, EXTENDED + 6, &acs.control.bits().to_le_bytes());
        }
        ConfigSpace::new(bytes)
    }
}

fn write(bytes: &mut [u8], offset: u16, value: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(offset.into()).zip(value) {
        *byte = *new;
    }
}
