//! The hardware below: what an IOMMU driver implements.
//!
//! Every call here may come with a group lock held, and an implementation may take locks of its own but must not call
//! back into this crate: the driver's locks are the innermost of the lock order.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use device_model::{DeviceId, Errno};

mod user;

pub use self::user::{
    Description, DirtyRead, DirtySupport, DirtyTracking, Nesting, PageAnswer, PageRequest, PageRequestSink,
    PagingFeatures, UserData, WantedPage,
};
use crate::address::{Access, Geometry, Iova, PhysAddr};
use crate::reserved::ReservedRegion;

/// A device as an IOMMU sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Which device; unique for as long as the machine runs.
    pub id: DeviceId,
    /// Its name, for messages.
    pub name: Arc<str>,
}

/// The hardware refused, or could not.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason} ({errno})")]
pub struct HardwareError {
    /// The number that goes up to the caller unchanged (U4). `EINVAL` is the soft one: this domain does not fit this
    /// device, another may (I66).
    pub errno: Errno,
    /// What went wrong, in the driver's words.
    pub reason: Cow<'static, str>,
}

impl HardwareError {
    /// An error with its reason.
    pub fn new(errno: Errno, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { errno, reason: reason.into() }
    }
}

/// What a domain is for (I6).
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
    /// The word that sysfs shows (I43).
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

    /// Whether such a domain has page tables that can be mapped into.
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
    /// The kind of domain that serves as such.
    pub const fn kind(self) -> DomainKind {
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
    /// Ranges that the device needs for itself.
    pub reserved: Vec<ReservedRegion>,
    /// The only default domain that the device can live with, if it is choosy (I41).
    pub default_domain: Option<DefaultDomainType>,
    /// How many PASIDs it supports; 0 for none.
    pub max_pasids: u32,
    /// What the IOMMU can do for this device.
    pub capabilities: Capabilities,
}

/// What an IOMMU can do for a device, as far as user-space owners ask before they let it go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(u8);

impl Capabilities {
    /// The device's DMA is coherent with CPU caches; without it, user space gets no device (Vt1.7, Ft8.1).
    pub const CACHE_COHERENCY: Self = Self(1);
    /// The device cannot raise other devices' interrupts (Vt14.12, Ft8.4).
    pub const MSI_ISOLATION: Self = Self(1 << 1);
    /// A domain can be made to ignore the device's wish to bypass caches (Vt14.13, F55).
    pub const ENFORCED_COHERENCY: Self = Self(1 << 2);
    /// A domain can tell which pages were written (F57).
    pub const DIRTY_TRACKING: Self = Self(1 << 3);
    /// Domains can be nested on a paging domain (Ft11.12).
    pub const NESTING: Self = Self(1 << 4);
    /// The device can ask for pages that are not mapped (F64).
    pub const PAGE_REQUESTS: Self = Self(1 << 5);

    /// Whether all of `wanted` is there.
    pub const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// What either has.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both have.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::CACHE_COHERENCY, "CACHE_COHERENCY"),
            (Self::MSI_ISOLATION, "MSI_ISOLATION"),
            (Self::ENFORCED_COHERENCY, "ENFORCED_COHERENCY"),
            (Self::DIRTY_TRACKING, "DIRTY_TRACKING"),
            (Self::NESTING, "NESTING"),
            (Self::PAGE_REQUESTS, "PAGE_REQUESTS"),
        ];
        f.debug_set().entries(names.iter().filter(|(one, _)| self.has(*one)).map(|(_, name)| name)).finish()
    }
}

/// Drives one IOMMU.
pub trait IommuDriver: Send + Sync + fmt::Debug {
    /// The instance's name (`"dmar0"`).
    fn name(&self) -> &str;

    /// Begins to serve `dev`, all of whose DMA is blocked until a domain is attached.
    ///
    /// # Errors
    /// The instance cannot serve this device; it stays unserved.
    fn probe(&self, dev: &Endpoint) -> Result<EndpointProperties, HardwareError>;

    /// Stops to serve `dev`, whose DMA is blocked from now on. Called exactly once after each successful probe.
    fn release(&self, dev: &Endpoint);

