//! The mock IOMMU: pages of half a CPU's, and tables that the test can look into.
// F104 to F108.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use iommu_core::address::{Geometry, PageSizes};
use iommu_core::device_model::sync::SpinMutex;
use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::hardware::{
    Capabilities, Description, DirtyFlags, DirtyPages, DirtyTracking, DomainKind, Endpoint, EndpointProperties,
    FaultSink, Gather, HardwareDomain, HardwareError, IommuDriver, Nested, NestingParent, PageAnswer, PageRequest,
    PageRequestSink, PageRequests, Paging, PagingFlags, UserData,
};
use iommu_core::{DefaultDomainType, Domain, Iova, IovaRange, PhysAddr, Protection};

use super::fault_point;

/// Size of the smallest I/O page.
pub(super) const IO_PAGE: u64 = 2048;
/// Size of a large I/O page.
const HUGE_PAGE: u64 = 512 * IO_PAGE;
const APERTURE: (Iova, Iova) = (Iova::new(1 << 24), Iova::new((1 << 31) - 1));

/// `IOMMU_HW_INFO_TYPE_SELFTEST`.
pub(super) const INFO_TYPE: u32 = 0xfeed_beef;
/// `IOMMU_HW_INFO_SELFTEST_REGVAL`.
const INFO_REGISTER: u32 = 0xdead_beef;
/// `IOMMU_HWPT_DATA_SELFTEST`.
const NESTED_DATA: u32 = 0xdead;
/// `IOMMU_HWPT_INVALIDATE_DATA_SELFTEST`.
const INVALIDATE_DATA: u32 = 0xdead_beef;
/// `IOMMU_TEST_INVALIDATE_FLAG_ALL`.
const INVALIDATE_ALL: u32 = 1;
/// How many translations a nested page table caches.
const IOTLB_ENTRIES: usize = 4;
/// How many PASIDs a device has that has any.
const PASIDS: u32 = 1 << 20;

bitflags::bitflags! {
    /// What a mock device is like.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct DeviceFlags: u32 {
        /// Its writes cannot be tracked.
        const NO_DIRTY = 1 << 0;
        /// Page tables that are made for it have large pages, too.
        const HUGE_IOVA = 1 << 1;
        /// It has PASIDs.
        const PASID = 1 << 2;
    }
}

/// The mock IOMMU, which serves all mock devices.
#[derive(Debug, Default)]
pub(super) struct MockIommu {
    /// Who hears of the page requests of a device. Leaf lock.
    sinks: SpinMutex<BTreeMap<DeviceId, Arc<dyn PageRequestSink>>>,
}

impl MockIommu {
    /// Has a device request a page. Nothing happens where nobody wants to hear of it.
    // F108.
    pub(super) fn request_page(&self, request: PageRequest) {
        let sink = self.sinks.lock().get(&request.device).cloned();
        // What is not delivered is invalid, and a mock device does not mind.
        let _ = sink.map(|sink| sink.deliver(request));
    }
}

/// What a device was made as.
fn flags_of(dev: &Endpoint) -> DeviceFlags {
    dev.description::<DeviceFlags>().copied().unwrap_or(DeviceFlags::empty())
}

/// Fails where there is to be no memory.
fn no_memory() -> Result<(), HardwareError> {
    if fault_point::fails() { Err(HardwareError::new(Errno::ENOMEM, "an injected fault")) } else { Ok(()) }
}

fn unsupported(reason: &'static str) -> HardwareError {
    HardwareError::new(Errno::EOPNOTSUPP, reason)
}

fn invalid(reason: &'static str) -> HardwareError {
    HardwareError::new(Errno::EINVAL, reason)
}

