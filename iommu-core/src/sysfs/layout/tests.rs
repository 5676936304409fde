use device_model::pci::Upstream;

use super::*;
use crate::reserved::RegionKind;

fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn refused(text: &str) -> LayoutError {
    MemoryTree::from_layout(text).unwrap_err()
}

#[test]
fn every_kind_is_read_back_without_a_warning() {
    for (number, kind) in KINDS.iter().enumerate() {
        let snapshot = Snapshot::from_layout(&format!("02:{number:02x}.0 {} some 7", kind.name)).unwrap();
        assert_eq!(snapshot.warnings, [], "{}", kind.name);
        let [device] = snapshot.devices.as_slice() else { panic!("{snapshot:?}") };
        let config = &device.function.config;
        assert_eq!((config.class(), config.vendor()), (Some(kind.class), Some(kind.ids.0)));
        let subsystem = u16::from(kind.name == VIRTIO_NET);
        assert_eq!(config.subsystem_device().unwrap_or_default(), subsystem, "{}", kind.name);
        assert_eq!((device.driver.as_deref(), device.group), (Some("some"), Some(7)));
        assert!(!device.function.is_multifunction());
    }
}

#[test]
fn a_device_is_below_the_bridge_to_its_bus() {
    let snapshot = Snapshot::from_layout(
        "00:01.0 root-port>01-03 - -
         01:00.0 upstream+acs>02-03 - -
         02:00.0 downstream>03 - -
         driver e1000
         03:00.0 nic - -
         03:00.1 vf - - vf=03:00.0
         0001:03:00.0 nic - -  # another domain",
    )
    .unwrap();
    let upstream = |text| snapshot.device(address(text)).unwrap().function.upstream;
    assert_eq!(upstream("03:00.0"), Upstream::Bridge(address("02:00.0")));
    assert_eq!(upstream("01:00.0"), Upstream::Bridge(address("00:01.0")));
    assert_eq!(upstream("0001:03:00.0"), Upstream::RootBus);
    let virtual_function = &snapshot.device(address("03:00.1")).unwrap().function;
    assert_eq!(virtual_function.physical_function, Some(address("03:00.0")));
    assert!(snapshot.device(address("03:00.0")).unwrap().function.is_multifunction());
    assert_eq!(snapshot.drivers[0].name, "e1000");
    assert_eq!(snapshot.warnings, []);
}

#[test]
fn windows_and_interrupts_are_those_that_are_named() {
    let snapshot = Snapshot::from_layout(
        "00:02.0 nic - - bar0=16K bar1=io:32 bar2=64:1G bar4=64:4G rom=64K msi=4 msix=5@0 intx flr",
    )
    .unwrap();
    let function = &snapshot.devices[0].function;
    let sizes: Vec<_> = function.bars.iter().map(|(slot, bar)| (slot, bar.size(), bar.kind())).collect();
    let wide = BarKind::Memory64 { prefetchable: true };
    assert_eq!(
        sizes,
        [
            (0, 0x4000, BarKind::Memory32 { prefetchable: false }),
            (1, 32, BarKind::Io),
            (2, 1 << 30, wide),
            (4, 1 << 32, wide)
        ]
    );
    assert_eq!(function.bars.rom().map(Bar::size), Some(0x1_0000));
    let ids: Vec<u16> = function.config.capabilities().map(|found| found.id).collect();
    assert_eq!((ids, function.config.read_u8(0x3d)), (std::vec![0x10, 0x05, 0x11], Some(1)));
    assert_eq!(snapshot.warnings, []);
}

#[test]
fn a_direct_region_is_the_groups_whoever_else_is_in_it_and_however_its_number_is_written() {
    let snapshot = Snapshot::from_layout(
        "00:02.0 igpu - 07 direct
         00:03.0 nic - 7",
    )
    .unwrap();
    assert_eq!(snapshot.warnings, []);
    assert_eq!(snapshot.groups[0].members.len(), 2);
    assert_eq!(snapshot.groups[0].reserved.iter().map(|region| region.kind).collect::<Vec<_>>(), [RegionKind::Direct]);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    use LayoutErrorReason::{Buses, Driver, Group, Kind, NoPhysicalFunction, NotADevice, Twice, Word};
    let cases = [
        ("00:02.0 nic -", NotADevice),
        ("00:02.0 cheese - -", Kind("cheese".into())),
        ("00:02.0 root-port>1g - -", Buses("1g".into())),
        ("00:02.0 root-port>05-03 - -", Buses("05-03".into())),
        ("00:02.0 nic ../x -", Driver("../x".into())),
        ("driver ../x", Driver("../x".into())),
        ("00:02.0 nic - -1", Group("-1".into())),
        ("00:02.0 nic - - cheese", Word("cheese".into())),
        ("00:02.0 nic - - flr=1", Word("flr=1".into())),
        ("00:02.0 nic - - swap=sda", Word("swap=sda".into())),
        ("00:02.0 nic - - on", Word("on".into())),
        ("00:02.0 igpu - - direct", Word("direct".into())),
        ("00:02.0 nic - - barbar0=4K", Word("barbar0=4K".into())),
        ("00:02.0 nic - - bar0=3K", Word("bar0=3K".into())),
        ("00:02.0 nic - - bar0=0", Word("bar0=0".into())),
        ("00:02.0 nic - - bar9=4K", Word("bar9=4K".into())),
        ("00:02.0 nic - - bar0=4G", Word("bar0=4G".into())),
        ("00:02.0 nic - - bar0=io:128K", Word("bar0=io:128K".into())),
        ("00:02.0 nic - - bar0=64:99999999999G", Word("bar0=64:99999999999G".into())),
        ("00:02.0 nic - - msix=4@1", Word("msix=4@1".into())),
        ("00:02.0 nic - - msi=x", Word("msi=x".into())),
        ("00:02.0 vf - - vf=00:03.0", NoPhysicalFunction(address("00:03.0"))),
        ("00:01.0 nic - -\n00:01.0 nic - -", Twice(address("00:01.0"))),
    ];
    for (text, reason) in cases {
        let line = 1 + text.lines().count();
        assert_eq!(refused(&format!("# a machine\n{text}")), LayoutError { line, reason }, "{text}");
    }
    let message = refused("00:99.0 nic - -").to_string();
    assert!(message.starts_with("line 1: ") && message.contains("00:99.0"), "{message}");
}
