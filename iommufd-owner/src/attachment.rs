//! To what a context has attached a group: all its devices there share one page table.
// F31, F44 to F51.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::hardware::HardwareError;
use iommu_core::reserved::RegionKind;
use iommu_core::{AttachError as DomainAttachError, Claim, Group, GroupId, IovaRange, Member};

use crate::fault_queue::{Listening, Queue};
use crate::hwpt::{Hwpt, HwptError};
use crate::io_page_table::{RangeError, ReservedFor};
use crate::ioas::Ioas;
use crate::object::{Object, ObjectTable};
use crate::object_id::{NoObjectError, ObjectId};
use crate::object_table::Use;

const GROUP_LOCK: LockClass = LockClass::new("iommufd group", 620);

/// What a context has of an IOMMU group.
#[derive(Debug)]
pub(crate) struct ContextGroup {
    group: Arc<Group>,
    /// The lock of a context's group: inside that of an IOAS, outside those of areas.
    state: Mutex<Attachment>,
}

/// To what a group is attached, and through which devices.
#[derive(Debug, Default)]
struct Attachment {
    hwpt: Option<Arc<Hwpt>>,
    devices: BTreeMap<ObjectId, Attached>,
}

/// A device that is attached.
#[derive(Debug)]
struct Attached {
    member: Arc<Member>,
    /// Its own claim, which its page requests end with at the latest.
    claim: Arc<Claim>,
    /// What must not be mapped as long as it is attached.
    regions: Vec<IovaRange>,
    /// Keeps the page table from being destroyed.
    hwpt_use: Use,
    /// Delivers its page requests to the queue of the page table, if that has one.
    listening: Option<Listening>,
}

/// Who attaches: a bound device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound<'a> {
    pub(crate) id: ObjectId,
    pub(crate) member: &'a Arc<Member>,
    pub(crate) claim: &'a Arc<Claim>,
    pub(crate) objects: &'a ObjectTable,
}

impl Bound<'_> {
    fn name(&self) -> Arc<str> {
        self.member.name().clone()
    }

    /// One use more of a page table, unless it was destroyed meanwhile.
    fn use_of(&self, hwpt: &Arc<Hwpt>) -> Result<Use, AttachError> {
        let gone = || NoObjectError { id: hwpt.id, what: "page table" };
        let is_meant = |object: &Object| matches!(object, Object::Hwpt(known) if Arc::ptr_eq(known, hwpt));
        Ok(self.objects.use_of(hwpt.id, is_meant).ok_or_else(gone)?)
    }

    /// What of its reserved regions must not be mapped.
    // Ft9.2.
    fn regions(&self) -> Result<Vec<IovaRange>, AttachError> {
        let regions = self.member.reserved_regions();
        let software = regions.iter().filter(|region| region.kind == RegionKind::SoftwareMsi).count();
        if software > 1 || software == 1 && regions.iter().any(|region| region.kind == RegionKind::Msi) {
            return Err(AttachError::TwoInterruptWindows { device: self.name() });
        }
        let kept = regions.into_iter().filter(|region| region.kind != RegionKind::DirectRelaxable);
        Ok(kept.filter_map(|region| IovaRange::new(region.first, region.last)).collect())
    }
}

impl ContextGroup {
    pub(crate) fn new(group: Arc<Group>) -> Self {
        Self { group, state: Mutex::of(GROUP_LOCK, Attachment::default()) }
    }

    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Whether the device of this id is attached.
    pub(crate) fn has(&self, device: ObjectId) -> bool {
        self.state.lock().devices.contains_key(&device)
    }

