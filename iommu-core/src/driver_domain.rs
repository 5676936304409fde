//! What a kernel driver attaches without claiming: a domain of its own, or PASIDs.
//!
//! Both keep claims out for as long as they last (It4.1), and siblings' kernel drivers as well (I22).

use alloc::sync::Arc;

use crate::domain::Domain;
use crate::error::{AttachError, SwitchError};
use crate::group::{Current, GroupState};
use crate::member::Member;

/// A domain that the driver of a device alone in its group has attached. Dropping it brings the group back to its
/// default domain.
#[derive(Debug)]
#[must_use = "dropping it detaches the domain"]
pub struct DriverDomain {
    member: Arc<Member>,
    domain: Arc<Domain>,
}

impl Member {
    /// Attaches `domain` for a kernel driver (It8.1 to It8.6). Takes the group lock.
    ///
    /// # Errors
    /// The device is not alone in its group, user space owns it, a domain is attached, or the device refused. Nothing
    /// has moved.
    pub fn attach_domain(self: &Arc<Self>, domain: &Arc<Domain>) -> Result<DriverDomain, AttachError> {
        let group = self.group();
        let mut state = group.lock();
        self.check_free_for_driver(&mut state)?;
        if state.members.len() != 1 {
            return Err(AttachError::Shared { group: group.id(), members: state.members.len() });
        }
        if matches!(state.current, Current::Own(_)) {
            return Err(AttachError::Attached { group: group.id() });
        }
        state.check_domain(group, domain)?;
        let before = group.before(&state);
        state.switch(group.id(), Current::Own(domain.clone())).map_err(AttachError::Switch)?;
        group.tell(state, before, Some(self.name()), None);
        Ok(DriverDomain { member: self.clone(), domain: domain.clone() })
    }

    /// Attaches `domain` to every device of the group that has PASIDs, under `pasid` (table It9). Takes the group lock.
    ///
    /// # Errors
    /// The number is 0, out of a device's range or taken, user space owns the group, or a device refused. Nothing is
    /// attached then that was not before.
    pub fn attach_pasid(self: &Arc<Self>, domain: &Arc<Domain>, pasid: u32) -> Result<PasidAttachment, AttachError> {
        let group = self.group();
        let mut state = group.lock();
        self.check_free_for_driver(&mut state)?;
        state.check_domain(group, domain)?;
        let own = self.record(&mut state.members).map_or(0, |record| record.properties.max_pasids);
        let tight = state.members.iter().find(|(_, record)| {
            let max = record.properties.max_pasids;
            max > 0 && pasid >= max
        });
        if pasid == 0 || own == 0 || tight.is_some() {
            let device = tight.map_or(self.name(), |(_, record)| &record.endpoint.name).clone();
            return Err(AttachError::PasidRange { pasid, device });
        }
        if state.pasids.contains_key(&pasid) {
            return Err(AttachError::PasidAttached { pasid, group: group.id() });
        }
        attach_pasid_everywhere(&state, group.id(), domain, pasid)?;
        state.pasids.insert(pasid, domain.clone());
        Ok(PasidAttachment { member: self.clone(), pasid })
    }

    fn check_free_for_driver(&self, state: &mut GroupState) -> Result<(), AttachError> {
        if self.record(&mut state.members).is_none() {
            return Err(AttachError::NoGroup { device: self.name().clone() });
        }
        match state.ownership.owner() {
            Some(holder) => Err(AttachError::Owned { group: self.group().id(), holder: holder.clone() }),
            None => Ok(()),
        }
    }
}

fn attach_pasid_everywhere(
    state: &GroupState,
    group: crate::GroupId,
    domain: &Domain,
    pasid: u32,
) -> Result<(), AttachError> {
    let capable = || state.members.iter().map(|(_, record)| record).filter(|record| record.properties.max_pasids > 0);
    for (done, record) in capable().enumerate() {
        if let Err(cause) = domain.attach_pasid(&record.endpoint, pasid) {
            capable().take(done).for_each(|record| domain.detach_pasid(&record.endpoint, pasid));
            let device = record.endpoint.name.clone();
            return Err(AttachError::Switch(SwitchError { group, device, cause }));
        }
    }
    Ok(())
}

impl Drop for DriverDomain {
    fn drop(&mut self) {
        let group = self.member.group();
        let mut state = group.lock();
        let before = group.before(&state);
        if matches!(&state.current, Current::Own(now) if Arc::ptr_eq(now, &self.domain)) {
            let stuck = state.go_home(group.id());
            group.tell(state, before, Some(self.member.name()), stuck);
        }
    }
}

/// A PASID attached in a group. Dropping it detaches.
#[derive(Debug)]
#[must_use = "dropping it detaches the PASID"]
pub struct PasidAttachment {
    member: Arc<Member>,
    pasid: u32,
}

impl PasidAttachment {
    /// The PASID.
    pub fn pasid(&self) -> u32 {
        self.pasid
    }
}

impl Drop for PasidAttachment {
    fn drop(&mut self) {
        let mut state = self.member.group().lock();
        let Some(domain) = state.pasids.remove(&self.pasid) else { return };
        for (_, record) in state.members.iter().filter(|(_, record)| record.properties.max_pasids > 0) {
            domain.detach_pasid(&record.endpoint, self.pasid);
        }
    }
}
