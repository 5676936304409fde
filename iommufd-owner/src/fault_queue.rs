//! Fault queues, which user space reads and answers.
// F64.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::Mutex;
use iommu_core::hardware::{HardwareError, PageAnswer, PagePermissions, PageRequest, PageRequestSink};
use iommu_core::{Claim, Iova, Member, PageRequestDelivery};

use crate::context::Context;
use crate::object::Object;
use crate::object_id::{NoIdsError, Numbers, ObjectId};
use crate::object_table::{ReservedId, Use};

/// The most requests that a queue holds, read or not, that were not answered. Those beyond are answered
/// [`PageAnswer::Invalid`] at once.
pub const MAX_REQUESTS: usize = 1 << 16;

/// A queue of page faults: an object, and the file that it is read through.
///
/// Dropping it closes the file. The object stays until it is destroyed, which the file and every page table that uses it
/// prevent.
#[must_use = "dropping it closes the queue's file"]
pub struct FaultQueue {
    id: ObjectId,
    queue: Arc<Queue>,
    _object: Use,
    context: Context,
}

/// A page that a device requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// Id of the bound device.
    pub device: ObjectId,
    /// The PASID of its access, if any.
    pub pasid: Option<u32>,
    /// The device's number for the group of faults that this is one of.
    pub group: u32,
    /// An address in the page.
    pub iova: Iova,
    /// What the page must permit.
    pub permissions: PagePermissions,
    /// Number of faults of the group that follow.
    pub more: usize,
    /// Cookie for the response to the group.
    pub cookie: u32,
}

/// Why no page faults were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the first group has {faults} faults, there is room for {room}")]
pub struct NoRoomError {
    /// How many faults the first group has.
    pub faults: usize,
    /// Number of faults that there was room for.
    pub room: usize,
}

impl NoRoomError {
    /// Returns `EINVAL`.
    pub const fn errno(self) -> Errno {
        Errno::EINVAL
    }
}

/// No group that was read and not yet answered has this cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no fault that waits for an answer has the cookie {cookie}")]
pub struct UnknownCookieError {
    /// The cookie.
    pub cookie: u32,
}

impl UnknownCookieError {
    /// Returns `EINVAL`.
    pub const fn errno(self) -> Errno {
        Errno::EINVAL
    }
}

impl Context {
    /// Makes a fault queue (`IOMMU_FAULT_QUEUE_ALLOC`).
    ///
    /// # Errors
    /// There is no id left.
    pub fn fault_queue_alloc(&self) -> Result<FaultQueue, NoIdsError> {
        Ok(self.new_fault_queue()?.publish())
    }

    pub(crate) fn new_fault_queue(&self) -> Result<HiddenFaultQueue, NoIdsError> {
        Ok(HiddenFaultQueue { reserved: self.objects().reserve()?, context: self.clone() })
    }
}

/// A fault queue that no call finds yet. Dropping it ends it.
pub(crate) struct HiddenFaultQueue {
    pub(crate) reserved: ReservedId<Object>,
    context: Context,
}

impl HiddenFaultQueue {
    /// From now on calls find it.
    pub(crate) fn publish(self) -> FaultQueue {
        let queue = Arc::new(Queue::default());
        let (id, object) = self.reserved.publish_used(Object::FaultQueue(queue.clone()));
        FaultQueue { id, queue, _object: object, context: self.context }
    }
}

impl FaultQueue {
    /// Returns its id in the context.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Returns the context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Returns whether there is something to read (`poll`); stale as soon as it is read.
    pub fn has_pending(&self) -> bool {
        !self.queue.0.lock().pending.is_empty()
    }

    /// Takes faults, oldest first, in whole groups for as long as there is `room`; none if none is pending. Never waits.
    ///
    /// # Errors
    /// The first group is larger than the room. It stays.
    pub fn read(&self, room: usize) -> Result<Vec<PageFault>, NoRoomError> {
        let mut read = self.read_group(room)?;
        while let Ok(group) = self.read_group(room - read.len())
            && !group.is_empty()
        {
            read.extend(group);
        }
        Ok(read)
    }

