//! Whatever is read, there is an answer or an error that says where; nothing panics, nothing runs on.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;
use vfio_host::{Explanation, Host, Plan, PlanError, Source, capture, changes, overview};
use vfio_owner::iommu_core::sysfs::MemoryTree;

use crate::disk::{Links, lay};
use crate::layout::tree;

const MACHINE: &str = "
    proc
    00:01.0 root-port>01 pcieport 1
    01:00.0 vga nouveau 1 boot-vga
    01:00.1 audio - 1
    00:17.0 sata ahci 4 on=/
    00:1f.6 chipset-nic e1000e 8 route";

/// Asks a host everything.
fn ask(host: &Host) {
    let _ = overview(host);
    let _ = changes(host, &Host::default());
    for device in &host.pci.devices {
        let device = device.function.address;
        let _ = Explanation::of(host, device);
        if let Ok(plan) = Plan::make(host, &[device], &[]) {
            let script = plan.to_script(host);
            let body = script.rsplit_once("= undo ]").unwrap().1;
            assert!(!body.contains(['$', '`', '\\', '"']) && body.matches('\'').count() % 2 == 0, "{body}");
            assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
        }
    }
}

/// Contents as no kernel writes them.
fn junk() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        Just(b"99999999999999999999999999".to_vec()),
        Just(b"../../../../../../../../etc".to_vec()),
        Just(b"../0000:00:01.0".to_vec()),
        Just(b"0x0000000000000000 0xffffffffffffffff direct\n".to_vec()),
        "[0-9a-f:./ \n-]{0,60}".prop_map(String::into_bytes),
        prop::sample::select(&["25 1 8:1 / / rw - zfs a rw", "a 00000000 0 0 0 0 0 00000000", "tty0 ttyS4"][..])
            .prop_map(|text| text.as_bytes().to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_tree_is_read(damage in prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(junk())), 1..8)) {
        let mut tree = tree(MACHINE);
        let paths: Vec<String> = tree.files().map(|(path, _)| path.to_owned()).collect();
        for (place, contents) in damage {
            let path = place.get(&paths);
            match contents {
                Some(contents) => tree.insert(path, contents),
                None => tree.remove(path),
            };
        }
        if let Ok(host) = Host::load(&tree, Source::Live) {
            ask(&host);
            let captured = capture(&tree).unwrap();
            ask(&Host::load(&captured, Source::Capture).unwrap());
        }
    }

    #[test]
    fn a_damaged_capture_is_read_or_refused(place in any::<prop::sample::Index>(), bytes in junk()) {
        let text = capture(&tree(MACHINE)).unwrap().to_archive().into_bytes();
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("capture");
        let at = place.index(text.len());
        let damaged = [&text[..at], &bytes, &text[(at + bytes.len()).min(text.len())..]].concat();
        fs::write(&file, damaged).unwrap();
        match Host::open(&file) {
            Ok(host) => ask(&host),
            Err(error) => prop_assert!(error.to_string().contains(&file.display().to_string()), "{}", error),
        }
    }

    #[test]
    fn any_text_is_a_plan_or_none(text in "\\PC{0,200}", place in any::<prop::sample::Index>(), junk in "\\PC{0,6}") {
        let _ = Plan::from_json(&text);
        let host = Host::load(&tree(MACHINE), Source::Tree).unwrap();
        let plan = Plan::make(&host, &["01:00.1".parse().unwrap()], &["01:00.0".parse().unwrap()]).unwrap().to_json();
        let at = place.index(plan.len());
        let _ = Plan::from_json(&format!("{}{junk}{}", &plan[..at], &plan[at..]));
    }
}

