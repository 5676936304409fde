//! Who has devices and groups open, whatever they have.

use vfio_host::{Explanation, HeldFile, Holder, Holders, Host, Plan, PlanError, Reason, Source, Trial};
use vfio_owner::iommu_core::sysfs::MemoryTree;
use vfio_owner::viability::Verdict;

use crate::layout::{address, tree};

const CARD: &str = "
    proc
    00:01.0 root-port+acs>01 pcieport 1
    01:00.0 vga vfio-pci 2 file override=vfio-pci
    01:00.1 audio vfio-pci 2 override=vfio-pci";

/// A machine whose group 2 is the user's, and a process of which the files say what they say.
fn machine(files: &[(&str, &str)]) -> Host {
    let mut tree: MemoryTree = tree(CARD);
    tree.insert_directory("devices/virtual/vfio/2");
    tree.insert("class/vfio/2", "../../devices/virtual/vfio/2");
    tree.insert("devices/virtual/vfio/2/dev", "509:3\n");
    let own = "devices/pci0000:00/0000:00:01.0/0000:01:00.0/vfio-dev/vfio0";
    tree.insert("class/vfio-dev/vfio0", format!("../../{own}"));
    tree.insert(&format!("{own}/dev"), "510:0\n");
    tree.insert_directory("proc/71/fd");
    tree.insert("proc/71/comm", "qemu-system-x86\n");
    for (path, text) in files {
        tree.insert(path, *text);
    }
    Host::load(&tree, Source::Live).unwrap()
}

fn holder(file: HeldFile) -> Vec<Holder> {
    vec![Holder { process: 71, name: "qemu-system-x86".into(), file }]
}

/// What is in the way of the card, and of nothing that is held.
fn in_the_way(host: &Host) -> Vec<Reason> {
    let explanation = Explanation::of(host, address("01:00.0")).unwrap();
    let reasons = explanation.by_group.reasons;
    let held = |reason: &Reason| matches!(reason, Reason::Held { .. } | Reason::HeldUnseen | Reason::PerhapsHeld);
    reasons.iter().filter(|reason| held(reason)).cloned().collect()
}

#[test]
fn a_holder_is_named_whatever_it_holds() {
    for (what, files, file) in [
        ("its group", &[("proc/71/fd/4", "/dev/vfio/2")][..], HeldFile::Group(2)),
        ("its group without a monitor of groups", &[("proc/71/fd/4", "/dev/vfio/noiommu-2")], HeldFile::Group(2)),
        (
            "its group by another name",
            &[("proc/71/fd/4", "/tmp/mine"), ("asked/node/71/4", "c 509:3")],
            HeldFile::Group(2),
        ),
        ("its own file", &[("proc/71/fd/4", "/dev/vfio/devices/vfio0")], HeldFile::Device("vfio0".into())),
        (
            "its own file by another name",
            &[("proc/71/fd/4", "/run/box/dev"), ("asked/node/71/4", "c 510:0")],
            HeldFile::Device("vfio0".into()),
        ),
        (
            "only the device",
            &[("proc/71/fd/4", "anon_inode:[vfio-device]"), ("asked/group/2", "busy")],
            HeldFile::SomeDevice,
        ),
        (
            "only a mapping",
            &[
                ("asked/group/2", "busy"),
                (
                    "proc/71/maps",
                    "7f00-7f01 rw-s 00000000 00:0e 14 /a\n7f02-7f03 rw-s 0 00:0e 15 anon_inode:[vfio-device]\n",
                ),
            ],
            HeldFile::SomeDevice,
        ),
    ] {
        let host = machine(files);
        assert_eq!(host.holders, Holders::All(holder(file)), "{what}");
        let [Reason::Held { holder }] = &in_the_way(&host)[..] else { panic!("{what}: {:?}", in_the_way(&host)) };
        assert_eq!(holder.process, 71, "{what}");
        let plan = Plan::make(&host, &[address("01:00.0")], &[]).unwrap_err();
        assert!(matches!(plan, PlanError::Impossible { .. }), "{what}: {plan}");
        assert!(plan.to_string().contains("process 71 (qemu-system-x86)"), "{what}: {plan}");
    }
}

#[test]
fn a_group_that_nobody_seems_to_have_is_tried() {
    // Somebody has it: in a message that was not received, say, or a process that has ended and is kept.
    let host = machine(&[("asked/group/2", "busy")]);
    assert_eq!(host.trials.get(&2), Some(&Trial::Busy));
    assert_eq!(in_the_way(&host), [Reason::HeldUnseen]);
    assert!(matches!(Plan::make(&host, &[address("01:00.0")], &[]), Err(PlanError::Impossible { .. })));
    // Nobody has it, whoever may have another device.
    let host = machine(&[("asked/group/2", "free"), ("proc/71/fd/4", "anon_inode:[vfio-device]")]);
    assert_eq!(in_the_way(&host), []);
    assert!(Plan::make(&host, &[address("01:00.0")], &[]).is_ok());
    // It cannot be tried, and somebody has a device.
    let host = machine(&[("proc/71/fd/4", "anon_inode:[vfio-device]")]);
    assert_eq!(in_the_way(&host), [Reason::PerhapsHeld]);
    assert_eq!(Explanation::of(&host, address("01:00.0")).unwrap().by_group.verdict(), Verdict::Unknown);
    // Nobody has any.
    assert_eq!(in_the_way(&machine(&[])), []);
}

#[test]
fn a_device_without_a_number_has_no_file_of_its_own() {
    // Without CONFIG_VFIO_DEVICE_CDEV its folder is there all the same.
    let mut tree = tree(CARD);
    let own = "devices/pci0000:00/0000:00:01.0/0000:01:00.0/vfio-dev/vfio0";
    tree.remove(&format!("{own}/dev"));
    tree.insert(&format!("{own}/uevent"), "");
    let host = Host::load(&tree, Source::Live).unwrap();
    assert!(host.device_files.is_empty());
    let by_device = Explanation::of(&host, address("01:00.0")).unwrap().by_device;
    assert!(by_device.reasons.contains(&Reason::NoDeviceFile), "{by_device:?}");
}

#[test]
fn a_missing_type1_is_told() {
    let mut tree = tree(CARD);
    let told = |tree: &MemoryTree| {
        let host = Host::load(tree, Source::Tree).unwrap();
        let plan = Plan::make(&host, &[address("01:00.0")], &[]).unwrap();
        plan.cautions.iter().any(|caution| caution.to_string().starts_with("vfio_iommu_type1 is not loaded"))
    };
    assert!(!told(&tree), "no modules are shown");
    tree.insert_directory("module/vfio");
    assert!(told(&tree));
    tree.insert_directory("module/vfio_iommu_type1");
    assert!(!told(&tree));
}

#[test]
fn configuration_space_without_capabilities_is_told() {
    let mut tree = tree(CARD);
    let told = |tree: &MemoryTree| {
        let plan = Plan::make(&Host::load(tree, Source::Live).unwrap(), &[address("01:00.0")], &[]).unwrap();
        plan.cautions.iter().any(|caution| caution.to_string().contains("without capabilities"))
    };
    assert!(!told(&tree));
    let path = "devices/pci0000:00/0000:00:01.0/0000:01:00.1/config";
    let mut config = tree.remove(path).unwrap();
    config.truncate(64);
    tree.insert(path, config);
    assert!(told(&tree));
}
