//! Devices in groups, and a user's memory; hardware and pins fail on command.

use std::fmt::Write as _;
use std::sync::Arc;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::failing::{FailingIommu, FailingMemory};
use iommu_core::hardware::HardwareError;
use iommu_core::software::{
    LockedPages, Memory, NumberedMemory, Process, SimulatedDevice, SoftIommuConfig, Testbed, left_behind,
};
use iommu_core::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun};
use iommu_core::{Access, IommuSubsystem, Iova, Member, PhysAddr, UserAddr, UserMemory};
use iommufd_owner::{Context, MapRequest, ObjectId, Place};

/// Pages of the user's memory.
pub(crate) const PAGES: u64 = 16;

/// Pages of the I/O address space that are looked at.
const SPACE: u64 = 24;

/// What is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fails {
    Hardware,
    Pin,
}

pub(crate) struct Rig {
    machine: Testbed,
    numbered: NumberedMemory,
    pub(crate) iommu: IommuSubsystem,
    pub(crate) hardware: Arc<FailingIommu>,
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
        let machine = Testbed::builder().config(config).build();
        let plug = |name: &&str| machine.plug(name).unwrap().dma_slot().member().unwrap();
        let members = devices.iter().map(plug).collect();
        let numbered = NumberedMemory::new(machine.memory(), PAGES, LockedPages::limited(1 << 20)).unwrap();
        Self {
            iommu: machine.iommu().clone(),
            hardware: machine.hardware("").clone(),
            user: numbered.failing().clone(),
            process: numbered.process().clone(),
            locked: numbered.locked().clone(),
            ram: numbered.start(),
            members,
            numbered,
            machine,
        }
    }

    /// A context that may map.
    pub(crate) fn context(&self, name: &str) -> Context {
        Context::new(name, self.machine.physical_memory())
    }

    pub(crate) fn context_with_account(&self, name: &str, account: Account) -> Context {
        Context::with_account(name, self.machine.physical_memory(), account)
    }

    /// A request for `pages` pages of memory from page `from` on.
    pub(crate) fn request(&self, place: Place, pages: u64, from: u64) -> MapRequest<Place> {
        MapRequest {
            iova: place,
            bytes: pages * PAGE_SIZE,
            process: self.user.clone(),
            addr: self.numbered.page(from).unwrap(),
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
        NumberedMemory::seen(&self.device(device), Iova::new(at * PAGE_SIZE))
    }

    /// The memory, which no device may reach any more when it is unpinned.
    pub(crate) fn watched(&self) -> Arc<Watched> {
        let devices = (0..self.members.len()).map(|device| self.device(device)).collect();
        let (user, memory) = (self.user.clone(), self.machine.memory().clone());
        Arc::new(Watched { user, memory, devices })
    }

    /// The bus-master side of a device.
    pub(crate) fn device(&self, device: usize) -> SimulatedDevice {
        self.machine.dma(&self.members[device])
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
            let view = NumberedMemory::view(&self.device(device), 0..SPACE);
            let mut reached: Vec<_> = view.into_iter().flatten().collect();
            reached.sort_unstable();
            reached.dedup();
            let pinned = self.process.pinned();
            assert!(reached.len() as u64 <= pinned, "{what}: {} reaches {reached:?}, {pinned} pins", member.name());
        }
    }

    /// All that can be seen, but for what is in a context.
    pub(crate) fn picture(&self) -> String {
        let mut picture = self.machine.picture();
        writeln!(picture, "pins {} locked {}", self.process.pinned(), self.locked.pages()).unwrap();
        for (device, member) in self.members.iter().enumerate() {
            let seen = NumberedMemory::view(&self.device(device), 0..SPACE);
            writeln!(picture, "{} {seen:?}", member.name()).unwrap();
        }
        picture
    }

    /// Nothing is left of any user.
    pub(crate) fn assert_idle(&self) {
        assert_eq!((self.process.pinned(), self.locked.pages()), (0, 0));
        assert!(left_behind(&self.iommu).is_none(), "{:?}", left_behind(&self.iommu));
        for (device, member) in self.members.iter().enumerate() {
            let seen = NumberedMemory::view(&self.device(device), 0..SPACE);
            assert!(seen.iter().all(Option::is_none), "{} sees {seen:?}", member.name());
        }
    }
}

/// See [`Rig::watched`].
#[derive(Debug)]
pub(crate) struct Watched {
    user: Arc<FailingMemory>,
    memory: Memory,
    devices: Vec<SimulatedDevice>,
}

impl UserMemory for Watched {
    fn pin(&self, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        self.user.pin(at, bytes, access)
    }

    fn unpin(&self, run: PinnedRun) {
        let freed = (0..run.bytes / PAGE_SIZE).map(|page| PhysAddr::new(run.phys.get() + page * PAGE_SIZE));
        let freed: Vec<_> = freed.map(|page| u64::from_le_bytes(self.memory.bytes(page))).collect();
        for device in &self.devices {
            for (at, seen) in NumberedMemory::view(device, 0..SPACE).into_iter().enumerate() {
                let reached = seen.is_some_and(|page| freed.contains(&page));
                assert!(!reached, "{:?} reaches page {at} as it is unpinned", device.endpoint());
            }
        }
        self.user.unpin(run);
    }

    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress> {
        self.user.read(at, into)
    }

    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        self.user.write(at, from)
    }

    fn limit(&self) -> Limit {
        self.user.limit()
    }

    fn charge(&self, account: Account, limit: Limit, pages: u64) -> Result<(), OverLimit> {
        self.user.charge(account, limit, pages)
    }

    fn uncharge(&self, account: Account, pages: u64) {
        self.user.uncharge(account, pages);
    }
}
