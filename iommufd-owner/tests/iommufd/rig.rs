//! A small machine: devices in groups, hardware and memory that fail on command.

use std::fmt::Write as _;
use std::sync::Arc;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::failing::{FailingIommu, FailingMemory};
use iommu_core::hardware::{Endpoint, HardwareError, IommuDriver};
use iommu_core::software::{LockedPages, Memory, Process, SimulatedDevice, SoftIommu, SoftIommuConfig};
use iommu_core::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun};
use iommu_core::{
    Access, Attached, DeviceGroup, IommuSubsystem, Iova, Member, Ownership, PhysAddr, PhysicalMemory, UserAddr,
    UserMemory,
};
use iommufd_owner::{Context, MapRequest, ObjectId, Place};

/// Pages of the user's memory.
pub(crate) const PAGES: u64 = 16;

/// What is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fails {
    Hardware,
    Pin,
}

pub(crate) struct Rig {
    pub(crate) iommu: IommuSubsystem,
    /// The right to map, which contexts are given.
    physical: PhysicalMemory,
    pub(crate) hardware: Arc<FailingIommu>,
    soft: Arc<SoftIommu>,
    memory: Memory,
    pub(crate) user: Arc<FailingMemory>,
    pub(crate) process: Arc<Process>,
    pub(crate) locked: LockedPages,
    pub(crate) ram: UserAddr,
    pub(crate) members: Vec<Arc<Member>>,
}

impl Rig {
    /// Devices whose group is the letter that their name begins with.
    pub(crate) fn new(devices: &[&str]) -> Self {
        Self::with(devices, |_| {})
    }

    /// As that, with an IOMMU that is like no other.
    pub(crate) fn with(devices: &[&str], change: impl FnOnce(&mut SoftIommuConfig)) -> Self {
        let mut config = SoftIommuConfig::default();
        change(&mut config);
        let soft = SoftIommu::new("soft", config);
        let hardware = FailingIommu::new(soft.clone());
        let driver: Arc<dyn IommuDriver> = hardware.clone();
        let by_letter = move |device: &Endpoint| Some(DeviceGroup::named(&driver, device.name.get(..1)?));
        let (iommu, physical) = IommuSubsystem::builder(by_letter).build();
        let plug = |(number, name): (u64, &&str)| {
            iommu.add_device(&Endpoint::new(DeviceId::new(number), *name)).unwrap().unwrap()
        };
        let members = (1..).zip(devices).map(plug).collect();
        let memory = Memory::new();
        let locked = LockedPages::limited(1 << 20);
        let process = Process::new(&memory, locked.clone());
        let ram = process.allocate(PAGES * PAGE_SIZE, Access::ReadWrite).unwrap();
        for page in 0..PAGES {
            process.write(UserAddr::new(ram.get() + page * PAGE_SIZE), &[page as u8 + 1]).unwrap();
        }
        let user = FailingMemory::new(process.clone());
        Self { iommu, physical, hardware, soft, memory, user, process, locked, ram, members }
    }

    /// A context that may map.
    pub(crate) fn context(&self, name: &str) -> Context {
        Context::new(name, &self.physical)
    }

    pub(crate) fn context_with_account(&self, name: &str, account: Account) -> Context {
        Context::with_account(name, &self.physical, account)
    }

    /// A request for `pages` pages of memory from page `from` on.
    pub(crate) fn request(&self, place: Place, pages: u64, from: u64) -> MapRequest<Place> {
        MapRequest {
            iova: place,
            bytes: pages * PAGE_SIZE,
            process: self.user.clone(),
            addr: UserAddr::new(self.ram.get() + from * PAGE_SIZE),
            access: Access::ReadWrite,
        }
    }

    /// Maps `pages` pages of memory from page `from` on at page `at`.
    pub(crate) fn map(&self, context: &Context, ioas: ObjectId, at: u64, pages: u64, from: u64) -> Result<(), Errno> {
        let request = self.request(Place::Fixed(Iova::new(at * PAGE_SIZE)), pages, from);
        context.ioas_map(ioas, request).map(drop).map_err(|error| error.errno())
    }

    /// Which page of memory a device reaches at a page of the I/O address space, counted from 1.
    pub(crate) fn reaches(&self, device: usize, at: u64) -> Option<u64> {
        let mut byte = [0];
        let id = self.members[device].device();
        self.soft.dma_read(id, Iova::new(at * PAGE_SIZE), &mut byte, &self.memory).ok()?;
        Some(u64::from(byte[0]))
    }