    /// Takes the oldest group of faults; none if none is pending. Never waits.
    ///
    /// # Errors
    /// The group is larger than the room. It stays.
    pub fn read_group(&self, room: usize) -> Result<Vec<PageFault>, NoRoomError> {
        let mut state = self.queue.0.lock();
        let Some((number, group)) = state.pending.first_key_value() else { return Ok(Vec::new()) };
        let (number, faults) = (*number, group.request.pages.len());
        if faults > room {
            return Err(NoRoomError { faults, room });
        }
        Ok(state.deliver(number).map_or_else(Vec::new, |(cookie, group)| group.faults(cookie).collect()))
    }

    /// Puts a group that was read back to where it was, for a reader who could not pass it on.
    ///
    /// # Errors
    /// Nothing was read under that cookie, or it was answered.
    pub fn put_back(&self, cookie: u32) -> Result<(), UnknownCookieError> {
        let mut state = self.queue.0.lock();
        let (number, group) = state.take_delivered(cookie).ok_or(UnknownCookieError { cookie })?;
        state.add(number, group);
        Ok(())
    }

    /// Answers a group that was read.
    ///
    /// # Errors
    /// Nothing was read under that cookie, or it was answered, be it because its device was detached.
    pub fn respond(&self, cookie: u32, answer: PageAnswer) -> Result<(), UnknownCookieError> {
        let taken = self.queue.0.lock().take_delivered(cookie);
        let (_, group) = taken.ok_or(UnknownCookieError { cookie })?;
        group.answer(answer);
        Ok(())
    }
}

impl fmt::Debug for FaultQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultQueue").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The object behind a [`FaultQueue`]. Its lock is a leaf.
#[derive(Debug, Default)]
pub(crate) struct Queue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What waits to be read, by the number in which it came.
    pending: BTreeMap<u64, Group>,
    /// What was read, by cookie, with the number in which it came.
    delivered: BTreeMap<u32, (u64, Group)>,
    cookies: Numbers,
    /// How many requests ever came.
    came: u64,
    /// Who delivers, by number.
    subscriptions: BTreeMap<u64, Requests>,
    /// How many there ever were.
    subscribed: u64,
}

/// What came from one who delivers, and was not answered.
#[derive(Debug, Default)]
struct Requests {
    pending: BTreeSet<u64>,
    delivered: BTreeSet<u32>,
}

impl State {
    /// Puts a group where its number belongs.
    fn add(&mut self, number: u64, group: Group) {
        if let Some(requests) = self.subscriptions.get_mut(&group.subscription) {
            requests.pending.insert(number);
        }
        self.pending.insert(number, group);
    }

    /// Gives a pending group the lowest free cookie. None if there is no such group, or no cookie.
    fn deliver(&mut self, number: u64) -> Option<(u32, &Group)> {
        let group = self.pending.remove(&number)?;
        let Ok(cookie) = self.cookies.take() else {
            self.pending.insert(number, group);
            return None;
        };
        if let Some(requests) = self.subscriptions.get_mut(&group.subscription) {
            requests.pending.remove(&number);
            requests.delivered.insert(cookie);
        }
        let (_, group) = self.delivered.entry(cookie).or_insert((number, group));
        Some((cookie, group))
    }

    /// Takes a group that was read, whose cookie is free again.
    fn take_delivered(&mut self, cookie: u32) -> Option<(u64, Group)> {
        let (number, group) = self.delivered.remove(&cookie)?;
        self.cookies.give_back(cookie);
        if let Some(requests) = self.subscriptions.get_mut(&group.subscription) {
            requests.delivered.remove(&cookie);
        }
        Some((number, group))
    }
}

/// Faults that are answered together.
#[derive(Debug)]
struct Group {
    subscription: u64,
    device: ObjectId,
    member: Arc<Member>,
    request: PageRequest,
}

