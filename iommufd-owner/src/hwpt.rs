//! Page tables: domains that show an address space to devices, and page tables of user space on top of them.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use iommu_core::device_model::Errno;
use iommu_core::hardware::{Capabilities, Description, HardwareError, PagingFlags, UserData};
use iommu_core::{Domain, Member};

use crate::context::Context;
use crate::fault_queue::Queue;
use crate::io_page_table::AddDomainError;
use crate::ioas::Ioas;
use crate::object::{Object, ObjectTable};
use crate::object_id::{NoIdsError, NoObjectError, ObjectId};
use crate::object_table::{ReservedId, Use};

/// A page table (HWPT): an object of a context. Dropping it takes everything out of its domain.
#[derive(Debug)]
pub(crate) struct Hwpt {
    pub(crate) id: ObjectId,
    pub(crate) domain: Arc<Domain>,
    /// What it shows; for a nested one, what its parent does.
    pub(crate) ioas: Arc<Ioas>,
    pub(crate) made: Made,
    pub(crate) flags: PagingFlags,
    pub(crate) coherency: Coherency,
    /// Where page faults of its devices go.
    pub(crate) faults: Option<(Arc<Queue>, Use)>,
    /// The address space, or the parent, cannot be destroyed before.
    // Ft2.2, Ft2.3.
    _below: Use,
}

/// By whom a page table was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// By an attach to an address space; it goes with its last device.
    Automatically,
    /// By user space; it goes when destroyed, and no attach picks it.
    ByHand,
}

/// Whether devices can bypass CPU caches; decided when a page table is made, for good.
// F52.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coherency {
    Enforced,
    UpToDevice,
}

impl Hwpt {
    pub(crate) fn is_nested(&self) -> bool {
        self.domain.parent().is_some()
    }

    pub(crate) fn queue(&self) -> Option<&Arc<Queue>> {
        self.faults.as_ref().map(|(queue, _)| queue)
    }
}

impl Drop for Hwpt {
    fn drop(&mut self) {
        self.ioas.lock_table().remove_domain(self.id);
    }
}

/// A page table that no call finds yet. Dropping it ends it.
// F6.
pub(crate) struct NewHwpt {
    hwpt: Arc<Hwpt>,
    reserved: ReservedId<Object>,
}

impl NewHwpt {
    /// A page table for an address space, empty.
    // F52.
    pub(crate) fn allocate(
        objects: &ObjectTable,
        member: &Member,
        ioas: &Arc<Ioas>,
        ioas_use: Use,
        made: Made,
        request: HwptRequest<'_>,
    ) -> Result<Self, HwptError> {
        let HwptRequest { flags, data, .. } = request;
        let capabilities = member.capabilities();
        let reserved = objects.reserve()?;
        let domain = member.group().allocate_for_user(flags, data).map_err(HwptError::Hardware)?;
        let coherency = if capabilities.contains(Capabilities::ENFORCED_COHERENCY) {
            domain.enforce_coherency().map_err(HwptError::NotCoherent)?;
            Coherency::Enforced
        } else {
            Coherency::UpToDevice
        };
        let (id, ioas) = (reserved.id(), ioas.clone());
        let hwpt = Hwpt { id, domain, ioas, made, flags, coherency, faults: None, _below: ioas_use };
        Ok(Self::hidden(hwpt, reserved))
    }

    /// A page table of user space on top of `parent`.
    // Ft11.12 to Ft11.15.
    fn nest(
        context: &Context,
        member: &Member,
        parent: &Hwpt,
        parent_use: Use,
        request: HwptRequest<'_>,
    ) -> Result<Self, HwptError> {
        let HwptRequest { flags, faults, data } = request;
        let data = data.ok_or(HwptError::NoNesting)?;
        let reserved = context.objects().reserve()?;
        let domain = parent.domain.nest(member, data).map_err(HwptError::Hardware)?;
        let faults = match faults.map(|id| (id, context.objects().get(id))) {
            None => None,
            Some((_, Some((Object::FaultQueue(queue), used)))) => Some((queue, used)),
            Some((id, _)) => return Err(HwptError::NoFaultQueue(NoObjectError { id, what: "fault queue" })),
        };
        let hwpt = Hwpt {
            id: reserved.id(),
            domain,
            ioas: parent.ioas.clone(),
            made: Made::ByHand,
            flags,
            coherency: parent.coherency,
            faults,
            _below: parent_use,
        };
        Ok(Self::hidden(hwpt, reserved))
    }

