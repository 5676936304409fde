//! What scripts write, and what they get back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::device_model::pci::{Bar, BarKind, Bars};
use vfio_owner::testbed::vfs::{Absent, Access, LastLink, Opened, Opening, Rights, WalkError, Written};
use vfio_owner::testbed::{pc, sriov, workstation};

use crate::rig::Files;

const BUS: &str = "/sys/bus/pci";
const NIC: &str = "0000:00:03.0";

fn device(name: &str, file: &str) -> String {
    format!("{BUS}/devices/{name}/{file}")
}

fn driver(name: &str, file: &str) -> String {
    format!("{BUS}/drivers/{name}/{file}")
}

fn driver_of(files: &Files, name: &str) -> Option<String> {
    files.link(&device(name, "driver")).map(|target| target.rsplit('/').next().unwrap().to_owned())
}

/// Gives a device to another driver by hand, as most scripts do it.
fn rebind(files: &Files, name: &str, to: &str) -> Result<usize, Errno> {
    files.write(&device(name, "driver/unbind"), name)?;
    files.write(&device(name, "driver_override"), to)?;
    let bound = files.write(&driver(to, "bind"), name);
    files.write(&device(name, "driver_override"), "\n")?;
    bound
}

#[test]
fn a_device_goes_to_vfio_pci_and_back_by_override() {
    let files = Files::of(&pc());
    let before = files.vfs.tree();
    assert_eq!(driver_of(&files, NIC).as_deref(), Some("e1000e"));
    files.write(&device(NIC, "driver_override"), "vfio-pci\n").unwrap();
    assert_eq!(files.text(&device(NIC, "driver_override")).unwrap(), "vfio-pci\n");
    assert_eq!(files.write(&device(NIC, "driver/unbind"), NIC), Ok(NIC.len()));
    assert_eq!(driver_of(&files, NIC), None);
    files.write(&format!("{BUS}/drivers_probe"), NIC).unwrap();
    assert_eq!(driver_of(&files, NIC).as_deref(), Some("vfio-pci"));

    let group = files.link(&device(NIC, "iommu_group")).unwrap().rsplit('/').next().unwrap().to_owned();
    assert_eq!(files.list("/dev/vfio"), [&*group, "devices", "vfio"]);
    assert_eq!(files.list("/dev/vfio/devices"), ["vfio0"]);
    assert_eq!(files.text(&device(NIC, "vfio-dev/vfio0/dev")).unwrap(), "242:0\n");
    assert_eq!(files.text(&format!("/sys/class/vfio/{group}/dev")).unwrap(), "243:0\n");

    files.write(&driver("vfio-pci", "unbind"), &format!("{NIC}\n")).unwrap();
    files.write(&device(NIC, "driver_override"), "\n").unwrap();
    assert_eq!(files.text(&device(NIC, "driver_override")).unwrap(), "(null)\n");
    files.write(&format!("{BUS}/drivers_probe"), NIC).unwrap();
    let after = files.vfs.tree();
    assert!(after.generation() > before.generation());
    assert_eq!(after.changes_since(&before), [], "all is as it was");
}

#[test]
fn a_device_goes_to_vfio_pci_by_its_ids() {
    let files = Files::of(&pc());
    let new_id = driver("vfio-pci", "new_id");
    assert_eq!(files.write(&new_id, "8086:10d3"), Err(Errno::EINVAL), "a colon is no blank");
    assert_eq!(files.write(&new_id, "8086"), Err(Errno::EINVAL));
    assert_eq!(files.write(&new_id, ""), Ok(0));
    files.write(&driver("e1000e", "unbind"), NIC).unwrap();
    // Every device of these ids that has no driver is bound at once.
    assert_eq!(files.write(&new_id, "8086 10d3\n"), Ok(10));
    assert_eq!(driver_of(&files, NIC).as_deref(), Some("vfio-pci"));
    assert_eq!(driver_of(&files, "0000:01:00.0").as_deref(), Some("e1000e"));
    assert_eq!(files.write(&new_id, "0x8086 0x10d3 1af4 1100"), Err(Errno::EEXIST), "it is covered");
    let remove_id = driver("vfio-pci", "remove_id");
    assert_eq!(files.write(&remove_id, "8086 10d4"), Err(Errno::ENODEV));
    assert_eq!(files.write(&remove_id, "zz"), Err(Errno::EINVAL));
    files.write(&remove_id, "8086 10d3").unwrap();
    assert_eq!(files.write(&remove_id, "8086 10d3"), Err(Errno::ENODEV));
    assert_eq!(driver_of(&files, NIC).as_deref(), Some("vfio-pci"), "it stays bound");
    assert_eq!(files.write(&driver("e1000e", "new_id"), "8086 10d3"), Err(Errno::EEXIST), "its own table has it");
}

