//! Steps of a plan, and which are needed.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::vfio_pci;
use vfio_owner::viability::Standing;

use crate::Host;
use crate::act::binding::{BindingError, Bindings};
use crate::judge::Explanation;

/// One step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Loads the module of a driver, unless it is loaded.
    Load {
        /// The driver.
        driver: String,
    },
    /// Sets `driver_override`.
    Override {
        /// The device.
        device: PciAddress,
        /// The driver.
        driver: String,
    },
    /// Unbinds the device from its driver.
    Unbind {
        /// The device.
        device: PciAddress,
        /// The driver.
        driver: String,
    },
    /// Binds the device to a driver.
    Bind {
        /// The device.
        device: PciAddress,
        /// The driver.
        driver: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { driver } => write!(f, "load {driver}"),
            Self::Override { device, driver } => write!(f, "let only {driver} bind to {device}"),
            Self::Unbind { device, driver } => write!(f, "unbind {device} from {driver}"),
            Self::Bind { device, driver } => write!(f, "bind {device} to {driver}"),
        }
    }
}

impl Step {
    /// Returns the device that the step changes, if any.
    pub const fn device(&self) -> Option<PciAddress> {
        match self {
            Self::Load { .. } => None,
            Self::Override { device, .. } | Self::Unbind { device, .. } | Self::Bind { device, .. } => Some(*device),
        }
    }

    /// Returns the driver of the step.
    pub fn driver(&self) -> &str {
        match self {
            Self::Load { driver }
            | Self::Override { driver, .. }
            | Self::Unbind { driver, .. }
            | Self::Bind { driver, .. } => driver,
        }
    }

    /// Carries out the step.
    ///
    /// # Errors
    /// Fails if the change is refused.
    pub fn take(&self, bindings: &dyn Bindings) -> Result<(), BindingError> {
        match self {
            Self::Load { driver } => bindings.load(driver),
            Self::Override { device, driver } => bindings.set_override(*device, Some(driver)),
            Self::Unbind { device, driver } => bindings.unbind(*device, driver),
            Self::Bind { device, driver } => bindings.bind(*device, driver),
        }
    }
}

/// What is not known to be harmless is unbound.
pub(super) const fn is_in_the_way(standing: &Standing) -> bool {
    matches!(standing, Standing::KernelUse { .. } | Standing::UnknownDriver { .. })
}

/// The fewest steps after which the targets, which are explained, can be opened.
pub(super) fn steps(host: &Host, explained: &[Explanation], targets: &[PciAddress]) -> Vec<Step> {
    let mut steps = Vec::new();
    let others: BTreeSet<PciAddress> = explained
        .iter()
        .flat_map(|explanation| explanation.members.iter())
        .filter(|member| is_in_the_way(&member.standing) && !targets.contains(&member.device))
        .map(|member| member.device)
        .collect();
    for device in others {
        steps.extend(unbind(host, device));
    }
    for target in targets {
        let Some(found) = host.pci.device(*target) else { continue };
        if host.is_handed_out(*target) {
            continue;
        }
        let (device, driver) = (*target, vfio_pci::NAME.to_string());
        if found.driver_override.as_deref() != Some(vfio_pci::NAME) {
            steps.push(Step::Override { device, driver: driver.clone() });
        }
        steps.extend(unbind(host, device));
        steps.push(Step::Bind { device, driver });
    }
    let loaded = host.pci.drivers.iter().any(|driver| driver.name == vfio_pci::NAME);
    if !loaded && steps.iter().any(|step| matches!(step, Step::Bind { .. })) {
        steps.insert(0, Step::Load { driver: vfio_pci::NAME.to_string() });
    }
    steps
}

fn unbind(host: &Host, device: PciAddress) -> Option<Step> {
    let driver = host.pci.device(device)?.driver.clone()?;
    Some(Step::Unbind { device, driver })
}