    /// The memory, which no device may reach any more when it is unpinned.
    pub(crate) fn watched(&self) -> Arc<Watched> {
        let devices = self.members.iter().map(|member| member.device()).collect();
        let (inner, user) = (self.process.clone(), self.user.clone());
        Arc::new(Watched { inner, user, soft: self.soft.clone(), memory: self.memory.clone(), devices })
    }

    /// The bus-master side of a device.
    pub(crate) fn device(&self, device: usize) -> SimulatedDevice {
        SimulatedDevice::new(self.members[device].endpoint().clone(), self.soft.clone(), self.memory.clone())
    }

    pub(crate) fn fail(&self, what: Fails, n: u32) {
        match what {
            Fails::Hardware => self.hardware.fail_nth(n, HardwareError::new(Errno::EIO, "on command")),
            Fails::Pin => self.user.fail_nth(n),
        }
    }

    pub(crate) fn heal(&self) {
        self.hardware.heal();
        self.user.heal();
    }

    /// Whether the call that was to fail was made.
    pub(crate) fn has_failed(&self, what: Fails, calls_before: u32, n: u32) -> bool {
        match what {
            Fails::Hardware => self.hardware.calls() > calls_before + n,
            Fails::Pin => self.user.has_failed(),
        }
    }

    /// Everything that a device reaches is pinned.
    pub(crate) fn assert_pinned(&self, what: &str) {
        for (device, member) in self.members.iter().enumerate() {
            let mut reached: Vec<_> = (0..24).filter_map(|at| self.reaches(device, at)).collect();
            reached.sort_unstable();
            reached.dedup();
            let pinned = self.process.pinned();
            assert!(reached.len() as u64 <= pinned, "{what}: {} reaches {reached:?}, {pinned} pins", member.name());
        }
    }

    /// All that can be seen, but for what is in a context.
    pub(crate) fn picture(&self) -> String {
        let mut picture = format!("pins {} locked {}\n", self.process.pinned(), self.locked.pages());
        for group in self.iommu.groups() {
            writeln!(picture, "{} {:?} {:?}", group.id(), group.ownership(), group.attached()).unwrap();
        }
        for (device, member) in self.members.iter().enumerate() {
            let seen: Vec<_> = (0..24).map(|at| self.reaches(device, at)).collect();
            writeln!(picture, "{} {seen:?}", member.name()).unwrap();
        }
        picture
    }

    /// Nothing is left of any user.
    pub(crate) fn assert_idle(&self) {
        assert_eq!((self.process.pinned(), self.locked.pages()), (0, 0));
        for group in self.iommu.groups() {
            assert_eq!(group.ownership(), Ownership::Idle);
            // A way home that hardware refused ends blocked, never open.
            assert!(matches!(group.attached(), Attached::Default(_) | Attached::Blocking), "{}", group.attached());
        }
        for device in 0..self.members.len() {
            assert!((0..24).all(|at| self.reaches(device, at).is_none()), "{}", self.members[device].name());
        }
    }
}

/// See [`Rig::watched`].
#[derive(Debug)]
pub(crate) struct Watched {
    inner: Arc<Process>,
    user: Arc<FailingMemory>,
    soft: Arc<SoftIommu>,
    memory: Memory,
    devices: Vec<DeviceId>,
}

impl UserMemory for Watched {
    fn pin(&self, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        self.user.pin(at, bytes, access)
    }

    fn unpin(&self, run: PinnedRun) {
        let freed = (0..run.bytes / PAGE_SIZE).map(|page| PhysAddr::new(run.phys.get() + page * PAGE_SIZE));
        let freed: Vec<u8> = freed.map(|page| self.memory.bytes::<1>(page)[0]).collect();
        for device in &self.devices {
            for at in 0..24 {
                let mut byte = [0];
                let reached = self.soft.dma_read(*device, Iova::new(at * PAGE_SIZE), &mut byte, &self.memory).is_ok();
                assert!(!reached || !freed.contains(&byte[0]), "{device:?} reaches page {at} as it is unpinned");
            }
        }
        self.inner.unpin(run);
    }

    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress> {
        self.inner.read(at, into)
    }

    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        self.inner.write(at, from)
    }

    fn limit(&self) -> Limit {
        self.inner.limit()
    }

    fn charge(&self, account: Account, limit: Limit, pages: u64) -> Result<(), OverLimit> {
        self.inner.charge(account, limit, pages)
    }

    fn uncharge(&self, account: Account, pages: u64) {
        self.inner.uncharge(account, pages);
    }
}
