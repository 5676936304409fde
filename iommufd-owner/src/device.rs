//! Devices of a context: bound, attached, moved (F31 to F51).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::hardware::Capabilities;
use iommu_core::reserved::RegionKind;
use iommu_core::{Claim, Group, IovaRange, Member};

use crate::context::Context;
use crate::error::{AttachErr, BindError, NoObject};
use crate::hwpt::{Hwpt, Made, NewHwpt};
use crate::io_page_table::ReservedFor;
use crate::ioas::Ioas;
use crate::object::{Object, ObjectId, Use};

const GROUP_LOCK: LockClass = LockClass::new("iommufd group", 620);

/// What a context has of an IOMMU group: all its devices there share one page table (F31).
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
    devices: Vec<AttachedDevice>,
}

#[derive(Debug)]
struct AttachedDevice {
    id: ObjectId,
    name: Arc<str>,
    /// What must not be mapped as long as it is attached.
    regions: Vec<IovaRange>,
    /// Keeps the page table from being destroyed.
    hwpt_use: Use,
}

impl ContextGroup {
    pub(crate) fn new(group: Arc<Group>) -> Self {
        Self { group, state: Mutex::of(GROUP_LOCK, Attachment::default()) }
    }

    pub(crate) fn is_of(&self, group: &Group) -> bool {
        core::ptr::eq(Arc::as_ptr(&self.group), group)
    }
}

/// A device that a context has bound: one claim of its group.
///
/// Dropping it detaches and unbinds it; the group stays owned until the context's last device in it goes (F41).
#[must_use = "dropping it unbinds the device"]
pub struct BoundDevice {
    id: ObjectId,
    member: Arc<Member>,
    claim: Claim,
    group: Arc<ContextGroup>,
    /// The table's own; gone before the context is.
    object: Option<Use>,
    context: Context,
}

impl BoundDevice {
    /// Table Ft8.
    pub(crate) fn bind(context: &Context, member: &Arc<Member>) -> Result<Self, BindError> {
        let group = member.group();
        if !member.capabilities().has(Capabilities::CACHE_COHERENCY) {
            return Err(BindError::NotCoherent { device: member.name().clone() });
        }
        if !group.capabilities().has(Capabilities::MSI_ISOLATION) {
            return Err(BindError::UnsafeInterrupts { group: group.id() });
        }
        let claim = member.claim(context.owner())?;
        let reserved = context.objects().reserve()?;
        let context_group = context.group(group);
        let id = reserved.publish(Object::Device(member.clone()));
        let object = context.objects().get(id).map(|(_, used)| used);
        Ok(Self { id, member: member.clone(), claim, group: context_group, object, context: context.clone() })
    }

    /// Its id in the context.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The device in its IOMMU group.
    pub fn device(&self) -> &Arc<Member> {
        &self.member
    }

    /// The context that has bound it.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Its claim.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Whether it is attached; a device of its group may be, and it reaches the same then.
    pub fn is_attached(&self) -> bool {
        self.group.state.lock().devices.iter().any(|device| device.id == self.id)
    }

    /// Attaches it to a page table, or to an address space by a page table that is found or made (tables Ft9, F46); the
    /// page table's id. The first device of a group moves the whole group; the others join (F45).
    ///
    /// # Errors
    /// It is attached, its group is attached elsewhere, something lies where it must not be led, or the address space
    /// cannot be shown to it. Nothing has changed.
    pub fn attach(&self, to: ObjectId) -> Result<ObjectId, AttachErr> {
        if self.is_attached() {
            return Err(AttachErr::Attached { device: self.member.name().clone() });
        }
        self.to_target(to, |hwpt| self.attach_to(hwpt), Order::AttachThenFill)
    }

    /// Moves it, and with it every attached device of its group, to another page table without a moment in between
    /// (tables Ft10, F66).
    ///
    /// # Errors
    /// As for [`attach`](Self::attach), or it is not attached. Nothing has changed.
    pub fn replace(&self, to: ObjectId) -> Result<ObjectId, AttachErr> {
        if !self.is_attached() {
            return Err(AttachErr::NotAttached { device: self.member.name().clone() });
        }
        self.to_target(to, |hwpt| self.replace_by(hwpt), Order::FillThenAttach)
    }

