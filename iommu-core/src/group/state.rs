//! What the group lock guards: who holds the group, and what its devices are attached to.
//!
//! Nothing outside this module and those below it can write any of it. *Invariants*, whenever the lock is free:
//! - a group that user space owns is never on its default domain;
//! - a member is attached where the group is, unless its record says that it is stopped or that its reach is unknown;
//! - a domain that a member may reach is held, by `current`, `default`, `blocking`, `pasids` or `quarantine`;
//! - the kernel users of the group are the sum over its members.

mod attach;
mod claim;
mod default_type;
mod kernel_use;
mod membership;
mod switch;

use alloc::sync::Arc;
use alloc::vec::Vec;

pub(crate) use self::membership::Place;
use crate::attached::{Attached, Reach};
use crate::domain::Domain;
use crate::error::{FirstFew, InTheWay, SwitchError};
use crate::group_id::GroupId;
use crate::hardware::{Capabilities, DefaultDomainType};
use crate::member::{Member, Served};
use crate::observer::Transition;
use crate::ownership::{Owner, Ownership};

/// See the module.
// Every kernel use touches the first four fields. They come first, so that they share a cache line with the lock.
#[repr(C)]
pub(crate) struct GroupState {
    /// Whether kernel use may begin without a further look: the group and all its members are on the default domain, and
    /// no PASID is attached. Computed by `settle`.
    ready: bool,
    /// Whether somebody hears of transitions.
    observed: bool,
    ownership: Ownership,
    uses: Uses,
    current: Current,
    /// `None` for an empty group, and while the first device is being added.
    default: Option<DefaultDomain>,
    /// `None` when hardware could not make one yet.
    blocking: Option<Arc<Domain>>,
    /// Indexed by place.
    records: Vec<Option<Record>>,
    vacant: Vec<u32>,
    /// How many members there ever were.
    members: u64,
    /// How many members lack each capability, in the order of the flags.
    lacking: [u32; Capabilities::all().bits().count_ones() as usize],
    pasids: Vec<(u32, Arc<Domain>)>,
    /// Domains that members of unknown reach may still reach.
    quarantine: Vec<Arc<Domain>>,
    /// Who left last, kept for when it comes back: that costs no count of references.
    last_owner: Option<Owner>,
    /// How many claims and deliveries of page requests there ever were.
    serials: u64,
    /// How many members deliver page requests to an owner.
    page_requests: u32,
    transitions: u64,
    /// Whether this change may have let members come, go or move, attached or detached something, or retired something.
    moved: bool,
    /// Whether a member is not where the group is.
    astray: bool,
    /// By the change that is under way; of those before, the owner only.
    retired: Retired,
}

/// What the members are attached to.
#[derive(Debug, Clone)]
pub(crate) enum Current {
    Nothing,
    Default,
    /// Without an owner: hardware refused the default domain.
    Blocking,
    /// A domain of the owner's, or of a kernel driver's.
    Own(Arc<Domain>),
}

/// The kernel's domain for the group. Its type is not always the domain's kind: DMA turns lazy in place.
#[derive(Debug, Clone)]
struct DefaultDomain {
    domain: Arc<Domain>,
    kind: DefaultDomainType,
}

/// The kernel use of each member, by place. That of the first place needs no look elsewhere.
#[repr(C)]
#[derive(Default)]
struct Uses {
    first: Use,
    more: Vec<Use>,
}

/// The kernel use of a member: the answer to "who is in the way" without a look at any driver.
#[repr(C)]
#[derive(Default)]
struct Use {
    /// Whose place this is; 0 for nobody's.
    serial: u64,
    /// The group's count is the sum over its members.
    users: u32,
    /// Who uses it, or used it last: kept so that a driver that comes back costs no count of references.
    driver: Option<Arc<str>>,
}

/// What the group knows of a member besides its use. Dropping it ends the service of the IOMMU.
pub(crate) struct Record {
    served: Served,
    reach: Reach,
    page_requests: Option<Delivery>,
}

/// Page requests of a member are delivered to an owner.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    /// The claim that enabled them.
    claim: u64,
    serial: u64,
}

/// What a change has set free. It is dropped without the group lock: freeing page tables takes time, and names may be
/// anybody's.
#[derive(Default)]
pub(crate) struct Retired {
    current: Option<Arc<Domain>>,
    default: Option<Arc<Domain>>,
    quarantine: Vec<Arc<Domain>>,
    pasid: Option<Arc<Domain>>,
    owner: Option<Owner>,
    served: Option<Served>,
}

impl Uses {
    #[inline]
    fn get(&self, place: u32) -> Option<&Use> {
        match place {
            0 => Some(&self.first),
            place => self.more.get(place as usize - 1),
        }
    }

    #[inline]
    fn get_mut(&mut self, place: u32) -> Option<&mut Use> {
        match place {
            0 => Some(&mut self.first),
            place => self.more.get_mut(place as usize - 1),
        }
    }
}

impl Record {
    pub(crate) fn member(&self) -> &Arc<Member> {
        self.served.member()
    }

    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }
}