#[test]
fn binding_by_hand_fails_as_recorded() {
    let files = Files::of(&pc());
    let bind = |to: &str, name: &str| files.write(&driver(to, "bind"), name);
    assert_eq!(bind("no-such", NIC), Err(Errno::ENOENT));
    assert_eq!(bind("vfio-pci", "0000:00:0f.0"), Err(Errno::ENODEV));
    assert_eq!(bind("vfio-pci", NIC), Err(Errno::ENODEV), "it does not match");
    assert_eq!(bind("e1000e", NIC), Err(Errno::EBUSY), "it is bound");
    assert_eq!(bind("e1000e", "0000:00:03.0\n\n"), Err(Errno::ENODEV), "only one newline is dropped");
    let unbind = |from: &str, name: &str| files.write(&driver(from, "unbind"), name);
    assert_eq!(unbind("vfio-pci", NIC), Err(Errno::ENODEV));
    assert_eq!(unbind("e1000e", "0000:00:0f.0"), Err(Errno::ENODEV));
    assert_eq!(unbind("e1000e", NIC), Ok(12));
    assert_eq!(unbind("e1000e", NIC), Err(Errno::ENODEV));
    assert_eq!(bind("e1000e", "0000:00:03.0\n"), Ok(13));
    let probe = |name| files.write(&format!("{BUS}/drivers_probe"), name);
    assert_eq!(probe("0000:00:0f.0"), Err(Errno::ENODEV));
    assert_eq!(probe(NIC), Ok(12), "it has a driver");
    assert_eq!(probe("0000:00:05.0"), Ok(12), "nothing fits");
}

#[test]
fn an_override_is_a_line_that_is_shorter_than_a_page() {
    let files = Files::of(&pc());
    let path = device(NIC, "driver_override");
    let read = || files.text(&path).unwrap();
    for (written, shown) in [("a b", "a b\n"), ("one\ntwo\n", "one\n"), ("\nx", "(null)\n"), ("x\0y", "x\n")] {
        assert_eq!(files.write(&path, written), Ok(written.len()));
        assert_eq!(read(), shown, "{written:?}");
    }
    for (length, result) in
        [(4094, Ok(4094)), (4095, Err(Errno::EINVAL)), (4096, Err(Errno::EINVAL)), (9000, Err(Errno::EINVAL))]
    {
        assert_eq!(files.write(&path, &"x".repeat(length)), result, "{length}");
    }
    assert_eq!(driver_of(&files, NIC).as_deref(), Some("e1000e"), "nothing was unbound");
}

#[test]
fn a_text_is_written_whole_and_read_as_it_was() {
    let files = Files::of(&pc());
    let path = device(NIC, "driver_override");
    let file = files.attribute(&path, Access::ReadWrite).unwrap();
    let mut buffer = [0; 4];
    assert!(matches!(file.write(0, b"first").unwrap(), Written::Bytes(5)));
    assert_eq!(file.read(0, &mut buffer).unwrap(), 4);
    assert!(matches!(file.write(5, b"second").unwrap(), Written::Bytes(6)), "the offset does not count");
    assert_eq!(file.read(4, &mut buffer).unwrap(), 2);
    assert_eq!(&buffer[..2], b"t\n", "what was read from its beginning goes on");
    assert_eq!(file.read(0, &mut buffer).unwrap(), 4);
    assert_eq!(&buffer, b"seco");
    assert_eq!(file.read(100, &mut buffer).unwrap(), 0);
}

