//! What is broken: a check dropped, an order swapped, a lock let go too early, a count not restored.

mod binding;
mod domains;
mod ownership;

use super::suite::Suite;

/// One breakage.
pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) file: &'static str,
    /// The rule that it breaks, with its fact.
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
const IOMMU: &[Suite] = &[Suite::Tests("iommu-core")];
const EXPLORE: &[Suite] = &[Suite::Explore];
const IOMMU_OR_EXPLORE: &[Suite] = &[Suite::Tests("iommu-core"), Suite::Explore];

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Mutant> {
    ownership::MUTANTS.iter().chain(domains::MUTANTS).chain(binding::MUTANTS)
}
