//! What is known of PCI drivers by their names.

/// How a driver stands to DMA ownership (D63).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DriverDma {
    /// It does DMA for the kernel; bound, it is in the way of a claim, even if it does none (D65).
    Kernel,
    /// It does no DMA.
    Managed,
    /// It hands its device to user space, and claims the group when that opens it.
    UserSpace,
    /// Not known: a driver that is not part of Linux may manage its own DMA, and some do.
    Unknown,
}

/// What Linux 6.12 has in its tree with `driver_managed_dma` set (D64), without those that hand devices out.
const MANAGED: [&str; 2] = ["pci-stub", "pcieport"];

/// The drivers of that list that hand devices out.
const USER_SPACE: [&str; 8] = [
    "hisi-acc-vfio-pci",
    "mlx5-vfio-pci",
    "nvgrace-gpu-vfio-pci",
    "pds-vfio-pci",
    "qat-vfio-pci",
    "qat_vfio_pci",
    "vfio-pci",
    "virtio-vfio-pci",
];

/// PCI drivers of Linux that people meet in the groups of devices which they want to give away. None of them sets
/// `driver_managed_dma`.
const KERNEL: &[&str] = &[
    "8139cp",
    "8139too",
    "ahci",
    "alx",
    "amd_sfh",
    "amdgpu",
    "ast",
    "ath10k_pci",
    "ath11k_pci",
    "ath12k_pci",
    "ath9k",
    "atlantic",
    "atl1c",
    "bnx2",
    "bnx2x",
    "bnxt_en",
    "brcmfmac",
    "ccp",
    "cx23885",
    "cxgb4",
    "dw_dmac_pci",
    "e100",
    "e1000",
    "e1000e",
    "ehci-pci",
    "ena",
    "enic",
    "fm10k",
    "gma500",
    "hpsa",
    "hpwdt",
    "i2c-designware-pci",
    "i40e",
    "i801_smbus",
    "i915",
    "iavf",
    "ice",
    "igb",
    "igbvf",
    "igc",
    "intel-lpss",
    "intel_ish_ipc",
    "ioatdma",
    "iosf_mbi_pci",
    "isci",
    "iwlwifi",
    "ixgbe",
    "ixgbevf",
    "jme",
    "lpc_ich",
    "megaraid_sas",
    "mei_me",
    "mgag200",
    "mlx4_core",
    "mlx5_core",
    "mpt3sas",
    "mt7921e",
    "mt7925e",
    "mwifiex_pcie",
    "nouveau",
    "nvme",
    "ohci-pci",
    "parport_pc",
    "pata_acpi",
    "pcie_mp2_amd",
    "piix4_smbus",
    "proc_thermal_pci",
    "qla2xxx",
    "qxl",
    "r8169",
    "radeon",
    "rtsx_pci",
    "rtw89_8852be",
    "sata_nv",
    "sata_sil24",
    "sdhci-pci",
    "serial",
    "sfc",
    "sky2",
    "smartpqi",
    "snd_emu10k1",
    "snd_hda_intel",
    "snd_rn_pci_acp3x",
    "snd_sof_amd_renoir",
    "snd_sof_pci_intel_tgl",
    "sp5100_tco",
    "intel-spi",
    "tg3",
    "thunderbolt",
    "uhci_hcd",
    "virtio-pci",
    "vmd",
    "vmxnet3",
    "xe",
    "xen-pciback",
    "xhci_hcd",
    "xhci-pci",
];

/// What is known of the PCI driver of this name.
pub fn dma_of(driver: &str) -> DriverDma {
    if MANAGED.contains(&driver) {
        DriverDma::Managed
    } else if USER_SPACE.contains(&driver) {
        DriverDma::UserSpace
    } else if KERNEL.contains(&driver) {
        DriverDma::Kernel
    } else {
        DriverDma::Unknown
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn d64_no_driver_is_in_two_lists() {
        for name in KERNEL {
            assert!(!MANAGED.contains(name) && !USER_SPACE.contains(name), "{name}");
        }
        assert_eq!(dma_of("xen-pciback"), DriverDma::Kernel);
        assert_eq!(dma_of("nvidia"), DriverDma::Unknown);
    }
}