impl IommuDriver for MockIommu {
    fn name(&self) -> &'static str {
        "iommufd-test"
    }

    fn probe(&self, dev: &Endpoint, _faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        no_memory()?;
        let flags = flags_of(dev);
        let mut capabilities = Capabilities::CACHE_COHERENCY
            | Capabilities::MSI_ISOLATION
            | Capabilities::NESTING
            | Capabilities::PAGE_REQUESTS
            | Capabilities::DIRTY_TRACKING;
        if flags.contains(DeviceFlags::NO_DIRTY) {
            capabilities.remove(Capabilities::DIRTY_TRACKING);
        }
        let max_pasids = if flags.contains(DeviceFlags::PASID) { PASIDS } else { 0 };
        let default_domain = Some(DefaultDomainType::Identity);
        Ok(EndpointProperties { reserved: Vec::new(), default_domain, max_pasids, capabilities })
    }

    fn release(&self, dev: &Endpoint) {
        self.disable(dev);
    }

    fn allocate(&self, kind: DomainKind, dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        no_memory()?;
        match kind {
            DomainKind::Paging => Ok(Box::new(MockDomain::paging(PagingFlags::empty(), flags_of(dev)))),
            // Both map nothing.
            DomainKind::Blocking | DomainKind::Identity => Ok(Box::new(MockDomain { what: What::Nothing })),
            _ => Err(unsupported("mock devices have no driver that does DMA")),
        }
    }

    fn allocate_for_user(
        &self,
        flags: PagingFlags,
        data: Option<UserData<'_>>,
        dev: &Endpoint,
    ) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        if data.is_some() {
            return Err(unsupported("a mock page table of an address space needs no data"));
        }
        no_memory()?;
        Ok(Box::new(MockDomain::paging(flags, flags_of(dev))))
    }

    // F105.
    fn describe(&self, _dev: &Endpoint) -> Result<Description, HardwareError> {
        let bytes = [0, INFO_REGISTER].into_iter().flat_map(u32::to_ne_bytes).collect();
        Ok(Description { kind: INFO_TYPE, bytes })
    }

    fn page_requests(&self) -> Option<&dyn PageRequests> {
        Some(self)
    }

    fn block(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }
}

impl PageRequests for MockIommu {
    fn enable(&self, dev: &Endpoint, sink: Arc<dyn PageRequestSink>) -> Result<(), HardwareError> {
        let replaced = self.sinks.lock().insert(dev.id, sink);
        drop(replaced);
        Ok(())
    }

    fn disable(&self, dev: &Endpoint) {
        let gone = self.sinks.lock().remove(&dev.id);
        drop(gone);
    }

    fn answer(&self, _dev: &Endpoint, _pasid: Option<u32>, _index: u32, _answer: PageAnswer) {}
}

/// A mock domain.
#[derive(Debug)]
pub(super) struct MockDomain {
    what: What,
}

#[derive(Debug)]
enum What {
    /// Nothing is mapped.
    Nothing,
    Paging(MockTable),
    /// A page table of user space: what is cached of it. Leaf lock.
    Nested(SpinMutex<[u32; IOTLB_ENTRIES]>),
}

/// A mock page table.
#[derive(Debug)]
pub(super) struct MockTable {
    flags: PagingFlags,
    sizes: PageSizes,
    /// Leaf lock.
    pages: SpinMutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    tracks_writes: bool,
    /// By their number.
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    phys: PhysAddr,
    is_huge: bool,
    is_dirty: bool,
}

/// Returns the mock page table of a domain, if it is one.
pub(super) fn table_of(domain: &Domain) -> Option<&MockTable> {
    let hardware: &dyn Any = domain.hardware();
    match &hardware.downcast_ref::<MockDomain>()?.what {
        What::Paging(table) => Some(table),
        What::Nothing | What::Nested(_) => None,
    }
}

/// Returns an entry of the cache of a nested mock domain.
pub(super) fn cached(domain: &Domain, index: u32) -> Option<u32> {
    let hardware: &dyn Any = domain.hardware();
    match &hardware.downcast_ref::<MockDomain>()?.what {
        What::Nested(iotlb) => iotlb.lock().get(usize::try_from(index).ok()?).copied(),
        What::Nothing | What::Paging(_) => None,
    }
}

