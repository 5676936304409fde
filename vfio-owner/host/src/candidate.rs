//! Candidates: devices that can be assigned, and the cost of each.

use std::borrow::Cow;

use serde::Serialize;
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::SysfsDevice;

use crate::judge::{class_name, device_name};
use crate::{Host, Plan, Step};

/// A device that can be assigned to user space, proved by a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Candidate {
    /// The device.
    pub device: PciAddress,
    /// Kind of device.
    pub class: Cow<'static, str>,
    /// Vendor and name.
    pub name: String,
    /// The driver that it would be unbound from.
    pub driver: Option<String>,
    /// Other devices that would be unbound for it.
    pub others: Vec<PciAddress>,
    /// Number of steps.
    pub steps: usize,
}

/// Returns the devices that can be assigned without changing devices in use by the host, cheapest first: those that are
/// ready, then those without a driver, then those that need no other device to be unbound, then by the number of other
/// devices.
///
/// Nothing that a source does not show is assumed to be harmless: without a proved plan there is no candidate. Bridges to
/// the processor or to ISA are left out: vfio-pci takes them, but no guest has a use for them.
pub fn candidates(host: &Host) -> Vec<Candidate> {
    let devices = host.pci.devices.iter().filter(|device| !is_bridge(device));
    let mut candidates: Vec<Candidate> = devices.filter_map(|device| candidate(host, device)).collect();
    candidates.sort_by_key(|candidate| {
        (candidate.others.len(), candidate.steps != 0, candidate.driver.is_some(), candidate.steps, candidate.device)
    });
    candidates
}

/// Whether it is a bridge of any kind, by its class.
fn is_bridge(device: &SysfsDevice) -> bool {
    device.function.config.class().is_some_and(|class| class >> 16 == 0x06)
}

fn candidate(host: &Host, found: &SysfsDevice) -> Option<Candidate> {
    let device = found.function.address;
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