    /// The first device moves the group; the others join.
    // Table Ft9.
    // F45.
    pub(crate) fn attach(&self, bound: Bound<'_>, hwpt: &Arc<Hwpt>) -> Result<(), AttachError> {
        let mut state = self.state.lock();
        if state.devices.contains_key(&bound.id) {
            return Err(AttachError::Attached { device: bound.name() });
        }
        if let Some(now) = state.hwpt.as_ref().filter(|now| !Arc::ptr_eq(now, hwpt)) {
            return Err(AttachError::Elsewhere { group: self.group.id(), hwpt: now.id });
        }
        let hwpt_use = bound.use_of(hwpt)?;
        let regions = bound.regions()?;
        let whose = ReservedFor::Device(bound.id);
        let reserved = hwpt.ioas.lock_table().reserve(regions.iter().copied(), whose);
        reserved.map_err(|cause| AttachError::Reserved { device: bound.name(), cause })?;
        let listening = match state.enter(bound, hwpt) {
            Ok(listening) => listening,
            Err(error) => {
                hwpt.ioas.lock_table().unreserve(whose);
                return Err(error);
            }
        };
        state.hwpt = Some(hwpt.clone());
        let (member, claim) = (bound.member.clone(), bound.claim.clone());
        state.devices.insert(bound.id, Attached { member, claim, regions, hwpt_use, listening });
        Ok(())
    }

    /// Moves every attached device, or none. What the group was attached to, if that is something else.
    // Table Ft10.
    pub(crate) fn replace(&self, bound: Bound<'_>, hwpt: &Arc<Hwpt>) -> Result<Option<Arc<Hwpt>>, AttachError> {
        let mut state = self.state.lock();
        let not_attached = || AttachError::NotAttached { device: bound.name() };
        if !state.devices.contains_key(&bound.id) {
            return Err(not_attached());
        }
        let old = state.hwpt.clone().ok_or_else(not_attached)?;
        if Arc::ptr_eq(&old, hwpt) {
            return Ok(None);
        }
        let uses = state.devices.iter().map(|_| bound.use_of(hwpt)).collect::<Result<Vec<_>, _>>()?;
        let elsewhere = !Arc::ptr_eq(&old.ioas, &hwpt.ioas);
        if elsewhere {
            reserve_for_all(&state.devices, &hwpt.ioas)?;
        }
        let mut listeners = match state.move_all(bound, hwpt) {
            Ok(listeners) => listeners.into_iter(),
            Err(error) => {
                // With one address space for both, the old reservations are the new ones, and stay (F51).
                if elsewhere {
                    unreserve_for_all(&state.devices, &hwpt.ioas);
                }
                return Err(error);
            }
        };
        if elsewhere {
            unreserve_for_all(&state.devices, &old.ioas);
        }
        for (device, hwpt_use) in state.devices.values_mut().zip(uses) {
            device.hwpt_use = hwpt_use;
            device.listen_to(hwpt.queue(), &mut listeners);
        }
        state.hwpt = Some(hwpt.clone());
        Ok(Some(old))
    }

    /// With the last attached device the group is blocked again. To what the device was attached, if it was.
    // F67.
    pub(crate) fn detach(&self, bound: Bound<'_>) -> Option<Arc<Hwpt>> {
        let mut state = self.state.lock();
        let device = state.devices.remove(&bound.id)?;
        let hwpt = state.hwpt.clone()?;
        if state.devices.is_empty() {
            bound.claim.detach();
            state.hwpt = None;
        }
        drop(device);
        hwpt.ioas.lock_table().unreserve(ReservedFor::Device(bound.id));
        Some(hwpt)
    }
}

impl Attachment {
    /// Listens to the device and moves the group, or neither.
    // Ft9.4.
    fn enter(&self, bound: Bound<'_>, hwpt: &Arc<Hwpt>) -> Result<Option<Listening>, AttachError> {
        let start = |queue| Listening::start(bound.id, bound.member, bound.claim, queue);
        let listening = hwpt.queue().map(start).transpose().map_err(AttachError::PageRequests)?;
        if self.hwpt.is_none() {
            bound.claim.attach(&hwpt.domain)?;
        }
        Ok(listening)
    }

    /// Listens to every device to which nobody listens yet, and moves the group; or nothing of it.
    // Ft10.6.
    fn move_all(&self, bound: Bound<'_>, hwpt: &Arc<Hwpt>) -> Result<Vec<Listening>, AttachError> {
        let silent = || self.devices.iter().filter(|(_, device)| device.listening.is_none());
        let start = |((id, device), queue): ((&ObjectId, &Attached), &Arc<Queue>)| {
            Listening::start(*id, &device.member, &device.claim, queue).map_err(AttachError::PageRequests)
        };
        let queues = hwpt.queue().into_iter();
        let fresh = queues.flat_map(|queue| silent().map(move |device| (device, queue))).map(start);
        let fresh = fresh.collect::<Result<Vec<_>, _>>()?;
        bound.claim.replace(&hwpt.domain)?;
        Ok(fresh)
    }
}

