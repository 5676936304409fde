//! Candidates: devices that can be assigned, and the cost of each.

use std::borrow::Cow;
use std::slice;

use serde::Serialize;
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::iommu_core::sysfs::SysfsDevice;

use crate::{Explanation, Host, Plan, Step};

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
    let devices: Vec<PciAddress> = devices.map(|device| device.function.address).collect();
    // All are there.
    let explained = Explanation::of_each(host, &devices).unwrap_or_default();
    let mut candidates: Vec<Candidate> =
        explained.into_iter().filter_map(|explanation| candidate(host, explanation)).collect();
    candidates.sort_by_key(|candidate| {
        (candidate.others.len(), candidate.steps != 0, candidate.driver.is_some(), candidate.steps, candidate.device)
    });
    candidates
}

/// Whether it is a bridge of any kind, by its class.
fn is_bridge(device: &SysfsDevice) -> bool {
    device.function.config.class().is_some_and(|class| class >> 16 == 0x06)
}

fn candidate(host: &Host, explanation: Explanation) -> Option<Candidate> {
    let steps = Plan::proved_steps(host, slice::from_ref(&explanation), &[]).ok()?;
    let Explanation { device, class, name, driver, .. } = explanation;
    let unbound = steps.iter().filter_map(|step| match step {
        Step::Unbind { device: other, .. } if *other != device => Some(*other),
        _ => None,
    });
    Some(Candidate {
        device,
        class,
        name: name.to_string(),
        driver: driver.known().map(|driver| driver.to_string()),
        others: unbound.collect(),
        steps: steps.len(),
    })
}