impl MockTable {
    /// Returns where the I/O page at `iova` leads.
    pub(super) fn page_at(&self, iova: Iova) -> Option<PhysAddr> {
        Some(self.pages.lock().entries.get(&(iova.get() / IO_PAGE))?.phys)
    }

    /// Notes that these I/O pages were written. Returns how many of them there are, or `None` while writes are not tracked.
    pub(super) fn mark_dirty(&self, numbers: impl Iterator<Item = u64>) -> Option<u64> {
        let mut pages = self.pages.lock();
        if !pages.tracks_writes {
            return None;
        }
        let mut count = 0;
        for number in numbers {
            if let Some(entry) = pages.entries.get_mut(&number) {
                entry.is_dirty = true;
                count += 1;
            }
        }
        Some(count)
    }
}

impl MockDomain {
    fn paging(flags: PagingFlags, device: DeviceFlags) -> Self {
        let huge = if device.contains(DeviceFlags::HUGE_IOVA) { HUGE_PAGE } else { 0 };
        let sizes = PageSizes::from_bitmap(IO_PAGE | huge).unwrap_or(PageSizes::X86);
        Self { what: What::Paging(MockTable { flags, sizes, pages: SpinMutex::default() }) }
    }

    fn has(&self, flag: PagingFlags) -> bool {
        matches!(&self.what, What::Paging(table) if table.flags.contains(flag))
    }

    fn table(&self) -> Result<&MockTable, HardwareError> {
        match &self.what {
            What::Paging(table) => Ok(table),
            What::Nothing | What::Nested(_) => Err(invalid("the mock domain has no page table")),
        }
    }
}

impl HardwareDomain for MockDomain {
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        if self.has(PagingFlags::DIRTY_TRACKING) && flags_of(dev).contains(DeviceFlags::NO_DIRTY) {
            return Err(invalid("writes of the mock device cannot be tracked"));
        }
        Ok(())
    }

    fn paging(&self) -> Option<&dyn Paging> {
        matches!(self.what, What::Paging(_)).then_some(self)
    }

    fn dirty_tracking(&self) -> Option<&dyn DirtyTracking> {
        self.has(PagingFlags::DIRTY_TRACKING).then_some(self)
    }

    fn nesting_parent(&self) -> Option<&dyn NestingParent> {
        self.has(PagingFlags::NEST_PARENT).then_some(self)
    }

    fn nested(&self) -> Option<&dyn Nested> {
        matches!(self.what, What::Nested(_)).then_some(self)
    }
}

// F106.
impl Paging for MockDomain {
    fn geometry(&self) -> Geometry {
        let page_sizes = self.table().map_or(PageSizes::X86, |table| table.sizes);
        Geometry { page_sizes, first: APERTURE.0, last: APERTURE.1 }
    }

    fn map_pages(
        &self,
        iova: Iova,
        phys: PhysAddr,
        page_size: u64,
        count: usize,
        _protection: Protection,
    ) -> Result<usize, HardwareError> {
        if fault_point::fails() {
            return Err(HardwareError::new(Errno::ENOENT, "an injected fault"));
        }
        let mut pages = self.table()?.pages.lock();
        let first = iova.get() / IO_PAGE;
        let io_pages = page_size / IO_PAGE * count as u64;
        if pages.entries.range(first..first + io_pages).next().is_some() {
            return Err(HardwareError::new(Errno::EEXIST, "something is mapped there"));
        }
        for number in 0..io_pages {
            let phys = phys.checked_add(number * IO_PAGE).ok_or_else(|| invalid("no such memory"))?;
            let entry = Entry { phys, is_huge: page_size == HUGE_PAGE, is_dirty: false };
            pages.entries.insert(first + number, entry);
        }
        Ok(count)
    }

    fn unmap_pages(
        &self,
        iova: Iova,
        page_size: u64,
        count: usize,
        _gather: &mut Gather,
    ) -> Result<u64, HardwareError> {
        let mut pages = self.table()?.pages.lock();
        let first = iova.get() / IO_PAGE;
        let io_pages = page_size / IO_PAGE * count as u64;
        let found = (first..first + io_pages).take_while(|number| pages.entries.remove(number).is_some());
        Ok(found.count() as u64 * IO_PAGE)
    }

