//! Which devices can go, and what each costs.

use serde::Serialize;
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use crate::judge::{class_name, device_name};
use crate::{Host, Plan, Step};

/// A device that user space can have, proved by a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Candidate {
    /// The device.
    pub device: PciAddress,
    /// What kind of device it is.
    pub class: String,
    /// Its maker and name.
    pub name: String,
    /// The driver that it would leave.
    pub driver: Option<String>,
    /// Other devices that lose their driver for it.
    pub others: Vec<PciAddress>,
    /// How many steps it takes.
    pub steps: usize,
}

/// The devices that user space can have without touching what the machine lives on, the cheapest first: those that are ready,
/// then those without a driver, then those that take nothing but their own, then by how many others go with them.
///
/// Nothing that a source does not show is taken for harmless: where no plan can be proved, there is no candidate.
pub fn candidates(host: &Host) -> Vec<Candidate> {
    let devices = host.pci.devices.iter().map(|device| device.function.address);
    let mut candidates: Vec<Candidate> = devices.filter_map(|device| candidate(host, device)).collect();
    candidates.sort_by_key(|candidate| {
        (candidate.others.len(), candidate.steps != 0, candidate.driver.is_some(), candidate.steps, candidate.device)
    });
    candidates
}

fn candidate(host: &Host, device: PciAddress) -> Option<Candidate> {
    let found = host.pci.device(device)?;
    let plan = Plan::make(host, &[device], &[]).ok()?;
    let unbound = plan.steps.iter().filter_map(|step| match step {
        Step::Unbind { device: other, .. } if *other != device => Some(*other),
        _ => None,
    });
    Some(Candidate {
        device,
        class: class_name(&found.function.config),
        name: device_name(&found.function.config),
        driver: found.driver.clone(),
        others: unbound.collect(),
        steps: plan.steps.len(),
    })
}
