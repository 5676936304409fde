//! Classification of Linux drivers by name.

use super::in_tree;

/// What a driver means for DMA ownership.
// D63.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DriverDma {
    /// The driver does DMA for the kernel: while bound, it prevents a claim, even if it does none.
    // D65.
    Kernel,
    /// The driver does no DMA.
    Managed,
    /// The driver hands its device to user space, and claims the group when user space opens the device.
    UserSpace,
    /// Not known: a driver that is not part of Linux may manage its own DMA, and some do.
    Unknown,
}

/// Buses that take part in DMA ownership; a driver on any other bus does not prevent a claim.
// D60.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DmaBus {
    /// PCI.
    Pci,
    /// Devices that cannot be discovered.
    Platform,
    /// Arm PrimeCell (AMBA).
    Amba,
    /// Freescale Management Complex.
    FslMc,
    /// AMD CDX, the bus of FPGA fabrics.
    Cdx,
}

impl DmaBus {
    /// Returns the bus that sysfs calls `name`; `None` if it takes no part in DMA ownership.
    pub fn of_name(name: &str) -> Option<Self> {
        let all = [Self::Pci, Self::Platform, Self::Amba, Self::FslMc, Self::Cdx];
        all.into_iter().find(|bus| bus.name() == name)
    }

    /// Returns the name of the bus in sysfs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pci => "pci",
            Self::Platform => "platform",
            Self::Amba => "amba",
            Self::FslMc => "fsl-mc",
            Self::Cdx => "cdx",
        }
    }

    /// Returns the drivers of Linux on this bus that have `driver_managed_dma` set, sorted.
    const fn managed(self) -> &'static [&'static str] {
        match self {
            Self::Pci => in_tree::PCI_MANAGED,
            Self::Platform => in_tree::PLATFORM_MANAGED,
            Self::Amba => in_tree::AMBA_MANAGED,
            Self::FslMc => in_tree::FSL_MC_MANAGED,
            Self::Cdx => in_tree::CDX_MANAGED,
        }
    }
}

/// Returns what is known of the PCI driver of this name.
pub fn dma_of(driver: &str) -> DriverDma {
    dma_on(DmaBus::Pci, driver)
}

/// Returns what is known of the driver of this name on a bus.
///
/// Drivers that manage their own DMA without being part of Linux are known for PCI only; on the other buses, whatever
/// is not known to be managed does DMA for the kernel.
pub fn dma_on(bus: DmaBus, driver: &str) -> DriverDma {
    if bus.managed().binary_search(&driver).is_ok() {
        // Of those, the variants of vfio hand their devices out.
        if driver.contains("vfio") { DriverDma::UserSpace } else { DriverDma::Managed }
    } else if bus != DmaBus::Pci || in_tree::PCI.binary_search(&driver).is_ok() {
        DriverDma::Kernel
    } else {
        DriverDma::Unknown
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn d64_every_list_is_sorted_and_no_driver_is_in_two() {
        assert!(in_tree::PCI.is_sorted() && in_tree::PCI.len() > 800);
        for bus in [DmaBus::Pci, DmaBus::Platform, DmaBus::Amba, DmaBus::FslMc, DmaBus::Cdx] {
            assert!(bus.managed().is_sorted(), "{bus:?}");
            assert!(bus.managed().iter().all(|name| in_tree::PCI.binary_search(name).is_err()), "{bus:?}");
            assert_eq!(DmaBus::of_name(bus.name()), Some(bus));
        }
    }

    #[test]
    fn d64_drivers_are_told_by_bus_and_name() {
        assert_eq!(dma_of("pciback"), DriverDma::Kernel);
        assert_eq!(dma_of("pcieport"), DriverDma::Managed);
        assert_eq!(dma_of("mlx5_vfio_pci"), DriverDma::UserSpace);
        assert_eq!(dma_of("nvidia"), DriverDma::Unknown);
        assert_eq!(dma_on(DmaBus::Platform, "fsl-pci"), DriverDma::Managed);
        assert_eq!(dma_on(DmaBus::Platform, "pcieport"), DriverDma::Kernel);
        assert_eq!(dma_on(DmaBus::FslMc, "vfio-fsl-mc"), DriverDma::UserSpace);
    }
}