#[test]
fn default_domain_types_are_refused_as_recorded() {
    let files = Files::of(&pc());
    let path = device(NIC, "iommu_group/type");
    let set = |text| files.write(&path, text);
    assert_eq!(set("dma"), Err(Errno::EINVAL));
    assert_eq!(set("identity\n\n"), Err(Errno::EINVAL));
    assert_eq!(set("identity"), Err(Errno::EPERM), "a kernel driver uses the group");
    assert_eq!(set("DMA-FQ\n"), Ok(7), "in place, whoever uses it");
    assert_eq!(files.text(&path).unwrap(), "DMA-FQ\n");
    files.write(&driver("e1000e", "unbind"), NIC).unwrap();
    assert_eq!(set("identity"), Ok(8));
    assert_eq!(files.text(&path).unwrap(), "identity\n");
    assert_eq!(set("auto"), Ok(4));
    assert_eq!(files.text(&path).unwrap(), "DMA\n");
    let asked = Opening { rights: Rights::Other, ..Opening::new(Access::Write) };
    assert_eq!(files.vfs.open(&path, &asked).map(drop).map_err(|error| error.errno()), Err(Errno::EACCES));
}

#[test]
fn permissions_hold_for_root_where_nobody_may() {
    let files = Files::of(&pc());
    let open = |path: &str, access, rights, absent| {
        let opening = Opening { rights, absent, ..Opening::new(access) };
        files.vfs.open(path, &opening).map(drop).map_err(|error| error.errno())
    };
    let root = |path: &str, access| open(path, access, Rights::Root, Absent::Fails);
    let other = |path: &str, access| open(path, access, Rights::Other, Absent::Fails);
    let created = |path: &str| open(path, Access::Write, Rights::Root, Absent::IsCreated);
    assert_eq!(root(&device(NIC, "vendor"), Access::Write), Err(Errno::EACCES));
    assert_eq!(root(&format!("{BUS}/rescan"), Access::Read), Err(Errno::EACCES));
    assert_eq!(other(&device(NIC, "vendor"), Access::Read), Ok(()));
    assert_eq!(other(&device(NIC, "driver_override"), Access::Write), Err(Errno::EACCES));
    assert_eq!(other("/dev/vfio/vfio", Access::ReadWrite), Ok(()));
    assert_eq!(other("/dev/iommu", Access::ReadWrite), Err(Errno::EACCES));
    assert_eq!(root("/dev/iommu", Access::ReadWrite), Ok(()));
    assert_eq!(created(&format!("{BUS}/drivers/no-such")), Err(Errno::EACCES));
    assert_eq!(created(&format!("{BUS}/drivers/no-such/bind")), Err(Errno::ENOENT));
    assert_eq!(created(&format!("{BUS}/drivers/no-such/no-such")), Err(Errno::ENOENT));
    assert_eq!(created(&format!("{BUS}/drivers_probe")), Ok(()));
    assert_eq!(root(BUS, Access::Write), Err(Errno::EISDIR));
    assert_eq!(root(&device(NIC, "vendor/x"), Access::Read), Err(Errno::ENOTDIR));
    assert_eq!(root(BUS, Access::Read), Ok(()));
    let denied = |text: &str, access| {
        let file = files.attribute(&device(NIC, text), access).unwrap();
        (file.read(0, &mut [0]).err().map(|e| e.errno()), file.write(0, b"x").err().map(|e| e.errno()))
    };
    assert_eq!(denied("driver_override", Access::Read), (None, Some(Errno::EBADF)));
    assert_eq!(denied("driver_override", Access::Write), (Some(Errno::EBADF), None));
}

