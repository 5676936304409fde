use iommu_core::device_model::pci::{AcsBits, PortType};

use super::*;

fn function(config: ConfigSpace) -> PciFunction {
    PciFunction::new("01:00.0".parse().unwrap(), config)
}

/// A function with an SR-IOV capability of so many virtual functions.
fn physical(control: u8, count: u8) -> PciFunction {
    let mut bytes = ConfigSpace::builder().ids(0x8086, 0x1521).pcie(PortType::Endpoint).build().bytes();
    bytes[0x100..0x104].copy_from_slice(&[0x10, 0, 1, 0]);
    bytes[0x108] = control;
    bytes[0x110] = count;
    function(ConfigSpace::new(bytes))
}

#[test]
fn v60_what_is_no_endpoint_is_refused_with_einval() {
    let bridge = function(ConfigSpace::builder().bridge(2, 2).build());
    let refusal = admits(&bridge).unwrap_err();
    assert_eq!(refusal, VfioPciRefusal::NotAnEndpoint { device: bridge.address, layout: Some(HeaderLayout::Bridge) });
    assert_eq!(refusal.errno(), Errno::EINVAL);
    assert_eq!(admits(&function(ConfigSpace::default())).unwrap_err().errno(), Errno::EINVAL);
    let capable = AcsBits::from_bits(0);
    assert_eq!(admits(&function(ConfigSpace::builder().ids(1, 2).acs(capable, capable).build())), Ok(()));
}

#[test]
fn v60_a_physical_function_with_virtual_ones_is_refused_with_ebusy() {
    let busy = physical(1, 7);
    let refusal = admits(&busy).unwrap_err();
    assert_eq!(refusal, VfioPciRefusal::HasVirtualFunctions { device: busy.address, count: 7 });
    assert_eq!(refusal.errno(), Errno::EBUSY);
    assert_eq!(admits(&physical(0, 7)), Ok(()), "not enabled");
    assert_eq!(admits(&physical(1, 0)), Ok(()), "none there");
}

#[test]
fn v60_denied_functions_are_refused_with_einval() {
    let accelerator = function(ConfigSpace::builder().ids(0x8086, 0x37c8).build());
    let refusal = admits(&accelerator).unwrap_err();
    assert_eq!(refusal, VfioPciRefusal::Denied { device: accelerator.address });
    assert_eq!(refusal.errno(), Errno::EINVAL);
}
