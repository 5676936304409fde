//! Layouts after the kinds that people report: for each, which devices are in the way, and the plan.
//!
//! A plan is written `-DEVICE` for an unbinding and `+DEVICE` for a binding to vfio-pci, or `no: WORDS` of the reason.

use vfio_host::{Explanation, Host, Plan, Step};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::viability::Verdict;

use crate::layout::{address, host};

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) table: &'static str,
    pub(crate) give: &'static str,
    /// The devices that are named, in order.
    pub(crate) in_the_way: &'static str,
    pub(crate) plan: &'static str,
}

#[test]
fn the_named_blockers_and_the_plan_are_right_in_every_layout() {
    assert!(CASES.len() >= 40, "{}", CASES.len());
    for case in CASES {
        let (host, give) = (host(case.table), addresses(case.give));
        assert_eq!(host.pci.warnings, [], "{}", case.name);
        let named: Vec<String> = in_the_way(&host, &give).into_iter().map(short).collect();
        assert_eq!(named.join(" "), case.in_the_way, "{}: in the way", case.name);
        let plan = Plan::make(&host, &give, &[]).map_or_else(|error| format!("no: {error}"), |plan| steps(&plan));
        match case.plan.strip_prefix("no: ") {
            Some(words) => assert!(plan.starts_with("no: ") && plan.contains(words), "{}: {plan}", case.name),
            None => assert_eq!(plan, case.plan, "{}: plan", case.name),
        }
    }
}

#[test]
fn every_group_of_the_corpus_is_one_that_the_topology_makes() {
    for case in CASES.iter().filter(|case| !case.name.contains("quirk")) {
        let host = host(case.table);
        for device in &host.pci.devices {
            let explanation = Explanation::of(&host, device.function.address).unwrap();
            let alone = explanation.members.len() < 2;
            assert!(
                alone || explanation.ties.is_some_and(|ties| !ties.is_empty()),
                "{}: {}",
                case.name,
                short(device.function.address)
            );
        }
    }
}

fn addresses(text: &str) -> Vec<PciAddress> {
    text.split_whitespace().map(address).collect()
}

fn short(address: PciAddress) -> String {
    address.to_string().trim_start_matches("0000:").to_owned()
}

/// The devices of the groups that are named as being in the way for certain.
fn in_the_way(host: &Host, give: &[PciAddress]) -> Vec<PciAddress> {
    let mut named: Vec<PciAddress> = give
        .iter()
        .flat_map(|device| Explanation::of(host, *device).unwrap().members.to_vec())
        .filter(|member| member.standing.verdict() == Verdict::NotViable)
        .map(|member| member.device)
        .collect();
    named.sort_unstable();
    named.dedup();
    named
}

fn steps(plan: &Plan) -> String {
    let words = plan.steps.iter().filter_map(|step| match step {
        Step::Unbind { device, .. } => Some(format!("-{}", short(*device))),
        Step::Bind { device, .. } => Some(format!("+{}", short(*device))),
        Step::Load { .. } | Step::Override { .. } => None,
    });
    words.collect::<Vec<_>>().join(" ")
}