impl Attached {
    /// Delivers its page requests to a queue, or to none. `fresh` is for those devices that delivered nowhere.
    fn listen_to(&mut self, queue: Option<&Arc<Queue>>, fresh: &mut impl Iterator<Item = Listening>) {
        match (queue, &self.listening) {
            (Some(queue), Some(listening)) => listening.turn_to(queue),
            (Some(_), None) => self.listening = fresh.next(),
            (None, _) => self.listening = None,
        }
    }
}

/// Reserves for all devices, or for none of them.
fn reserve_for_all(devices: &BTreeMap<ObjectId, Attached>, ioas: &Ioas) -> Result<(), AttachError> {
    let mut table = ioas.lock_table();
    for (id, device) in devices {
        if let Err(cause) = table.reserve(device.regions.iter().copied(), ReservedFor::Device(*id)) {
            for (done, _) in devices.range(..*id) {
                table.unreserve(ReservedFor::Device(*done));
            }
            return Err(AttachError::Reserved { device: device.member.name().clone(), cause });
        }
    }
    Ok(())
}

fn unreserve_for_all(devices: &BTreeMap<ObjectId, Attached>, ioas: &Ioas) {
    let mut table = ioas.lock_table();
    for id in devices.keys() {
        table.unreserve(ReservedFor::Device(*id));
    }
}

/// Why a device was not attached, or not moved.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// No such object.
    #[error(transparent)]
    NoObject(#[from] NoObjectError),
    /// A device cannot be attached to an object of this type.
    #[error("object {id} is neither an address space nor a page table")]
    WrongKind {
        /// The id.
        id: ObjectId,
    },
    /// The device is attached.
    #[error("{device} is attached already")]
    Attached {
        /// The device.
        device: Arc<str>,
    },
    /// The device is not attached.
    #[error("{device} is not attached")]
    NotAttached {
        /// The device.
        device: Arc<str>,
    },
    /// Another device of the group is attached to another page table.
    #[error("group {group} is attached to page table {hwpt}")]
    Elsewhere {
        /// The group.
        group: GroupId,
        /// The page table that it is attached to.
        hwpt: ObjectId,
    },
    /// A mapping or an allowed range overlaps a reserved region of the device.
    #[error("{device} needs a reserved range")]
    Reserved {
        /// The device.
        device: Arc<str>,
        /// The overlapping range.
        #[source]
        cause: RangeError,
    },
    /// The device reserves two windows for interrupts, of which at most one can be in software.
    #[error("{device} has two windows for interrupts")]
    TwoInterruptWindows {
        /// The device.
        device: Arc<str>,
    },
    /// The page table has a fault queue, and the device's page requests cannot be delivered to it.
    #[error("page requests of a device cannot be delivered")]
    PageRequests(#[source] HardwareError),
    /// A page table for the device could not be made.
    #[error(transparent)]
    Hwpt(#[from] HwptError),
    /// The domain was not attached.
    #[error(transparent)]
    Domain(#[from] DomainAttachError),
}

impl AttachError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoObject(error) => error.errno(),
            Self::WrongKind { .. }
            | Self::Attached { .. }
            | Self::NotAttached { .. }
            | Self::Elsewhere { .. }
            | Self::TwoInterruptWindows { .. } => Errno::EINVAL,
            Self::PageRequests(error) => error.errno,
            Self::Reserved { cause, .. } => cause.errno(),
            Self::Hwpt(error) => error.errno(),
            Self::Domain(error) => error.errno(),
        }
    }

    /// Whether another page table may fit where this one did not.
    // F46.
    pub(crate) fn is_soft(&self) -> bool {
        self.errno() == Errno::EINVAL
    }
}
