use super::*;
use crate::hardware::{DirtyFlags, Endpoint, Gather, IommuDriver, PagingFlags};
use crate::software::testing::{Map, unheard};
use crate::software::{SimulatedDevice, SoftIommu, SoftIommuConfig};
use crate::{IovaRange, PhysAddr, hardware::Capabilities, hardware::HardwareDomain};

use alloc::boxed::Box;
use device_model::DeviceId;

/// Where the table lies, for the parent and in memory.
const TABLE: (u64, u64) = (0x10_0000, 0x50_0000);

struct Scene {
    memory: Memory,
    parent: Box<dyn HardwareDomain>,
    nested: Box<dyn HardwareDomain>,
    device: SimulatedDevice,
}

fn scene() -> Scene {
    let mut config = SoftIommuConfig::default();
    config.capabilities = config.capabilities.union(Capabilities::NESTING);
    let iommu = SoftIommu::new("dmar0", config);
    let dev = Endpoint::new(DeviceId::new(1), "dev");
    iommu.probe(&dev, unheard()).unwrap();
    let parent = iommu.allocate_for_user(PagingFlags::all(), None, &dev).unwrap();
    parent.map(Iova::new(TABLE.0), PhysAddr::new(TABLE.1), 0x1000, Access::Read).unwrap();
    parent.map(Iova::new(0x20_0000), PhysAddr::new(0x60_0000), 0x20_0000, Access::ReadWrite).unwrap();
    let stage1 = Stage1 { table: Iova::new(TABLE.0), entries: 16 }.to_bytes();
    let nested =
        parent.nesting_parent().unwrap().nest(UserData { kind: STAGE_1_FORMAT, bytes: &stage1 }, &dev).unwrap();
    nested.attach(&dev).unwrap();
    let memory = Memory::new();
    let device = SimulatedDevice::new(dev, iommu, memory.clone());
    Scene { memory, parent, nested, device }
}

impl Scene {
    fn set(&self, page: u64, entry: u64) {
        self.memory.write(PhysAddr::new(TABLE.1 + page * 8), &entry.to_le_bytes());
    }

    fn write(&self, iova: u64) -> Result<(), FaultReason> {
        self.device.write(Iova::new(iova), &[7]).map_err(|fault| fault.reason)
    }

    fn reached(&self, phys: u64) -> bool {
        self.memory.bytes::<1>(PhysAddr::new(phys)) == [7]
    }

    fn forget(&self, first: u64, entries: u64) {
        let bytes = Invalidation { first, entries }.to_bytes();
        self.nested.nested().unwrap().invalidate(UserData { kind: STAGE_1_FORMAT, bytes: &bytes }).unwrap();
    }
}

#[test]
fn dma_goes_through_both_stages() {
    let scene = scene();
    assert_eq!(scene.write(0x2008), Err(FaultReason::NotMapped));
    scene.set(2, stage_1_entry(Iova::new(0x20_3000), Access::Write));
    scene.write(0x2008).unwrap();
    assert!(scene.reached(0x60_3008));
    assert_eq!(scene.device.read(Iova::new(0x2008), &mut [0]).unwrap_err().reason, FaultReason::NotPermitted);
    assert_eq!(scene.write(16 * 0x1000), Err(FaultReason::BeyondAperture));
    // The guest cannot reach what the parent does not map, nor write what it may only read.
    scene.set(3, stage_1_entry(Iova::new(0x80_0000), Access::Write));
    assert_eq!(scene.write(0x3000), Err(FaultReason::NotMapped));
    scene.set(4, stage_1_entry(Iova::new(TABLE.0), Access::Write));
    assert_eq!(scene.write(0x4000), Err(FaultReason::NotPermitted));
}

#[test]
fn an_entry_is_cached_until_it_is_invalidated() {
    let scene = scene();
    scene.set(0, stage_1_entry(Iova::new(0x20_0000), Access::ReadWrite));
    scene.write(0).unwrap();
    scene.set(0, stage_1_entry(Iova::new(0x20_1000), Access::ReadWrite));
    scene.write(1).unwrap();
    assert!(scene.reached(0x60_0001));
    scene.forget(1, u64::MAX);
    scene.write(2).unwrap();
    assert!(scene.reached(0x60_0002));
    scene.forget(0, 1);
    scene.write(3).unwrap();
    assert!(scene.reached(0x60_1003));
}

#[test]
fn writes_through_a_nested_domain_are_noted_by_the_parent() {
    let scene = scene();
    scene.set(0, stage_1_entry(Iova::new(0x20_0000), Access::ReadWrite));
    let tracking = scene.parent.dirty_tracking().unwrap();
    tracking.start().unwrap();
    scene.device.read(Iova::new(0), &mut [0]).unwrap();
    let all = IovaRange::sized(Iova::new(0), 1 << 39).unwrap();
    let dirty = |flags| {
        let mut pages = Vec::new();
        tracking
            .read(all, flags, &mut Gather::new(), &mut |dirty| {
                pages.extend(dirty.runs().map(|run| (run.first().get(), run.bytes())));
            })
            .unwrap();
        pages
    };
    assert_eq!(dirty(DirtyFlags::NO_CLEAR), [], "a read dirties nothing");
    scene.write(0).unwrap();
    assert_eq!(dirty(DirtyFlags::NO_CLEAR), [(0x20_0000, 0x20_0000)], "a large page is dirty as a whole");
    assert_eq!(dirty(DirtyFlags::empty()).len(), 1);
    assert_eq!(dirty(DirtyFlags::empty()), []);
}

#[test]
fn data_that_is_not_understood_is_refused() {
    let scene = scene();
    let errno = |kind, bytes: &[u8]| {
        let dev = scene.device.endpoint();
        scene.parent.nesting_parent().unwrap().nest(UserData { kind, bytes }, dev).err().map(|error| error.errno)
    };
    assert_eq!(errno(STAGE_1_FORMAT, &[0; 15]), Some(Errno::EINVAL));
    assert_eq!(errno(2, &[0; 16]), Some(Errno::EOPNOTSUPP));
    let misaligned = Stage1 { table: Iova::new(8), entries: 1 }.to_bytes();
    assert_eq!(errno(STAGE_1_FORMAT, &misaligned), Some(Errno::EINVAL));
    let endless = Stage1 { table: Iova::new(0), entries: u64::MAX }.to_bytes();
    assert_eq!(errno(STAGE_1_FORMAT, &endless), Some(Errno::EINVAL));
    assert!(scene.nested.nesting_parent().is_none(), "only a parent nests");
}
