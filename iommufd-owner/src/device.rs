//! Devices of a context: bound, attached, moved (F31 to F51).

use alloc::sync::{Arc, Weak};
use core::fmt;

use iommu_core::hardware::Capabilities;
use iommu_core::{Claim, Member};

use crate::attachment::{Bound, ContextGroup};
use crate::context::Context;
use crate::error::{AttachErr, BindError, NoObject};
use crate::hwpt::{Hwpt, HwptRequest, Made, NewHwpt};
use crate::ioas::Ioas;
use crate::object::{Object, ObjectId, Use};

/// A device that a context has bound: one claim of its group.
///
/// Dropping it detaches and unbinds it; the group stays owned until the context's last device in it goes (F41).
#[must_use = "dropping it unbinds the device"]
pub struct BoundDevice {
    id: ObjectId,
    member: Arc<Member>,
    claim: Claim,
    group: Arc<ContextGroup>,
    /// The bind's own, so that user space cannot destroy the object (Ft2.1).
    object: Option<Use>,
    context: Context,
}

impl BoundDevice {
    /// Table Ft8.
    pub(crate) fn bind(context: &Context, member: &Arc<Member>) -> Result<Self, BindError> {
        let group = member.group();
        if !member.capabilities().contains(Capabilities::CACHE_COHERENCY) {
            return Err(BindError::NotCoherent { device: member.name().clone() });
        }
        if !group.capabilities().contains(Capabilities::MSI_ISOLATION) {
            return Err(BindError::UnsafeInterrupts { group: group.id() });
        }
        let claim = member.claim(context.owner())?;
        let reserved = context.objects().reserve()?;
        let context_group = context.group(group);
        let (id, object) = reserved.publish_used(Object::Device(member.clone()));
        let context = context.clone();
        Ok(Self { id, member: member.clone(), claim, group: context_group, object: Some(object), context })
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
        self.group.has(self.id)
    }

    fn bound(&self) -> Bound<'_> {
        Bound { id: self.id, member: &self.member, claim: &self.claim, objects: self.context.objects() }
    }

    /// Attaches it to a page table, or to an address space by a page table that is found or made (tables Ft9, F46); the
    /// page table's id. The first device of a group moves the whole group; the others join (F45).
    ///
    /// # Errors
    /// It is attached, its group is attached elsewhere, something lies where it must not be led, or the address space
    /// cannot be shown to it. Nothing has changed.
    pub fn attach(&self, to: ObjectId) -> Result<ObjectId, AttachErr> {
        self.to_target(to, Way::Attach)
    }

    /// Moves it, and with it every attached device of its group, to another page table without a moment in between
    /// (tables Ft10, F66).
    ///
    /// # Errors
    /// As for [`attach`](Self::attach), or it is not attached. Nothing has changed.
    pub fn replace(&self, to: ObjectId) -> Result<ObjectId, AttachErr> {
        self.to_target(to, Way::Replace)
    }

    /// Detaches it. With the last attached device of the group in this context, the group goes back to the blocking domain
    /// (F67); before that, the device reaches what the others do (F68). Nothing happens if it is not attached.
    pub fn detach(&self) {
        if let Some(hwpt) = self.group.detach(self.bound()) {
            self.discard(&hwpt);
        }
    }

    fn to_target(&self, to: ObjectId, way: Way) -> Result<ObjectId, AttachErr> {
        match self.context.objects().get(to) {
            None => Err(NoObject { id: to, what: "page table or address space" }.into()),
            Some((Object::Hwpt(hwpt), _used)) => self.go(&hwpt, way).map(|()| hwpt.id),
            Some((Object::Ioas(ioas), used)) => self.to_ioas(&ioas, used, way),
            Some(_) => Err(AttachErr::WrongKind { id: to }),
        }
    }

    fn go(&self, hwpt: &Arc<Hwpt>, way: Way) -> Result<(), AttachErr> {
        match way {
            Way::Attach => self.group.attach(self.bound(), hwpt),
            Way::Replace => {
                if let Some(old) = self.group.replace(self.bound(), hwpt)? {
                    self.discard(&old);
                }
                Ok(())
            }
        }
    }

    /// By the first page table that fits, or a new one (F46, F66).
    fn to_ioas(&self, ioas: &Arc<Ioas>, used: Use, way: Way) -> Result<ObjectId, AttachErr> {
        let mut list = ioas.lock_hwpts();
        for hwpt in list.iter().filter_map(Weak::upgrade).filter(|hwpt| hwpt.made == Made::Automatically) {
            match self.go(&hwpt, way) {
                Ok(()) => return Ok(hwpt.id),
                // It does not fit, or was discarded just now.
                Err(error) if error.is_soft() || matches!(error, AttachErr::NoObject(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let objects = self.context.objects();
        let request = HwptRequest::default();
        let new = NewHwpt::allocate(objects, &self.member, ioas, used, Made::Automatically, request)?;
        match way {
            Way::Attach => {
                self.group.attach(self.bound(), new.hwpt())?;
                if let Err(error) = new.fill() {
                    // No call has found the page table, so no other device is attached to it.
                    self.group.detach(self.bound());
                    return Err(error.into());
                }
            }
            Way::Replace => {
                new.fill()?;
                self.go(new.hwpt(), way)?;
            }
        }
        Ok(new.publish(&mut list))
    }

    /// Destroys a page table that was made automatically, if its last user has gone (F47). Called without the locks of the
    /// group and of areas: its end takes those (L32).
    fn discard(&self, hwpt: &Hwpt) {
        if hwpt.made == Made::Automatically {
            // Somebody may use it again.
            let _ = self.context.objects().remove(hwpt.id);
        }
    }
}

/// How a device comes to a page table. A new one of an address space is filled after an attach, before a replace (F46,
/// F66).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Attach,
    Replace,
}

impl Drop for BoundDevice {
    fn drop(&mut self) {
        self.detach();
        self.object = None;
        drop(self.context.objects().retire(self.id));
    }
}

impl fmt::Debug for BoundDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundDevice").field("id", &self.id).field("device", self.member.name()).finish_non_exhaustive()
    }
}
