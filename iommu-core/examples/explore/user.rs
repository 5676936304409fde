//! What user space does, written into the timeline.

use crate::design::{Design, Refusal};
use crate::stage;

/// A claim with its owner, released when dropped.
pub(crate) struct Held<C> {
    claim: Option<C>,
    owner: &'static str,
}

/// Claims the group as a whole.
pub(crate) fn claim_group<D: Design>(design: &D, owner: &'static str) -> Option<Held<D::Claim>> {
    keep(owner, design.claim_group(owner))
}

/// Claims the group for one device.
pub(crate) fn claim_device<D: Design>(design: &D, owner: &'static str, device: &'static str) -> Option<Held<D::Claim>> {
    keep(owner, design.claim_device(owner, device))
}

/// Writes down what came of a claim. No other thread has run since the group lock was let go.
fn keep<C>(owner: &'static str, claim: Result<C, Refusal>) -> Option<Held<C>> {
    match claim {
        Ok(claim) => {
            stage::claimed(owner);
            Some(Held { claim: Some(claim), owner })
        }
        Err(Refusal::Taken) => {
            stage::claim_refused(owner);
            None
        }
        Err(Refusal::Gone) => {
            stage::step(format!("{owner} is refused: the device has gone (ENODEV)"));
            None
        }
    }
}

impl<C> Held<C> {
    pub(crate) fn claim(&self) -> Option<&C> {
        self.claim.as_ref()
    }
}

impl<C> Drop for Held<C> {
    fn drop(&mut self) {
        stage::releasing();
        drop(self.claim.take());
        stage::released(self.owner);
    }
}
