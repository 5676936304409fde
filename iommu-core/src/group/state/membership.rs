//! Devices come into a group and leave it.

use alloc::collections::TryReserveError;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::{self, ManuallyDrop};

use super::{Current, DefaultDomain, GroupState, Record, Use};
use crate::attached::Reach;
use crate::domain::Domain;
use crate::error::{AddError, SetTypeError, SwitchError};
use crate::group_id::GroupId;
use crate::hardware::{Capabilities, DefaultDomainType};
use crate::member::{Member, Served};

/// The place of a member that comes, and the serial by which the group tells it from all others before and after.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) place: u32,
    pub(crate) serial: u64,
}

/// Room for more members, allocated without the group lock.
pub(crate) struct Room {
    uses: Vec<Use>,
    records: Vec<Option<Record>>,
    vacant: Vec<u32>,
}

impl Room {
    fn new(members: usize) -> Result<Self, TryReserveError> {
        let mut room = Self { uses: Vec::new(), records: Vec::new(), vacant: Vec::new() };
        // The use of the first member is inline.
        room.uses.try_reserve_exact(members - 1)?;
        room.records.try_reserve_exact(members)?;
        room.vacant.try_reserve_exact(members)?;
        Ok(room)
    }
}

/// What a member left behind. Dropping it ends the service of the IOMMU, then frees what the member may have reached until
/// then; if the IOMMU driver unwinds, and has not stopped the member before, what it may reach is kept for ever.
pub(crate) struct Left {
    record: Option<Record>,
    reached: Reached,
    /// How many kernel uses it took along.
    pub(crate) uses: u32,
    /// Whether it was the last.
    pub(crate) emptied: bool,
}

#[derive(Default)]
struct Reached {
    default: Option<DefaultDomain>,
    blocking: Option<Arc<Domain>>,
    current: Option<Arc<Domain>>,
    pasids: Vec<(u32, Arc<Domain>)>,
    quarantine: Vec<Arc<Domain>>,
}

impl Drop for Left {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        if record.reach == Reach::Unknown {
            let reached = ManuallyDrop::new(mem::take(&mut self.reached));
            drop(record);
            drop(ManuallyDrop::into_inner(reached));
        }
    }
}

impl GroupState {
    /// The room that one member more needs, if there is not enough: how many members it must hold.
    pub(crate) fn lacks_room(&self) -> Option<usize> {
        let len = self.records.len();
        (self.vacant.is_empty() && len == self.records.capacity()).then(|| (len * 2).max(1))
    }

    /// Allocates room for as many members. Called without the group lock.
    pub(crate) fn allocate_room(members: usize) -> Result<Room, TryReserveError> {
        Room::new(members)
    }

    /// Takes over room; what it replaces is to be dropped without the group lock.
    pub(crate) fn make_room(&mut self, mut room: Room) -> Room {
        room.uses.append(&mut self.uses.more);
        room.records.append(&mut self.records);
        room.vacant.append(&mut self.vacant);
        mem::swap(&mut room.uses, &mut self.uses.more);
        mem::swap(&mut room.records, &mut self.records);
        mem::swap(&mut room.vacant, &mut self.vacant);
        room
    }

    /// The place where the next member will be. It stays free while the caller holds the probe lock.
    pub(crate) fn next_place(&mut self) -> Place {
        self.members += 1;
        let place = self.vacant.last().copied();
        let end = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        Place { place: place.unwrap_or(end), serial: self.members }
    }

    /// Gives a new group its domains, before its first member joins.
    pub(crate) fn set_up(&mut self, default: Arc<Domain>, kind: DefaultDomainType, blocking: Option<Arc<Domain>>) {
        self.default = Some(DefaultDomain { domain: default, kind });
        self.blocking = blocking;
    }

