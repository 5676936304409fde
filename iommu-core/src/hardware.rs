//! The hardware below: what an IOMMU driver implements.
//!
//! [`IommuDriver`] drives one IOMMU (a *unit*) and makes domains. Every domain is a [`HardwareDomain`], to which devices are
//! attached; what else it can do is in *roles*, which are traits of their own: [`Paging`], [`DirtyTracking`],
//! [`NestingParent`], [`Nested`]. Page requests are a role of the driver ([`PageRequests`]). A driver implements the roles that
//! its hardware has, and says so through the accessors; the others do not exist for it.
//!
//! # Locks
//! A driver must not call back into this crate, and its locks are the innermost of the lock order.
//!
//! | calls | locks that the caller holds |
//! |---|---|
//! | [`attach`](HardwareDomain::attach), [`attach_pasid`](HardwareDomain::attach_pasid), [`detach_pasid`](HardwareDomain::detach_pasid), [`block`](IommuDriver::block), [`accepts`](IommuDriver::accepts) | the group lock, which spins: no sleeping, spinning locks only, no allocation |
//! | all of [`Paging`], [`PageRequests::enable`] and [`PageRequests::disable`] | perhaps spinning ones: no sleeping |
//! | [`probe`](IommuDriver::probe), [`release`](IommuDriver::release) and all others | sleeping ones at most |

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use device_model::Errno;

mod endpoint;
mod fault;
mod nesting;
mod page_request;
mod paging;

pub use self::endpoint::{Endpoint, RequesterId};
pub use self::fault::{Fault, FaultReason, FaultSink};
pub use self::nesting::{Description, Nested, NestingParent, UserData};
pub use self::page_request::{PageAnswer, PagePermissions, PageRequest, PageRequestSink, PageRequests, WantedPage};
pub use self::paging::{DirtyFlags, DirtyPages, DirtyTracking, Gather, PageRun, Paging, PagingFlags};
use crate::reserved::ReservedRegion;

/// Hardware refused, or failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason} ({errno})")]
pub struct HardwareError {
    /// The error number, which goes up to the caller unchanged. From an attach, `EINVAL` means that this domain does not
    /// fit the device, and another may.
    pub errno: Errno,
    /// What went wrong, in the driver's words.
    pub reason: Cow<'static, str>,
}

impl HardwareError {
    /// Creates an error. A text of static lifetime allocates nothing.
    pub fn new(errno: Errno, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { errno, reason: reason.into() }
    }
}

/// What a domain is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DomainKind {
    /// No DMA passes.
    Blocking,
    /// DMA passes untranslated.
    Identity,
    /// The kernel's DMA API; an unmap takes effect at once.
    Dma,
    /// The kernel's DMA API; unmaps are flushed in batches.
    DmaLazy,
    /// Mapped by whoever attached it.
    Paging,
    /// Page tables of user space, whose output a paging domain translates once more.
    Nested,
}

impl DomainKind {
    /// Returns the word that sysfs shows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blocking => "blocked",
            Self::Identity => "identity",
            Self::Dma => "DMA",
            Self::DmaLazy => "DMA-FQ",
            Self::Paging => "unmanaged",
            Self::Nested => "nested",
        }
    }

    /// Returns whether such a domain has page tables that the kernel maps into.
    pub const fn is_paging(self) -> bool {
        matches!(self, Self::Dma | Self::DmaLazy | Self::Paging)
    }
}

impl fmt::Display for DomainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the kernel may use as a group's default domain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum DefaultDomainType {
    /// Translated, strict.
    #[default]
    Dma,
    /// Translated, unmaps flushed in batches.
    DmaLazy,
    /// Untranslated.
    Identity,
}

impl DefaultDomainType {
    /// Returns the kind of domain that serves as such.
    pub const fn domain_kind(self) -> DomainKind {
        match self {
            Self::Dma => DomainKind::Dma,
            Self::DmaLazy => DomainKind::DmaLazy,
            Self::Identity => DomainKind::Identity,
        }
    }
}

/// What an IOMMU driver says of a device when it begins to serve it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointProperties {
    /// Address ranges that are reserved for the device.
    pub reserved: Vec<ReservedRegion>,
    /// Required default domain type, if the device supports only one.
    pub default_domain: Option<DefaultDomainType>,
    /// Number of PASIDs that the device supports; 0 for none.
    pub max_pasids: u32,
    /// What the IOMMU can do for this device.
    pub capabilities: Capabilities,
}

bitflags::bitflags! {
    /// What an IOMMU can do for a device, as far as user-space owners ask before they let it go.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Capabilities: u32 {
        /// The device's DMA is coherent with CPU caches; user space gets no device without it.
        const CACHE_COHERENCY = 1 << 0;
        /// The device cannot raise other devices' interrupts.
        const MSI_ISOLATION = 1 << 1;
        /// A domain can be made to ignore the device's requests to bypass caches.
        const ENFORCED_COHERENCY = 1 << 2;
        /// A domain can track dirty pages.
        const DIRTY_TRACKING = 1 << 3;
        /// Domains can be nested on a paging domain.
        const NESTING = 1 << 4;
        /// The device can ask for pages that are not mapped.
        const PAGE_REQUESTS = 1 << 5;
    }
}

