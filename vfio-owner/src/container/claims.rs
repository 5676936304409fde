//! The claims of the groups that are in a container.

use alloc::vec::Vec;

use iommu_core::Claim;

/// Claims in the order in which their groups came.
///
/// None is moved when another goes: it leaves a gap, and gaps are closed once there are more of them than of claims. So
/// what one costs does not depend on how many there are, but for the search.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// By number, ascending. `None` is a gap.
    places: Vec<(Number, Option<Claim>)>,
    count: usize,
    next: Number,
}

/// Tells a claim from all others that have been in the container since it was empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Number(u64);

impl Claims {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn push(&mut self, claim: Claim) -> Number {
        let number = self.next;
        self.places.push((number, Some(claim)));
        self.count += 1;
        self.next.0 += 1;
        number
    }

    pub(super) fn remove(&mut self, number: Number) -> Option<Claim> {
        let at = self.places.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        let claim = self.places.get_mut(at)?.1.take()?;
        self.count -= 1;
        if self.places.len() > 2 * self.count {
            self.places.retain(|(_, claim)| claim.is_some());
        }
        Some(claim)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Claim> {
        self.places.iter().filter_map(|(_, claim)| claim.as_ref())
    }
}
