//! Plans: the fewest steps that allow user space to open devices. Plans refuse to unbind devices in use by the host,
//! and are proved on the model before they are shown.

mod caution;
mod step;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use self::caution::cautions;
pub use self::caution::{Caution, Need};
pub use self::step::Step;
use self::step::{is_in_the_way, steps};
use super::binding::{BindingError, Bindings};
use super::proof::{Proof, ProofError};
use crate::driver_name::is_driver_name;
use crate::judge::{Explanation, Reason, held};
use crate::read::Purpose;
use crate::{Host, NoSuchDevice};

/// Steps after which devices can be opened by user space, both through their groups and as VFIO devices.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The devices.
    pub devices: Vec<PciAddress>,
    /// Devices in use by the host that may be changed all the same.
    #[serde(default)]
    pub allowed: Vec<PciAddress>,
    /// The steps, in order; empty if the devices can be opened already.
    pub steps: Vec<Step>,
    /// What could not be checked.
    #[serde(default)]
    pub cautions: Vec<Caution>,
}

/// A device in use by the host that a plan would have to change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Guarded {
    /// The device.
    pub device: PciAddress,
    /// What the host uses it for.
    pub purposes: Vec<Purpose>,
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let purposes: Vec<String> = self.purposes.iter().map(ToString::to_string).collect();
        write!(f, "{}: {}", self.device, purposes.join("; "))
    }
}

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// There is no such device.
    #[error(transparent)]
    NoSuchDevice(#[from] NoSuchDevice),
    /// No steps lead to the goal.
    #[error("{device} cannot be given away: {}", listed(reasons))]
    Impossible {
        /// The device.
        device: PciAddress,
        /// What prevents it.
        reasons: Vec<Reason>,
    },
    /// A device of the group cannot be unbound, since its virtual functions would be removed.
    #[error("{device} is in the way and has {count} virtual functions, which go when it is unbound")]
    LosesVirtualFunctions {
        /// The device.
        device: PciAddress,
        /// Number of virtual functions.
        count: usize,
    },
    /// The plan would change devices in use by the host.
    #[error("refusing to unbind devices in use by the host: {}", listed(devices))]
    Guarded {
        /// The devices.
        devices: Vec<Guarded>,
    },
    /// A driver or override has a name that no driver can have, and that must not be put into a step or a script.
    #[error("{device}: no driver can have the name {name:?}")]
    DriverName {
        /// The device.
        device: PciAddress,
        /// The name.
        name: String,
    },
    /// The source does not show whether the devices can be opened.
    #[error("it is not shown what is in the way of {device}: {}", listed(reasons))]
    NotShown {
        /// The device.
        device: PciAddress,
        /// What is not shown.
        reasons: Vec<Reason>,
    },
    /// The machine that the plan is for cannot be read.
    #[error(transparent)]
    Unreadable(BindingError),
    /// The machine has changed since the plan was made.
    #[error("the machine has changed since the plan was made, and needs other steps: make a new plan")]
    Stale,
    /// The plan fails on the model.
    #[error("the plan fails on the model: {0}")]
    Fails(#[from] ProofError),
}

fn listed(what: &[impl fmt::Display]) -> String {
    what.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Plan {
    /// Makes a plan after which `devices` can be opened by user space. Changes no device in use by the host except
    /// those in `allowed`.
    ///
    /// # Errors
    /// Fails if there is no such plan, or it would change devices in use by the host.
    pub fn make(host: &Host, devices: &[PciAddress], allowed: &[PciAddress]) -> Result<Self, PlanError> {
        let mut targets: Vec<PciAddress> = devices.to_vec();
        targets.sort_unstable();
        targets.dedup();
        let explained = Explanation::of_each(host, &targets)?;
        let steps = Self::proved_steps(host, &explained, allowed)?;
        let cautions = cautions(host, &steps);
        let mut allowed: Vec<PciAddress> = allowed.to_vec();
        allowed.sort_unstable();
        allowed.dedup();
        Ok(Self { devices: targets, allowed, steps, cautions })
    }

    /// The steps after which devices can be opened, in the order of what explains them, proved.
    pub(crate) fn proved_steps(
        host: &Host,
        explained: &[Explanation],
        allowed: &[PciAddress],
    ) -> Result<Vec<Step>, PlanError> {
        explained.iter().try_for_each(|explanation| possible(host, explanation))?;
        let targets: Vec<PciAddress> = explained.iter().map(|explanation| explanation.device).collect();
        let steps = steps(host, explained, &targets);
        guard(host, &steps, allowed, &targets)?;
        check_names(host, &steps)?;
        Proof::play(host, &steps, &targets)?;
        Ok(steps)
    }

    /// Returns the devices that the plan changes, each once.
    pub fn touched(&self) -> Vec<PciAddress> {
        self.steps.iter().filter_map(Step::device).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Reads a plan from JSON.
    ///
    /// # Errors
    /// Fails if the text is not a plan, or has an impossible driver name.
    pub fn from_json(text: &str) -> Result<Self, PlanFileError> {
        let plan: Self = serde_json::from_str(text).map_err(|error| PlanFileError::Malformed(error.to_string()))?;
        match plan.steps.iter().map(Step::driver).find(|name| !is_driver_name(name)) {
            Some(name) => Err(PlanFileError::DriverName(name.to_string())),
            None => Ok(plan),
        }
    }

    /// Returns the plan as JSON.
    pub fn to_json(&self) -> String {
        // Texts and lists of texts can always be written.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// A plan that was checked against the machine that it is for. Only checked plans can be applied.
#[derive(Clone)]
pub struct CheckedPlan<'a> {
    pub(super) plan: Plan,
    pub(super) bindings: &'a dyn Bindings,
    /// The machine as it was when the plan was checked.
    pub(super) host: Host,
}

impl fmt::Debug for CheckedPlan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedPlan").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl<'a> CheckedPlan<'a> {
    /// Reads the machine of `bindings` and checks that [`Plan::make`] makes the same plan for it. Refuses plans that
    /// were edited, or made before the machine changed.
    ///
    /// # Errors
    /// Fails if the machine cannot be read, or there would be another plan, or none.
    pub fn new(plan: &Plan, bindings: &'a dyn Bindings) -> Result<Self, PlanError> {
        let host = bindings.host().map_err(PlanError::Unreadable)?;
        let now = Plan::make(&host, &plan.devices, &plan.allowed)?;
        // A driver that has been loaded since, or whose module is gone, makes no difference to what happens to devices.
        let changes =
            |plan: &Plan| plan.steps.iter().filter(|step| step.device().is_some()).cloned().collect::<Vec<_>>();
        if changes(&now) != changes(plan) {
            return Err(PlanError::Stale);
        }
        Ok(Self { plan: now, bindings, host })
    }

    /// Returns the plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// Refuses to unbind a device that the machine lives on, unless it is allowed, or that a process holds.
pub(super) fn guard_unbind(
    host: &Host,
    device: PciAddress,
    allowed: &BTreeSet<PciAddress>,
) -> Result<(), BindingError> {
    let purposes: Vec<Purpose> = host.purposes(device).cloned().collect();
    if !allowed.contains(&device) && !purposes.is_empty() {
        let guarded = Guarded { device, purposes };
        return Err(BindingError::new("refusing to unbind devices in use by the host", guarded));
    }
    let group = host.pci.device(device).and_then(|device| device.group);
    match held(host, group, &[device]) {
        Some(reason @ (Reason::Held { .. } | Reason::HeldUnseen)) => Err(BindingError::new(device, reason)),
        _ => Ok(()),
    }
}

/// Why a text is not a plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanFileError {
    /// The text is not the JSON of a plan.
    #[error("this is no plan: {0}")]
    Malformed(String),
    /// A driver has an impossible name.
    #[error("no driver can have the name {0:?}")]
    DriverName(String),
}

fn possible(host: &Host, explanation: &Explanation) -> Result<(), PlanError> {
    let target = explanation.device;
    let reasons = &explanation.by_group.reasons;
    let last: Vec<Reason> = reasons.iter().filter(|reason| reason.is_final()).cloned().collect();
    if !last.is_empty() {
        return Err(PlanError::Impossible { device: target, reasons: last });
    }
    let not_shown: Vec<Reason> = reasons.iter().filter(|reason| reason.is_not_shown()).cloned().collect();
    if !not_shown.is_empty() {
        return Err(PlanError::NotShown { device: target, reasons: not_shown });
    }
    for member in explanation.members.iter() {
        let count = host.virtual_functions(member.device);
        if count > 0 && is_in_the_way(&member.standing) {
            return Err(PlanError::LosesVirtualFunctions { device: member.device, count });
        }
    }
    Ok(())
}

/// Losing its driver is what a machine does not survive.
fn guard(host: &Host, steps: &[Step], allowed: &[PciAddress], targets: &[PciAddress]) -> Result<(), PlanError> {
    let unbound = steps.iter().filter_map(|step| match step {
        Step::Unbind { device, .. } => Some(*device),
        Step::Load { .. } | Step::Override { .. } | Step::Bind { .. } => None,
    });
    let touched: BTreeSet<PciAddress> = unbound.chain(targets.iter().copied()).collect();
    let devices: Vec<Guarded> = touched
        .into_iter()
        .filter(|device| !allowed.contains(device))
        .map(|device| Guarded { device, purposes: host.purposes(device).cloned().collect() })
        .filter(|guarded| !guarded.purposes.is_empty())
        .collect();
    if devices.is_empty() { Ok(()) } else { Err(PlanError::Guarded { devices }) }
}

/// What is written into files and scripts, now or when it is undone, comes from a tree or a listing that anybody may have
/// made.
fn check_names(host: &Host, steps: &[Step]) -> Result<(), PlanError> {
    for found in steps.iter().filter_map(|step| host.pci.device(step.device()?)) {
        let mut names = found.driver.iter().chain(&found.driver_override);
        if let Some(name) = names.find(|name| !is_driver_name(name)) {
            return Err(PlanError::DriverName { device: found.function.address, name: name.clone() });
        }
    }
    Ok(())
}
