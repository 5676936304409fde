//! Hearing of every change of ownership.

use alloc::sync::Arc;
use core::fmt;

use crate::attached::Attached;
use crate::error::SwitchError;
use crate::group_id::GroupId;
use crate::hardware::{Fault, FaultSink};
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
/// Called on the thread that made the change, with no lock of this crate held, but perhaps with a device lock, or with locks
/// of the consumer that claims, attaches or releases: it may ask about groups, but must not use that consumer. What it was
/// told of has happened, even if it unwinds; a claim or a use that was about to be returned is given back then, which it is
/// not told.
pub trait Observer: Send + Sync {
    /// Called after `transition` has happened.
    fn transition(&self, transition: &Transition<'_>);

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

impl<F: Fn(&Transition<'_>) + Send + Sync> Observer for F {
    fn transition(&self, transition: &Transition<'_>) {
        self(transition);
    }
}
