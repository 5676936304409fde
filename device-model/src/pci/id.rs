//! PCI ID tables.

use super::config::ConfigSpace;

/// An entry of a driver's id table. `None` stands for any value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PciId {
    /// Vendor id.
    pub vendor: Option<u16>,
    /// Device id.
    pub device: Option<u16>,
    /// Subsystem vendor id.
    pub subvendor: Option<u16>,
    /// Subsystem id.
    pub subdevice: Option<u16>,
    /// Class, 24 bits, compared under `class_mask`.
    pub class: u32,
    /// Bits of the class that are compared; 0 for none.
    pub class_mask: u32,
    /// Whether the entry matches only a function whose `driver_override` names the driver, as the entry of vfio-pci
    /// does.
    pub override_only: bool,
}

impl PciId {
    /// Matches every function.
    pub const ANY: Self = Self {
        vendor: None,
        device: None,
        subvendor: None,
        subdevice: None,
        class: 0,
        class_mask: 0,
        override_only: false,
    };

    /// Creates an entry that matches every function of these ids.
    pub const fn device(vendor: u16, device: u16) -> Self {
        Self { vendor: Some(vendor), device: Some(device), ..Self::ANY }
    }

    /// Creates an entry that matches every function whose class equals `class` in the bits of `mask`.
    pub const fn class(class: u32, mask: u32) -> Self {
        Self { class, class_mask: mask, ..Self::ANY }
    }

    /// Restricts the entry to functions whose `driver_override` names the driver.
    #[must_use]
    pub const fn override_only(self) -> Self {
        Self { override_only: true, ..self }
    }

    /// Returns whether the ids match, regardless of [`override_only`](Self::override_only). An id that cannot be read
    /// matches only "any".
    pub fn matches(&self, config: &ConfigSpace) -> bool {
        let fits = |wanted: Option<u16>, found: Option<u16>| wanted.is_none() || wanted == found;
        fits(self.vendor, config.vendor())
            && fits(self.device, config.device())
            && fits(self.subvendor, config.subsystem_vendor())
            && fits(self.subdevice, config.subsystem_device())
            && (self.class_mask == 0 || config.class().is_some_and(|class| (class ^ self.class) & self.class_mask == 0))
    }

    /// Returns whether a function of the ids of `other` matches, regardless of [`override_only`](Self::override_only).
    /// Where `other` stands for any value, only "any" does.
    pub const fn covers(&self, other: &Self) -> bool {
        const fn fits(wanted: Option<u16>, found: Option<u16>) -> bool {
            match (wanted, found) {
                (None, _) => true,
                (Some(wanted), Some(found)) => wanted == found,
                (Some(_), None) => false,
            }
        }
        fits(self.vendor, other.vendor)
            && fits(self.device, other.device)
            && fits(self.subvendor, other.subvendor)
            && fits(self.subdevice, other.subdevice)
            && (self.class ^ other.class) & self.class_mask == 0
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    #[test]
    fn each_field_counts_unless_it_is_any() {
        let config = ConfigSpace::builder().ids(0x8086, 0x100e).subsystem(0x1af4, 0x1100).class(0x02_0000).build();
        let exact = PciId {
            subvendor: Some(0x1af4),
            subdevice: Some(0x1100),
            class: 0x02_0000,
            class_mask: 0xff_ffff,
            ..PciId::device(0x8086, 0x100e)
        };
        for matching in [PciId::ANY, exact, PciId::device(0x8086, 0x100e), PciId::class(0x02_1234, 0xff_0000)] {
            assert!(matching.matches(&config), "{matching:?}");
            assert!(matching.override_only().matches(&config), "the ids fit, whatever the override");
        }
        for other in [
            PciId { vendor: Some(0), ..exact },
            PciId { device: Some(0), ..exact },
            PciId { subvendor: Some(0), ..exact },
            PciId { subdevice: Some(0), ..exact },
            PciId { class: 0x01_0000, ..exact },
        ] {
            assert!(!other.matches(&config), "{other:?}");
        }
    }

    #[test]
    fn an_id_covers_those_that_it_is_wider_than() {
        let nic = PciId::device(0x8086, 0x100e);
        let card = PciId { subvendor: Some(0x1af4), ..nic };
        let networks = PciId::class(0x02_0000, 0xff_0000);
        assert!(nic.covers(&nic) && nic.covers(&card) && PciId::ANY.covers(&card));
        assert!(!card.covers(&nic), "of another card, too");
        assert!(!networks.covers(&nic) && networks.covers(&PciId { class: 0x02_8000, ..nic }));
        assert!(nic.override_only().covers(&nic));
    }

    #[test]
    fn what_cannot_be_read_fits_only_any() {
        let nothing = ConfigSpace::default();
        assert!(PciId::ANY.matches(&nothing));
        assert!(!PciId::device(0, 0).matches(&nothing));
        assert!(!PciId::class(0, 0xff_0000).matches(&nothing));
    }
}
