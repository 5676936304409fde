//! Devices of a context: bind, attach, replace, detach.
// F31 to F51.

use alloc::sync::{Arc, Weak};
use core::fmt;

use iommu_core::device_model::Errno;
use iommu_core::hardware::Capabilities;
use iommu_core::{Claim, ClaimError, GroupId, Member};

use crate::attachment::{AttachError, Bound, ContextGroup};
use crate::context::Context;
use crate::hwpt::{Hwpt, HwptRequest, Made, NewHwpt};
use crate::ioas::Ioas;
use crate::object::Object;
use crate::object_id::{NoIdsError, NoObjectError, ObjectId};
use crate::object_table::{Owned, Use};

/// A device that a context has bound: one claim of its group.
///
/// Dropping it detaches and unbinds it; the group stays owned until the context's last device in it goes.
#[must_use = "dropping it unbinds the device"]
pub struct BoundDevice {
    /// User space cannot destroy it.
    // Ft2.1.
    object: Owned<Object>,
    member: Arc<Member>,
    claim: Arc<Claim>,
    group: Arc<ContextGroup>,
    context: Context,
}

impl BoundDevice {
    // Table Ft8.
    pub(crate) fn bind(context: &Context, member: &Arc<Member>) -> Result<Self, BindError> {
        let group = member.group();
        if !member.capabilities().contains(Capabilities::CACHE_COHERENCY) {
            return Err(BindError::NotCoherent { device: member.name().clone() });
        }
        if !group.capabilities().contains(Capabilities::MSI_ISOLATION) {
            return Err(BindError::UnsafeInterrupts { group: group.id() });
        }
        let claim = Arc::new(member.claim(context.owner())?);
        let reserved = context.objects().reserve()?;
        let group = context.group(group);
        let object = reserved.publish_owned(Object::Device(member.clone()));
        Ok(Self { object, member: member.clone(), claim, group, context: context.clone() })
    }

    /// Returns its id in the context.
    pub fn id(&self) -> ObjectId {
        self.object.id()
    }

    /// Returns the device in its IOMMU group.
    pub fn device(&self) -> &Arc<Member> {
        &self.member
    }

    /// Returns the context that has bound it.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Returns its claim.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Returns whether it is attached; another device of its group may be, and then it reaches the same.
    pub fn is_attached(&self) -> bool {
        self.group.has(self.id())
    }

    fn bound(&self) -> Bound<'_> {
        Bound { id: self.id(), member: &self.member, claim: &self.claim, objects: self.context.objects() }
    }

    /// Attaches it to a page table, or to an address space by a page table that is found or made, and returns the
    /// page table's id. The first device of a group moves the whole group; the others join.
    ///
    /// # Errors
    /// Fails if the device is attached, its group is attached to another page table, a mapping overlaps a reserved region,
    /// or the mappings cannot be made in a domain for it. Nothing has changed.
    pub fn attach(&self, to: ObjectId) -> Result<ObjectId, AttachError> {
        self.to_target(to, Way::Attach)
    }

    /// Moves it, and with it every attached device of its group, to another page table atomically,
    /// never on the blocking domain.
    ///
    /// # Errors
    /// As for [`attach`](Self::attach), or it is not attached. Nothing has changed.
    pub fn replace(&self, to: ObjectId) -> Result<ObjectId, AttachError> {
        self.to_target(to, Way::Replace)
    }

    /// Detaches it. With the last attached device of the group in this context, the group returns to the
    /// blocking domain; before that, the device stays on the page table of the others. Does nothing if it is not attached.
    pub fn detach(&self) {
        if let Some(hwpt) = self.group.detach(self.bound()) {
            self.discard(&hwpt);
        }
    }

    fn to_target(&self, to: ObjectId, way: Way) -> Result<ObjectId, AttachError> {
        match self.context.objects().get(to) {
            None => Err(NoObjectError { id: to, what: "page table or address space" }.into()),
            Some((Object::Hwpt(hwpt), _used)) => self.go(&hwpt, way).map(|()| hwpt.id),
            Some((Object::Ioas(ioas), used)) => self.to_ioas(&ioas, used, way),
            Some(_) => Err(AttachError::WrongKind { id: to }),
        }
    }

    fn go(&self, hwpt: &Arc<Hwpt>, way: Way) -> Result<(), AttachError> {
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

    /// By the first page table that fits, or a new one.
    // F46, F66.
    fn to_ioas(&self, ioas: &Arc<Ioas>, used: Use, way: Way) -> Result<ObjectId, AttachError> {
        let mut list = ioas.lock_hwpts();
        for hwpt in list.iter().filter_map(Weak::upgrade).filter(|hwpt| hwpt.made == Made::Automatically) {
            match self.go(&hwpt, way) {
                Ok(()) => return Ok(hwpt.id),
                // It does not fit, or was discarded just now.
                Err(error) if error.is_soft() || matches!(error, AttachError::NoObject(_)) => {}
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

    /// Destroys a page table that was made automatically, if its last user has gone. Called without the locks of the
    /// group and of areas: its end takes those.
    // F47, L32.
    fn discard(&self, hwpt: &Hwpt) {
        if hwpt.made == Made::Automatically {
            // Somebody may use it again.
            let _ = self.context.objects().remove(hwpt.id);
        }
    }
}

/// Attach or replace. A new one of an address space is filled after an attach, before a replace.
// F46, F66.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Attach,
    Replace,
}

impl Drop for BoundDevice {
    fn drop(&mut self) {
        self.detach();
        self.context.leave_group(&self.group);
    }
}

impl fmt::Debug for BoundDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundDevice")
            .field("id", &self.id())
            .field("device", self.member.name())
            .finish_non_exhaustive()
    }
}

/// Why a device was not bound.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Its DMA would not be coherent with CPU caches.
    #[error("the IOMMU cannot keep DMA of {device} coherent with CPU caches")]
    NotCoherent {
        /// The device.
        device: Arc<str>,
    },
    /// A device of the group could raise interrupts of others.
    #[error("interrupts of group {group} are not isolated")]
    UnsafeInterrupts {
        /// The group.
        group: GroupId,
    },
    /// The group has another owner or is used by kernel drivers; the error names them.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The context has no id left.
    #[error(transparent)]
    NoIds(#[from] NoIdsError),
}

impl BindError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NotCoherent { .. } => Errno::EINVAL,
            Self::UnsafeInterrupts { .. } => Errno::EPERM,
            Self::Claim(error) => error.errno(),
            Self::NoIds(error) => error.errno(),
        }
    }
}