    /// Makes a domain that `dev`, and devices like it, can be attached to. Dropping the box frees it; it is never
    /// dropped while a device is attached.
    ///
    /// # Errors
    /// No memory, or `EOPNOTSUPP`: the driver has no such domain.
    fn allocate(&self, kind: DomainKind, dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError>;

    /// As [`allocate`](Self::allocate) of a [`DomainKind::Paging`] domain that can do more, or that user space describes.
    ///
    /// # Errors
    /// `EOPNOTSUPP` unless the driver says otherwise (Ft11.6).
    fn allocate_for_user(
        &self,
        features: PagingFeatures,
        data: Option<UserData<'_>>,
        dev: &Endpoint,
    ) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let _ = (features, data, dev);
        Err(HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU driver makes plain paging domains only"))
    }

    /// What user space may know of the IOMMU of `dev`; by default nothing.
    ///
    /// # Errors
    /// The hardware did not say.
    fn describe(&self, dev: &Endpoint) -> Result<Description, HardwareError> {
        let _ = dev;
        Ok(Description::default())
    }

    /// From now on page requests of `dev` go to `sink`, which replaces the one before.
    ///
    /// # Errors
    /// `EOPNOTSUPP` unless the driver says otherwise.
    fn enable_page_requests(&self, dev: &Endpoint, sink: Arc<dyn PageRequestSink>) -> Result<(), HardwareError> {
        let _ = (dev, sink);
        Err(HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU driver delivers no page requests"))
    }

    /// Page requests of `dev` are answered [`PageAnswer::Invalid`] from now on; cannot fail.
    fn disable_page_requests(&self, dev: &Endpoint) {
        let _ = dev;
    }

    /// Answers the request that `dev` made with this number; cannot fail.
    fn answer_page_request(&self, dev: &Endpoint, pasid: Option<u32>, index: u32, answer: PageAnswer) {
        let _ = (dev, pasid, index, answer);
    }

    /// Stops all DMA of `dev`, whatever it is attached to: the way out when attaching the blocking domain fails too.
    /// Must succeed, by clearing the bus-master bit if by nothing better.
    fn block(&self, dev: &Endpoint);
}

/// A domain in hardware.
pub trait HardwareDomain: Send + Sync + fmt::Debug {
    /// Moves `dev` to this domain from whatever it is attached to (I8: there is no detach). During the call the
    /// device sees the old domain, the new one, or nothing (I32).
    ///
    /// # Errors
    /// The device stays where it was.
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError>;

    /// Lets `dev` reach this domain through `pasid`, beside the domain that it is attached to.
    ///
    /// # Errors
    /// `EOPNOTSUPP` unless the driver says otherwise.
    fn attach_pasid(&self, dev: &Endpoint, pasid: u32) -> Result<(), HardwareError> {
        let _ = (dev, pasid);
        Err(HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU driver attaches no PASIDs"))
    }

    /// Undoes [`attach_pasid`](Self::attach_pasid); cannot fail.
    fn detach_pasid(&self, dev: &Endpoint, pasid: u32) {
        let _ = (dev, pasid);
    }

    /// What can be mapped, or `None` when the domain has no page tables.
    fn geometry(&self) -> Option<Geometry> {
        None
    }

    /// Maps `size` bytes at `iova` to `phys`, all multiples of the smallest page size.
    ///
    /// # Errors
    /// Something is mapped there, the range leaves the aperture, or no memory for tables is left. Nothing of the
    /// range is mapped then that was not before.
    fn map(&self, iova: Iova, phys: PhysAddr, size: u64, access: Access) -> Result<(), HardwareError> {
        let _ = (iova, phys, size, access);
        Err(HardwareError::new(Errno::EINVAL, "the domain has no page tables"))
    }

    /// Unmaps from `iova` on until `size` bytes are unmapped or a hole is met; how many bytes that were. It may be
    /// more than `size` when a larger page lies across the end (I38).
    fn unmap(&self, iova: Iova, size: u64) -> u64 {
        let _ = (iova, size);
        0
    }

    /// Where `iova` leads, if anywhere (I39).
    fn translate(&self, iova: Iova) -> Option<PhysAddr> {
        let _ = iova;
        None
    }

    /// From now on devices cannot bypass CPU caches through this domain, in what is mapped later as well.
    ///
    /// # Errors
    /// `EOPNOTSUPP` unless the driver says otherwise.
    fn enforce_coherency(&self) -> Result<(), HardwareError> {
        Err(HardwareError::new(Errno::EOPNOTSUPP, "the domain cannot enforce coherency"))
    }

    /// Begins or ends to note which pages are written.
    ///
    /// # Errors
    /// `EOPNOTSUPP` unless the driver says otherwise.
    fn set_dirty_tracking(&self, tracking: DirtyTracking) -> Result<(), HardwareError> {
        let _ = tracking;
        Err(HardwareError::new(Errno::EOPNOTSUPP, "the domain does not track dirty pages"))
    }

    /// Calls `dirty` with each page of a range that was written, as address and size, ascending. A page may stick out of
    /// the range. Holes are passed over.
    ///
    /// # Errors
    /// `EOPNOTSUPP` unless the driver says otherwise.
    fn read_dirty(
        &self,
        iova: Iova,
        size: u64,
        read: DirtyRead,
        dirty: &mut dyn FnMut(Iova, u64),
    ) -> Result<(), HardwareError> {
        let _ = (iova, size, read, dirty);
        Err(HardwareError::new(Errno::EOPNOTSUPP, "the domain does not track dirty pages"))
    }

    /// A [`DomainKind::Nested`] domain, whose output this one translates; it is not dropped before.
    ///
    /// # Errors
    /// `EOPNOTSUPP` unless the driver says otherwise; `EINVAL` for data that it does not understand, or when this domain
    /// was not made to be a parent.
    fn nest(&self, data: UserData<'_>, dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        let _ = (data, dev);
        Err(HardwareError::new(Errno::EOPNOTSUPP, "the IOMMU driver does not nest domains"))
    }

    /// Forgets what it has cached of the page tables of user space, as one entry of an array from user space says.
    ///
    /// # Errors
    /// `EOPNOTSUPP` unless the driver says otherwise; `EINVAL` for an entry that it does not understand.
    fn invalidate(&self, entry: UserData<'_>) -> Result<(), HardwareError> {
        let _ = entry;
        Err(HardwareError::new(Errno::EOPNOTSUPP, "the domain caches nothing of user space"))
    }
}