/// Pieces of which listings are made, whole and broken.
const PIECES: &[&str] = &[
    "IOMMU Group 1:",
    "IOMMU Group 1 ",
    "Group 15 - ",
    "### Group 2 ###",
    "IOMMMU Grupo 3:",
    "iommugroup",
    "group -1",
    "group 99999999999",
    "/sys/kernel/iommu_groups/1/devices/",
    "/dev/vfio/7",
    "Adding to iommu group 4",
    "iommu: Adding device ",
    " to group 5",
    "00:01.0",
    "0000:01:00.0",
    "01:00.0 ",
    "10000:e0:06.0",
    "00:01.0/01:00.0",
    "00:01.0/00.0",
    "pci_0000_07_10_7",
    "1f:1f.8",
    "VGA compatible controller [0300]: ",
    "PCI bridge: ",
    "0300: ",
    "[10de:1b80]",
    "[0604]",
    "(rev a1)",
    "Virtual Function",
    "Kernel driver in use: ",
    "Kernel modules: ",
    "Driver:\t",
    "drv=",
    "unused=",
    "vfio-pci",
    "nouveau",
    "pcieport",
    "(none)",
    "Slot:\t",
    "IOMMUGroup:\t1",
    "NUMANode:\t",
    "E: DRIVER=ccp",
    "P: /devices/",
    "L: iommu_group=../kernel/iommu_groups/37",
    "<device>",
    "<name>pci_0000_07_10_7</name>",
    "<driver>",
    "</driver>",
    "<iommuGroup number='40'>",
    "</device>",
    "<address domain='0x0' bus='1' slot='2' function='0'/>",
    "│ ",
    " │",
    "| ",
    " |",
    "├── ",
    "└── ",
    "═══",
    "> ",
    "* ",
    "- ",
    "# ",
    "\u{1b}[31m",
    "\u{1b}[0m",
    "^[[1m",
    "\u{1b}",
    "[",
    "]",
    "\u{0}",
    "\u{202e}",
    "Firmware has requested this device have a 1:1 IOMMU mapping",
    "ineligible for IOMMU",
    "intel_iommu=off",
    "Command line: ",
    "*-display UNCLAIMED",
    "bus info: pci@",
    "configuration: driver=",
    " -> ../../../",
    "/physfn -> ",
    "bus/pci/drivers/nvme",
    "reserved_regions:0x0 0x1 direct",
    "$ lspci -nnk",
    "# lspci -vs 01:00",
    "$ ls /sys/bus/pci/devices/0000:01:00.0/iommu_group/devices",
    "$ ls /sys/kernel/iommu_groups/",
    "$ readlink -f /sys/bus/pci/devices/0000:01:00.0/driver",
    "$ basename $(readlink /sys/bus/pci/devices/0000:01:00.0/iommu_group)",
    "/sys/bus/pci/devices/0000:01:00.0/iommu_group/devices",
    "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/driver",
    "total 0",
    "\n",
    "\n",
    "\n",
    "\n\n",
    "\t",
    "        ",
    " ",
    "\r\n",
    "é组",
    "🦀",
    "\u{a0}",
    "{\"id\":\"0000:01:00.0\",\"iommugroup\":1}",
];

/// Text after text, from a generator whose numbers are as good as random.
fn listing(seed: u64) -> String {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    let pieces = next(40);
    let mut text = String::new();
    for _ in 0..pieces {
        text.push_str(PIECES.get(next(PIECES.len())).unwrap());
        if next(12) == 0 {
            text.pop();
        }
    }
    text
}

/// As many listings as `LISTINGS` says, else as many as a run of the tests can afford.
#[test]
fn whatever_is_posted_is_read_or_refused() {
    let count = std::env::var("LISTINGS").map_or(20_000, |count| count.parse().unwrap());
    let mut read = 0;
    for seed in 0..count {
        let text = listing(seed);
        let Ok(host) = text.parse::<Host>() else { continue };
        read += 1;
        for group in overview(&host) {
            for device in group.devices {
                let name = [&*device.class, &*device.name].map(|text| text.contains(char::is_control));
                assert_eq!(name, [false, false], "{text:?}");
                let explanation = Explanation::of(&host, device.device).unwrap();
                assert!(!explanation.by_group.reasons.is_empty(), "no listing proves anything: {text:?}");
            }
        }
        if seed % 64 == 0 {
            ask(&host);
        }
    }
    assert!(read > count / 4, "{read} of {count}");
}