    /// Detaches it. With the last attached device of the group in this context, the group goes back to the blocking domain
    /// (F67); before that, the device reaches what the others do (F68). Nothing happens if it is not attached.
    pub fn detach(&self) {
        let hwpt = {
            let mut state = self.group.state.lock();
            let Some(place) = state.devices.iter().position(|device| device.id == self.id) else { return };
            let device = state.devices.remove(place);
            let Some(hwpt) = state.hwpt.clone() else { return };
            if state.devices.is_empty() {
                self.claim.detach();
                state.hwpt = None;
            }
            hwpt.ioas.lock_table().unreserve(ReservedFor::Device(self.id));
            drop(device);
            hwpt
        };
        self.discard(&hwpt);
    }

    fn to_target(
        &self,
        to: ObjectId,
        go: impl Fn(&Arc<Hwpt>) -> Result<(), AttachErr>,
        order: Order,
    ) -> Result<ObjectId, AttachErr> {
        match self.context.objects().get(to) {
            None => Err(NoObject { id: to, what: "page table or address space" }.into()),
            Some((Object::Hwpt(hwpt), _used)) => go(&hwpt).map(|()| hwpt.id),
            Some((Object::Ioas(ioas), used)) => self.to_ioas(&ioas, used, go, order),
            Some(_) => Err(AttachErr::WrongKind { id: to }),
        }
    }

