//! What a kernel driver attaches without claiming: a domain of its own, or PASIDs.
//!
//! Both keep claims out for as long as they last, and the kernel drivers of other devices of the group as well.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::domain::Domain;
use crate::error::AttachError;
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
    /// Attaches `domain` for a kernel driver. Takes the group lock.
    ///
    /// # Errors
    /// The device is not alone in its group, user space owns it, a domain is attached, or the device refused. Nothing
    /// has moved.
    pub fn attach_domain(self: &Arc<Self>, domain: &Arc<Domain>) -> Result<DriverDomain, AttachError> {
        let mut change = self.group().change();
        change.attach_for_driver(self.group().id(), self, domain)?;
        let undo = Unattached { member: self, domain };
        change.finish(Some(self.name()), None);
        core::mem::forget(undo);
        Ok(DriverDomain { member: self.clone(), domain: domain.clone() })
    }

    /// Attaches `domain` to every device of the group that has PASIDs, under `pasid`. Takes the group lock.
    ///
    /// # Errors
    /// The number is 0, out of a device's range or taken, user space owns the group, or a device refused. Nothing is
    /// attached then that was not before.
    pub fn attach_pasid(self: &Arc<Self>, domain: &Arc<Domain>, pasid: u32) -> Result<PasidAttachment, AttachError> {
        let group = self.group();
        let mut change = group.change();
        while !change.has_room_for_pasid() {
            let wanted = change.pasids() + 1;
            drop(change);
            let mut room = Vec::new();
            room.try_reserve(wanted).map_err(|_| AttachError::NoMemory { pasid, group: group.id() })?;
            change = group.change();
            change.make_room_for_pasids(room);
        }
        change.attach_pasid(group.id(), self, domain, pasid)?;
        Ok(PasidAttachment { member: self.clone(), pasid })
    }
}

impl Drop for DriverDomain {
    fn drop(&mut self) {
        let group = self.member.group();
        let mut change = group.change();
        if let Some(result) = change.detach_for_driver(group.id(), &self.domain) {
            change.finish(Some(self.member.name()), result.err().as_ref());
        }
    }
}

/// Detaches a domain that the observer unwound on, without telling it.
struct Unattached<'a> {
    member: &'a Member,
    domain: &'a Arc<Domain>,
}

impl Drop for Unattached<'_> {
    fn drop(&mut self) {
        let group = self.member.group();
        group.change().detach_for_driver(group.id(), self.domain);
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
    /// Returns the PASID.
    pub fn pasid(&self) -> u32 {
        self.pasid
    }
}

impl Drop for PasidAttachment {
    fn drop(&mut self) {
        self.member.group().change().detach_pasid(self.pasid);
    }
}
