//! Captures: whole for every question, and with nothing secret in them.

use std::os::unix::fs::symlink;

use vfio_host::{Fact, HeldFile, Holders, Host, HostTree, Plan, PlanError, Possession, Source, capture, overview};
use vfio_owner::iommu_core::sysfs::MemoryTree;

use crate::disk::{Links, lay};
use crate::layout::{address, tree};

const MACHINE: &str = "
    proc
    00:01.0 root-port>01 pcieport 1
    01:00.0 vga vfio-pci 1 file
    01:00.1 audio - 1
    00:17.0 sata ahci 4 on=/
    00:1f.6 chipset-nic e1000e 8 route";

const SERIAL: [u8; 8] = [0xa1, 0xb2, 0xc3, 0xff, 0xfe, 0xd4, 0xe5, 0xf6];

/// A machine with a process that has the card, and a serial number in the card's configuration space.
fn machine() -> MemoryTree {
    let mut tree = tree(MACHINE);
    tree.insert("proc/4711/comm", "qemu-system-x86\n");
    tree.insert_directory("proc/4711/fd");
    let path = "devices/pci0000:00/0000:00:01.0/0000:01:00.0/config";
    let mut config = tree.remove(path).unwrap();
    let capability = [&[0x03, 0, 0x01, 0][..], &SERIAL].concat();
    config.splice(0x100..0x10c, capability);
    tree.insert(path, config);
    tree.insert("devices/pci0000:00/0000:00:1f.6/net/eth0/address", "a1:b2:c3:d4:e5:f6\n");
    tree
}

#[test]
fn a_capture_answers_as_the_machine_does() {
    let copy = lay(&machine(), Links::Symbolic);
    symlink("/dev/vfio/1", copy.path().join("proc/4711/fd/7")).unwrap();
    let tree = HostTree::copy(copy.path());
    let live = Host::load(&tree, Source::Live).unwrap();
    let archive = capture(&tree).unwrap().to_archive();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("capture");
    std::fs::write(&file, &archive).unwrap();
    let captured = Host::open(&file).unwrap();
    assert_eq!(captured.source, Source::Capture);
    assert_eq!(overview(&captured), overview(&live));
    assert_eq!((&captured.lifelines, &captured.holders), (&live.lifelines, &live.holders));
    assert_eq!(captured.device_files, live.device_files);
    let held = overview(&captured).into_iter().find(|group| group.group == Fact::Is(1)).unwrap().possession;
    let Possession::InUse { holder } = held else { panic!("{held}") };
    assert_eq!((holder.process, &*holder.name, holder.file), (4711, "qemu-system-x86", HeldFile::Group(1)));
    assert!(matches!(Plan::make(&captured, &[address("00:17.0")], &[]), Err(PlanError::Guarded { .. })));
}

#[test]
fn a_capture_has_no_serial_number_and_no_mac_address() {
    let archive = capture(&machine()).unwrap().to_archive();
    let hex = "a1b2c3fffed4e5f6";
    assert!(!archive.contains(hex) && !archive.contains("a1:b2:c3") && !archive.contains("eth0"), "{archive}");
    let plain = MemoryTree::capture(&machine()).to_archive();
    assert!(plain.contains(hex), "the test looks for what is there");
}

#[test]
fn who_cannot_look_at_every_process_does_not_know_that_nobody_has_it() {
    let mut tree = tree(MACHINE);
    let holders = |tree: &MemoryTree| Host::load(tree, Source::Live).unwrap().holders;
    assert_eq!(holders(&tree), Holders::Some(Vec::new()));
    tree.insert_directory("proc/1/fd");
    assert_eq!(holders(&tree), Holders::All(Vec::new()));
    // A process whose files cannot be listed.
    tree.insert("proc/2/fd", "");
    assert_eq!(holders(&tree), Holders::Some(Vec::new()));
}

#[test]
fn a_copy_on_disk_is_read_as_the_tree_in_memory() {
    let tree = machine();
    let in_memory = Host::load(&tree, Source::Tree).unwrap();
    for links in [Links::Symbolic, Links::Text] {
        assert_eq!(Host::open(lay(&tree, links).path()).unwrap(), in_memory, "{links:?}");
    }
}
