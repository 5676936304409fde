//! What is broken: a check dropped, an order swapped, a fence left out, a lock let go too early, a count not restored.

mod binding;
mod domains;
mod host;
mod iommufd;
mod memory;
mod ownership;
mod type1;
mod uapi;
mod vfio;

use super::suite::Suite;

/// One breakage.
pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) file: &'static str,
    /// The rule that it breaks, with its fact, unless the rule is our own.
    pub(super) rule: &'static str,
    /// The text, which stands in the file once.
    pub(super) old: &'static str,
    /// What stands there instead.
    pub(super) new: &'static str,
    /// The tests that are to notice, the quickest first.
    pub(super) suites: &'static [Suite],
}

const DEVICE: &[Suite] = &[Suite::Tests("device-model")];
const DEVICE_OR_EXPLORE: &[Suite] = &[Suite::Tests("device-model"), Suite::Explore];
const DEVICE_OR_MODEL: &[Suite] = &[Suite::Tests("device-model"), Suite::Model("device-model")];
const MODEL_OR_EXPLORE: &[Suite] = &[Suite::Model("device-model"), Suite::Explore];
const IOMMU: &[Suite] = &[Suite::Tests("iommu-core")];
const EXPLORE: &[Suite] = &[Suite::Explore];
const IOMMU_OR_EXPLORE: &[Suite] = &[Suite::Tests("iommu-core"), Suite::Explore];
const IOMMUFD: &[Suite] = &[Suite::Tests("iommufd-owner")];
const VFIO: &[Suite] = &[Suite::Tests("vfio-owner")];
const HOST: &[Suite] = &[Suite::Tests("vfio-host")];
const VFIO_OR_MODEL: &[Suite] = &[Suite::Tests("vfio-owner"), Suite::Model("vfio-owner")];

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Mutant> {
    let core = ownership::MUTANTS.iter().chain(domains::MUTANTS).chain(memory::MUTANTS);
    let owners = iommufd::MUTANTS.iter().chain(vfio::MUTANTS).chain(type1::MUTANTS).chain(uapi::MUTANTS);
    core.chain(binding::MUTANTS).chain(owners).chain(host::MUTANTS)
}