const GPU: &str = "
    00:01.0 root-port>01 pcieport 1
    01:00.0 vga nouveau 1
    01:00.1 audio snd_hda_intel 1";

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a card alone behind a port with ACS",
        table: "00:01.0 root-port+acs>01 pcieport 1
                01:00.0 nvme nvme 2",
        give: "01:00.0",
        in_the_way: "01:00.0",
        plan: "-01:00.0 +01:00.0",
    },
    Case {
        name: "the same, without a driver",
        table: "00:01.0 root-port+acs>01 pcieport 1
                01:00.0 nvme - 2",
        give: "01:00.0",
        in_the_way: "",
        plan: "+01:00.0",
    },
    Case {
        name: "companion audio",
        table: GPU,
        give: "01:00.0",
        in_the_way: "01:00.0 01:00.1",
        plan: "-01:00.1 -01:00.0 +01:00.0",
    },
    Case {
        name: "the companion itself",
        table: GPU,
        give: "01:00.1",
        in_the_way: "01:00.0 01:00.1",
        plan: "-01:00.0 -01:00.1 +01:00.1",
    },
    Case {
        name: "both functions",
        table: GPU,
        give: "01:00.0 01:00.1",
        in_the_way: "01:00.0 01:00.1",
        plan: "-01:00.0 +01:00.0 -01:00.1 +01:00.1",
    },
    Case {
        name: "companion audio forgotten",
        table: "00:01.0 root-port>01 pcieport 1
                01:00.0 vga vfio-pci 1
                01:00.1 audio snd_hda_intel 1",
        give: "01:00.0",
        in_the_way: "01:00.1",
        plan: "-01:00.1",
    },
    Case {
        name: "companion audio without a driver",
        table: "00:01.0 root-port>01 pcieport 1
                01:00.0 vga vfio-pci 1
                01:00.1 audio - 1",
        give: "01:00.0",
        in_the_way: "",
        plan: "",
    },
    Case {
        name: "companion audio on the stub",
        table: "00:01.0 root-port>01 pcieport 1
                01:00.0 vga vfio-pci 1
                01:00.1 audio pci-stub 1",
        give: "01:00.0",
        in_the_way: "",
        plan: "",
    },
    Case {
        name: "USB controller of a graphics card",
        table: "00:01.0 root-port>01 pcieport 1
                01:00.0 vga vfio-pci 1
                01:00.1 audio vfio-pci 1
                01:00.2 usb xhci_hcd 1
                01:00.3 ucsi - 1",
        give: "01:00.0",
        in_the_way: "01:00.2",
        plan: "-01:00.2",
    },
    Case {
        name: "all four functions of a graphics card",
        table: "00:01.0 root-port+acs>01 pcieport 1
                01:00.0 vga nouveau 2
                01:00.1 audio snd_hda_intel 2
                01:00.2 usb xhci_hcd 2
                01:00.3 ucsi - 2",
        give: "01:00.0 01:00.1 01:00.2 01:00.3",
        in_the_way: "01:00.0 01:00.1 01:00.2",
        plan: "-01:00.0 +01:00.0 -01:00.1 +01:00.1 -01:00.2 +01:00.2 +01:00.3",
    },
    Case {
        name: "NVMe and network card behind a chipset without ACS",
        table: "proc
                00:02.0 root-port>02 pcieport 1
                02:00.0 upstream>03 pcieport 1
                03:00.0 downstream>04 pcieport 1
                03:01.0 downstream>05 pcieport 1
                04:00.0 nvme nvme 1 on=/
                05:00.0 nic igb 1",
        give: "05:00.0",
        in_the_way: "04:00.0 05:00.0",
        plan: "no: / is mounted from it",
    },
    Case {
        name: "the same, with nothing on the drive",
        table: "proc
                00:02.0 root-port>02 pcieport 1
                02:00.0 upstream>03 pcieport 1
                03:00.0 downstream>04 pcieport 1
                03:01.0 downstream>05 pcieport 1
                04:00.0 nvme nvme 1
                05:00.0 nic igb 1",
        give: "05:00.0",
        in_the_way: "04:00.0 05:00.0",
        plan: "-04:00.0 -05:00.0 +05:00.0",
    },
    Case {
        name: "a switch with ACS",
        table: "00:02.0 root-port+acs>02 pcieport 1
                02:00.0 upstream>03 pcieport 2
                03:00.0 downstream+acs>04 pcieport 3
                03:01.0 downstream+acs>05 pcieport 4
                04:00.0 nvme nvme 5
                05:00.0 nic igb 6",
        give: "05:00.0",
        in_the_way: "05:00.0",
        plan: "-05:00.0 +05:00.0",
    },
    Case {
        name: "a port whose ACS is off",
        table: "00:02.0 root-port?acs>02 pcieport 1
                02:00.0 nic ixgbe 1",
        give: "02:00.0",
        in_the_way: "02:00.0",
        plan: "-02:00.0 +02:00.0",
    },
    Case {
        name: "X710, the fourth port",
        table: "00:03.0 root-port+acs>03 pcieport 1
                03:00.0 nic i40e 2
                03:00.1 nic i40e 2
                03:00.2 nic i40e 2
                03:00.3 nic vfio-pci 2",
        give: "03:00.3",
        in_the_way: "03:00.0 03:00.1 03:00.2",
        plan: "-03:00.0 -03:00.1 -03:00.2",
    },
    Case {
        name: "X710 whose first port carries the default route",
        table: "proc
                00:03.0 root-port+acs>03 pcieport 1
                03:00.0 nic i40e 2 route
                03:00.1 nic i40e 2
                03:00.2 nic i40e 2
                03:00.3 nic vfio-pci 2",
        give: "03:00.3",
        in_the_way: "03:00.0 03:00.1 03:00.2",
        plan: "no: the default route leads through it",
    },
    Case {
        name: "X710 whose functions isolate",
        table: "00:03.0 root-port+acs>03 pcieport 1
                03:00.0 nic+acs i40e 2
                03:00.1 nic+acs i40e 3
                03:00.2 nic+acs i40e 4
                03:00.3 nic+acs i40e 5",
        give: "03:00.3",
        in_the_way: "03:00.3",
        plan: "-03:00.3 +03:00.3",
    },
    Case {
        name: "virtual functions in groups of their own",
        table: "00:03.0 root-port+acs>03 pcieport 1
                03:00.0 nic+acs i40e 2
                03:02.0 vf iavf 3 vf=03:00.0
                03:02.1 vf+acs iavf 4 vf=03:00.0",
        give: "03:02.0",
        in_the_way: "03:02.0",
        plan: "-03:02.0 +03:02.0",
    },
    Case {
        name: "physical and virtual functions in one group",
        table: "00:03.0 root-port>03 pcieport 1
                03:00.0 nic i40e 1
                03:02.0 vf iavf 1 vf=03:00.0
                03:02.1 vf iavf 1 vf=03:00.0",
        give: "03:02.0",
        in_the_way: "03:00.0 03:02.0 03:02.1",
        plan: "no: it is a virtual function of 0000:03:00.0, which is in the way",
    },
    Case {
        name: "a physical function that has virtual ones",
        table: "00:03.0 root-port+acs>03 pcieport 1
                03:00.0 nic i40e 2
                03:02.0 vf iavf 3 vf=03:00.0",
        give: "03:00.0",
        in_the_way: "03:00.0",
        plan: "no: it has 1 virtual functions",
    },
    Case {
        name: "a virtual function whose neighbour is with another guest",
        table: "00:03.0 root-port>03 pcieport 1
                03:00.0 nic pci-stub 1
                03:02.0 vf vfio-pci 1 vf=03:00.0
                03:02.1 vf iavf 1 vf=03:00.0",
        give: "03:02.1",
        in_the_way: "03:02.1",
        plan: "-03:02.1 +03:02.1",
    },
    Case {
        name: "conventional PCI behind a bridge",
        table: "00:1c.0 root-port+acs>05 pcieport 1
                05:00.0 pci-bridge>06 - 2
                06:00.0 capture cx23885 2
                06:01.0 capture cx23885 2",
        give: "06:00.0",
        in_the_way: "06:00.0 06:01.0",
        plan: "-06:01.0 -06:00.0 +06:00.0",
    },
    Case {
        name: "a bridge is asked for",
        table: "00:1c.0 root-port+acs>05 pcieport 1
                05:00.0 pci-bridge>06 - 2
                06:00.0 capture cx23885 2",
        give: "05:00.0",
        in_the_way: "06:00.0",
        plan: "no: it is a bridge",
    },
    Case {
        name: "SMBus sibling",
        table: "00:1f.0 isa - 8
                00:1f.3 chipset-audio vfio-pci 8
                00:1f.4 smbus i801_smbus 8
                00:1f.5 spi - 8",
        give: "00:1f.3",
        in_the_way: "00:1f.4",
        plan: "-00:1f.4",
    },
    Case {
        name: "SMBus sibling whose driver is not loaded",
        table: "00:1f.0 isa - 8
                00:1f.3 chipset-audio vfio-pci 8
                00:1f.4 smbus - 8
                00:1f.5 spi - 8",
        give: "00:1f.3",
        in_the_way: "",
        plan: "",
    },
    Case {
        name: "the chipset's network card carries the route",
        table: "proc
                00:1f.0 isa - 8
                00:1f.3 chipset-audio snd_hda_intel 8
                00:1f.4 smbus i801_smbus 8
                00:1f.6 chipset-nic e1000e 8 route",
        give: "00:1f.3",
        in_the_way: "00:1f.3 00:1f.4 00:1f.6",
        plan: "no: the default route leads through it",
    },
    Case {
        name: "pcieport in the group does not count",
        table: "00:01.0 root-port>01 pcieport 1
                01:00.0 vga vfio-pci 1",
        give: "01:00.0",
        in_the_way: "",
        plan: "",
    },
    Case {
        name: "a port without its driver does not count",
        table: "00:01.0 root-port>01 - 1
                01:00.0 vga vfio-pci 1",
        give: "01:00.0",
        in_the_way: "",
        plan: "",
    },
    Case {
        name: "a port on a driver of hot-plug",
        table: "00:01.0 root-port>01 shpchp 1
                01:00.0 vga vfio-pci 1",
        give: "01:00.0",
        in_the_way: "00:01.0",
        plan: "-00:01.0",
    },
    Case {
        name: "an out-of-tree driver that may manage its own DMA",
        table: "00:01.0 root-port>01 pcieport 1
                01:00.0 vga nvidia 1
                01:00.1 audio vfio-pci 1",
        give: "01:00.1",
        in_the_way: "",
        plan: "-01:00.0",
    },
    Case {
        name: "a variant driver of VFIO",
        table: "00:03.0 root-port>03 pcieport 1
                03:00.0 nic mlx5_vfio_pci 1
                03:00.1 nic mlx5_core 1",
        give: "03:00.0",
        in_the_way: "03:00.1",
        plan: "-03:00.1",
    },
    Case {
        name: "a driver that manages its own DMA, on what is asked for",
        table: "00:03.0 root-port>03 pcieport 1
                03:00.0 nic pci-stub 1 override=pci-stub",
        give: "03:00.0",
        in_the_way: "",
        plan: "-03:00.0 +03:00.0",
    },
    Case {
        name: "a direct reserved region",
        table: "00:02.0 igpu i915 0 direct",
        give: "00:02.0",
        in_the_way: "00:02.0",
        plan: "no: no step clears that",
    },
    Case {
        name: "a direct reserved region of a free device",
        table: "00:03.0 root-port+acs>03 pcieport 1
                03:00.0 hba - 2 direct",
        give: "03:00.0",
        in_the_way: "03:00.0",
        plan: "no: no step clears that",
    },
    Case {
        name: "a direct reserved region of somebody in the group",
        table: "00:03.0 root-port>03 pcieport 1
                03:00.0 hba vfio-pci 1 direct",
        give: "03:00.0",
        in_the_way: "00:03.0 03:00.0",
        plan: "no: no step clears that",
    },
    Case {
        name: "no IOMMU at all",
        table: "00:01.0 root-port>01 pcieport -
                01:00.0 nvme nvme -",
        give: "01:00.0",
        in_the_way: "",
        plan: "no: it is in no IOMMU group",
    },
    Case {
        name: "no IOMMU, on vfio-pci",
        table: "01:00.0 nvme vfio-pci -",
        give: "01:00.0",
        in_the_way: "",
        plan: "no: it is in no IOMMU group",
    },
    Case {
        name: "the boot display",
        table: "proc
                00:01.0 root-port>01 pcieport 1
                01:00.0 vga amdgpu 1 boot-vga
                01:00.1 audio snd_hda_intel 1",
        give: "01:00.1",
        in_the_way: "01:00.0 01:00.1",
        plan: "no: it is the boot display",
    },
    Case {
        name: "the console is on a serial card",
        table: "proc
                00:1c.0 root-port+acs>05 pcieport 1
                05:00.0 pci-bridge>06 - 2
                06:00.0 serial serial 2 console
                06:01.0 capture cx23885 2",
        give: "06:01.0",
        in_the_way: "06:00.0 06:01.0",
        plan: "no: the console is on it",
    },
    Case {
        name: "swap",
        table: "proc
                00:03.0 root-port>03 pcieport 1
                03:00.0 nvme nvme 1 swap",
        give: "03:00.0",
        in_the_way: "03:00.0",
        plan: "no: swap is on it",
    },
    Case {
        name: "the system disk's controller next to a free port",
        table: "proc
                00:17.0 sata ahci 4 on=/
                00:1b.0 root-port+acs>07 pcieport 5
                07:00.0 hba mpt3sas 6",
        give: "07:00.0",
        in_the_way: "07:00.0",
        plan: "-07:00.0 +07:00.0",
    },
    Case {
        name: "Wi-Fi beside the card reader",
        table: "00:1d.0 root-port>08 pcieport 9
                00:1d.1 root-port>09 pcieport 9
                08:00.0 wifi iwlwifi 9
                09:00.0 usb rtsx_pci 9",
        give: "08:00.0",
        in_the_way: "08:00.0 09:00.0",
        plan: "-09:00.0 -08:00.0 +08:00.0",
    },
    Case {
        name: "two cards of two groups",
        table: "00:01.0 root-port>01 pcieport 1
                00:03.0 root-port>03 pcieport 2
                01:00.0 vga nouveau 1
                01:00.1 audio snd_hda_intel 1
                03:00.0 nvme nvme 2",
        give: "01:00.0 03:00.0",
        in_the_way: "01:00.0 01:00.1 03:00.0",
        plan: "-01:00.1 -01:00.0 +01:00.0 -03:00.0 +03:00.0",
    },
    Case {
        name: "a device that users must not have",
        table: "00:03.0 root-port+acs>03 pcieport 1
                03:00.0 qat - 2",
        give: "03:00.0",
        in_the_way: "",
        plan: "no: users could do harm",
    },
    Case {
        name: "a quirk: one group that the topology does not make",
        table: "00:03.0 root-port+acs>03 pcieport 1
                00:04.0 root-port+acs>04 pcieport 2
                03:00.0 fpga dfl-pci 7
                04:00.0 fpga vfio-pci 7",
        give: "04:00.0",
        in_the_way: "03:00.0",
        plan: "-03:00.0",
    },
    Case {
        name: "an accelerator whose driver is kept away by an override",
        table: "00:03.0 root-port+acs>03 pcieport 1
                03:00.0 fpga - 2 override=vfio-pci",
        give: "03:00.0",
        in_the_way: "",
        plan: "+03:00.0",
    },
];