    fn hidden(hwpt: Hwpt, reserved: ReservedId<Object>) -> Self {
        let hwpt = Arc::new(hwpt);
        reserved.hide(Object::Hwpt(hwpt.clone()));
        Self { hwpt, reserved }
    }

    pub(crate) fn hwpt(&self) -> &Arc<Hwpt> {
        &self.hwpt
    }

    /// Shows the address space in it.
    // Ft11.11.
    pub(crate) fn fill(&self) -> Result<(), HwptError> {
        let Hwpt { id, domain, ioas, coherency, .. } = &*self.hwpt;
        Ok(ioas.lock_table().add_domain(*id, domain, *coherency)?)
    }

    /// From now on calls find it, and attaches to its address space, whose list this is.
    pub(crate) fn publish(self, list: &mut Vec<Weak<Hwpt>>) -> ObjectId {
        list.retain(|known| known.strong_count() > 0);
        list.push(Arc::downgrade(&self.hwpt));
        self.publish_alone()
    }

    pub(crate) fn publish_alone(self) -> ObjectId {
        self.reserved.publish(Object::Hwpt(self.hwpt))
    }
}

/// A device, and what a page table for it is to show.
pub(crate) struct HwptEnds {
    member: Arc<Member>,
    pub(crate) parent: Parent,
    _device_use: Use,
}

/// What a page table shows.
pub(crate) enum Parent {
    /// An address space.
    Ioas(Arc<Ioas>, Use),
    /// What the page table of an address space makes of it.
    Hwpt(Arc<Hwpt>, Use),
}

impl HwptEnds {
    /// What is wrong with a request before anything is made.
    // Ft11.7, Ft11.8, Ft11.12, Ft11.13.
    pub(crate) fn check(&self, request: &HwptRequest<'_>) -> Result<(), HwptError> {
        let HwptRequest { flags, faults, data } = request;
        let tracks_dirty = self.member.capabilities().contains(Capabilities::DIRTY_TRACKING);
        match &self.parent {
            Parent::Ioas(..) if faults.is_some() => Err(HwptError::FaultsOfPaging),
            Parent::Ioas(..) if flags.contains(PagingFlags::DIRTY_TRACKING) && !tracks_dirty => {
                Err(HwptError::NoDirtyTracking)
            }
            Parent::Hwpt(..) if data.is_none() || !flags.is_empty() => Err(HwptError::NoNesting),
            // Automatic page tables have no flags.
            Parent::Hwpt(parent, _) if !parent.flags.contains(PagingFlags::NEST_PARENT) => {
                Err(HwptError::WrongParent { id: parent.id })
            }
            Parent::Ioas(..) | Parent::Hwpt(..) => Ok(()),
        }
    }

    /// Makes what was [checked](Self::check).
    pub(crate) fn make(self, context: &Context, request: HwptRequest<'_>) -> Result<NewHwpt, HwptError> {
        match self.parent {
            Parent::Ioas(ioas, used) => {
                let new = NewHwpt::allocate(context.objects(), &self.member, &ioas, used, Made::ByHand, request)?;
                new.fill()?;
                Ok(new)
            }
            Parent::Hwpt(hwpt, used) => NewHwpt::nest(context, &self.member, &hwpt, used, request),
        }
    }
}

/// What `IOMMU_HWPT_ALLOC` is asked for besides device and parent; by default a plain page table of an address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HwptRequest<'a> {
    /// What it must be able to do (`NEST_PARENT`, `DIRTY_TRACKING`); nothing for a nested one.
    pub flags: PagingFlags,
    /// Where page faults go (`FAULT_ID_VALID`); for a nested one only.
    pub faults: Option<ObjectId>,
    /// What the IOMMU driver needs to know; a nested one cannot do without.
    pub data: Option<UserData<'a>>,
}

/// What an IOMMU is like, as `IOMMU_GET_HW_INFO` reports it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HwInfo {
    /// What the IOMMU driver says.
    pub description: Description,
    /// What the IOMMU can do for the device.
    pub capabilities: Capabilities,
    /// How many PASIDs the device supports; 0 for none.
    pub max_pasids: u32,
}

impl Context {
    fn device(&self, id: ObjectId) -> Result<(Arc<Member>, Use), NoObjectError> {
        match self.objects().get(id) {
            Some((Object::Device(member), used)) => Ok((member, used)),
            _ => Err(NoObjectError { id, what: "device" }),
        }
    }

