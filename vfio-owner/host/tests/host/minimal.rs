//! Random machines: no plan touches what the machine lives on, and none is longer than it must be.

use std::fmt::Write as _;

use proptest::prelude::*;
use vfio_host::{Bindings as _, Host, ModelBindings, Plan, PlanError, Proof, Step};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::viability::{DriverDma, dma_of};

use crate::layout::host;

const DRIVERS: [&str; 8] = ["-", "-", "nvme", "e1000e", "pci-stub", "vfio-pci", "nvidia", "pcieport"];
const MORE: [&str; 8] = ["", "", "", "", "on=/", "swap", "route", "boot-vga"];

/// A machine of a few groups of a few devices, and which devices are wanted.
fn machine() -> impl Strategy<Value = (Host, Vec<PciAddress>)> {
    let device =
        (0..3_u32, prop::sample::select(&DRIVERS[..]), prop::sample::select(&MORE[..]), prop::bool::weighted(0.03));
    let devices = prop::collection::vec((device, any::<bool>()), 1..6);
    devices.prop_map(|devices| {
        let mut table = "proc\n".to_owned();
        let mut wanted = Vec::new();
        for (slot, ((group, driver, more, direct), want)) in devices.into_iter().enumerate() {
            let address: PciAddress = format!("00:{slot:02x}.0").parse().unwrap();
            let direct = if direct { "direct" } else { "" };
            writeln!(table, "{address} nic {driver} {group} {more} {direct}").unwrap();
            wanted.extend(want.then_some(address));
        }
        (host(&table), wanted)
    })
}

/// The fewest devices whose drivers must go so that user space gets what is wanted, found by trying all.
fn fewest_unbound(host: &Host, wanted: &[PciAddress]) -> Option<usize> {
    let bound: Vec<(PciAddress, &str)> = host
        .pci
        .devices
        .iter()
        .filter_map(|device| Some((device.function.address, device.driver.as_deref()?)))
        .filter(|(_, driver)| dma_of(driver) != DriverDma::UserSpace)
        .collect();
    let works = |chosen: u32| {
        let model = ModelBindings::of(host);
        for (_, (device, driver)) in bound.iter().enumerate().filter(|(place, _)| chosen & (1 << place) != 0) {
            model.unbind(*device, driver).unwrap();
        }
        for device in wanted.iter().filter(|device| model.binding(**device).unwrap().driver.is_none()) {
            model.set_override(*device, Some("vfio-pci")).unwrap();
            model.bind(*device, "vfio-pci").unwrap();
        }
        Proof::of(model.machine(), wanted).is_ok()
    };
    let mut sets: Vec<u32> = (0..1 << bound.len()).collect();
    sets.sort_by_key(|set| set.count_ones());
    sets.into_iter().find(|set| works(*set)).map(|set| set.count_ones() as usize)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_plan_is_longer_than_it_must_be_and_none_touches_a_lifeline((host, wanted) in machine()) {
        let fewest = fewest_unbound(&host, &wanted);
        let lifelines: Vec<PciAddress> = host.lifelines.iter().flatten().map(|lifeline| lifeline.device).collect();
        match Plan::make(&host, &wanted, &[]) {
            Ok(plan) => {
                let unbound: Vec<_> = plan.steps.iter().filter(|step| matches!(step, Step::Unbind { .. })).collect();
                prop_assert_eq!(Some(unbound.len()), fewest);
                for device in plan.touched() {
                    prop_assert!(!lifelines.contains(&device), "{} is touched", device);
                }
            }
            Err(PlanError::Guarded { devices }) => {
                for guarded in &devices {
                    prop_assert!(lifelines.contains(&guarded.device));
                }
                // Named, they may be touched, and then it is possible.
                let allowed: Vec<PciAddress> = devices.iter().map(|guarded| guarded.device).collect();
                let plan = Plan::make(&host, &wanted, &allowed).unwrap();
                let unbound = plan.steps.iter().filter(|step| matches!(step, Step::Unbind { .. })).count();
                prop_assert_eq!(Some(unbound), fewest);
            }
            Err(error) => prop_assert_eq!(fewest, None, "{}", error),
        }
    }
}
