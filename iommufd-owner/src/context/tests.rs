//! F33: what a context remembers of groups.

use alloc::vec::Vec;

use iommu_core::device_model::DeviceId;
use iommu_core::hardware::{Endpoint, IommuDriver};
use iommu_core::software::{SoftIommu, SoftIommuConfig};
use iommu_core::{DeviceGroup, IommuSubsystem};

use super::*;

#[test]
fn a_group_is_forgotten_with_its_last_bound_device() {
    let hardware: Arc<dyn IommuDriver> = SoftIommu::new("soft", SoftIommuConfig::default());
    let by_letter = move |device: &Endpoint| Some(DeviceGroup::named(&hardware, device.name.get(..1)?));
    let (iommu, memory) = IommuSubsystem::builder(by_letter).build();
    let context = Context::new("vmm", &memory);
    let known = || context.0.groups.lock().len();
    let plug =
        |(number, name): (u64, &str)| iommu.add_device(&Endpoint::new(DeviceId::new(number), name)).ok().flatten();
    let members: Vec<_> = (1..).zip(["a1", "a2", "b1"]).filter_map(plug).collect();
    let mut bound: Vec<_> = members.iter().filter_map(|member| context.bind(member).ok()).collect();
    assert_eq!((bound.len(), known()), (3, 2));
    for left in [2, 1, 0] {
        drop(bound.remove(0));
        assert_eq!(known(), left);
    }
    assert!(members.iter().all(|member| !context.owns(member.group())));
}
