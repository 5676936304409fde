//! Hearing of every change of ownership.

use alloc::sync::Arc;

use crate::attached::Attached;
use crate::error::SwitchError;
use crate::group_id::GroupId;
use crate::ownership::Ownership;

/// A group changed hands or domains, or hardware failed in a way that cannot be refused.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Transition<'a> {
    /// The group.
    pub group: GroupId,
    /// Counts the transitions of this group from 1: events of two threads may be told out of order.
    pub sequence: u64,
    /// The device that it happened through; `None` for a group claim.
    pub device: Option<&'a Arc<str>>,
    /// Who held the group.
    pub before: Ownership,
    /// Who holds it now.
    pub after: Ownership,
    /// What its devices are attached to now.
    pub attached: Attached,
    /// Why the group could not be brought back to its default domain and is blocked.
    pub stuck: Option<&'a SwitchError>,
    /// How many domains are kept because a device that hardware could not stop may still reach them.
    pub quarantined: usize,
}

/// Hears of transitions.
///
/// Called on the thread that made the change, with no lock of this crate held, but perhaps with a device lock. What it was
/// told of has happened, even if it unwinds; a claim or a use that was about to be returned is given back then, which it
/// is not told.
pub trait Observer: Send + Sync {
    /// Called after `transition` has happened.
    fn transition(&self, transition: &Transition<'_>);
}

impl<F: Fn(&Transition<'_>) + Send + Sync> Observer for F {
    fn transition(&self, transition: &Transition<'_>) {
        self(transition);
    }
}
