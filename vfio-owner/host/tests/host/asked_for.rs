//! What people ask for: devices by other names, what can go, what is lacking, and what the next tool wants.

use std::collections::BTreeMap;

use vfio_host::{Host, HostTree, NextTool, Persistence, Plan, Selector, State, Subject, candidates, readiness};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::MemoryTree;

use crate::corpus::CASES;
use crate::disk::{Links, contents, lay};
use crate::layout::{address, host, tree};
use crate::program::run;

const MACHINE: &str = "
    proc
    00:01.0 root-port>01 pcieport 1
    01:00.0 vga nouveau 1
    01:00.1 audio snd_hda_intel 1
    00:17.0 sata ahci 4 on=/
    00:1c.0 root-port+acs>02 pcieport 5
    02:00.0 nic i40e 6
    00:1d.0 root-port+acs>03 pcieport 7
    03:00.0 nvme - 8
    00:1e.0 isa - 10
    00:1f.0 nic e1000e 9 route";

fn selected(host: &Host, text: &str) -> String {
    let selector: Selector = text.parse().unwrap();
    let found = host.select(&selector).map_err(|error| error.to_string());
    found.map_or_else(|error| error, |found| found.iter().map(PciAddress::to_string).collect::<Vec<_>>().join(" "))
}

#[test]
fn devices_are_named_in_every_way_that_people_name_them() {
    let host = host(MACHINE);
    for (text, devices) in [
        ("01:00.1", "0000:01:00.1"),
        ("0000:01:00.1", "0000:01:00.1"),
        ("01:00", "0000:01:00.0 0000:01:00.1"),
        ("0000:01:00", "0000:01:00.0 0000:01:00.1"),
        ("01:00.*", "0000:01:00.0 0000:01:00.1"),
        ("10de:1b80", "0000:01:00.0"),
        ("10DE:1B80", "0000:01:00.0"),
        // The port stays.
        ("group:1", "0000:01:00.0 0000:01:00.1"),
        ("eth0", "0000:00:1f.0"),
        ("disk1", "0000:00:17.0"),
        ("/dev/disk1", "0000:00:17.0"),
        ("vga", "0000:01:00.0"),
        ("Ethernet", "0000:00:1f.0 0000:02:00.0"),
        ("i40e", "0000:02:00.0"),
        ("group:77", "no device here is an endpoint in group 77"),
        ("05:00", "no device here is in slot 0000:05:00"),
        ("frobnicator", "no device here is an interface, disk or class \"frobnicator\""),
    ] {
        assert_eq!(selected(&host, text), devices, "{text}");
    }
    for text in ["", "group:", "group:x", "1:2:3", "a/b", "10de:", "10de:1b8"] {
        assert!(text.parse::<Selector>().is_err(), "{text}");
    }
}

#[test]
fn candidates_are_ranked_by_what_they_cost_and_none_is_what_the_machine_lives_on() {
    let found = candidates(&host(MACHINE));
    let told: Vec<(String, usize)> =
        found.iter().map(|candidate| (candidate.device.to_string(), candidate.others.len())).collect();
    let expected = [("0000:03:00.0", 0), ("0000:02:00.0", 0), ("0000:01:00.0", 1), ("0000:01:00.1", 1)];
    assert_eq!(told, expected.map(|(device, others)| (device.to_owned(), others)));
}

/// Facts are found out once for all devices, and each is told what it would be told alone.
#[test]
fn every_device_with_a_plan_is_a_candidate_with_as_many_steps() {
    for case in CASES {
        let host = host(case.table);
        let found = candidates(&host);
        let told: BTreeMap<PciAddress, usize> = found.iter().map(|found| (found.device, found.steps)).collect();
        let bridge = |device: PciAddress| host.device(device).unwrap().function.config.class().unwrap() >> 16 == 0x06;
        let devices = host.pci.devices.iter().map(|device| device.function.address).filter(|device| !bridge(*device));
        let plans = devices.filter_map(|device| Some((device, Plan::make(&host, &[device], &[]).ok()?.steps.len())));
        assert_eq!(told, plans.collect(), "{}", case.name);
    }
}

