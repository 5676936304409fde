use alloc::vec;

use proptest::prelude::*;

use super::*;

const PORT_TYPES: [PortType; 11] = [
    PortType::Endpoint,
    PortType::LegacyEndpoint,
    PortType::RootPort,
    PortType::UpstreamPort,
    PortType::DownstreamPort,
    PortType::PcieToPci,
    PortType::PciToPcie,
    PortType::IntegratedEndpoint,
    PortType::EventCollector,
    PortType::Other(2),
    PortType::Other(15),
];

/// Reads everything that can be read.
fn read_all(config: &ConfigSpace) {
    let _ = (config.vendor(), config.device(), config.class(), config.revision(), config.layout());
    let _ = (config.subsystem_vendor(), config.subsystem_device(), config.has_multifunction_bit());
    let _ = (config.secondary_bus(), config.subordinate_bus(), config.pcie(), config.acs());
    assert!(config.capabilities().count() <= MOST_CAPABILITIES);
    assert!(config.extended_capabilities().count() <= MOST_EXTENDED_CAPABILITIES);
}

#[test]
fn what_is_built_is_read_back() {
    let isolation = AcsBits::SOURCE_VALIDATION | AcsBits::UPSTREAM_FORWARDING;
    for port_type in PORT_TYPES {
        let config = ConfigSpace::builder()
            .ids(0x8086, 0x10d3)
            .subsystem(0x1af4, 0x1100)
            .class(0x02_0000)
            .revision(3)
            .multifunction()
            .pcie(port_type)
            .acs(AcsBits::from_bits(0x5f), isolation)
            .build();
        assert_eq!((config.vendor(), config.device()), (Some(0x8086), Some(0x10d3)));
        assert_eq!((config.subsystem_vendor(), config.subsystem_device()), (Some(0x1af4), Some(0x1100)));
        assert_eq!((config.class(), config.revision()), (Some(0x02_0000), Some(3)));
        assert_eq!(config.layout(), Some(HeaderLayout::Endpoint));
        assert!(config.has_multifunction_bit());
        assert_eq!(config.secondary_bus(), None, "no bridge");
        assert_eq!(config.pcie(), Some(PcieCapability { port_type }));
        assert_eq!(config.acs(), Some(Acs { capability: AcsBits::from_bits(0x5f), control: isolation }));
    }
}

#[test]
fn capabilities_are_listed_in_order_whichever_there_are() {
    let builder = ConfigSpace::builder().interrupt_pin(1);
    let ids = |config: &ConfigSpace| config.capabilities().map(|found| found.id).collect::<Vec<_>>();
    assert_eq!(ids(&builder.clone().build()), []);
    let msix = builder.clone().msix(5, 3).build();
    assert_eq!((ids(&msix), msix.bytes().len()), (vec![0x11], 256));
    let all = builder.pcie(PortType::Endpoint).function_level_reset().msi(5).msix(2048, 9).build();
    assert_eq!(ids(&all), [0x10, 0x05, 0x11]);
    let at = |id: u16| all.capabilities().find(|found| found.id == id).unwrap().offset;
    assert_eq!(all.read_u32(at(0x10) + 4), Some(1 << 28));
    assert_eq!(all.read_u16(at(0x05) + 2), Some(3 << 1), "8 vectors");
    assert_eq!(all.read_u16(at(0x11) + 2), Some(2047));
    assert_eq!((all.read_u32(at(0x11) + 4), all.read_u32(at(0x11) + 8)), (Some(1), Some(0x8001)));
    assert_eq!(all.read_u8(0x3d), Some(1));
}

#[test]
fn a_bridge_has_buses_below() {
    let config = ConfigSpace::builder().bridge(2, 5).build();
    assert_eq!(config.layout(), Some(HeaderLayout::Bridge));
    assert_eq!((config.secondary_bus(), config.subordinate_bus()), (Some(2), Some(5)));
    assert_eq!((config.class(), config.pcie(), config.acs()), (Some(0x06_0400), None, None));
    assert_eq!(config.bytes().len(), 256);
}

#[test]
fn what_cannot_be_read_is_none() {
    let whole = ConfigSpace::builder().ids(1, 2).pcie(PortType::RootPort).acs(AcsBits::default(), AcsBits::default());
    let whole = whole.build();
    let cut = |length: usize| ConfigSpace::new(&whole.bytes()[..length]);
    assert_eq!((cut(1).vendor(), cut(2).vendor(), cut(2).device()), (None, Some(1), None));
    assert_eq!((cut(64).pcie(), cut(68).pcie()), (None, whole.pcie()), "an ordinary user sees 64 bytes");
    assert_eq!((cut(0x107).acs(), cut(0x108).acs()), (None, whole.acs()));
    assert_eq!(ConfigSpace::new(vec![0; 10_000]).bytes().len(), 4096);
}

#[test]
fn lists_that_run_in_a_circle_end() {
    let mut bytes = ConfigSpace::builder().pcie(PortType::Endpoint).build().bytes();
    bytes[0x41] = 0x40;
    // Id 1, next at 0x100.
    bytes[0x100..0x104].copy_from_slice(&0x1001_0001_u32.to_le_bytes());
    let config = ConfigSpace::new(bytes);
    assert_eq!(config.capabilities().count(), MOST_CAPABILITIES);
    assert_eq!(config.extended_capabilities().count(), MOST_EXTENDED_CAPABILITIES);
    read_all(&config);
}

#[test]
fn i46_services_that_are_not_implemented_count_as_on() {
    let acs =
        |capability, control| Acs { capability: AcsBits::from_bits(capability), control: AcsBits::from_bits(control) };
    let wanted = AcsBits::from_bits(0x1d);
    assert!(acs(0x5f, 0x1d).has_enabled(wanted));
    assert!(acs(0x04, 0x04).has_enabled(wanted));
    assert!(acs(0, 0).has_enabled(wanted));
    assert!(!acs(0x5f, 0x0d).has_enabled(wanted));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        read_all(&ConfigSpace::new(bytes));
    }

    /// Zeros at the end are not kept, but read.
    #[test]
    fn what_is_read_is_what_was_written(bytes in prop::collection::vec(0_u8..3, 0..70), zeros in 0_usize..200) {
        let mut bytes = bytes;
        bytes.resize(bytes.len() + zeros, 0);
        let config = ConfigSpace::new(bytes.clone());
        prop_assert_eq!((config.bytes(), config.len()), (bytes.clone(), bytes.len()));
        for at in 0..280_u16 {
            let from = |length: usize| bytes.get(at.into()..usize::from(at) + length);
            prop_assert_eq!(config.read_u8(at), from(1).map(|bytes| bytes[0]));
            prop_assert_eq!(config.read_u16(at), from(2).map(|bytes| u16::from_le_bytes(bytes.try_into().unwrap())));
            prop_assert_eq!(config.read_u32(at), from(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())));
        }
    }

    #[test]
    fn no_pointers_panic(
        pointers in prop::collection::vec((0_usize..4096, any::<u8>()), 0..200),
        length in 0_usize..=4096,
        header_type: u8,
    ) {
        let mut bytes = vec![0x10; 4096];
        bytes[0x06] = 0x10;
        bytes[0x0e] = header_type;
        for (at, value) in pointers {
            bytes[at] = value;
        }
        bytes.truncate(length);
        read_all(&ConfigSpace::new(bytes));
    }
}