#[test]
fn a_configuration_space_is_read_in_pieces_and_in_part_by_others() {
    let files = Files::of(&pc());
    let path = device(NIC, "config");
    let whole = files.bytes(&path).unwrap();
    assert_eq!(whole.len(), 4096);
    let opening = Opening { rights: Rights::Other, ..Opening::new(Access::Read) };
    let Ok(Opened::Attribute(config)) = files.vfs.open(&path, &opening) else { panic!() };
    let mut buffer = [0; 80];
    assert_eq!(config.read(0, &mut buffer).unwrap(), 64);
    assert_eq!(config.read(60, &mut buffer).unwrap(), 4);
    assert_eq!(buffer[..4], whole[60..64]);
    assert_eq!(config.read(64, &mut buffer).unwrap(), 0);
    assert_eq!(files.bytes(&device("0000:00:05.0", "config")).unwrap().len(), 256);
}

#[test]
fn an_unbind_waits_for_the_user_and_a_bind_behind_it() {
    let files = Files::of(&pc());
    rebind(&files, NIC, "vfio-pci").unwrap();
    let file = files.vfs.machine().open_device(NIC).unwrap();
    let unbind = files.waiting(&driver("vfio-pci", "unbind"), NIC);
    assert_eq!(&**unbind.device(), NIC);
    assert_eq!(driver_of(&files, NIC), None, "the link goes first");
    assert_eq!(files.list("/dev/vfio").len(), 2, "the group's file is there, that of the device is not");
    assert_eq!(files.list(&device(NIC, "")).iter().filter(|name| *name == "vfio-dev").count(), 0);
    let bind = files.waiting(&driver("e1000e", "bind"), NIC);
    let due = Arc::new(AtomicBool::new(false));
    let tell = due.clone();
    unbind.when_due(move || tell.store(true, Ordering::SeqCst));
    let Ok(Written::Later(unbind)) = unbind.try_finish() else { panic!("the user is still there") };
    assert!(!due.load(Ordering::SeqCst));
    drop(file);
    assert!(due.load(Ordering::SeqCst));
    assert!(matches!(unbind.try_finish(), Ok(Written::Bytes(12))));
    assert_eq!(files.list("/dev/vfio"), ["vfio"], "the group's file is gone with its last device");
    assert!(matches!(bind.wait(), Ok(12)));
    assert_eq!(driver_of(&files, NIC).as_deref(), Some("e1000e"));
}

#[test]
fn a_removed_device_leaves_its_open_files_behind() {
    let files = Files::of(&pc());
    let vendor = files.attribute(&device(NIC, "vendor"), Access::Read).unwrap();
    let group = files.link(&device(NIC, "iommu_group")).unwrap().rsplit('/').next().unwrap().to_owned();
    let kind = files.attribute(&format!("/sys/kernel/iommu_groups/{group}/type"), Access::Read).unwrap();
    assert_eq!(files.write(&device(NIC, "remove"), "0\n"), Ok(2), "nothing happens");
    assert_eq!(files.write(&device(NIC, "remove"), "x"), Err(Errno::EINVAL));
    let before = files.vfs.tree();
    assert_eq!(files.write(&device(NIC, "remove"), "1\n"), Ok(2));
    let gone = files.vfs.tree();
    assert!(gone.changes_since(&before).iter().any(|change| format!("{change:?}").contains("iommu_groups")));
    for file in [&vendor, &kind] {
        assert_eq!(file.read(0, &mut [0; 9]).unwrap_err().errno(), Errno::ENODEV);
    }
    assert_eq!(files.write(&device(NIC, "remove"), "1"), Err(Errno::ENOENT));
    files.write(&format!("{BUS}/rescan"), "1").unwrap();
    assert_eq!(driver_of(&files, NIC).as_deref(), Some("e1000e"));
    assert_eq!(vendor.read(0, &mut [0; 9]).unwrap_err().errno(), Errno::ENODEV, "it is another device now");
}

#[test]
fn autoprobe_is_off_for_what_begins_with_0() {
    let files = Files::of(&workstation());
    let path = format!("{BUS}/drivers_autoprobe");
    let drive = "0000:00:05.0";
    for (text, shown, driver) in [("0", "0\n", None), ("0x1", "0\n", None), ("off", "1\n", Some("nvme"))] {
        files.write(&path, text).unwrap();
        assert_eq!(files.text(&path).unwrap(), shown, "{text}");
        files.write(&device(drive, "remove"), "1").unwrap();
        files.write(&format!("{BUS}/rescan"), "1").unwrap();
        assert_eq!(driver_of(&files, drive).as_deref(), driver, "{text}");
    }
}

