use std::borrow::ToOwned;
use std::format;
use std::string::ToString;
use std::sync::LazyLock;

use device_model::pci::{Bar, BarKind, Bars, PortType, Upstream};

use super::*;
use crate::address::Iova;
use crate::grouping;
use crate::reserved::RegionKind;

mod damage;

const MACHINES: [&str; 2] = ["pc", "workstation"];

/// The machine's tree as one file, which is in the package as well.
fn memory(machine: &str) -> MemoryTree {
    static TREES: LazyLock<[MemoryTree; 2]> = LazyLock::new(|| {
        MACHINES.map(|machine| {
            let file = format!("{}/testdata/{machine}.tree", env!("CARGO_MANIFEST_DIR"));
            MemoryTree::from_archive(&std::fs::read_to_string(file).unwrap()).unwrap()
        })
    });
    TREES[MACHINES.iter().position(|&known| known == machine).unwrap()].clone()
}

fn load(machine: &str) -> Snapshot {
    Snapshot::load(&memory(machine)).unwrap()
}

fn at(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn reasons(snapshot: &Snapshot) -> Vec<(&str, &WarningReason)> {
    snapshot.warnings.iter().map(|warning| (warning.path.as_str(), &warning.reason)).collect()
}

#[test]
fn i47_computed_groups_are_the_kernels_down_to_their_numbers() {
    for machine in MACHINES {
        let snapshot = load(machine);
        assert_eq!(snapshot.warnings, [], "{machine}");
        let members: Vec<_> = snapshot.groups.iter().map(|group| group.members.clone()).collect();
        assert_eq!(grouping::partition(&snapshot.topology()), members, "{machine}");
        let numbers: Vec<u32> = snapshot.groups.iter().map(|group| group.number).collect();
        assert!(numbers.iter().zip(0..).all(|(&number, place)| number == place), "{machine}: {numbers:?}");
        let grouped: usize = members.iter().map(Vec::len).sum();
        assert_eq!(grouped, snapshot.devices.len(), "{machine}: every device has a group");
    }
}

#[test]
fn the_bus_numbers_say_the_same_as_the_nesting() {
    for machine in MACHINES {
        let snapshot = load(machine);
        let functions = snapshot.devices.iter().map(|device| device.function.clone());
        let by_number: PciTopology = functions
            .map(|function| PciFunction { upstream: Upstream::ByBusNumber, ..PciFunction::clone(&function) })
            .collect();
        assert_eq!(grouping::partition(&by_number), grouping::partition(&snapshot.topology()));
    }
}

#[test]
fn the_pc_is_read_in_full() {
    let pc = load("pc");
    assert_eq!(pc.devices.len(), 17);
    let drivers: Vec<_> = pc.drivers.iter().map(|driver| (driver.name.as_str(), driver.devices.len())).collect();
    assert_eq!(drivers, [("e1000", 4), ("e1000e", 3), ("pcieport", 2)]);

    let port = pc.device(at("00:06.0")).unwrap();
    assert_eq!(port.driver.as_deref(), Some("pcieport"));
    assert_eq!(port.group, Some(5));
    assert_eq!(port.function.upstream, Upstream::RootBus);
    assert_eq!(port.function.config.pcie().unwrap().port_type, PortType::RootPort);
    let bridge = pc.device(at("02:00.0")).unwrap();
    assert_eq!((bridge.driver.as_deref(), bridge.driver_override.as_deref()), (None, None));
    assert_eq!(bridge.function.config.pcie().unwrap().port_type, PortType::PcieToPci);
    let network = pc.device(at("03:02.0")).unwrap();
    assert_eq!(network.function.upstream, Upstream::Bridge(at("02:00.0")));
    assert_eq!((network.function.config.vendor(), network.function.config.device()), (Some(0x8086), Some(0x100e)));
    assert_eq!(network.function.config.class(), Some(0x02_0000));

    let msi = |region: &ReservedRegion| (region.first, region.kind) == (Iova::new(0xfee0_0000), RegionKind::Msi);
    for group in &pc.groups {
        assert_eq!(group.domain, Some(DomainKind::Dma));
        assert!(group.reserved.iter().any(msi), "{group:?}");
    }
    let isa = ReservedRegion { first: Iova::new(0), last: Iova::new(0xff_ffff), kind: RegionKind::DirectRelaxable };
    assert_eq!(pc.groups[7].reserved[0], isa);
    assert_eq!(pc.groups[7].reserved.len(), 2);
}

#[test]
fn a_captured_tree_says_the_same() {
    for machine in MACHINES {
        assert_eq!(Snapshot::load(&memory(machine)), Ok(load(machine)));
        let twice = MemoryTree::capture(&memory(machine));
        assert_eq!(twice, memory(machine));
    }
}

#[test]
fn a_tree_without_a_bus_is_an_error_that_says_where() {
    let error = Snapshot::load(&MemoryTree::new()).unwrap_err();
    assert_eq!(error, LoadError { path: "bus/pci/devices".to_owned(), source: TreeError::Missing });
    assert_eq!(error.to_string(), "bus/pci/devices: does not exist");
    assert_eq!(Snapshot::load(&DirTree::new("/nonexistent")), Err(error));
    let mut tree = MemoryTree::new();
    tree.insert("/bus/pci/devices/", "");
    assert_eq!(Snapshot::load(&tree).unwrap_err().source, TreeError::NotADirectory);
}

/// Real symbolic links, as on a live machine.
#[cfg(unix)]
mod live {
    use std::path::PathBuf;
    use std::{env, fs, os::unix, process};

    use super::*;

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn on_disk(tree: &MemoryTree, name: &str) -> Scratch {
        let scratch = Scratch(env::temp_dir().join(format!("iommu-core-{name}-{}", process::id())));
        for (path, contents) in tree.files() {
            let file = scratch.0.join("sys").join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            match tree.link(path) {
                Ok(target) => unix::fs::symlink(target, file).unwrap(),
                Err(_) => fs::write(file, contents).unwrap(),
            }
        }
        scratch
    }

    #[test]
    fn symbolic_links_are_as_good_as_files_with_a_target() {
        for machine in MACHINES {
            let scratch = on_disk(&memory(machine), machine);
            for root in [scratch.0.clone(), scratch.0.join("sys")] {
                assert_eq!(Snapshot::load(&DirTree::new(root)), Ok(load(machine)));
            }
        }
    }

    #[test]
    fn links_in_a_circle_and_links_out_of_the_tree_are_told() {
        let scratch = on_disk(&memory("pc"), "circle");
        let devices = scratch.0.join("sys/bus/pci/devices");
        for (name, target) in
            [("0000:00:00.0", "0000:00:01.0"), ("0000:00:01.0", "0000:00:00.0"), ("0000:00:03.0", "/")]
        {
            fs::remove_file(devices.join(name)).unwrap();
            unix::fs::symlink(target, devices.join(name)).unwrap();
        }
        let snapshot = Snapshot::load(&DirTree::new(&scratch.0)).unwrap();
        assert_eq!(snapshot.devices.len(), 14);
        let found = reasons(&snapshot);
        assert!(found.contains(&("bus/pci/devices/0000:00:00.0", &WarningReason::EndlessLinks)));
        assert!(
            found.contains(&("bus/pci/devices/0000:00:03.0", &WarningReason::Dangling { target: "..".to_owned() }))
        );
    }

    #[test]
    fn a_tree_on_disk_reads_files_of_its_own_only() {
        let scratch = on_disk(&memory("pc"), "own-files");
        let tree = DirTree::new(&scratch.0);
        assert!(tree.root().ends_with("sys"));
        for outside in ["../sys/bus", "/etc", "bus/../../sys/bus", "."] {
            assert_eq!(tree.list(outside), Err(TreeError::Missing), "{outside}");
        }
        assert_eq!(tree.read("bus"), Err(TreeError::NotAFile));
        assert_eq!(tree.link("bus"), Err(TreeError::NotALink));
        assert_eq!(tree.read("bus/none"), Err(TreeError::Missing));
    }
}

/// Each row: what is done to the tree, where the warning is, and what it says.
#[test]
fn what_is_wrong_is_told_with_its_place() {
    use WarningReason::{
        Dangling, DeviceIsSilent, DeviceSaysOtherwise, Elsewhere, Malformed, NoSuchDevice, NotAFunction, NotAGroup,
        NotListed, ShortConfig, Unreadable,
    };
    let device = "devices/pci0000:00/0000:00:03.0";
    let group = "kernel/iommu_groups/2";
    let member = format!("{group}/devices/0000:00:03.0");
    let to_device = "../../../../devices/pci0000:00/0000:00:03.0";
    let text = |text: &str| Malformed { text: text.to_owned() };
    let changed = |path: &str, contents: Option<&str>| {
        let mut tree = memory("pc");
        match contents {
            Some(contents) => tree.insert(path, contents),
            None => tree.remove(path),
        };
        Snapshot::load(&tree).unwrap()
    };
    let rows = [
        (format!("{device}/config"), None, format!("{device}/config"), Unreadable(TreeError::Missing)),
        (format!("{device}/config"), Some("short"), format!("{device}/config"), ShortConfig { length: 5 }),
        (format!("{device}/vendor"), Some("0x+1"), format!("{device}/vendor"), text("0x+1")),
        (format!("{device}/class"), Some("0x1000000"), format!("{device}/class"), text("0x1000000")),
        (format!("{device}/driver"), None, "bus/pci/drivers/e1000e/0000:00:03.0".to_owned(), DeviceIsSilent),
        (
            format!("{device}/driver"),
            Some("../../../bus/pci/drivers/e1000"),
            "bus/pci/drivers/e1000e/0000:00:03.0".to_owned(),
            DeviceSaysOtherwise,
        ),
        (
            format!("{device}/driver"),
            Some("../../../bus/pci/drivers/gone"),
            format!("{device}/driver"),
            Dangling { target: "bus/pci/drivers/gone".to_owned() },
        ),
        (
            format!("{device}/iommu_group"),
            Some("../../../kernel"),
            format!("{device}/iommu_group"),
            Elsewhere { target: "kernel".to_owned() },
        ),
        (format!("{device}/iommu_group"), Some("7"), format!("{device}/iommu_group"), Unreadable(TreeError::NotALink)),
        (
            member.clone(),
            Some("../../../../devices/pci0000:00/0000:00:05.0"),
            member.clone(),
            Elsewhere { target: "devices/pci0000:00/0000:00:05.0".to_owned() },
        ),
        (member.clone(), None, device.to_owned(), NotListed { listing: group.to_owned() }),
        (
            format!("{group}/devices/0000:00:09.0"),
            Some(to_device),
            format!("{group}/devices/0000:00:09.0"),
            NoSuchDevice,
        ),
        (format!("{group}/devices/serial8250"), Some(to_device), format!("{group}/devices/serial8250"), NotAFunction),
        ("kernel/iommu_groups/02/type".to_owned(), Some("DMA"), "kernel/iommu_groups/02".to_owned(), NotAGroup),
        ("kernel/iommu_groups/4294967296/type".to_owned(), None, String::new(), NotAGroup),
        (format!("{group}/type"), Some("DMA!\n"), format!("{group}/type"), text("DMA!\n")),
        (
            format!("{group}/reserved_regions"),
            Some("0x2 0x1 msi"),
            format!("{group}/reserved_regions"),
            text("0x2 0x1 msi"),
        ),
        ("bus/pci/devices/00:03.0".to_owned(), Some(to_device), "bus/pci/devices/00:03.0".to_owned(), NotAFunction),
    ];
    for (path, contents, place, reason) in rows {
        let snapshot = changed(&path, contents);
        if place.is_empty() {
            assert_eq!(snapshot.warnings, [], "nothing was there to be taken out");
            continue;
        }
        let found = reasons(&snapshot);
        assert!(found.contains(&(place.as_str(), &reason)), "{path}: wanted {reason:?} at {place}, found {found:?}");
    }
}

#[test]
fn ids_are_those_of_the_kernel_and_overrides_are_read() {
    let mut tree = memory("pc");
    let device = "devices/pci0000:00/0000:00:06.0/0000:01:00.1";
    tree.insert(&format!("{device}/config"), [0xff; 256]);
    tree.insert(&format!("{device}/physfn"), "../0000:01:00.0");
    tree.insert(&format!("{device}/driver_override"), "vfio-pci\n");
    let snapshot = Snapshot::load(&tree).unwrap();
    assert_eq!(snapshot.warnings, []);
    let device = snapshot.device(at("01:00.1")).unwrap();
    assert_eq!((device.function.config.vendor(), device.function.config.device()), (Some(0x8086), Some(0x10d3)));
    assert_eq!(device.function.physical_function, Some(at("01:00.0")));
    assert_eq!(device.driver_override.as_deref(), Some("vfio-pci"));
}

#[test]
fn windows_are_read_with_their_sizes() {
    let window = |address, size, kind| Bar::new(address, size, kind).unwrap();
    let memory = BarKind::Memory32 { prefetchable: false };
    let pc = load("pc");
    let network = &pc.device(at("00:03.0")).unwrap().function.bars;
    let expected = [
        (0, window(0xfeac_0000, 0x2_0000, memory)),
        (1, window(0xfeae_0000, 0x2_0000, memory)),
        (2, window(0xe0c0, 0x20, BarKind::Io)),
        (3, window(0xfeb5_0000, 0x4000, memory)),
    ];
    assert_eq!(network.iter().collect::<Vec<_>>(), expected);
    let rom = BarKind::Memory32 { prefetchable: true };
    assert_eq!(network.rom(), Some(window(0xfea0_0000, 0x4_0000, rom)));
    let port = &pc.device(at("00:06.0")).unwrap().function.bars;
    assert_eq!(port.iter().count(), 1, "windows of a bridge are none of its own");

    let workstation = load("workstation");
    let disk = &workstation.device(at("02:00.0")).unwrap().function.bars;
    let wide = BarKind::Memory64 { prefetchable: false };
    assert_eq!(disk.iter().collect::<Vec<_>>(), [(0, window(0xfe60_0000, 0x4000, wide))]);
}

#[test]
fn windows_that_make_no_sense_are_told_and_left_out() {
    let path = "devices/pci0000:00/0000:00:03.0/resource";
    let unused = "0x0 0x0 0x0";
    let loaded = |text: &str| {
        let mut tree = memory("pc");
        tree.insert(path, text);
        let snapshot = Snapshot::load(&tree).unwrap();
        (snapshot.device(at("00:03.0")).unwrap().function.bars.clone(), snapshot.warnings)
    };
    for line in [
        "0x1000 0x1fff",
        "0x1000 0x1fff 0x200 0",
        "0x1000 0x2ffe 0x200",
        "0x2000 0x1fff 0x200",
        "0x0 0xffffffffffffffff 0x100200",
        "0x0 0xffffffff 0x200",
        "0x1000 0x1fff 0x300",
        "0x1000 0x1fff 0x0",
        "garbage",
        "",
    ] {
        let (bars, warnings) = loaded(&format!("{unused}\n{line}\n0x0 0xfff 0x200\n"));
        assert_eq!(bars.iter().map(|(slot, _)| slot).collect::<Vec<_>>(), [2], "{line}");
        let reason = WarningReason::Malformed { text: line.to_owned() };
        assert_eq!(warnings, [Warning { path: path.to_owned(), reason }]);
    }
    let (bars, warnings) = loaded("0x0 0xfff 0x100200\n0x0 0xfff 0x200");
    assert_eq!((bars.iter().count(), warnings.len()), (1, 1), "the upper half of the first");
    let (bars, warnings) = loaded(&format!("{}0x0 0xff 0x200\n", format!("{unused}\n").repeat(6)));
    assert_eq!((bars, warnings.len()), (Bars::NONE, 1), "no ROM is so small");

    let mut tree = memory("pc");
    tree.remove(path);
    let snapshot = Snapshot::load(&tree).unwrap();
    assert_eq!((snapshot.warnings.len(), &snapshot.device(at("00:03.0")).unwrap().function.bars), (0, &Bars::NONE));
}

#[test]
fn a_driver_without_devices_is_one() {
    let mut tree = memory("pc");
    tree.insert_directory("bus/pci/drivers/vfio-pci");
    for tree in [tree.clone(), MemoryTree::capture(&tree)] {
        let snapshot = Snapshot::load(&tree).unwrap();
        let driver = snapshot.drivers.last().unwrap();
        assert_eq!((driver.name.as_str(), driver.devices.len()), ("vfio-pci", 0));
    }
}

#[test]
fn long_files_are_refused() {
    let mut tree = memory("pc");
    let path = "devices/pci0000:00/0000:00:03.0/config";
    tree.insert(path, std::vec![0; MAX_FILE + 1]);
    let snapshot = Snapshot::load(&tree).unwrap();
    assert_eq!(reasons(&snapshot), [(path, &WarningReason::Unreadable(TreeError::TooLong))]);
}
