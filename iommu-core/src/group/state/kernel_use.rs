//! Kernel drivers come and go.

use alloc::sync::Arc;
use core::mem;

use super::{Current, GroupState};
use crate::attached::Reach;
use crate::error::{SwitchError, UseError};
use crate::group_id::GroupId;
use crate::member::Member;
use crate::ownership::Ownership;

impl GroupState {
    /// Whether kernel use may begin without [`allow_use`](Self::allow_use): the common case.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Who holds the group, to compare with once that has changed; nothing when nobody hears of it.
    #[inline]
    pub(crate) fn before(&self) -> Option<Ownership> {
        self.observed.then(|| self.ownership.clone())
    }

    /// Counts one use more by `driver`; the name that it displaces.
    #[inline]
    pub(crate) fn begin_use(
        &mut self,
        group: GroupId,
        member: &Member,
        driver: &Arc<str>,
    ) -> Result<Option<Arc<str>>, UseError> {
        let uses = self.uses.get_mut(member.place()).filter(|uses| uses.serial == member.serial());
        let Some(uses) = uses else { return Err(gone(member)) };
        let (Some(more), Ok(())) = (uses.users.checked_add(1), self.ownership.begin_kernel_use()) else {
            return Err(UseError::TooManyUsers { group });
        };
        uses.users = more;
        match &uses.driver {
            Some(last) if Arc::ptr_eq(last, driver) => Ok(None),
            _ => Ok(uses.driver.replace(driver.clone())),
        }
    }

    /// Counts one use less; whether there was one. A member that was removed meanwhile took its uses along.
    #[inline]
    pub(crate) fn end_use(&mut self, member: &Member) -> bool {
        let uses = self.uses.get_mut(member.place()).filter(|uses| uses.serial == member.serial());
        let Some(uses) = uses else { return false };
        uses.users = uses.users.saturating_sub(1);
        self.ownership.end_kernel_use();
        true
    }

    /// Whether the state of the group allows one more kernel user. A group or a member that hardware
    /// left blocked is brought back first.
    // Table It2, I20.
    pub(crate) fn allow_use(&mut self, group: GroupId, member: &Member) -> Result<(), UseError> {
        // First of all: a group is not brought home for a device that has left it.
        if self.record(member).is_none() {
            return Err(gone(member));
        }
        if self.default.is_none() {
            return Err(UseError::NoDefaultDomain { group });
        }
        match &self.ownership {
            Ownership::User { owner, .. } => return Err(UseError::Owned { group, holder: owner.clone() }),
            Ownership::Kernel { .. } if !matches!(self.current, Current::Default) || !self.pasids.is_empty() => {
                return Err(UseError::DomainInUse { group, devices: self.kernel_users() });
            }
            Ownership::Idle if matches!(self.current, Current::Blocking) => {
                self.go_home(group).map_err(UseError::Blocked)?;
            }
            Ownership::Idle | Ownership::Kernel { .. } => {}
        }
        self.bring_back(group, member).map_err(UseError::Blocked)
    }

    /// Attaches a member that was stopped where its group is.
    fn bring_back(&mut self, group: GroupId, member: &Member) -> Result<(), SwitchError> {
        if self.record(member).is_none_or(|record| record.reach == Reach::Attached) {
            return Ok(());
        }
        self.moved = true;
        let domain = match &self.current {
            Current::Own(domain) => Some(domain.clone()),
            _ => self.default.as_ref().map(|default| default.domain.clone()),
        };
        let (Some(domain), Some(record)) = (domain, self.record_mut(member)) else { return Ok(()) };
        let result = record.attach(&domain);
        result.map_err(|cause| SwitchError { group, device: member.name().clone(), cause })
    }

    /// Ends all uses of a member that leaves; how many they were.
    pub(super) fn end_all_uses(&mut self, member: &Member) -> u32 {
        let uses = self.uses.get_mut(member.place()).filter(|uses| uses.serial == member.serial());
        let Some(uses) = uses else { return 0 };
        let ended = mem::take(uses).users;
        for _ in 0..ended {
            self.ownership.end_kernel_use();
        }
        ended
    }
}

#[cold]
fn gone(member: &Member) -> UseError {
    UseError::NoGroup { device: member.name().clone() }
}