#[test]
fn a_refusal_says_who_is_in_the_way() {
    let files = Files::of(&pc());
    rebind(&files, "0000:01:00.0", "vfio-pci").unwrap();
    files.write(&driver("e1000e", "unbind"), "0000:01:00.1").unwrap();
    let machine = files.vfs.machine();
    let group = machine.open_group("0000:01:00.0").unwrap();
    let container = machine.vfio().open_container();
    group.set_container(&container).unwrap();
    let bind = files.attribute(&driver("e1000e", "bind"), Access::Write).unwrap();
    let error = bind.write(0, b"0000:01:00.1").unwrap_err();
    assert_eq!(error.errno(), Errno::EBUSY);
    let mut chain = vec![error.to_string()];
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        chain.push(cause.to_string());
        source = cause.source();
    }
    assert!(chain.join(": ").contains("group 8"), "{chain:?}");
}

#[test]
fn what_is_set_is_read_back_and_gone_with_the_device() {
    let files = Files::of(&pc());
    let dev = "0000:00:05.0";
    for (file, at_first, written, shown) in [
        ("power/control", "on\n", "auto\n", "auto\n"),
        ("d3cold_allowed", "1\n", "0", "0\n"),
        ("msi_bus", "1\n", "0", "0\n"),
        ("broken_parity_status", "0\n", "0x10\n", "1\n"),
        ("enable", "0\n", "1", "1\n"),
        ("numa_node", "-1\n", "-1", "-1\n"),
    ] {
        let path = device(dev, file);
        assert_eq!(files.text(&path).unwrap(), at_first, "{file}");
        assert_eq!(files.write(&path, "what"), Err(Errno::EINVAL), "{file}");
        assert_eq!(files.write(&path, written), Ok(written.len()), "{file}");
        assert_eq!(files.text(&path).unwrap(), shown, "{file}");
    }
    assert_eq!(files.write(&device(dev, "enable"), "0"), Ok(1));
    assert_eq!(files.write(&device(dev, "enable"), "0"), Err(Errno::EIO), "it is off");
    assert_eq!(files.write(&device(NIC, "enable"), "0"), Err(Errno::EBUSY), "its driver decides");
    files.write(&device(dev, "remove"), "1").unwrap();
    files.write(&format!("{BUS}/rescan"), "1").unwrap();
    assert_eq!(files.text(&device(dev, "power/control")).unwrap(), "on\n");
}

#[test]
fn of_a_configuration_space_root_writes_what_can_be_written() {
    let files = Files::of(&pc());
    let config = files.attribute(&device(NIC, "config"), Access::ReadWrite).unwrap();
    let before = files.bytes(&device(NIC, "config")).unwrap();
    assert!(matches!(config.write(0, &[0xff; 64]), Ok(Written::Bytes(64))));
    let after = files.bytes(&device(NIC, "config")).unwrap();
    let changed: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
    assert_eq!(changed, [0x04, 0x0c, 0x0d, 0x3c], "0x05 had its bits set");
    assert_eq!(after[4..6], [before[4] | 0x47, before[5] | 0x05]);
    assert!(matches!(config.write(4, &[0, 0]), Ok(Written::Bytes(2))));
    assert_eq!(files.bytes(&device(NIC, "config")).unwrap()[4..6], [before[4] & !0x47, before[5] & !0x05]);
    assert!(matches!(config.write(1 << 40, &[0; 9]), Ok(Written::Bytes(9))), "beyond its end");
}