    fn flush(&self, _gather: &Gather) -> Result<(), HardwareError> {
        Ok(())
    }

    fn flush_all(&self) -> Result<(), HardwareError> {
        Ok(())
    }

    fn iova_to_phys(&self, iova: Iova) -> Option<PhysAddr> {
        self.table().ok()?.page_at(iova)?.checked_add(iova.get() % IO_PAGE)
    }
}

// F106b.
impl DirtyTracking for MockDomain {
    fn start(&self) -> Result<(), HardwareError> {
        self.table()?.pages.lock().tracks_writes = true;
        Ok(())
    }

    fn stop(&self) -> Result<(), HardwareError> {
        self.table()?.pages.lock().tracks_writes = false;
        Ok(())
    }

    fn read(
        &self,
        range: IovaRange,
        flags: DirtyFlags,
        _gather: &mut Gather,
        dirty: &mut dyn FnMut(DirtyPages),
    ) -> Result<(), HardwareError> {
        let mut pages = self.table()?.pages.lock();
        // Without tracking, nothing is told.
        let tells = pages.tracks_writes;
        let clears = !flags.contains(DirtyFlags::NO_CLEAR);
        let (first, last) = (range.first().get() / IO_PAGE, range.last().get() / IO_PAGE);
        let mut next = Some(first);
        while let Some((number, is_huge)) = next
            .filter(|next| *next <= last)
            .and_then(|next| pages.entries.range(next..=last).next())
            .map(|(number, entry)| (*number, entry.is_huge))
        {
            let size = if is_huge { HUGE_PAGE } else { IO_PAGE };
            let begin = number - number % (size / IO_PAGE);
            let end = begin + size / IO_PAGE;
            let mut is_dirty = false;
            for entry in pages.entries.range_mut(begin..end).map(|(_, entry)| entry) {
                is_dirty |= entry.is_dirty;
                entry.is_dirty &= !clears;
            }
            if is_dirty && tells {
                DirtyPages::new(Iova::new(begin * IO_PAGE), size, 1).into_iter().for_each(&mut *dirty);
            }
            next = Some(end);
        }
        Ok(())
    }
}

impl NestingParent for MockDomain {
    // F107.
    fn nest(&self, data: UserData<'_>, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        if data.kind != NESTED_DATA {
            return Err(unsupported("no data of a mock page table"));
        }
        let preset = data.bytes.try_into().map_err(|_| invalid("the data are one number of 32 bits"))?;
        let iotlb = SpinMutex::new([u32::from_ne_bytes(preset); IOTLB_ENTRIES]);
        Ok(Box::new(Self { what: What::Nested(iotlb) }))
    }
}

// F107a.
impl Nested for MockDomain {
    fn check_format(&self, kind: u32) -> Result<(), HardwareError> {
        if kind == INVALIDATE_DATA { Ok(()) } else { Err(invalid("no invalidation of a mock page table")) }
    }

    fn invalidate(&self, entry: UserData<'_>) -> Result<(), HardwareError> {
        let What::Nested(iotlb) = &self.what else { return Err(invalid("the mock domain is not nested")) };
        let ([flags, index], []) = entry.bytes.as_chunks::<4>() else {
            return Err(invalid("an invalidation is two numbers of 32 bits"));
        };
        let [flags, index] = [*flags, *index].map(u32::from_ne_bytes);
        if flags & !INVALIDATE_ALL != 0 {
            return Err(unsupported("unknown flags of an invalidation"));
        }
        let mut iotlb = iotlb.lock();
        let one = usize::try_from(index).ok().and_then(|index| iotlb.get_mut(index));
        *one.ok_or_else(|| invalid("the cache has four entries"))? = 0;
        if flags & INVALIDATE_ALL != 0 {
            *iotlb = [0; IOTLB_ENTRIES];
        }
        Ok(())
    }
}
