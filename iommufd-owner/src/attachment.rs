//! To what a context has attached a group: all its devices there share one page table (F31, F44 to F51).

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::reserved::RegionKind;
use iommu_core::{Claim, Group, IovaRange, Member};

use crate::error::{AttachErr, NoObject};
use crate::fault_queue::{Listening, Queue};
use crate::hwpt::Hwpt;
use crate::io_page_table::ReservedFor;
use crate::ioas::Ioas;
use crate::object::{ObjectId, ObjectTable, Use};

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
    devices: Vec<Attached>,
}

/// A device that is attached.
#[derive(Debug)]
struct Attached {
    id: ObjectId,
    member: Arc<Member>,
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
    pub(crate) claim: &'a Claim,
    pub(crate) objects: &'a ObjectTable,
}

impl Bound<'_> {
    fn name(&self) -> Arc<str> {
        self.member.name().clone()
    }

    /// One use more of a page table, unless it was destroyed meanwhile.
    fn use_of(&self, hwpt: &Arc<Hwpt>) -> Result<Use, AttachErr> {
        let gone = || NoObject { id: hwpt.id, what: "page table" };
        Ok(self.objects.use_hwpt(hwpt).ok_or_else(gone)?)
    }

    /// What of its reserved regions must not be mapped (Ft9.2).
    fn regions(&self) -> Result<Vec<IovaRange>, AttachErr> {
        let regions = self.member.reserved_regions();
        let software = regions.iter().filter(|region| region.kind == RegionKind::SoftwareMsi).count();
        if software > 1 || software == 1 && regions.iter().any(|region| region.kind == RegionKind::Msi) {
            return Err(AttachErr::TwoInterruptWindows { device: self.name() });
        }
        let kept = regions.into_iter().filter(|region| region.kind != RegionKind::DirectRelaxable);
        Ok(kept.filter_map(|region| IovaRange::new(region.first, region.last)).collect())
    }
}

impl ContextGroup {
    pub(crate) fn new(group: Arc<Group>) -> Self {
        Self { group, state: Mutex::of(GROUP_LOCK, Attachment::default()) }
    }

    /// Whether the device of this id is attached.
    pub(crate) fn has(&self, device: ObjectId) -> bool {
        self.state.lock().devices.iter().any(|attached| attached.id == device)
    }

    /// Table Ft9. The first device moves the group; the others join (F45).
    pub(crate) fn attach(&self, bound: Bound<'_>, hwpt: &Arc<Hwpt>) -> Result<(), AttachErr> {
        let mut state = self.state.lock();
        if state.devices.iter().any(|attached| attached.id == bound.id) {
            return Err(AttachErr::Attached { device: bound.name() });
        }
        if let Some(now) = state.hwpt.as_ref().filter(|now| !Arc::ptr_eq(now, hwpt)) {
            return Err(AttachErr::Elsewhere { group: self.group.id(), hwpt: now.id });
        }
        let hwpt_use = bound.use_of(hwpt)?;
        let regions = bound.regions()?;
        let whose = ReservedFor::Device(bound.id);
        let reserve = hwpt.ioas.lock_table().reserve_all(regions.iter().copied(), whose);
        reserve.map_err(|in_the_way| AttachErr::Reserved { device: bound.name(), in_the_way })?;
        let listening = match state.enter(bound, hwpt) {
            Ok(listening) => listening,
            Err(error) => {
                hwpt.ioas.lock_table().unreserve(whose);
                return Err(error);
            }
        };
        state.hwpt = Some(hwpt.clone());
        state.devices.push(Attached { id: bound.id, member: bound.member.clone(), regions, hwpt_use, listening });
        Ok(())
    }

    /// Table Ft10: moves every attached device, or none. What the group was attached to, if that is something else.
    pub(crate) fn replace(&self, bound: Bound<'_>, hwpt: &Arc<Hwpt>) -> Result<Option<Arc<Hwpt>>, AttachErr> {
        let mut state = self.state.lock();
        let not_attached = || AttachErr::NotAttached { device: bound.name() };
        if state.devices.iter().all(|attached| attached.id != bound.id) {
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
        for (device, hwpt_use) in state.devices.iter_mut().zip(uses) {
            device.hwpt_use = hwpt_use;
            device.listen_to(hwpt.queue(), &mut listeners);
        }
        state.hwpt = Some(hwpt.clone());
        Ok(Some(old))
    }

    /// With the last attached device the group is blocked again (F67). To what the device was attached, if it was.
    pub(crate) fn detach(&self, bound: Bound<'_>) -> Option<Arc<Hwpt>> {
        let mut state = self.state.lock();
        let place = state.devices.iter().position(|attached| attached.id == bound.id)?;
        let device = state.devices.remove(place);
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
    /// Ft9.4: listens to the device and moves the group, or neither.
    fn enter(&self, bound: Bound<'_>, hwpt: &Arc<Hwpt>) -> Result<Option<Listening>, AttachErr> {
        let start = |queue| Listening::start(bound.id, bound.member, bound.claim, queue);
        let listening = hwpt.queue().map(start).transpose().map_err(AttachErr::PageRequests)?;
        if self.hwpt.is_none() {
            bound.claim.attach(&hwpt.domain)?;
        }
        Ok(listening)
    }

    /// Ft10.6: listens to every device to which nobody listens yet, and moves the group; or nothing of it.
    fn move_all(&self, bound: Bound<'_>, hwpt: &Arc<Hwpt>) -> Result<Vec<Listening>, AttachErr> {
        let silent = || self.devices.iter().filter(|device| device.listening.is_none());
        let start = |(device, queue): (&Attached, &Arc<Queue>)| {
            Listening::start(device.id, &device.member, bound.claim, queue).map_err(AttachErr::PageRequests)
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

fn reserve_for_all(devices: &[Attached], ioas: &Ioas) -> Result<(), AttachErr> {
    let mut table = ioas.lock_table();
    for (done, device) in devices.iter().enumerate() {
        let whose = ReservedFor::Device(device.id);
        if let Err(in_the_way) = table.reserve_all(device.regions.iter().copied(), whose) {
            for device in devices.iter().take(done) {
                table.unreserve(ReservedFor::Device(device.id));
            }
            return Err(AttachErr::Reserved { device: device.member.name().clone(), in_the_way });
        }
    }
    Ok(())
}

fn unreserve_for_all(devices: &[Attached], ioas: &Ioas) {
    let mut table = ioas.lock_table();
    for device in devices {
        table.unreserve(ReservedFor::Device(device.id));
    }
}