#[test]
fn power_follows_the_user_of_vfio_pci() {
    let files = Files::of(&pc());
    let states = || {
        [
            files.text(&device(NIC, "power_state")).unwrap(),
            files.text(&device(NIC, "power/runtime_status")).unwrap(),
            files.text(&device(NIC, "enable")).unwrap(),
        ]
    };
    assert_eq!(states(), ["D0\n", "active\n", "1\n"]);
    rebind(&files, NIC, "vfio-pci").unwrap();
    assert_eq!(states(), ["D3hot\n", "suspended\n", "0\n"]);
    let context = files.vfs.machine().open_iommufd("test");
    let file = files.vfs.machine().open_device(NIC).unwrap();
    let bound = file.bind_iommufd(&context).unwrap();
    assert_eq!(states(), ["D0\n", "active\n", "1\n"]);
    drop((bound, file));
    assert_eq!(states(), ["D3hot\n", "suspended\n", "0\n"]);
}

#[test]
fn a_reset_is_there_for_functions_that_can_be_reset_alone() {
    let files = Files::of(&pc());
    assert_eq!(files.text(&device(NIC, "reset_method")).unwrap(), "pm\n");
    assert_eq!(files.text(&device("0000:01:00.0", "reset_method")).unwrap(), "pm bus\n", "the first on its bus");
    assert_eq!(files.text(&device("0000:01:00.1", "reset_method")).unwrap(), "pm\n");
    assert_eq!(files.write(&device(NIC, "reset"), "1\n"), Ok(2));
    assert_eq!(files.write(&device(NIC, "reset"), "2"), Err(Errno::EINVAL));
    assert_eq!(files.write(&device("0000:00:04.0", "reset"), "1"), Err(Errno::ENOENT));
    assert_eq!(files.write(&device(NIC, "reset_method"), "pm"), Ok(2));
    assert_eq!(files.write(&device(NIC, "reset_method"), "bus"), Err(Errno::EINVAL));
    let drive = "0000:03:01.0";
    assert_eq!(files.text(&device(drive, "reset_method")).unwrap(), "bus\n");
    assert_eq!(files.write(&device(drive, "reset"), "1"), Err(Errno::ENOTTY), "it is not alone now");
    files.write(&device("0000:03:02.0", "remove"), "1").unwrap();
    assert_eq!(files.write(&device(drive, "reset"), "1"), Ok(1));
}

/// The recorded steps of a machine with an NVMe drive that has two virtual functions.
#[test]
fn virtual_functions_come_and_go() {
    const DRIVE: &str = "0000:01:00.0";
    const FIRST: &str = "0000:01:00.1";
    let files = Files::of(&sriov());
    let numvfs = device(DRIVE, "sriov_numvfs");
    let set = |text: &str| files.write(&numvfs, text);
    let there = || files.list(&format!("{BUS}/devices")).into_iter().filter(|name| name.starts_with("0000:01")).count();
    assert_eq!(files.text(&device(DRIVE, "sriov_totalvfs")).unwrap(), "2\n");
    assert_eq!(set("many"), Err(Errno::EINVAL));
    assert_eq!(set("9"), Err(Errno::ERANGE));
    assert_eq!(set("99999"), Err(Errno::ERANGE));
    assert_eq!(set("0\n"), Ok(2));
    assert_eq!(set("2\n"), Ok(2));
    assert_eq!((there(), files.text(&numvfs).unwrap()), (3, "2\n".to_owned()));
    assert_eq!(files.link(&device(DRIVE, "virtfn0")).as_deref(), Some("../0000:01:00.1"));
    assert_eq!(files.link(&device(FIRST, "physfn")).as_deref(), Some("../0000:01:00.0"));
    assert_eq!(driver_of(&files, FIRST), None, "nobody has set it online");
    let group = |name| files.link(&device(name, "iommu_group")).unwrap();
    assert_ne!(group(FIRST), group(DRIVE));
    assert_eq!(set("1"), Err(Errno::EBUSY));

    let machine = files.vfs.machine();
    machine.bind(FIRST, "vfio-pci").unwrap();
    let file = machine.open_device(FIRST).unwrap();
    let removal = files.waiting(&numvfs, "0");
    assert_eq!(&**removal.device(), FIRST);
    assert_eq!(there(), 3);
    drop(file);
    assert!(matches!(removal.wait(), Ok(1)));
    assert_eq!((there(), files.text(&numvfs).unwrap()), (1, "0\n".to_owned()));

    // They outlive the driver that made them, and keep vfio-pci away.
    set("2").unwrap();
    files.write(&device(DRIVE, "driver/unbind"), DRIVE).unwrap();
    assert_eq!(there(), 3);
    assert_eq!(machine.bind(DRIVE, "vfio-pci").unwrap_err().errno(), Errno::EBUSY);
    assert_eq!(set("0"), Err(Errno::ENOENT));
    assert_eq!(set("2"), Ok(1), "as it is");
    files.write(&device(DRIVE, "remove"), "1").unwrap();
    assert_eq!(there(), 2);
    files.write(&format!("{BUS}/rescan"), "1").unwrap();
    assert_eq!(there(), 3);
    machine.unbind(DRIVE).unwrap().wait();
    for name in [FIRST, "0000:01:00.2"] {
        files.write(&device(name, "remove"), "1").unwrap();
    }
    assert_eq!(machine.bind(DRIVE, "vfio-pci").map_err(|error| error.errno()), Ok(()));
    assert_eq!(set("2"), Err(Errno::ENOENT), "vfio-pci makes none by default");
}

