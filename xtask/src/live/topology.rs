//! The machines: what QEMU is told to plug in.

/// A machine.
pub(crate) struct Topology {
    pub(crate) name: &'static str,
    /// Whether it is the one of the short run.
    pub(crate) quick: bool,
    /// Whether it has the devices that machines live on.
    pub(crate) lifelines: bool,
    /// Names of disks, which are made as empty files.
    pub(crate) disks: &'static [&'static str],
    /// Values of `-device`, in their order.
    devices: &'static [&'static str],
    /// Further options.
    options: &'static [&'static str],
    /// The device whose plan is killed at every change.
    pub(crate) killed: &'static str,
}

impl Topology {
    /// The options for QEMU.
    pub(crate) fn options(&self) -> impl Iterator<Item = &'static str> {
        self.options.iter().copied().chain(self.devices.iter().flat_map(|device| ["-device", device]))
    }
}

pub(crate) const TOPOLOGIES: &[Topology] = &[
    // Endpoints of the root complex, one with several functions, and two behind a conventional bridge.
    Topology {
        name: "pc",
        quick: false,
        lifelines: false,
        disks: &[],
        options: &["-nic", "none"],
        devices: &[
            "e1000e,addr=3.0",
            "e1000,addr=4.0,multifunction=on",
            "e1000,addr=4.1",
            "edu,addr=4.2",
            "edu,addr=5.0",
            "pcie-root-port,id=rp1,addr=6.0,chassis=1,slot=1",
            "e1000e,bus=rp1,addr=0.0,multifunction=on",
            "e1000e,bus=rp1,addr=0.1",
            "pcie-root-port,id=rp2,addr=7.0,chassis=2,slot=2",
            "pcie-pci-bridge,id=br,bus=rp2",
            "e1000,bus=br,addr=1",
            "e1000,bus=br,addr=2",
        ],
        killed: "0000:00:04.0",
    },
    // A card with two functions, and a disk and a network card that share a group for want of ACS.
    Topology {
        name: "workstation",
        quick: true,
        lifelines: false,
        disks: &["system", "scratch"],
        options: &["-vga", "none", "-netdev", "user,id=n0,ipv6=off", "-audiodev", "none,id=snd"],
        devices: &[
            "pcie-root-port,id=pch1,addr=1c.0,multifunction=on,chassis=11,slot=11,disable-acs=on",
            "nvme,serial=system,bus=pch1,drive=system",
            "pcie-root-port,id=pch2,addr=1c.1,chassis=12,slot=12,disable-acs=on",
            "e1000e,bus=pch2,netdev=n0",
            "pcie-root-port,id=gfx,addr=1.0,chassis=13,slot=13",
            "bochs-display,bus=gfx,addr=0.0,multifunction=on",
            "intel-hda,bus=gfx,addr=0.1",
            "hda-duplex,audiodev=snd",
            "qemu-xhci,addr=14.0,id=xhci",
            "usb-kbd,bus=xhci.0",
            "nvme,serial=scratch,addr=5.0,drive=scratch",
        ],
        killed: "0000:00:05.0",
    },
    // A switch, a function that can have virtual ones, conventional bridges, companions on USB, a VGA.
    Topology {
        name: "switch",
        quick: false,
        lifelines: false,
        disks: &["a", "b"],
        options: &["-vga", "std", "-nic", "none", "-object", "memory-backend-ram,id=hm,size=1M"],
        devices: &[
            "pcie-root-port,id=rp1,addr=6.0,chassis=1,slot=1",
            "x3130-upstream,id=up,bus=rp1",
            "xio3130-downstream,id=dn0,bus=up,addr=0,chassis=21,slot=21",
            "xio3130-downstream,id=dn1,bus=up,addr=1,chassis=22,slot=22",
            "e1000e,bus=dn0",
            "nvme,serial=sw,bus=dn1,drive=a",
            "pcie-root-port,id=rp2,addr=7.0,chassis=2,slot=2",
            "nvme-subsys,id=subsys0",
            "nvme,serial=sriov,id=sriov,subsys=subsys0,bus=rp2,sriov_max_vfs=4,sriov_vq_flexible=8,sriov_vi_flexible=4,max_ioqpairs=10,msix_qsize=9",
            "nvme-ns,drive=b,bus=sriov,nsid=1,shared=on",
            "pci-bridge,id=cb,addr=8.0,chassis_nr=5,shpc=on",
            "e1000,bus=cb,addr=1",
            "edu,bus=cb,addr=2",
            "i82801b11-bridge,id=dmi,addr=1e.0",
            "pci-bridge,id=cb2,bus=dmi,addr=0,chassis_nr=6",
            "e1000,bus=cb2,addr=3",
            "ich9-usb-ehci1,addr=1d.7,multifunction=on,id=ehci",
            "ich9-usb-uhci1,addr=1d.0,multifunction=on,masterbus=ehci.0,firstport=0",
            "ich9-usb-uhci2,addr=1d.1,multifunction=on,masterbus=ehci.0,firstport=2",
            "ioh3420,id=ioh,addr=9.0,chassis=9,slot=9",
            "e1000e,bus=ioh",
            "pvpanic-pci,addr=a.0",
            "ivshmem-plain,memdev=hm,addr=b.0",
            "sdhci-pci,addr=c.0",
        ],
        killed: "0000:00:1d.0",
    },
    // Virtio behind the IOMMU, and one device past it.
    Topology {
        name: "virtio",
        quick: false,
        lifelines: false,
        disks: &["vd", "vs", "vd2"],
        options: &["-vga", "none", "-netdev", "user,id=n0,ipv6=off", "-chardev", "file,id=hvc,path=/dev/null"],
        devices: &[
            "virtio-net-pci,netdev=n0,addr=3.0,iommu_platform=on,disable-legacy=on",
            "virtio-blk-pci,drive=vd,addr=4.0,iommu_platform=on,disable-legacy=on",
            "virtio-blk-pci,drive=vd2,addr=5.0",
            "virtio-scsi-pci,id=scsi0,addr=6.0,iommu_platform=on,disable-legacy=on",
            "scsi-hd,bus=scsi0.0,drive=vs",
            "virtio-balloon-pci,addr=7.0,iommu_platform=on,disable-legacy=on",
            "virtio-rng-pci,addr=8.0,iommu_platform=on,disable-legacy=on",
            "virtio-serial-pci,id=vser,addr=9.0,iommu_platform=on,disable-legacy=on",
            "virtconsole,chardev=hvc",
            "virtio-gpu-pci,addr=a.0,iommu_platform=on,disable-legacy=on",
            "virtio-keyboard-pci,addr=c.0,iommu_platform=on,disable-legacy=on",
        ],
        killed: "0000:00:04.0",
    },
    // Many disks and network cards.
    Topology {
        name: "server",
        quick: false,
        lifelines: true,
        disks: &["root", "d1", "d2", "d3", "usb", "sata", "v1", "d4"],
        options: &[
            "-vga",
            "std",
            "-netdev",
            "user,id=n0,ipv6=off",
            "-netdev",
            "user,id=n1,ipv6=off",
            "-netdev",
            "user,id=n2,ipv6=off",
            "-netdev",
            "user,id=n3,ipv6=off",
            "-chardev",
            "null,id=cs",
            "-fsdev",
            "local,id=fs,path=target/machines,security_model=none,readonly=on",
        ],
        devices: &[
            "nvme,serial=root,addr=3.0,drive=root",
            "nvme,serial=d1,addr=4.0,drive=d1",
            "nvme,serial=d2,addr=5.0,drive=d2",
            "nvme,serial=d3,addr=6.0,drive=d3",
            "nvme-subsys,id=ss0,nqn=ss0",
            "nvme,serial=d4,addr=10.0,id=nv4,subsys=ss0",
            "nvme-ns,drive=d4,bus=nv4,nsid=1",
            "qemu-xhci,addr=7.0,id=xhci",
            "usb-storage,bus=xhci.0,drive=usb",
            "ide-hd,bus=ide.0,drive=sata",
            "virtio-blk-pci,drive=v1,addr=8.0,iommu_platform=on,disable-legacy=on",
            "e1000e,addr=9.0,netdev=n0",
            "e1000e,addr=a.0,netdev=n1",
            "e1000e,addr=b.0,netdev=n2",
            "e1000,addr=c.0,netdev=n3",
            "pci-serial,chardev=cs,addr=d.0",
            "virtio-9p-pci,fsdev=fs,mount_tag=share,addr=e.0,iommu_platform=on,disable-legacy=on",
        ],
        killed: "0000:00:1f.2",
    },
];
