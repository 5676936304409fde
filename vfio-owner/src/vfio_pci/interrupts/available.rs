//! Which interrupts a function has.

use iommu_core::device_model::pci::PciFunction;

use crate::device_ops::{IrqIndex, IrqInfo, IrqMasking};

const INTERRUPT_PIN: u16 = 0x3d;
const MOST_MSI: u32 = 32;

/// How many interrupts a function has, by index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Available {
    pub(super) intx: u32,
    pub(super) msi: u32,
    pub(super) msix: u32,
    pub(super) error: u32,
}

impl Available {
    pub(crate) fn of(function: &PciFunction) -> Self {
        let config = &function.config;
        let control = |capability| config.read_u16(super::super::capability(config, capability)?.checked_add(2)?);
        let has_pin = config.read_u8(INTERRUPT_PIN).is_some_and(|pin| pin != 0) && function.physical_function.is_none();
        Self {
            intx: has_pin.into(),
            msi: control(super::super::CAP_MSI).map_or(0, |control| MOST_MSI.min(1 << (control >> 1 & 7))),
            msix: control(super::super::CAP_MSIX).map_or(0, |control| u32::from(control & 0x7ff) + 1),
            error: config.pcie().is_some().into(),
        }
    }

    /// How many interrupts an index has; `None` for an index that the function does not have.
    pub(crate) fn count(self, index: IrqIndex) -> Option<u32> {
        match index {
            IrqIndex::INTX => Some(self.intx),
            IrqIndex::MSI => Some(self.msi),
            IrqIndex::MSIX => Some(self.msix),
            // Only PCI Express reports errors this way.
            IrqIndex::ERR if self.error > 0 => Some(self.error),
            IrqIndex::REQ => Some(1),
            _ => None,
        }
    }

    /// What the interrupts of an index are. The number of MSI-X vectors in use may grow, as on x86.
    pub(crate) fn describe(self, index: IrqIndex) -> Option<IrqInfo> {
        let count = self.count(index)?;
        let masking = if index == IrqIndex::INTX { IrqMasking::Automatic } else { IrqMasking::None };
        let noresize = index != IrqIndex::INTX && (index != IrqIndex::MSIX || count == 0);
        Some(IrqInfo { count, eventfd: true, masking, noresize })
    }
}