impl GroupState {
    pub(crate) fn new(observed: bool) -> Self {
        Self {
            ready: false,
            observed,
            ownership: Ownership::Idle,
            uses: Uses::default(),
            current: Current::Nothing,
            default: None,
            blocking: None,
            records: Vec::new(),
            vacant: Vec::new(),
            members: 0,
            lacking: Default::default(),
            pasids: Vec::new(),
            quarantine: Vec::new(),
            last_owner: None,
            serials: 0,
            page_requests: 0,
            transitions: 0,
            moved: false,
            astray: false,
            retired: Retired::default(),
        }
    }

    #[inline]
    pub(crate) fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    pub(crate) fn attached(&self) -> Attached {
        match (&self.current, &self.default) {
            (Current::Default, Some(default)) => Attached::Default(default.kind),
            (Current::Blocking, _) => Attached::Blocking,
            (Current::Own(_), _) => Attached::Own,
            (Current::Default | Current::Nothing, _) => Attached::Nothing,
        }
    }

    pub(crate) fn default_domain(&self) -> Option<(&Arc<Domain>, DefaultDomainType)> {
        self.default.as_ref().map(|default| (&default.domain, default.kind))
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len() - self.vacant.len()
    }

    /// What the IOMMU can do for every member; nothing for an empty group.
    pub(crate) fn capabilities(&self) -> Capabilities {
        if self.len() == 0 {
            return Capabilities::empty();
        }
        let bits = self.lacking.iter().rev().fold(0, |bits, lacking| bits << 1 | u32::from(*lacking == 0));
        Capabilities::from_bits_truncate(bits)
    }

    /// The members, in the order in which they are attached.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().flatten()
    }

    /// The record of a member, unless it has left.
    pub(crate) fn record(&self, member: &Member) -> Option<&Record> {
        let record = self.records.get(member.place() as usize)?.as_ref();
        record.filter(|record| record.member().serial() == member.serial())
    }

    fn record_mut(&mut self, member: &Member) -> Option<&mut Record> {
        let record = self.records.get_mut(member.place() as usize)?.as_mut();
        record.filter(|record| record.member().serial() == member.serial())
    }

    /// The driver that uses a member through the DMA API.
    pub(crate) fn kernel_user(&self, record: &Record) -> Option<&Arc<str>> {
        let uses = self.uses.get(record.member().place()).filter(|uses| uses.users > 0)?;
        uses.driver.as_ref()
    }

    /// The devices that kernel drivers use, with the drivers.
    fn kernel_users(&self) -> FirstFew<InTheWay> {
        let users = self.records().filter_map(|record| Some((record.member().name(), self.kernel_user(record)?)));
        let few: FirstFew<_> = users.collect();
        few.map(|(device, driver)| InTheWay { device: device.clone(), driver: driver.clone() })
    }

    fn device_names(&self) -> FirstFew<Arc<str>> {
        let few: FirstFew<_> = self.records().map(|record| record.member().name()).collect();
        few.map(Arc::clone)
    }

    pub(crate) fn quarantined(&self) -> usize {
        self.quarantine.len()
    }

    /// The next transition, which has happened.
    pub(crate) fn transition<'a>(
        &mut self,
        group: GroupId,
        device: Option<&'a Arc<str>>,
        before: Ownership,
        stuck: Option<&'a SwitchError>,
    ) -> Transition<'a> {
        self.transitions += 1;
        Transition {
            group,
            sequence: self.transitions,
            device,
            before,
            after: self.ownership.clone(),
            attached: self.attached(),
            stuck,
            quarantined: self.quarantine.len(),
        }
    }

    /// Ends a change; whether something is to be freed without the group lock.
    #[inline]
    pub(crate) fn settle(&mut self) -> bool {
        self.moved && self.settle_members()
    }

    /// What the change that ends has set free.
    pub(crate) fn take_retired(&mut self) -> Retired {
        core::mem::take(&mut self.retired)
    }

    /// The owner that an earlier change has displaced. Its name alone is not worth the lock a second time, so the next
    /// change frees it.
    #[inline]
    pub(crate) fn take_retired_owner(&mut self) -> Option<Owner> {
        self.retired.owner.take()
    }

    fn settle_members(&mut self) -> bool {
        self.moved = false;
        let (mut astray, mut unknown) = (false, false);
        for record in self.records.iter().flatten() {
            astray |= record.reach != Reach::Attached;
            unknown |= record.reach == Reach::Unknown;
        }
        self.astray = astray;
        self.ready =
            matches!(self.current, Current::Default) && self.default.is_some() && self.pasids.is_empty() && !astray;
        if !unknown && !self.quarantine.is_empty() {
            self.retired.quarantine = core::mem::take(&mut self.quarantine);
        }
        !self.retired.is_empty()
    }
}

impl Retired {
    fn is_empty(&self) -> bool {
        // But for the owner, who waits for the next change.
        let Self { current, default, quarantine, pasid, owner: _, served } = self;
        current.is_none() && default.is_none() && quarantine.is_empty() && pasid.is_none() && served.is_none()
    }
}
