//! What is attached besides the default domain: domains of owners and drivers, PASIDs, page requests.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use device_model::Errno;

use super::{Current, Delivery, GroupState, Record};
use crate::domain::Domain;
use crate::error::{AttachError, SwitchError};
use crate::group_id::GroupId;
use crate::hardware::{HardwareError, PageRequestSink};
use crate::member::Member;

impl GroupState {
    /// Whether the members, which one IOMMU serves, can be attached to `domain`.
    // It8.5.
    fn check_domain(&self, group: GroupId, domain: &Domain) -> Result<(), AttachError> {
        let Some(first) = self.records().next().map(Record::member) else {
            return Err(AttachError::Empty { group });
        };
        if !domain.fits(first.served_by()) {
            return Err(AttachError::Foreign { device: first.name().clone(), iommu: domain.iommu_name().clone() });
        }
        Ok(())
    }

    /// Whether the group is attached to a domain of its owner's or a driver's.
    pub(crate) fn is_attached_to_own(&self) -> bool {
        matches!(self.current, Current::Own(_))
    }

    /// Whether every member is attached to this domain.
    fn is_attached_to(&self, domain: &Arc<Domain>) -> bool {
        matches!(&self.current, Current::Own(now) if Arc::ptr_eq(now, domain))
    }

    /// Attaches every member to a domain of the owner's, or none; whether anything moved.
    pub(crate) fn attach(&mut self, group: GroupId, domain: &Arc<Domain>) -> Result<bool, AttachError> {
        if self.is_attached_to(domain) && !self.astray {
            return Ok(false);
        }
        self.check_domain(group, domain)?;
        self.switch(group, Current::Own(domain.clone())).map_err(AttachError::Switch)?;
        Ok(true)
    }

    /// Moves every member to the blocking domain; whether anything moved.
    pub(crate) fn detach(&mut self) -> bool {
        let attached = self.is_attached_to_own();
        if attached {
            self.block();
        }
        attached
    }

    fn check_free_for_driver(&self, group: GroupId, member: &Member) -> Result<(), AttachError> {
        if self.record(member).is_none() {
            return Err(AttachError::NoGroup { device: member.name().clone() });
        }
        match self.ownership.owner() {
            Some(holder) => Err(AttachError::Owned { group, holder: holder.clone() }),
            None => Ok(()),
        }
    }

    /// Attaches a domain of the driver of a member that is alone.
    // It8.1 to It8.6.
    pub(crate) fn attach_for_driver(
        &mut self,
        group: GroupId,
        member: &Member,
        domain: &Arc<Domain>,
    ) -> Result<(), AttachError> {
        self.check_free_for_driver(group, member)?;
        if self.len() != 1 {
            return Err(AttachError::Shared { group, members: self.len() });
        }
        if self.is_attached_to_own() {
            return Err(AttachError::Attached { group });
        }
        self.check_domain(group, domain)?;
        self.switch(group, Current::Own(domain.clone())).map_err(AttachError::Switch)
    }

    /// Brings the group home from a domain of a driver's, if it is attached to that.
    pub(crate) fn detach_for_driver(
        &mut self,
        group: GroupId,
        domain: &Arc<Domain>,
    ) -> Option<Result<(), SwitchError>> {
        self.is_attached_to(domain).then(|| self.go_home(group))
    }

    /// Whether there is room for one PASID more.
    pub(crate) fn has_room_for_pasid(&self) -> bool {
        self.pasids.len() < self.pasids.capacity()
    }

    /// Makes room for PASIDs, with memory that was allocated without the group lock.
    pub(crate) fn make_room_for_pasids(&mut self, mut room: Vec<(u32, Arc<Domain>)>) {
        if room.capacity() > self.pasids.capacity() {
            room.append(&mut self.pasids);
            self.pasids = room;
        }
    }

    /// How many PASIDs are attached.
    pub(crate) fn pasids(&self) -> usize {
        self.pasids.len()
    }