/// What DPDK, QEMU and `vfio-ioctls` look at before they open anything.
#[test]
fn clients_find_what_they_look_for() {
    let files = Files::of(&pc());
    rebind(&files, NIC, "vfio-pci").unwrap();
    let real = |path: &str| files.vfs.tree().find(path, LastLink::Follow).unwrap().path;
    assert_eq!(files.list("/sys/class/iommu"), ["dmar0"]);
    let capabilities = files.text(&device(NIC, "iommu/intel-iommu/cap")).unwrap();
    let capabilities = u64::from_str_radix(capabilities.trim(), 16).unwrap();
    assert_eq!(capabilities >> 16 & 0x3f, 38, "39 bits");
    for module in ["vfio", "vfio_pci", "vfio_iommu_type1", "iommufd"] {
        assert_eq!(files.text(&format!("/sys/module/{module}/initstate")).unwrap(), "live\n");
    }
    assert_eq!(files.text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode").unwrap(), "N\n");
    assert_eq!(real(&device(NIC, "driver/module")), "/sys/module/vfio_pci");
    assert_eq!(real("/sys/module/vfio_pci/drivers/pci:vfio-pci"), format!("{BUS}/drivers/vfio-pci"));
    assert_eq!(real(&device(NIC, "subsystem")), BUS);
    let group = real(&device(NIC, "iommu_group"));
    let number = group.rsplit('/').next().unwrap();
    assert_eq!(real(&format!("{group}/devices/{NIC}")), real(&device(NIC, "")));
    assert_eq!(real("/sys/dev/char/242:0"), real(&device(NIC, "vfio-dev/vfio0")));
    assert_eq!(real("/sys/dev/char/10:196"), "/sys/devices/virtual/misc/vfio");
    assert_eq!(real(&format!("/sys/class/vfio/{number}")), format!("/sys/devices/virtual/vfio/{number}"));
    assert_eq!(
        files.text("/sys/class/vfio-dev/vfio0/uevent").unwrap(),
        "MAJOR=242\nMINOR=0\nDEVNAME=vfio/devices/vfio0\n"
    );
    assert_eq!(
        files.text("/sys/class/misc/vfio/uevent").unwrap(),
        "MAJOR=10\nMINOR=196\nDEVNAME=vfio/vfio\nDEVMODE=0666\n"
    );
    assert_eq!(
        files.text(&device(NIC, "uevent")).unwrap(),
        "DRIVER=vfio-pci\nPCI_CLASS=20000\nPCI_ID=8086:10D3\nPCI_SUBSYS_ID=8086:0000\nPCI_SLOT_NAME=0000:00:03.0\n\
         MODALIAS=pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00\n"
    );
    assert_eq!(real("/sys/class/pci_bus/0000:03/device"), "/sys/devices/pci0000:00/0000:00:07.0/0000:02:00.0");
}

#[test]
fn files_have_the_numbers_that_are_free() {
    let files = Files::of(&pc());
    let numbers = |name| files.list(&device(name, "vfio-dev"));
    rebind(&files, NIC, "vfio-pci").unwrap();
    rebind(&files, "0000:01:00.0", "vfio-pci").unwrap();
    rebind(&files, "0000:01:00.1", "vfio-pci").unwrap();
    assert_eq!((numbers(NIC), numbers("0000:01:00.1")), (vec!["vfio0".to_owned()], vec!["vfio2".to_owned()]));
    assert_eq!(files.text("/sys/class/vfio/8/dev").unwrap(), "243:1\n", "of the second group");
    let file = files.vfs.machine().open_device(NIC).unwrap();
    let unbind = files.waiting(&driver("vfio-pci", "unbind"), NIC);
    rebind(&files, "0000:03:01.0", "vfio-pci").unwrap();
    assert_eq!(numbers("0000:03:01.0"), ["vfio3"], "that of a device in use is not free");
    drop(file);
    unbind.wait().unwrap();
    rebind(&files, "0000:03:02.0", "vfio-pci").unwrap();
    assert_eq!(numbers("0000:03:02.0"), ["vfio0"]);
    // Nobody looks until all are bound again.
    let machine = files.vfs.machine();
    for name in ["0000:03:01.0", "0000:03:02.0"] {
        machine.unbind(name).unwrap().wait();
    }
    for name in ["0000:03:01.0", "0000:03:02.0"] {
        machine.bind(name, "vfio-pci").unwrap();
    }
    assert_eq!(
        (numbers("0000:03:01.0"), numbers("0000:03:02.0")),
        (vec!["vfio0".to_owned()], vec!["vfio3".to_owned()])
    );
}

#[test]
fn what_the_host_has_is_seen_where_programs_need_it() {
    let files = Files::of(&pc());
    let tree = files.vfs.tree();
    let error = |path: &str| tree.find(path, LastLink::Follow).unwrap_err();
    let host = |path: &str| WalkError::Host { path: path.into() };
    for path in [
        "/etc/passwd",
        "/dev/null",
        "/sys/module/kvm/parameters",
        "/sys/class/net",
        "/sys/devices/system/cpu/online",
        "/proc/self/maps",
        "/sys/kernel/mm",
        "/dev/../usr/lib",
    ] {
        assert_eq!(error(path), host(&path.replace("/dev/..", "")));
    }
    for path in [
        "/dev/vfio/99",
        "/dev/vfio/devices",
        "/sys/bus/pci/devices/0000:ff:00.0",
        "/sys/kernel/iommu_groups/99",
        "/sys/devices/pci0000:80",
        "/sys/devices/LNXSYSTM:00",
        "/sys/module/vfio_pci/version",
        "/proc/bus/pci/devices",
        "/sys/devices/virtual/iommu/dmar1",
    ] {
        assert_eq!(error(path), WalkError::Missing { path: path.into() });
    }
    assert_eq!(error("/sys/bus/pci/devices/0000:00:03.0/../../../usb/devices"), host("/sys/usb/devices"));
}

/// A snapshot that was made by hand may say anything.
#[test]
fn windows_of_virtual_functions_end_with_the_last_address() {
    let mut snapshot = sriov();
    let huge = Bar::new(1 << 62, 1 << 63, BarKind::Memory64 { prefetchable: false }).unwrap();
    for dev in &mut snapshot.devices {
        let function = Arc::make_mut(&mut dev.function);
        function.virtual_bars = Bars::NONE;
        function.virtual_bars.insert(0, huge).unwrap();
    }
    let files = Files::of(&snapshot);
    let window = |name| {
        let text = files.text(&device(name, "resource")).unwrap();
        text.lines().nth(7).unwrap().rsplit_once(' ').unwrap().0.to_owned()
    };
    assert_eq!(window("0000:01:00.0"), "0x4000000000000000 0xffffffffffffffff", "of two");
    assert_eq!(window(NIC), "0x4000000000000000 0x4000000000000000", "of none");
}