#[test]
fn the_next_tool_gets_what_it_reads() {
    let host = host(MACHINE);
    let card = [address("01:00.0"), address("01:00.1")];
    let written = |tool: NextTool, devices: &[PciAddress]| tool.write(&host, devices).unwrap();
    assert_eq!(
        written(NextTool::Qemu, &card),
        "-device vfio-pci,host=0000:01:00.0\n-device vfio-pci,host=0000:01:00.1\n"
    );
    let hostdev = written(NextTool::Libvirt, &[address("02:1f.7")].map(|_| address("01:00.1")));
    let hostdev = roxmltree::Document::parse(&hostdev).unwrap();
    let place = hostdev.descendants().find(|node| node.has_tag_name("address")).unwrap();
    let place = ["domain", "bus", "slot", "function"].map(|name| place.attribute(name).unwrap());
    assert_eq!(place, ["0x0000", "0x01", "0x00", "0x1"]);
    // A whole card is one entry; one function of it is not the card.
    assert_eq!(written(NextTool::Proxmox, &card), "hostpci0: 0000:01:00,pcie=1\n");
    assert_eq!(written(NextTool::Proxmox, &card[..1]), "hostpci0: 0000:01:00.0,pcie=1\n");
    assert_eq!(
        written(NextTool::KubeVirt, &card[..1]),
        "permittedHostDevices:\n  pciHostDevices:\n  - pciVendorSelector: \"10DE:1B80\"\n    resourceName: \"pci-10de/1b80\"\n"
    );
    assert_eq!(written(NextTool::Driverctl, &card[..1]), "driverctl set-override 0000:01:00.0 vfio-pci\n");
    assert!(NextTool::Qemu.write(&host, &[address("7f:00.0")]).is_err());
}

/// The checks of a tree, as `subject device state`.
fn checked(tree: &MemoryTree, devices: &[&str], memory: Option<u64>) -> Vec<(Subject, Option<PciAddress>, State)> {
    let folder = lay(tree, Links::Symbolic);
    for (path, target) in tree.files().filter(|(path, _)| path.contains("/fd/")) {
        let at = folder.path().join(path);
        std::fs::remove_file(&at).unwrap();
        std::os::unix::fs::symlink(std::str::from_utf8(target).unwrap(), at).unwrap();
    }
    let sys = HostTree::copy(folder.path());
    let host = Host::of_tree(&sys).unwrap();
    let devices: Vec<PciAddress> = devices.iter().map(|device| address(device)).collect();
    let checks = readiness(&sys, &host, &devices, memory);
    checks.into_iter().map(|check| (check.subject, check.device, check.state)).collect()
}

#[test]
fn readiness_is_seen_and_what_is_not_shown_is_not_ready() {
    let bare = checked(&tree(MACHINE), &["03:00.0"], None);
    assert!(bare.contains(&(Subject::Iommu, None, State::Ready)));
    for subject in [Subject::InterruptRemapping, Subject::LockedMemory] {
        assert!(bare.contains(&(subject, None, State::Unknown)), "{subject}: {bare:?}");
    }
    assert!(bare.contains(&(Subject::Driver, None, State::NotReady)));
    assert!(bare.contains(&(Subject::Reset, Some(address("03:00.0")), State::Unknown)));

    let mut ready = tree(MACHINE);
    ready.insert("proc/interrupts", "  24: 0 0  IR-PCI-MSI-0000:03:00.0    0-edge  nvme0q0\n");
    ready.insert("proc/self/limits", "Max locked memory         8388608              8388608              bytes\n");
    ready.insert_directory("bus/pci/drivers/vfio-pci");
    ready.insert_directory("module/vfio_iommu_type1");
    ready.insert("devices/pci0000:00/0000:00:1d.0/0000:03:00.0/reset_method", "flr bus\n");
    let all_ready = checked(&ready, &["03:00.0"], Some(1 << 20));
    assert!(all_ready.iter().all(|(.., state)| *state == State::Ready), "{all_ready:?}");
    let too_much = checked(&ready, &["03:00.0"], Some(1 << 30));
    assert!(too_much.contains(&(Subject::LockedMemory, None, State::NotReady)));
    ready.insert("proc/interrupts", "  24: 0 0  PCI-MSI-0000:03:00.0    0-edge  nvme0q0\n");
    assert!(checked(&ready, &[], None).contains(&(Subject::InterruptRemapping, None, State::NotReady)));
}

