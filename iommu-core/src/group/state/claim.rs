//! User-space owners come and go.

use alloc::sync::Arc;

use super::{Current, GroupState, Record};
use crate::domain::Domain;
use crate::error::{ClaimError, SwitchError};
use crate::group_id::GroupId;
use crate::member::Member;
use crate::ownership::{Owner, Ownership};

impl GroupState {
    /// What stands against a first claim.
    // It4.1.
    pub(crate) fn check_free(&self, group: GroupId) -> Result<(), ClaimError> {
        match &self.ownership {
            Ownership::Idle => {}
            Ownership::Kernel { .. } => return Err(ClaimError::KernelUse { group, devices: self.kernel_users() }),
            Ownership::User { owner, .. } => return Err(ClaimError::Owned { group, holder: owner.clone() }),
        }
        if matches!(self.current, Current::Own(_)) || !self.pasids.is_empty() {
            return Err(ClaimError::DomainInUse { group, devices: self.device_names() });
        }
        match self.records().find(|record| record.member().needs_direct_mapping()) {
            Some(record) => Err(ClaimError::DirectRegion { group, device: record.member().name().clone() }),
            None => Ok(()),
        }
    }

    /// The member to make a blocking domain for, if the group has none yet.
    pub(crate) fn lacks_blocking_domain(&self) -> Option<&Arc<Member>> {
        if self.blocking.is_some() {
            return None;
        }
        self.records().next().map(Record::member)
    }

    /// Keeps a blocking domain, unless there is one.
    pub(crate) fn set_blocking_domain(&mut self, domain: Arc<Domain>) {
        if self.len() > 0 {
            self.blocking.get_or_insert(domain);
        }
    }

    /// The first claim; its serial.
    // Table It4.
    pub(crate) fn claim(&mut self, group: GroupId, owner: &Owner) -> Result<u64, ClaimError> {
        self.check_free(group)?;
        if self.len() == 0 {
            return Err(ClaimError::Empty { group });
        }
        self.switch(group, Current::Blocking).map_err(ClaimError::Switch)?;
        let last = self.last_owner.take();
        let owner = match last {
            Some(last) if last == *owner => last,
            last => {
                self.retired.owner = last;
                owner.clone()
            }
        };
        self.ownership.claim(owner);
        Ok(self.next_serial())
    }

    /// A claim of a device: a further one of the owner, or the first; its serial.
    // Table It6.
    pub(crate) fn claim_device(&mut self, group: GroupId, member: &Member, owner: &Owner) -> Result<u64, ClaimError> {
        if self.record(member).is_none() {
            return Err(ClaimError::NoGroup { device: member.name().clone() });
        }
        if self.ownership.owner() != Some(owner) {
            return self.claim(group, owner);
        }
        self.ownership.claim_again(owner).map_err(|_| ClaimError::TooManyClaims { group })?;
        Ok(self.next_serial())
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    /// Ends the claim with this serial. After the last of its owner the group goes home; why it could not, if it could
    /// not.
    pub(crate) fn end_claim(&mut self, group: GroupId, claim: u64) -> Option<SwitchError> {
        self.end_page_requests(claim);
        let owner = self.ownership.end_claim()?;
        self.retired.owner = self.last_owner.replace(owner);
        self.moved = true;
        self.go_home(group).err()
    }
}
