//! The kernel's use of a device through the DMA API.

use alloc::sync::Arc;
use core::ops::Deref;

use crate::error::UseError;
use crate::group::{Current, GroupState};
use crate::member::Member;
use crate::ownership::Ownership;

/// A kernel driver may do DMA through the DMA API with one device. Dropping it ends the use.
///
/// While it lives no user-space owner gets the group. It borrows the member, or holds it (`KernelUse<Arc<Member>>`).
#[derive(Debug)]
#[must_use = "dropping the use ends it"]
pub struct KernelUse<M: Deref<Target = Member>>(M);

impl<M: Deref<Target = Member>> KernelUse<M> {
    /// Begins a use by `driver`, whose name is for those who will be refused. Takes the group lock; the caller holds
    /// the device lock, so that the driver does not change.
    ///
    /// # Errors
    /// Table It2, in its order (I20). Nothing has changed then.
    #[inline]
    pub fn begin(member: M, driver: &Arc<str>) -> Result<Self, UseError> {
        begin(&member, driver)?;
        Ok(Self(member))
    }

    /// The device that is used.
    pub fn member(&self) -> &Member {
        &self.0
    }
}

impl<M: Deref<Target = Member>> Drop for KernelUse<M> {
    #[inline]
    fn drop(&mut self) {
        end(&self.0);
    }
}

#[inline]
fn begin(member: &Member, driver: &Arc<str>) -> Result<(), UseError> {
    let group = member.group();
    let mut guard = group.lock();
    let state = &mut *guard;
    let before = group.before(state);
    if !state.is_plainly_free() {
        allow(member, state)?;
    }
    let Some(record) = member.record(&mut state.members) else { return Err(gone(member)) };
    let (Some(uses), Ok(())) = (record.uses.checked_add(1), state.ownership.begin_kernel_use()) else {
        return Err(UseError::TooManyUsers { group: group.id() });
    };
    record.uses = uses;
    if !record.driver.as_ref().is_some_and(|last| Arc::ptr_eq(last, driver)) {
        record.driver = Some(driver.clone());
    }
    group.tell(guard, before, Some(member.name()), None);
    Ok(())
}

impl GroupState {
    /// Whether the group is on its default domain, as it never is while user space owns it (I4), and nothing but kernel
    /// use is in it: the common case, allowed by every row of table It2.
    #[inline]
    fn is_plainly_free(&self) -> bool {
        matches!(self.current, Current::Default) && self.pasids.is_empty()
    }
}

/// Whether the state of the group allows one more kernel user.
#[cold]
fn allow(member: &Member, state: &mut GroupState) -> Result<(), UseError> {
    let group = member.group();
    // First of all (I20): a group is not brought home for a device that has left it.
    if member.record(&mut state.members).is_none() {
        return Err(gone(member));
    }
    if state.default.is_none() {
        return Err(UseError::NoDefaultDomain { group: group.id() });
    }
    match &state.ownership {
        Ownership::User { owner, .. } => Err(UseError::Owned { group: group.id(), holder: owner.clone() }),
        Ownership::Kernel { .. } if !matches!(state.current, Current::Default) || !state.pasids.is_empty() => {
            Err(UseError::DomainInUse { group: group.id(), devices: state.kernel_users() })
        }
        // A release that hardware refused left the group blocked; perhaps it can go home by now.
        Ownership::Idle if matches!(state.current, Current::Blocking) => {
            state.go_home(group.id()).map_or(Ok(()), |error| Err(UseError::Blocked(error)))
        }
        Ownership::Idle | Ownership::Kernel { .. } => Ok(()),
    }
}

#[cold]
fn gone(member: &Member) -> UseError {
    UseError::NoGroup { device: member.name().clone() }
}

#[inline]
fn end(member: &Member) {
    let group = member.group();
    let mut guard = group.lock();
    let state = &mut *guard;
    let before = group.before(state);
    // A member that was removed meanwhile took its uses along.
    if let Some(record) = member.record(&mut state.members) {
        record.uses = record.uses.saturating_sub(1);
        state.ownership.end_kernel_use();
        group.tell(guard, before, Some(member.name()), None);
    }
}