    /// Makes a plain page table (`IOMMU_HWPT_ALLOC`); see [`hwpt_alloc_with`](Self::hwpt_alloc_with).
    ///
    /// # Errors
    /// As there.
    pub fn hwpt_alloc(&self, device: ObjectId, parent: ObjectId) -> Result<ObjectId, HwptError> {
        self.hwpt_alloc_with(device, parent, HwptRequest::default())
    }

    /// Makes a page table (`IOMMU_HWPT_ALLOC`) that shows an address space to a bound device and to others like it,
    /// or one of user space that is nested on such a page table.
    ///
    /// # Errors
    /// One of the objects is not what it must be, the IOMMU makes no such domain, or the address space does not fit.
    pub fn hwpt_alloc_with(
        &self,
        device: ObjectId,
        parent: ObjectId,
        request: HwptRequest<'_>,
    ) -> Result<ObjectId, HwptError> {
        if request.data.is_some_and(|data| data.kind == 0 || data.bytes.is_empty()) {
            return Err(HwptError::BadData);
        }
        let ends = self.hwpt_ends(device, parent)?;
        ends.check(&request)?;
        Ok(ends.make(self, request)?.publish_alone())
    }

    /// What a page table is to lie between.
    // Ft11.3 to Ft11.5.
    pub(crate) fn hwpt_ends(&self, device: ObjectId, parent: ObjectId) -> Result<HwptEnds, HwptError> {
        let (member, device_use) = self.device(device).map_err(HwptError::NoDevice)?;
        let parent = match self.objects().get(parent) {
            Some((Object::Ioas(ioas), used)) => Parent::Ioas(ioas, used),
            Some((Object::Hwpt(hwpt), used)) if !hwpt.is_nested() => Parent::Hwpt(hwpt, used),
            _ => return Err(HwptError::WrongParent { id: parent }),
        };
        Ok(HwptEnds { member, parent, _device_use: device_use })
    }

    /// Returns what the IOMMU of a bound device is like (`IOMMU_GET_HW_INFO`).
    ///
    /// # Errors
    /// There is no such device, or its IOMMU did not say.
    pub fn hw_info(&self, device: ObjectId) -> Result<HwInfo, HwptError> {
        let (member, _used) = self.device(device).map_err(HwptError::NoDevice)?;
        let description = member.describe_iommu().map_err(HwptError::Hardware)?;
        Ok(HwInfo { description, capabilities: member.capabilities(), max_pasids: member.max_pasids() })
    }
}

/// Why no page table was made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HwptError {
    /// The device is none of the context.
    #[error(transparent)]
    NoDevice(NoObjectError),
    /// What it is to show is neither an address space nor a page table.
    #[error("object {id} is neither an address space nor a page table")]
    WrongParent {
        /// The id.
        id: ObjectId,
    },
    /// A page table of user space was asked for, without data that describe it or with features that it cannot have.
    #[error("a nested page table needs data that describe it, and has no features of its own")]
    NoNesting,
    /// Data without a format or without a byte.
    #[error("data must have a format, and at least one byte")]
    BadData,
    /// The device's IOMMU cannot tell which pages were written.
    #[error("the IOMMU does not track what the device writes")]
    NoDirtyTracking,
    /// Faults of a page table that shows an address space go nowhere.
    #[error("only a nested page table can have a fault queue")]
    FaultsOfPaging,
    /// There is no such fault queue.
    #[error(transparent)]
    NoFaultQueue(NoObjectError),
    /// The device's DMA can be kept coherent, but not by this domain.
    #[error("the domain does not enforce coherency")]
    NotCoherent(#[source] HardwareError),
    /// The context has no id left.
    #[error(transparent)]
    NoIds(#[from] NoIdsError),
    /// The IOMMU driver made no domain.
    #[error("the IOMMU made no domain")]
    Hardware(#[source] HardwareError),
    /// The address space could not be shown in it.
    #[error(transparent)]
    Fill(#[from] AddDomainError),
}

impl HwptError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoDevice(error) | Self::NoFaultQueue(error) => error.errno(),
            Self::WrongParent { .. } | Self::BadData | Self::NotCoherent(_) => Errno::EINVAL,
            Self::NoNesting | Self::NoDirtyTracking | Self::FaultsOfPaging => Errno::EOPNOTSUPP,
            Self::NoIds(error) => error.errno(),
            Self::Hardware(error) => error.errno,
            Self::Fill(error) => error.errno(),
        }
    }
}