/// Drives one IOMMU.
pub trait IommuDriver: Any + Send + Sync + fmt::Debug {
    /// Returns the name of the unit (`"dmar0"`).
    fn name(&self) -> &str;

    /// Begins to serve `dev`, all of whose DMA is blocked until a domain is attached. Its unrecoverable faults are reported to
    /// `faults` until it is released. May sleep and allocate: at most sleeping locks are held.
    ///
    /// # Errors
    /// The unit cannot serve this device, which stays unserved.
    fn probe(&self, dev: &Endpoint, faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError>;

    /// Ends to serve `dev`, whose DMA is blocked from now on, its PASIDs included. Called exactly once after each successful
    /// probe. Cannot fail. May sleep.
    fn release(&self, dev: &Endpoint);

    /// Creates a domain that `dev`, and devices like it, can be attached to. Dropping the box frees it; it is never dropped
    /// while a device is attached. Called without the group lock.
    ///
    /// # Errors
    /// `ENOMEM`, or `EOPNOTSUPP` if the driver has no such domains.
    fn allocate(&self, kind: DomainKind, dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError>;

    /// Creates a [`DomainKind::Paging`] domain that can do more, or that user space describes. As
    /// [`allocate`](Self::allocate) else.
    ///
    /// # Errors
    /// `EOPNOTSUPP` unless the driver says otherwise.
    fn allocate_for_user(
        &self,
        flags: PagingFlags,
        data: Option<UserData<'_>>,
        dev: &Endpoint,
    ) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let _ = (flags, data, dev);
        Err(HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU driver makes plain paging domains only"))
    }

    /// Returns what user space may know of the IOMMU of `dev`; by default nothing. Called without the group lock.
    ///
    /// # Errors
    /// Hardware did not answer.
    fn describe(&self, dev: &Endpoint) -> Result<Description, HardwareError> {
        let _ = dev;
        Ok(Description::default())
    }

    /// Returns the role of delivering page requests, if the driver has it.
    fn page_requests(&self) -> Option<&dyn PageRequests> {
        None
    }

    /// Returns whether devices of this unit can be attached to domains that `maker` made, which is another unit. A driver of
    /// several units says yes to its own, and may still refuse to attach a device that a domain does not fit.
    ///
    /// `maker` can be downcast: `(maker as &dyn Any).downcast_ref::<MyIommu>()`.
    fn accepts(&self, maker: &dyn IommuDriver) -> bool {
        let _ = maker;
        false
    }

    /// Stops all DMA of `dev`, whatever it is attached to, its PASIDs included: the last resort, when attaching the blocking
    /// domain fails too. Clears the bus-master bit if nothing better works. Called with the group lock held.
    ///
    /// # Errors
    /// Nothing works: what the device can still reach is unknown. It stays in quarantine until it is gone.
    fn block(&self, dev: &Endpoint) -> Result<(), HardwareError>;
}

/// A domain in hardware.
pub trait HardwareDomain: Any + Send + Sync + fmt::Debug {
    /// Moves `dev` to this domain from whatever it is attached to; there is no detach. During the call the device sees the
    /// old domain, the new one, or nothing; after it nothing that hardware has cached of the old one. Called with the group
    /// lock held.
    ///
    /// # Errors
    /// The device stays where it was. `EINVAL` if this domain does not fit the device.
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError>;

    /// Attaches `dev` to this domain at `pasid`, beside the domain that it is attached to. Called with the group lock held.
    ///
    /// # Errors
    /// `EOPNOTSUPP` unless the driver says otherwise.
    fn attach_pasid(&self, dev: &Endpoint, pasid: u32) -> Result<(), HardwareError> {
        let _ = (dev, pasid);
        Err(HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU driver attaches no PASIDs"))
    }

    /// Undoes [`attach_pasid`](Self::attach_pasid). Cannot fail. Called with the group lock held.
    fn detach_pasid(&self, dev: &Endpoint, pasid: u32) {
        let _ = (dev, pasid);
    }

    /// Returns the role of paging, for kinds that [have page tables](DomainKind::is_paging).
    fn paging(&self) -> Option<&dyn Paging> {
        None
    }

    /// Returns the role of tracking dirty pages, if the domain was allocated with [`PagingFlags::DIRTY_TRACKING`].
    fn dirty_tracking(&self) -> Option<&dyn DirtyTracking> {
        None
    }

    /// Returns the role of being nested on, if the domain was allocated with [`PagingFlags::NEST_PARENT`].
    fn nesting_parent(&self) -> Option<&dyn NestingParent> {
        None
    }

    /// Returns the role of a nested domain.
    fn nested(&self) -> Option<&dyn Nested> {
        None
    }
}
