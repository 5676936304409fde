use alloc::string::ToString;

use proptest::prelude::*;

use super::*;

#[test]
fn both_forms_are_read_and_the_long_one_is_written() {
    for (text, canonical) in [
        ("0000:00:04.0", "0000:00:04.0"),
        ("00:1f.7", "0000:00:1f.7"),
        ("10000:E1:00.0", "10000:e1:00.0"),
        ("00000001:02:03.4", "0001:02:03.4"),
    ] {
        assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), canonical);
    }
}

#[test]
fn an_error_names_the_text_and_the_part() {
    for (text, fault) in [
        ("", AddressFault::Form),
        ("00", AddressFault::Form),
        ("00:04", AddressFault::Form),
        ("000:00:04.0", AddressFault::Domain),
        ("000000000:00:04.0", AddressFault::Domain),
        ("0:0000:00:04.0", AddressFault::Domain),
        ("+000:00:04.0", AddressFault::Domain),
        ("0000:0:04.0", AddressFault::Bus),
        ("0000:+0:04.0", AddressFault::Bus),
        ("0000:00:4.0", AddressFault::Slot),
        ("0000:00:20.0", AddressFault::Slot),
        ("0000:00:04.8", AddressFault::Function),
        ("0000:00:04.", AddressFault::Function),
        ("0000:00:04.0\n", AddressFault::Function),
    ] {
        let error = text.parse::<PciAddress>().unwrap_err();
        assert_eq!((error.text.as_str(), error.fault), (text, fault), "{text:?}");
    }
}

proptest! {
    #[test]
    fn text_and_address_are_one(domain: u32, bus: u8, devfn: u8) {
        let address = PciAddress::new(domain, bus, Devfn::from_byte(devfn));
        prop_assert_eq!(address.to_string().parse(), Ok(address));
        prop_assert_eq!(Devfn::new(address.slot(), address.function()), Some(address.devfn()));
    }

    #[test]
    fn order_is_domain_bus_slot_function(a: (u32, u8, u8), b: (u32, u8, u8)) {
        let address = |(domain, bus, devfn)| PciAddress::new(domain, bus, Devfn::from_byte(devfn));
        prop_assert_eq!(address(a).cmp(&address(b)), a.cmp(&b));
    }

    #[test]
    fn no_text_panics(text: String, near in "[0-9a-f+:. ]{0,14}") {
        let _ = text.parse::<PciAddress>();
        let _ = near.parse::<PciAddress>();
    }
}
