//! Moving a group from one domain to another: every member or none, and a way back that cannot fail.

use alloc::sync::Arc;
use core::mem;

use super::{Current, DefaultDomain, GroupState, Record};
use crate::attached::Reach;
use crate::domain::Domain;
use crate::error::SwitchError;
use crate::group_id::GroupId;
use crate::hardware::{DefaultDomainType, HardwareError};

/// What to move the members to.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Default,
    Blocking,
    Given(&'a Arc<Domain>),
}

impl Record {
    /// Attaches the member. If that fails, or unwinds, its reach is unknown until it is attached elsewhere or stopped.
    fn attach_undecided(&mut self, domain: &Domain) -> Result<(), HardwareError> {
        self.reach = Reach::Unknown;
        domain.attach(self.member().endpoint())?;
        self.reach = Reach::Attached;
        Ok(())
    }

    /// Attaches the member; if that fails, or unwinds, it is stopped.
    pub(super) fn attach(&mut self, domain: &Domain) -> Result<(), HardwareError> {
        let guard = StopOne(self);
        guard.0.attach_undecided(domain)?;
        mem::forget(guard);
        Ok(())
    }

    /// Stops the DMA of the member by force.
    pub(super) fn stop(&mut self) {
        self.reach = Reach::Unknown;
        if self.member().block().is_ok() {
            self.reach = Reach::Stopped;
        }
    }
}

/// Stops a member unless it is forgotten.
struct StopOne<'a>(&'a mut Record);

impl Drop for StopOne<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Stops every member when the IOMMU driver unwinds: some may have been moved to the domain.
struct StopAll<'a>(&'a mut GroupState, Option<&'a Arc<Domain>>);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        let Self(state, reached) = self;
        state.records.iter_mut().flatten().for_each(Record::stop);
        state.go_to(Current::Blocking);
        if let Some(domain) = reached
            && state.is_reach_unknown()
        {
            state.quarantine(Arc::clone(domain));
        }
    }
}

impl GroupState {
    /// Runs `change`, which may attach members to `reached`; if the IOMMU driver unwinds in it, every member is stopped and
    /// the group is blocked.
    pub(super) fn stopping_all_on_unwind<T>(
        &mut self,
        reached: Option<&Arc<Domain>>,
        change: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.moved = true;
        let guard = StopAll(self, reached);
        let result = change(guard.0);
        mem::forget(guard);
        result
    }

    /// Moves every member to what `to` stands for, or none.
    pub(super) fn switch(&mut self, group: GroupId, to: Current) -> Result<(), SwitchError> {
        match &to {
            Current::Nothing => return Ok(()),
            Current::Default => self.move_members(group, Target::Default)?,
            Current::Blocking => self.move_members(group, Target::Blocking)?,
            Current::Own(domain) => self.move_members(group, Target::Given(domain))?,
        }
        self.go_to(to);
        Ok(())
    }

    /// Moves every member to another default domain, or none.
    pub(crate) fn switch_default(
        &mut self,
        group: GroupId,
        domain: Arc<Domain>,
        kind: DefaultDomainType,
    ) -> Result<(), SwitchError> {
        self.move_members(group, Target::Given(&domain))?;
        if let Some(old) = self.default.replace(DefaultDomain { domain, kind }) {
            self.retired.default = self.quarantine_if_reached(old.domain);
        }
        self.go_to(Current::Default);
        Ok(())
    }

    fn move_members(&mut self, group: GroupId, to: Target<'_>) -> Result<(), SwitchError> {
        let reached = match to {
            Target::Given(domain) => Some(domain),
            Target::Default | Target::Blocking => None,
        };
        let result = self.stopping_all_on_unwind(reached, |state| state.try_move(group, to));
        if let (Err(_), Some(domain)) = (&result, reached)
            && self.is_reach_unknown()
        {
            self.quarantine(domain.clone());
        }
        result
    }

    /// Attaches every member. If one refuses, those moved so far go back in reverse order, and it too, for its hardware
    /// may have stopped half-way; without a way back, or if that fails, their DMA is stopped.
    fn try_move(&mut self, group: GroupId, to: Target<'_>) -> Result<(), SwitchError> {
        let Self { records, default, blocking, current, .. } = self;
        let default = default.as_ref().map(|default| &default.domain);
        let from = match current {
            Current::Nothing => None,
            Current::Default => default,
            Current::Blocking => blocking.as_ref(),
            Current::Own(domain) => Some(&*domain),
        };
        let to = match to {
            Target::Default => default,
            Target::Blocking => blocking.as_ref(),
            Target::Given(domain) => Some(domain),
        };
        let Some(to) = to else { return Ok(()) };
        let mut moved = 0;
        let mut failed = None;
        for record in records.iter_mut() {
            moved += 1;
            let Some(record) = record else { continue };
            if let Err(cause) = record.attach_undecided(to) {
                failed = Some(SwitchError { group, device: record.member().name().clone(), cause });
                break;
            }
        }
        let Some(error) = failed else { return Ok(()) };
        for record in records.iter_mut().take(moved).rev().flatten() {
            if from.is_none_or(|from| record.attach_undecided(from).is_err()) {
                record.stop();
            }
        }
        Err(error)
    }

    /// Blocks every member, by force where attaching the blocking domain fails.
    pub(super) fn block(&mut self) {
        self.stopping_all_on_unwind(None, |state| {
            for record in state.records.iter_mut().flatten() {
                let blocked = state.blocking.as_ref().is_some_and(|domain| record.attach_undecided(domain).is_ok());
                if !blocked {
                    record.stop();
                }
            }
        });
        self.go_to(Current::Blocking);
    }

    /// Brings the group back to its default domain. If hardware refuses, the whole group is blocked: never left open,
    /// never half open.
    pub(super) fn go_home(&mut self, group: GroupId) -> Result<(), SwitchError> {
        if self.len() == 0 {
            return Ok(());
        }
        self.switch(group, Current::Default).inspect_err(|_| self.block())
    }

    /// The members are where `to` says.
    fn go_to(&mut self, to: Current) {
        if let Current::Own(domain) = mem::replace(&mut self.current, to) {
            self.retired.current = self.quarantine_if_reached(domain);
        }
    }

    pub(super) fn is_reach_unknown(&self) -> bool {
        self.records().any(|record| record.reach == Reach::Unknown)
    }

    /// Keeps a domain that a member may still reach, else gives it back.
    fn quarantine_if_reached(&mut self, domain: Arc<Domain>) -> Option<Arc<Domain>> {
        if !self.is_reach_unknown() {
            return Some(domain);
        }
        self.quarantine(domain);
        None
    }

    fn quarantine(&mut self, domain: Arc<Domain>) {
        if self.quarantine.try_reserve(1).is_ok() {
            self.quarantine.push(domain);
        } else {
            // Without memory to remember it, it is kept for ever.
            mem::forget(domain);
        }
    }
}