#[test]
fn what_is_nothing_is_told_with_its_path() {
    let folder = TempDir::new().unwrap();
    let told = |path: &Path, words: &str| {
        let error = Host::open(path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.contains(words), "{error}");
    };
    told(folder.path(), "bus/pci/devices: does not exist");
    told(&folder.path().join("none"), "No such file");
    let file = |name: &str, contents: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, contents).unwrap();
        path
    };
    told(&file("empty", b""), "no line names a PCI device");
    told(&file("binary", &[0, 1, 2, 255]), "it is no text");
    told(&file("archive", b"dma-ownership tree 1\nx\n"), "line 2");
    told(&file("nothing", b"dma-ownership tree 1\n"), "bus/pci/devices: does not exist");
    told(Path::new("/dev/null"), "neither a file nor a folder");
}

#[test]
fn links_that_lead_in_a_circle_or_out_of_the_tree_are_passed_over() {
    let folder = lay(&tree(MACHINE), Links::Symbolic);
    let sys = folder.path().join("sys");
    std::os::unix::fs::symlink("../loop", sys.join("bus/pci/devices/0000:05:00.0")).unwrap();
    std::os::unix::fs::symlink("0000:06:00.0", sys.join("bus/pci/devices/0000:06:00.0")).unwrap();
    std::os::unix::fs::symlink("/etc", sys.join("bus/pci/devices/0000:07:00.0")).unwrap();
    let host = Host::open(folder.path()).unwrap();
    assert_eq!((host.pci.devices.len(), host.pci.warnings.len()), (5, 3), "{:?}", host.pci.warnings);
    ask(&host);
}

#[test]
fn a_plan_cannot_name_what_is_no_driver() {
    let plan = |driver: &str| {
        format!(r#"{{"devices":[],"steps":[{{"step":"bind","device":"0000:01:00.0","driver":"{driver}"}}]}}"#)
    };
    assert!(Plan::from_json(&plan("vfio-pci")).is_ok());
    for name in ["", ".", "..", "../x", "a/b", "a'b", "$(id)", "-x", "a\\nb"] {
        assert!(Plan::from_json(&plan(name)).is_err(), "{name}");
    }
}

/// A listing is from somebody else, and what is planned from it may be run by a shell.
#[test]
fn no_name_from_outside_gets_into_a_script() {
    for name in ["'; reboot; '", "$(reboot)", "a`b`", "a\\b", "a\"b"] {
        let listing = format!("Group 1 01:00.0 VGA [0300]: x [10de:1b80]\n Kernel driver in use: {name}\n");
        let host: Host = listing.parse().unwrap();
        let error = Plan::make(&host, &["01:00.0".parse().unwrap()], &[]).unwrap_err();
        assert!(matches!(error, PlanError::NotShown { .. }), "{name}: {error}");

        let mut tree = tree(MACHINE);
        tree.insert("devices/pci0000:00/0000:00:01.0/0000:01:00.1/driver_override", format!("{name}\n"));
        let host = Host::load(&tree, Source::Tree).unwrap();
        let [audio, card] = ["01:00.1", "01:00.0"].map(|text| text.parse().unwrap());
        let error = Plan::make(&host, &[audio], &[card]).unwrap_err();
        assert!(matches!(error, PlanError::DriverName { .. }), "{name}: {error}");
    }
}

#[test]
fn an_archive_is_asked_without_a_tree() {
    ask(&Host::load(
        &MemoryTree::from_archive(&capture(&tree(MACHINE)).unwrap().to_archive()).unwrap(),
        Source::Capture,
    )
    .unwrap());
}
