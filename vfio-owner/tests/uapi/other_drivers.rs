//! What vfio-pci does not report and other drivers do.

use std::sync::Arc;

use vfio_owner::NoIommuMode;
use vfio_owner::device_ops::{
    DeviceInfo, DeviceOps, Feature, FeatureAccess, FeatureError, FeatureId, FeatureSupport, MappableArea, PciAtomicOps,
    RegionCapability, RegionIndex, RegionInfo,
};
use vfio_owner::iommu_core::GroupId;
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::device_model::sync::Mutex;
use vfio_owner::uapi::File;

use crate::no_iommu::Bare;
use crate::rig::{NIC, Program};

/// A device with everything that can be told, and features that keep what they are set to.
#[derive(Debug, Default)]
struct Talkative(Mutex<Vec<Feature>>);

const COUNTER: FeatureId = FeatureId::new(77);

impl DeviceOps for Talkative {
    fn info(&self) -> DeviceInfo {
        let atomics = PciAtomicOps::BITS_32.union(PciAtomicOps::BITS_128);
        DeviceInfo { regions: 2, atomics, ..DeviceInfo::default() }
    }

    fn region(&self, index: RegionIndex) -> Option<RegionInfo> {
        let area = |offset| MappableArea { offset, size: 0x1000 };
        let sparse = RegionCapability::SparseMmap(vec![area(0), area(0x3000)]);
        let kind = RegionCapability::Type { kind: 0x8000_8086, subtype: 2 };
        let size = if index == RegionIndex::BAR0 { 0x4000 } else { return None };
        Some(RegionInfo { size, mappable: true, capabilities: vec![sparse, kind], ..RegionInfo::empty(index) })
    }

    fn feature(&self, id: FeatureId) -> Option<FeatureSupport> {
        match id {
            COUNTER => Some(FeatureSupport { access: FeatureAccess::GetAndSet, bytes: 4 }),
            FeatureId::BUS_MASTER => Some(FeatureSupport { access: FeatureAccess::Set, bytes: 4 }),
            _ => None,
        }
    }

    fn get_feature(&self, _id: FeatureId) -> Result<Vec<u8>, FeatureError> {
        Ok(vec![1, 2, 3, 4, 5, 6, 7, 8])
    }

    fn set_feature(&self, feature: Feature) -> Result<(), FeatureError> {
        self.0.lock().push(feature);
        Ok(())
    }
}

fn device(program: &Program, ops: Arc<dyn DeviceOps>) -> (Bare, i32) {
    let bare = Bare::serving(NoIommuMode::Enabled, ops);
    bare.bind("A").unwrap();
    let group = program.open(File::Group(bare.vfio.open_no_iommu_group(GroupId::new(0)).unwrap()));
    let container = program.open(File::Container(bare.vfio.open_container()));
    program.call(group, 104, &container.to_ne_bytes()).unwrap();
    program.value(container, 102, 8).unwrap();
    let device = program.call(group, 106, b"A\0").unwrap().0;
    (bare, device)
}

/// V74, V75, V78.
#[test]
fn capabilities_follow_where_there_is_room() {
    let program = Program::with(&[NIC]);
    let (_bare, device) = device(&program, Arc::<Talkative>::default());
    let info = |argsz| program.words(device, 107, &[argsz, 0, 0, 0, 77]).map(|words| words[..10].to_vec());
    assert_eq!(info(16), Ok(vec![40, 0x80, 2, 0, 77, 0, 0, 0, 0, 0]), "as much as asked for, and what it takes");
    assert_eq!(info(39), Ok(vec![40, 0x80, 2, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(info(40), Ok(vec![40, 0x80, 2, 0, 24, 0, 1 << 16 | 5, 0, 0b101, 0]));
    let region = |argsz| program.words(device, 108, &[argsz, 0, 0, 77]).map(|words| words[..24].to_vec());
    let short = region(32).unwrap();
    assert_eq!(short[..4], [96, 0xc, 0, 0]);
    assert_eq!(short[8..], [0; 16]);
    let sparse = [1 << 16 | 1, 80, 2, 0, 0, 0, 0x1000, 0, 0x3000, 0, 0x1000, 0];
    let kind = [1 << 16 | 2, 0, 0x8000_8086, 2];
    let full = region(96).unwrap();
    assert_eq!(full[..4], [96, 0xc, 0, 32]);
    assert_eq!(full[8..], [&sparse[..], &kind[..]].concat());
    assert_eq!(program.words(device, 108, &[32, 0, 1]), Err(Errno::EINVAL));
}

/// Vt29.
#[test]
fn features_are_read_and_set() {
    let program = Program::with(&[NIC]);
    let ops = Arc::<Talkative>::default();
    let (_bare, device) = device(&program, ops.clone());
    let feature = |argsz, flags, data| program.words(device, 117, &[argsz, flags, data]);
    let (get, set) = (0x1_004d, 0x2_004d);
    assert_eq!(feature(11, get, 0), Err(Errno::EINVAL));
    assert_eq!(feature(12, get, 0).unwrap()[2..4], [0x0403_0201, 0], "no more than there is room for");
    assert_eq!(feature(16, get, 0).unwrap()[2..5], [0x0403_0201, 0x0807_0605, 0]);
    feature(12, set, 5).unwrap();
    feature(12, 0x2_000a, 1).unwrap();
    assert_eq!(feature(12, 0x2_000a, 2), Err(Errno::EINVAL));
    assert_eq!(feature(12, 0x1_000a, 0), Err(Errno::EINVAL));
    let heard = format!("{:?}", ops.0.lock());
    assert_eq!(heard, "[Other { id: FeatureId(77), data: [5, 0, 0, 0] }, BusMaster(Set)]");
}
