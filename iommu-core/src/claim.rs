//! Claims: user space takes a group, through the group or through its devices.

use alloc::sync::Arc;

use crate::domain::Domain;
use crate::error::{AttachError, ClaimError};
use crate::group::{Change, Group};
use crate::member::Member;
use crate::ownership::Owner;

/// A claim of a group for user space. Dropping it releases exactly this claim; it cannot be cloned.
///
/// The first claim moves every device of the group to the blocking domain. A domain is attached *through* a claim, so
/// whoever attaches owns the group. With the last claim of its owner the group goes back to its default domain, whatever
/// was attached; that cannot fail: if hardware refuses, the group stays blocked, the observer hears of it, and the next
/// kernel use tries again. Page requests end with the claim that enabled them.
#[derive(Debug)]
#[must_use = "dropping the claim releases it"]
pub struct Claim {
    group: Arc<Group>,
    /// The member that it was made for; `None` for a claim of the group as a whole.
    member: Option<Arc<Member>>,
    serial: u64,
}

impl Group {
    /// Claims the group as a whole, exclusively: it does not nest, not even for the same owner.
    ///
    /// Takes the group lock, and no device lock: it may be called while a driver of the group is being probed or waits for
    /// its user.
    ///
    /// # Errors
    /// Each names who is in the way. The group is as it was.
    pub fn claim(self: &Arc<Self>, owner: &Owner) -> Result<Claim, ClaimError> {
        let mut change = self.change_to_claim()?;
        let serial = change.claim(self.id(), owner)?;
        let undo = Unclaimed { group: self, serial };
        change.finish(None, None);
        core::mem::forget(undo);
        Ok(Claim { group: self.clone(), member: None, serial })
    }

    /// Returns what a claim would be refused for now, by somebody who has none: to be shown, not to be relied on, for it
    /// may be stale at once.
    ///
    /// # Errors
    /// As for [`claim`](Self::claim), but for what only hardware can say.
    pub fn check_claim(&self) -> Result<(), ClaimError> {
        let state = self.lock();
        if state.len() == 0 {
            return Err(ClaimError::Empty { group: self.id() });
        }
        state.check_free(self.id())
    }

    /// Takes the group lock, when there is a blocking domain or a claim will be refused anyway. Hardware that could make
    /// none when the group came about is asked again, without the lock.
    fn change_to_claim(&self) -> Result<Change<'_>, ClaimError> {
        let change = self.change();
        let Some(member) = change.lacks_blocking_domain().cloned().filter(|_| change.check_free(self.id()).is_ok())
        else {
            return Ok(change);
        };
        drop(change);
        let blocking = Domain::allocate_blocking(&member).map_err(|cause| ClaimError::NoBlockingDomain {
            group: self.id(),
            device: member.name().clone(),
            cause,
        })?;
        let mut change = self.change();
        change.set_blocking_domain(blocking);
        Ok(change)
    }
}

impl Member {
    /// Claims the device's group for one device. Claims of one owner nest. Takes the group lock, as [`Group::claim`] does.
    ///
    /// # Errors
    /// Each names who is in the way. The group is as it was.
    pub fn claim(self: &Arc<Self>, owner: &Owner) -> Result<Claim, ClaimError> {
        let group = self.group();
        let mut change = group.change_to_claim()?;
        let serial = change.claim_device(group.id(), self, owner)?;
        let undo = Unclaimed { group, serial };
        change.finish(Some(self.name()), None);
        core::mem::forget(undo);
        Ok(Claim { group: group.clone(), member: Some(self.clone()), serial })
    }
}

/// Ends a claim that the observer unwound on, without telling it.
struct Unclaimed<'a> {
    group: &'a Group,
    serial: u64,
}

impl Drop for Unclaimed<'_> {
    fn drop(&mut self) {
        self.group.change().end_claim(self.group.id(), self.serial);
    }
}

impl Claim {
    /// Returns the group that is claimed.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Returns the device that it was claimed for; `None` for a claim of the group as a whole.
    pub fn device(&self) -> Option<&Arc<str>> {
        self.member.as_ref().map(|member| member.name())
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Attaches every device of the group to `domain`, or none.
    ///
    /// # Errors
    /// Every device is where it was. A domain that is attached is not displaced: see [`replace`](Self::replace).
    pub fn attach(&self, domain: &Arc<Domain>) -> Result<(), AttachError> {
        let change = self.group.change();
        if change.is_attached_to_own() {
            return Err(AttachError::Attached { group: self.group.id() });
        }
        self.attach_domain(change, domain)
    }

    /// Attaches every device of the group to `domain`, or none, whatever is attached now.
    ///
    /// # Errors
    /// Every device is where it was.
    pub fn replace(&self, domain: &Arc<Domain>) -> Result<(), AttachError> {
        self.attach_domain(self.group.change(), domain)
    }

    fn attach_domain(&self, mut change: Change<'_>, domain: &Arc<Domain>) -> Result<(), AttachError> {
        if change.attach(self.group.id(), domain)? {
            change.finish(self.device(), None);
        }
        Ok(())
    }

    /// Moves every device of the group back to the blocking domain; where hardware refuses, by force. A domain that was
    /// attached can be dropped then.
    pub fn detach(&self) {
        let mut change = self.group.change();
        if change.detach() {
            change.finish(self.device(), None);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut change = self.group.change();
        let stuck = change.end_claim(self.group.id(), self.serial);
        change.finish(self.device(), stuck.as_ref());
    }
}
