//! Hearing of every change of ownership.

use alloc::sync::Arc;

use crate::error::SwitchError;
use crate::group::{Attached, GroupId};
use crate::ownership::Ownership;

/// A group changed hands, or a release met failing hardware.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Transition {
    /// The group.
    pub group: GroupId,
    /// Counts the transitions of this group from 1: events of two threads may be told out of order.
    pub sequence: u64,
    /// The device that it happened through; `None` for a group claim.
    pub device: Option<Arc<str>>,
    /// Who held the group.
    pub before: Ownership,
    /// Who holds it now.
    pub after: Ownership,
    /// What its devices are attached to now.
    pub attached: Attached,
    /// The group could not be brought back to its default domain and is blocked.
    pub stuck: Option<SwitchError>,
}

/// Hears of transitions.
///
/// Called on the thread that made the change, after the group lock was dropped, but perhaps with a device lock held.
pub trait Observer: Send + Sync {
    /// `transition` has happened.
    fn transition(&self, transition: &Transition);
}

impl<F: Fn(&Transition) + Send + Sync> Observer for F {
    fn transition(&self, transition: &Transition) {
        self(transition);
    }
}
