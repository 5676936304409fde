//! What the model refuses, a proof refuses, with the device and the way.

use vfio_host::{Bindings as _, ModelBindings, Proof, ProofError, Step};

use crate::layout::{address, host};

const MACHINE: &str = "proc\n00:01.0 root-port+acs>01 pcieport 1\n01:00.0 nvme nvme 2";

#[test]
fn a_device_on_its_kernel_driver_cannot_be_had() {
    let host = host(MACHINE);
    let error = Proof::play(&host, &[], &[address("01:00.0")]).unwrap_err().to_string();
    assert!(error.starts_with("0000:01:00.0 cannot be had through its group: "), "{error}");
}

#[test]
fn a_step_that_the_model_refuses_is_named() {
    let host = host(MACHINE);
    let step = Step::Load { driver: "no-such-driver".to_owned() };
    let error = Proof::play(&host, std::slice::from_ref(&step), &[]).unwrap_err();
    assert!(matches!(&error, ProofError::Step { step: refused, .. } if *refused == step), "{error}");
    assert!(ModelBindings::of(&host).load("vfio-pci").is_ok());
}
