//! Claims: user space takes a group, through the group or through its devices.

use alloc::sync::Arc;
use core::ops::Deref;

use crate::domain::Domain;
use crate::error::{AttachError, ClaimError};
use crate::group::{Current, Group, GroupId, GroupState};
use crate::member::Member;
use crate::ownership::{Owner, Ownership};

/// A claim of a group for user space. Dropping it releases exactly this claim; it cannot be cloned.
///
/// The first claim moves every device of the group to the blocking domain (S9). A domain is attached *through* a claim,
/// so whoever attaches owns the group. With the last claim of its owner the group goes back to its default domain,
/// whatever was attached (I28); that cannot fail: if hardware refuses, the group stays blocked and the observer hears
/// of it, and the next kernel use tries again.
///
/// It holds the group, or borrows it (`Claim<&Group>`).
#[derive(Debug)]
#[must_use = "dropping the claim releases it"]
pub struct Claim<G: Deref<Target = Group> = Arc<Group>> {
    group: G,
    /// The device that it was made for; `None` for a claim of the group as a whole.
    device: Option<Arc<str>>,
}

impl Group {
    /// Claims the group as a whole; see [`Claim::begin`].
    ///
    /// # Errors
    /// As for [`Claim::begin`].
    pub fn claim(self: &Arc<Self>, owner: &Owner) -> Result<Claim, ClaimError> {
        Claim::begin(self.clone(), owner)
    }
}

impl<G: Deref<Target = Group>> Claim<G> {
    /// Claims a group as a whole, exclusively: it does not nest, not even for the same owner (It5.2).
    ///
    /// Takes the group lock, and no device lock: it may be called while a driver of the group is being probed or
    /// waits for its user (L33 to L37).
    ///
    /// # Errors
    /// Each names who is in the way. The group is as it was.
    #[inline]
    pub fn begin(group: G, owner: &Owner) -> Result<Self, ClaimError> {
        group.begin_claim(owner)?;
        Ok(Self { group, device: None })
    }
}

impl Group {
    /// What a claim would be refused for now, by somebody who has none: to be told, not to be relied on, for it may be
    /// stale at once.
    ///
    /// # Errors
    /// As for [`Claim::begin`], but for what only hardware can say.
    pub fn check_claim(&self) -> Result<(), ClaimError> {
        let state = self.lock();
        if state.members.is_empty() {
            return Err(ClaimError::Empty { group: self.id() });
        }
        state.check_free(self.id())
    }

    fn begin_claim(&self, owner: &Owner) -> Result<(), ClaimError> {
        let mut state = self.lock();
        let before = self.before(&state);
        state.take_ownership(self, owner)?;
        self.tell(state, before, None, None);
        Ok(())
    }

    fn end_claim(&self, device: Option<&Arc<str>>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let before = self.before(state);
        let mut stuck = None;
        if let Some(owner) = state.ownership.end_claim() {
            state.last_owner = Some(owner);
            stuck = state.go_home(self.id());
        }
        self.tell(guard, before, device, stuck);
    }
}

impl Member {
    /// Claims the device's group for one device. Claims of one owner nest (It6.4). Takes the group lock, as
    /// [`Group::claim`] does.
    ///
    /// # Errors
    /// Each names who is in the way. The group is as it was.
    pub fn claim(&self, owner: &Owner) -> Result<Claim, ClaimError> {
        let group = self.group();
        let mut state = group.lock();
        let before = group.before(&state);
        if self.record(&mut state.members).is_none() {
            return Err(ClaimError::NoGroup { device: self.name().clone() });
        }
        if state.ownership.owner() == Some(owner) {
            state.ownership.claim_again(owner).map_err(|_| ClaimError::TooManyClaims { group: group.id() })?;
        } else {
            state.take_ownership(group, owner)?;
        }
        group.tell(state, before, Some(self.name()), None);
        Ok(Claim { group: group.clone(), device: Some(self.name().clone()) })
    }
}