impl Group {
    fn faults(&self, cookie: u32) -> impl Iterator<Item = PageFault> {
        let PageRequest { pasid, index, pages, .. } = &self.request;
        (0..pages.len()).rev().zip(pages).map(move |(more, page)| PageFault {
            device: self.device,
            pasid: *pasid,
            group: *index,
            iova: page.iova,
            permissions: page.permissions,
            more,
            cookie,
        })
    }

    fn answer(self, answer: PageAnswer) {
        self.member.answer_page_request(self.request.pasid, self.request.index, answer);
    }
}

impl Queue {
    fn subscribe(&self) -> u64 {
        let mut state = self.0.lock();
        state.subscribed += 1;
        let subscription = state.subscribed;
        state.subscriptions.insert(subscription, Requests::default());
        subscription
    }

    /// Takes a request, unless its device is no more subscribed or the queue is full.
    fn push(&self, group: Group) -> Result<(), PageRequest> {
        let mut state = self.0.lock();
        let full = state.pending.len() + state.delivered.len() >= MAX_REQUESTS;
        if full || !state.subscriptions.contains_key(&group.subscription) {
            return Err(group.request);
        }
        state.came += 1;
        let number = state.came;
        state.add(number, group);
        Ok(())
    }

    /// Nothing more comes from it, and what has come is answered "invalid", without the lock.
    // F67.
    fn unsubscribe(&self, subscription: u64) {
        let mut state = self.0.lock();
        let Requests { pending, delivered } = state.subscriptions.remove(&subscription).unwrap_or_default();
        let mut orphans: Vec<Group> = pending.iter().filter_map(|number| state.pending.remove(number)).collect();
        orphans.extend(delivered.iter().filter_map(|cookie| Some(state.take_delivered(*cookie)?.1)));
        drop(state);
        for group in orphans {
            group.answer(PageAnswer::Invalid);
        }
    }
}

/// Delivers the page requests of an attached device to the queue of its page table. Dropping it ends that, and answers
/// those that came.
#[derive(Debug)]
pub(crate) struct Listening {
    /// `None` once it has ended.
    delivery: Option<PageRequestDelivery>,
    listener: Arc<Listener>,
}

#[derive(Debug)]
struct Listener {
    device: ObjectId,
    member: Arc<Member>,
    /// Leaf lock.
    to: Mutex<Option<Subscription>>,
}

#[derive(Debug, Clone)]
struct Subscription {
    queue: Arc<Queue>,
    number: u64,
}

impl Subscription {
    fn new(queue: &Arc<Queue>) -> Self {
        Self { queue: queue.clone(), number: queue.subscribe() }
    }

    fn end(self) {
        self.queue.unsubscribe(self.number);
    }
}

impl Listening {
    /// Begins to listen; a device that makes no page requests is an error.
    pub(crate) fn start(
        device: ObjectId,
        member: &Arc<Member>,
        claim: &Claim,
        queue: &Arc<Queue>,
    ) -> Result<Self, HardwareError> {
        let to = Mutex::new(Some(Subscription::new(queue)));
        let mut listening =
            Self { delivery: None, listener: Arc::new(Listener { device, member: member.clone(), to }) };
        listening.delivery = Some(claim.enable_page_requests(member, listening.listener.clone())?);
        Ok(listening)
    }

    /// What comes from now on goes to `queue`; what has come is answered.
    pub(crate) fn turn_to(&self, queue: &Arc<Queue>) {
        self.listener.turn(Some(Subscription::new(queue)));
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.delivery = None;
        self.listener.turn(None);
    }
}

impl Listener {
    fn turn(&self, to: Option<Subscription>) {
        let old = core::mem::replace(&mut *self.to.lock(), to);
        if let Some(old) = old {
            old.end();
        }
    }
}

impl PageRequestSink for Listener {
    fn deliver(&self, request: PageRequest) -> Result<(), PageRequest> {
        let to = self.to.lock().clone();
        let Some(Subscription { queue, number }) = to else { return Err(request) };
        queue.push(Group { subscription: number, device: self.device, member: self.member.clone(), request })
    }
}