    /// Attaches a PASID for every member that has PASIDs, or none.
    // Table It9.
    pub(crate) fn attach_pasid(
        &mut self,
        group: GroupId,
        member: &Member,
        domain: &Arc<Domain>,
        pasid: u32,
    ) -> Result<(), AttachError> {
        self.check_free_for_driver(group, member)?;
        self.check_domain(group, domain)?;
        let tight = self.records().map(Record::member).find(|member| {
            let max = member.properties().max_pasids;
            max > 0 && pasid >= max
        });
        if pasid == 0 || member.properties().max_pasids == 0 || tight.is_some() {
            let device = tight.map_or(member.name(), |tight| tight.name()).clone();
            return Err(AttachError::PasidRange { pasid, device });
        }
        if self.pasids.iter().any(|(attached, _)| *attached == pasid) {
            return Err(AttachError::PasidAttached { pasid, group });
        }
        let mut attaching = AttachingPasid { state: self, domain, pasid, tried: 0 };
        attaching.attach(group)?;
        mem::forget(attaching);
        self.pasids.push((pasid, domain.clone()));
        self.moved = true;
        Ok(())
    }

    /// Detaches a PASID.
    pub(crate) fn detach_pasid(&mut self, pasid: u32) {
        let Some(at) = self.pasids.iter().position(|(attached, _)| *attached == pasid) else { return };
        let (_, domain) = self.pasids.swap_remove(at);
        self.detach_pasid_of_first(usize::MAX, &domain, pasid);
        self.retired.pasid = Some(domain);
    }

    fn detach_pasid_of_first(&mut self, count: usize, domain: &Arc<Domain>, pasid: u32) {
        self.stopping_all_on_unwind(Some(domain), |state| {
            let capable = state.records().filter(|record| record.member().properties().max_pasids > 0);
            capable.take(count).for_each(|record| domain.detach_pasid(record.member().endpoint(), pasid));
        });
    }

    /// Delivers page requests of a member to `sink`, for the owner that has this claim; the serial of the delivery, or
    /// `None` if the member has left.
    pub(crate) fn enable_page_requests(
        &mut self,
        member: &Member,
        claim: u64,
        sink: Arc<dyn PageRequestSink>,
    ) -> Option<Result<u64, HardwareError>> {
        self.record(member)?;
        let Some(requests) = member.served_by().page_requests() else {
            return Some(Err(HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU driver delivers no page requests")));
        };
        let serial = self.next_serial();
        // Before the IOMMU driver is asked, so that they end with the claim even if it unwinds.
        let delivery = Delivery { claim, serial };
        let before = self.record_mut(member)?.page_requests.replace(delivery);
        self.page_requests += u32::from(before.is_none());
        let result = requests.enable(member.endpoint(), sink);
        if result.is_err() {
            self.page_requests -= u32::from(before.is_none());
            self.record_mut(member)?.page_requests = before;
        }
        Some(result.map(|()| serial))
    }

    /// Ends a delivery of page requests, if it has not ended.
    pub(crate) fn disable_page_requests(&mut self, member: &Member, serial: u64) {
        let Some(record) = self.record_mut(member) else { return };
        if record.page_requests.is_some_and(|delivery| delivery.serial == serial) {
            record.page_requests = None;
            self.page_requests -= 1;
            member.disable_page_requests();
        }
    }

    /// Ends the page requests that this claim has enabled, of whichever members.
    pub(super) fn end_page_requests(&mut self, claim: u64) {
        if self.page_requests == 0 {
            return;
        }
        for record in self.records.iter_mut().flatten() {
            if record.page_requests.is_some_and(|delivery| delivery.claim == claim) {
                record.page_requests = None;
                self.page_requests -= 1;
                record.member().disable_page_requests();
            }
        }
    }
}

/// Attaches a PASID to one member after the other. Unless it is forgotten, it is detached again from those tried, whose
/// hardware may have stopped half-way.
struct AttachingPasid<'a> {
    state: &'a mut GroupState,
    domain: &'a Arc<Domain>,
    pasid: u32,
    tried: usize,
}

impl AttachingPasid<'_> {
    fn attach(&mut self, group: GroupId) -> Result<(), AttachError> {
        let members = self.state.records.iter().flatten().map(Record::member);
        for member in members.filter(|member| member.properties().max_pasids > 0) {
            self.tried += 1;
            self.domain
                .attach_pasid(member.endpoint(), self.pasid)
                .map_err(|cause| AttachError::Switch(SwitchError { group, device: member.name().clone(), cause }))?;
        }
        Ok(())
    }
}

impl Drop for AttachingPasid<'_> {
    fn drop(&mut self) {
        self.state.detach_pasid_of_first(self.tried, self.domain, self.pasid);
    }
}
