//! Moving a group from one domain to another: every member or none, and a way back that cannot fail.

use slab::Slab;

use crate::domain::Domain;
use crate::error::SwitchError;
use crate::group::{Current, GroupId, GroupState, Reach, Record};

/// Attaches every member to `to`. If one refuses, those moved so far go back to `from` in reverse order, and it too,
/// for its hardware may have stopped half-way (I30); without a `from`, or if that fails, their DMA is stopped.
fn move_members(
    group: GroupId,
    members: &mut Slab<Record>,
    from: Option<&Domain>,
    to: &Domain,
) -> Result<(), SwitchError> {
    let mut failed = None;
    for (key, record) in members.iter_mut() {
        match to.attach(&record.endpoint) {
            Ok(()) => record.reach = Reach::Group,
            Err(cause) => {
                failed = Some((key, SwitchError { group, device: record.endpoint.name.clone(), cause }));
                break;
            }
        }
    }
    let Some((failed_key, error)) = failed else { return Ok(()) };
    for (_, record) in members.iter_mut().rev().skip_while(|(key, _)| *key > failed_key) {
        let back = from.is_some_and(|from| from.attach(&record.endpoint).is_ok());
        if back {
            record.reach = Reach::Group;
        } else {
            stop(record);
        }
    }
    Err(error)
}

/// Stops the DMA of a member by force.
fn stop(record: &mut Record) {
    let _ = record.iommu.block(&record.endpoint);
    record.reach = Reach::Nothing;
}

impl GroupState {
    /// The domain behind `current`.
    fn domain_of<'a>(
        current: &'a Current,
        default: Option<&'a Domain>,
        blocking: Option<&'a Domain>,
    ) -> Option<&'a Domain> {
        match current {
            Current::Nothing => None,
            Current::Default => default,
            Current::Blocking => blocking,
            Current::Own(domain) => Some(domain),
        }
    }

    /// Moves every member, or none, to what `to` stands for.
    pub(crate) fn switch(&mut self, group: GroupId, to: Current) -> Result<(), SwitchError> {
        let default = self.default.as_ref().map(|default| &*default.domain);
        let blocking = self.blocking.as_deref();
        let from = Self::domain_of(&self.current, default, blocking);
        if let Some(target) = Self::domain_of(&to, default, blocking) {
            move_members(group, &mut self.members, from, target)?;
        }
        self.current = to;
        Ok(())
    }

    /// Moves to another default domain, which replaces the old one only if every member can be moved.
    pub(crate) fn switch_default(&mut self, group: GroupId, to: &Domain) -> Result<(), SwitchError> {
        let from = self.default.as_ref().map(|default| &*default.domain);
        move_members(group, &mut self.members, from, to)
    }

    /// Blocks every member, by force where attaching the blocking domain fails.
    pub(crate) fn block(&mut self) {
        for (_, record) in &mut self.members {
            match &self.blocking {
                Some(blocking) if blocking.attach(&record.endpoint).is_ok() => record.reach = Reach::Group,
                _ => stop(record),
            }
        }
        self.current = Current::Blocking;
    }

    /// Back to the default domain. If hardware refuses, the whole group is blocked: never left open, never half open.
    pub(crate) fn go_home(&mut self, group: GroupId) -> Option<SwitchError> {
        if self.members.is_empty() {
            self.forget_domains();
            return None;
        }
        let error = self.switch(group, Current::Default).err();
        if error.is_some() {
            self.block();
        }
        error
    }

    /// The last member has gone (I18).
    pub(crate) fn forget_domains(&mut self) {
        self.current = Current::Nothing;
        self.default = None;
        self.blocking = None;
        self.pasids.clear();
    }
}