    /// By the first page table that fits, or a new one (F46, F66).
    fn to_ioas(
        &self,
        ioas: &Arc<Ioas>,
        used: Use,
        go: impl Fn(&Arc<Hwpt>) -> Result<(), AttachErr>,
        order: Order,
    ) -> Result<ObjectId, AttachErr> {
        let mut list = ioas.lock_hwpts();
        for hwpt in list.iter().filter_map(alloc::sync::Weak::upgrade).filter(|hwpt| hwpt.made == Made::Automatically) {
            match go(&hwpt) {
                Ok(()) => return Ok(hwpt.id),
                // It does not fit, or was discarded just now.
                Err(error) if error.is_soft() || matches!(error, AttachErr::NoObject(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let new = NewHwpt::allocate(self.context.objects(), self.member.group(), ioas, used, Made::Automatically)?;
        if order == Order::FillThenAttach {
            new.fill()?;
        }
        // It is found from here on, for what attaches to it counts as its user.
        let hwpt = new.hwpt().clone();
        let id = new.publish(&mut list);
        let attached = go(&hwpt).and_then(|()| match order {
            Order::AttachThenFill => {
                let filled = ioas.lock_table().add_domain(id, &hwpt.domain);
                filled.map_err(|error| {
                    self.detach();
                    AttachErr::Hwpt(error.into())
                })
            }
            Order::FillThenAttach => Ok(()),
        });
        if attached.is_err() {
            self.discard(&hwpt);
        }
        attached.map(|()| id)
    }

    /// Table Ft9.
    fn attach_to(&self, hwpt: &Arc<Hwpt>) -> Result<(), AttachErr> {
        let group = self.member.group();
        let mut state = self.group.state.lock();
        if let Some(now) = state.hwpt.as_ref().filter(|now| !Arc::ptr_eq(now, hwpt)) {
            return Err(AttachErr::Elsewhere { group: group.id(), hwpt: now.id });
        }
        let hwpt_use = self.use_of(hwpt)?;
        let regions: Vec<IovaRange> = self
            .member
            .reserved_regions()
            .into_iter()
            .filter(|region| region.kind != RegionKind::DirectRelaxable)
            .filter_map(|region| IovaRange::new(region.first, region.last))
            .collect();
        let whose = ReservedFor::Device(self.id);
        let name = self.member.name();
        hwpt.ioas
            .lock_table()
            .reserve_all(regions.iter().copied(), whose)
            .map_err(|in_the_way| AttachErr::Reserved { device: name.clone(), in_the_way })?;
        if state.hwpt.is_none()
            && let Err(error) = self.claim.attach(&hwpt.domain)
        {
            hwpt.ioas.lock_table().unreserve(whose);
            return Err(error.into());
        }
        state.hwpt = Some(hwpt.clone());
        state.devices.push(AttachedDevice { id: self.id, name: name.clone(), regions, hwpt_use });
        Ok(())
    }

    /// Table Ft10.
    fn replace_by(&self, hwpt: &Arc<Hwpt>) -> Result<(), AttachErr> {
        let old = {
            let mut state = self.group.state.lock();
            let not_attached = || AttachErr::NotAttached { device: self.member.name().clone() };
            if state.devices.iter().all(|device| device.id != self.id) {
                return Err(not_attached());
            }
            let now = state.hwpt.clone().ok_or_else(not_attached)?;
            if Arc::ptr_eq(&now, hwpt) {
                return Ok(());
            }
            let uses = state.devices.iter().map(|_| self.use_of(hwpt)).collect::<Result<Vec<_>, _>>()?;
            let elsewhere = !Arc::ptr_eq(&now.ioas, &hwpt.ioas);
            if elsewhere {
                reserve_for_all(&state.devices, &hwpt.ioas)?;
            }
            if let Err(error) = self.claim.replace(&hwpt.domain) {
                if elsewhere {
                    unreserve_for_all(&state.devices, &hwpt.ioas);
                }
                return Err(error.into());
            }
            if elsewhere {
                unreserve_for_all(&state.devices, &now.ioas);
            }
            state.hwpt = Some(hwpt.clone());
            for (device, hwpt_use) in state.devices.iter_mut().zip(uses) {
                device.hwpt_use = hwpt_use;
            }
            now
        };
        self.discard(&old);
        Ok(())
    }

    /// One use more of a page table, unless it was destroyed meanwhile.
    fn use_of(&self, hwpt: &Arc<Hwpt>) -> Result<Use, AttachErr> {
        match self.context.objects().get(hwpt.id) {
            Some((Object::Hwpt(found), used)) if Arc::ptr_eq(&found, hwpt) => Ok(used),
            _ => Err(NoObject { id: hwpt.id, what: "page table" }.into()),
        }
    }

    /// Destroys a page table that was made automatically, if its last user has gone (F47). Called without locks: its end
    /// takes those of the address space (L32).
    fn discard(&self, hwpt: &Hwpt) {
        if hwpt.made == Made::Automatically {
            // Somebody may use it again.
            let _ = self.context.objects().remove(hwpt.id);
        }
    }
}

/// Whether a new page table shows the address space before or after the group is moved to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    AttachThenFill,
    FillThenAttach,
}

fn reserve_for_all(devices: &[AttachedDevice], ioas: &Ioas) -> Result<(), AttachErr> {
    let mut table = ioas.lock_table();
    for (done, device) in devices.iter().enumerate() {
        let whose = ReservedFor::Device(device.id);
        if let Err(in_the_way) = table.reserve_all(device.regions.iter().copied(), whose) {
            for device in devices.iter().take(done) {
                table.unreserve(ReservedFor::Device(device.id));
            }
            return Err(AttachErr::Reserved { device: device.name.clone(), in_the_way });
        }
    }
    Ok(())
}

fn unreserve_for_all(devices: &[AttachedDevice], ioas: &Ioas) {
    let mut table = ioas.lock_table();
    for device in devices {
        table.unreserve(ReservedFor::Device(device.id));
    }
}

impl Drop for BoundDevice {
    fn drop(&mut self) {
        self.detach();
        self.object = None;
        // Nobody else uses it: a device is in use by its bind alone (Ft2.1), and calls under way end.
        let _ = self.context.objects().remove(self.id);
    }
}

impl fmt::Debug for BoundDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundDevice").field("id", &self.id).field("device", self.member.name()).finish_non_exhaustive()
    }
}
