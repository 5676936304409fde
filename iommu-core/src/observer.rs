//! Hearing of every change of ownership.

use alloc::sync::Arc;
use core::fmt;

use crate::error::SwitchError;
use crate::group::{Attached, GroupId};
use crate::hardware::{Fault, FaultSink};
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

    /// Takes note of an unrecoverable fault of a device. By default it does nothing. The IOMMU driver calls it, perhaps
    /// from an interrupt handler: it must not sleep.
    fn fault(&self, fault: &Fault) {
        let _ = fault;
    }
}

/// Passes faults on to the observer.
pub(crate) struct FaultReports(pub(crate) Option<Arc<dyn Observer>>);

impl FaultSink for FaultReports {
    fn report(&self, fault: &Fault) {
        if let Some(observer) = &self.0 {
            observer.fault(fault);
        }
    }
}

impl fmt::Debug for FaultReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultReports")
    }
}

impl<F: Fn(&Transition) + Send + Sync> Observer for F {
    fn transition(&self, transition: &Transition) {
        self(transition);
    }
}