#[test]
fn the_partners_of_a_reset_and_the_users_of_a_display_are_named() {
    const CARD: &str = "devices/pci0000:00/0000:00:01.0/0000:01:00.0";
    let mut machine = tree(MACHINE);
    machine.insert(&format!("{CARD}/reset_method"), "bus\n");
    let reset = |devices: &[&str], tree: &MemoryTree| {
        checked(tree, devices, None).into_iter().find(|(subject, ..)| *subject == Subject::Reset).unwrap().2
    };
    assert_eq!(reset(&["01:00.0"], &machine), State::NotReady);
    assert_eq!(reset(&["01:00.0", "01:00.1"], &machine), State::Ready);
    machine.insert(&format!("{CARD}/reset_method"), "\n");
    assert_eq!(reset(&["01:00.0"], &machine), State::NotReady);

    let display = |tree: &MemoryTree| {
        checked(tree, &["01:00.0"], None).into_iter().find(|(subject, ..)| *subject == Subject::Display).unwrap().2
    };
    assert_eq!(display(&machine), State::Ready);
    let link = |tree: &mut MemoryTree, at: &str, to: &str| {
        tree.insert_directory(to);
        tree.insert(at, format!("{}{to}", "../".repeat(at.matches('/').count())));
    };
    let mut session = machine.clone();
    link(&mut session, "class/drm/card0", &format!("{CARD}/drm/card0"));
    session.insert("proc/712/comm", "gnome-shell\n");
    session.insert("proc/712/fd/9", "/dev/dri/card0");
    assert_eq!(display(&session), State::NotReady);
    let mut console = machine.clone();
    link(&mut console, "class/graphics/fb0", &format!("{CARD}/graphics/fb0"));
    assert_eq!(display(&console), State::NotReady);
    let mut first = machine;
    first.insert(&format!("{CARD}/boot_vga"), "1\n");
    assert_eq!(display(&first), State::NotReady);
}

#[test]
fn what_is_kept_over_reboots_is_written_whole_and_taken_away_whole() {
    let host = host(MACHINE);
    let devices = [address("01:00.0"), address("01:00.1")];
    for (marker, folder) in
        [("etc/initramfs-tools", true), ("etc/dracut.conf.d", true), ("etc/mkinitcpio.conf", false), ("etc", true)]
    {
        let root = tempfile::TempDir::new().unwrap();
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        if folder {
            std::fs::create_dir_all(root.path().join(marker)).unwrap();
        } else {
            std::fs::write(root.path().join(marker), "").unwrap();
        }
        let before = contents(root.path());
        let kept = Persistence::of(&host, &devices, root.path()).unwrap();
        assert_eq!(kept.then.is_some(), marker != "etc", "{marker}");
        kept.write(root.path()).unwrap();
        // Again, it is the same.
        kept.write(root.path()).unwrap();
        let written = contents(root.path());
        let rule = String::from_utf8(written["etc/udev/rules.d/10-vfio-host-0000-01-00-1.rules"].clone()).unwrap();
        assert!(rule.contains(r#"KERNEL=="0000:01:00.1", ATTR{vendor}=="0x10de", ATTR{device}=="0x10f0""#), "{rule}");
        let modules = String::from_utf8(written["etc/modprobe.d/vfio-host-0000-01-00-0.conf"].clone()).unwrap();
        assert!(modules.contains("softdep nouveau pre: vfio-pci"), "{modules}");
        assert_eq!(kept.remove(root.path()).unwrap().len(), kept.files.len());
        assert_eq!(contents(root.path()), before, "{marker}");
    }
}

#[test]
fn no_file_of_others_is_replaced_or_removed_and_a_failure_leaves_none() {
    let host = host(MACHINE);
    let root = tempfile::TempDir::new().unwrap();
    let kept = Persistence::of(&host, &[address("01:00.0"), address("01:00.1")], root.path()).unwrap();
    let theirs = root.path().join(&kept.files.last().unwrap().path);
    std::fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    std::fs::write(&theirs, "of somebody else\n").unwrap();
    let before = contents(root.path());
    assert!(kept.write(root.path()).is_err());
    assert_eq!(contents(root.path()), before);
    assert_eq!(kept.remove(root.path()).unwrap(), Vec::<std::path::PathBuf>::new());
    std::fs::remove_file(&theirs).unwrap();
    // A folder where the last file should be cannot be written.
    std::fs::create_dir(&theirs).unwrap();
    let before = contents(root.path());
    assert!(kept.write(root.path()).is_err());
    assert_eq!(contents(root.path()), before);
}

#[test]
fn what_must_not_be_taken_now_is_not_taken_at_the_next_start() {
    let machine = lay(&tree(MACHINE), Links::Symbolic);
    let root = tempfile::TempDir::new().unwrap();
    let (dir, files) = (machine.path().to_str().unwrap(), root.path().to_str().unwrap());
    let refused = run(&["persist", "disk1", "--sysfs", dir, "--root", files]);
    assert_eq!((refused.code, contents(root.path()).len()), (1, 0), "{}", refused.out);
    let kept = run(&["persist", "01:00", "--sysfs", dir, "--root", files]);
    assert_eq!((kept.code, contents(root.path()).len()), (0, 6), "{}", kept.err);
    let undone = run(&["persist", "01:00", "--undo", "--sysfs", dir, "--root", files]);
    assert_eq!((undone.code, contents(root.path()).len()), (0, 0), "{}", undone.err);
}