impl GroupState {
    /// What stands against a first claim (It4.1).
    fn check_free(&self, id: GroupId) -> Result<(), ClaimError> {
        match &self.ownership {
            Ownership::Idle => {}
            Ownership::Kernel { .. } => {
                return Err(ClaimError::KernelUse { group: id, devices: self.kernel_users() });
            }
            Ownership::User { owner, .. } => return Err(ClaimError::Owned { group: id, holder: owner.clone() }),
        }
        if matches!(self.current, Current::Own(_)) || !self.pasids.is_empty() {
            return Err(ClaimError::DomainInUse { group: id, devices: self.device_names() });
        }
        if let Some((_, record)) = self.members.iter().find(|(_, record)| record.needs_direct_mapping()) {
            return Err(ClaimError::DirectRegion { group: id, device: record.endpoint.name.clone() });
        }
        Ok(())
    }

    /// The first claim (table It4).
    fn take_ownership(&mut self, group: &Group, owner: &Owner) -> Result<(), ClaimError> {
        let id = group.id();
        self.check_free(id)?;
        if self.blocking.is_none() {
            let (_, first) = self.members.iter().next().ok_or(ClaimError::Empty { group: id })?;
            let blocking = Domain::allocate_blocking(&first.iommu, &first.endpoint).map_err(|cause| {
                ClaimError::NoBlockingDomain { group: id, device: first.endpoint.name.clone(), cause }
            })?;
            self.blocking = Some(blocking);
        }
        self.switch(id, Current::Blocking).map_err(ClaimError::Switch)?;
        // An owner that comes back costs no count of references.
        let owner = self.last_owner.take().filter(|last| last == owner).unwrap_or_else(|| owner.clone());
        self.ownership.claim(owner);
        Ok(())
    }

    /// Whether every member can be attached to `domain` (It8.5).
    pub(crate) fn check_domain(&self, group: &Group, domain: &Domain) -> Result<(), AttachError> {
        if self.members.is_empty() {
            return Err(AttachError::Empty { group: group.id() });
        }
        match self.members.iter().find(|(_, record)| !domain.fits(&record.iommu)) {
            Some((_, record)) => {
                Err(AttachError::Foreign { device: record.endpoint.name.clone(), iommu: domain.iommu().name().into() })
            }
            None => Ok(()),
        }
    }
}

/// What to do with a domain that is attached already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replace {
    Yes,
    No,
}

impl<G: Deref<Target = Group>> Claim<G> {
    /// The group that is claimed.
    pub fn group(&self) -> &G {
        &self.group
    }

    /// The device that it was claimed for; `None` for a claim of the group as a whole.
    pub fn device(&self) -> Option<&Arc<str>> {
        self.device.as_ref()
    }

    /// Attaches every device of the group to `domain`, or none.
    ///
    /// # Errors
    /// A domain is attached (even this one), it belongs to another IOMMU, or a device refused it. Nothing has moved.
    pub fn attach(&self, domain: &Arc<Domain>) -> Result<(), AttachError> {
        self.attach_domain(domain, Replace::No)
    }

    /// As [`attach`](Self::attach), whatever is attached now (It8.12).
    ///
    /// # Errors
    /// As for [`attach`](Self::attach), but for the first.
    pub fn replace(&self, domain: &Arc<Domain>) -> Result<(), AttachError> {
        self.attach_domain(domain, Replace::Yes)
    }

    fn attach_domain(&self, domain: &Arc<Domain>, replace: Replace) -> Result<(), AttachError> {
        let mut state = self.group.lock();
        let before = self.group.before(&state);
        match &state.current {
            Current::Own(_) if replace == Replace::No => {
                return Err(AttachError::Attached { group: self.group.id() });
            }
            Current::Own(now) if Arc::ptr_eq(now, domain) => return Ok(()),
            _ => {}
        }
        state.check_domain(&self.group, domain)?;
        state.switch(self.group.id(), Current::Own(domain.clone())).map_err(AttachError::Switch)?;
        self.group.tell(state, before, self.device.as_ref(), None);
        Ok(())
    }

    /// Moves every device of the group back to the blocking domain; where hardware refuses, by force. A domain that
    /// was attached can be dropped then.
    pub fn detach(&self) {
        let mut state = self.group.lock();
        let before = self.group.before(&state);
        if matches!(state.current, Current::Own(_)) {
            state.block();
            self.group.tell(state, before, self.device.as_ref(), None);
        }
    }
}

impl<G: Deref<Target = Group>> Drop for Claim<G> {
    #[inline]
    fn drop(&mut self) {
        self.group.end_claim(self.device.as_ref());
    }
}