    /// A member comes in and is attached where the group is; on an error it is not there, and stopped.
    // Table It1.
    pub(crate) fn join(&mut self, group: GroupId, served: Served) -> Result<(), AddError> {
        let member = served.member().clone();
        // Blocked without an owner: hardware refused the way home.
        let blocked = self.ownership.owner().is_some() || matches!(self.current, Current::Blocking);
        if blocked && member.needs_direct_mapping() {
            let device = member.name().clone();
            self.retire(served);
            return Err(AddError::DirectRegion { device, group });
        }
        let domain = match &self.current {
            Current::Nothing | Current::Default => self.default.as_ref().map(|default| &default.domain),
            Current::Blocking => self.blocking.as_ref(),
            Current::Own(domain) => Some(domain),
        };
        let Some(domain) = domain else {
            self.retire(served);
            return Err(AddError::DefaultDomain(SetTypeError::NoDefaultDomain { group }));
        };
        let mut record = Record { served, reach: Reach::Unknown, page_requests: None };
        let result = record.attach(domain);
        self.moved = true;
        if let Err(cause) = result {
            let switch = SwitchError { group, device: member.name().clone(), cause };
            let error = match &self.current {
                Current::Nothing => AddError::DefaultDomain(SetTypeError::Switch(switch)),
                _ => AddError::Switch(switch),
            };
            self.retire(record.served);
            return Err(error);
        }
        if matches!(self.current, Current::Nothing) {
            self.current = Current::Default;
        }
        self.take_place(&member, record);
        Ok(())
    }

    /// Ends the service of a device that could not join, once the lock is free.
    fn retire(&mut self, served: Served) {
        self.moved = true;
        self.retired.served = Some(served);
    }

    fn take_place(&mut self, member: &Member, record: Record) {
        let place = member.place() as usize;
        if place < self.records.len() {
            self.vacant.pop();
        } else {
            self.records.push(None);
            if place > 0 {
                self.uses.more.push(Use::default());
            }
        }
        if let Some(taken) = self.records.get_mut(place) {
            *taken = Some(record);
        }
        for count in self.lacked_by(member) {
            *count += 1;
        }
        if let Some(uses) = self.uses.get_mut(member.place()) {
            *uses = Use { serial: member.serial(), ..Use::default() };
        }
    }

    /// The counts of those who lack a capability, of each that this member lacks.
    fn lacked_by(&mut self, member: &Member) -> impl Iterator<Item = &mut u32> {
        let has = member.properties().capabilities;
        let counts = Capabilities::all().iter().zip(&mut self.lacking);
        counts.filter(move |(flag, _)| !has.contains(*flag)).map(|(_, count)| count)
    }

    /// A member goes: its DMA is stopped. What hardware and the group keep for it goes when what is returned is dropped,
    /// without the group lock; `None` if it has left already.
    pub(crate) fn leave(&mut self, member: &Member) -> Option<Left> {
        self.record(member)?;
        self.moved = true;
        let uses = self.end_all_uses(member);
        let record = self.records.get_mut(member.place() as usize).and_then(Option::take);
        for count in self.lacked_by(member) {
            *count -= 1;
        }
        self.vacant.push(member.place());
        let mut left = Left { record, reached: Reached::default(), uses, emptied: self.len() == 0 };
        let reached = &mut left.reached;
        if left.emptied {
            reached.default = self.default.take();
            reached.blocking = self.blocking.take();
            reached.pasids = mem::take(&mut self.pasids);
            reached.quarantine = mem::take(&mut self.quarantine);
            if let Current::Own(domain) = mem::replace(&mut self.current, Current::Nothing) {
                reached.current = Some(domain);
            }
        } else if let Current::Own(domain) = &self.current {
            reached.current = Some(domain.clone());
        }
        if let Some(record) = &mut left.record {
            self.page_requests -= u32::from(record.page_requests.take().is_some());
            let pasids = if left.emptied { &left.reached.pasids } else { &self.pasids };
            record.leave_all(pasids);
            if record.reach == Reach::Unknown && !left.emptied {
                left.reached.quarantine.clone_from(&self.quarantine);
                left.reached.default.clone_from(&self.default);
                left.reached.blocking.clone_from(&self.blocking);
            }
        }
        Some(left)
    }
}

impl Record {
    /// Ends all that the member is attached to.
    fn leave_all(&mut self, pasids: &[(u32, Arc<Domain>)]) {
        let member = self.member().clone();
        self.stop();
        member.disable_page_requests();
        if member.properties().max_pasids > 0 {
            for (pasid, domain) in pasids {
                domain.detach_pasid(member.endpoint(), *pasid);
            }
        }
    }
}
