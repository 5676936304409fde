//! What a context forgets.

use alloc::vec::Vec;

use iommu_core::device_model::DeviceId;
use iommu_core::hardware::{Endpoint, IommuDriver};
use iommu_core::software::{SoftIommu, SoftIommuConfig};
use iommu_core::{DeviceGroup, IommuSubsystem};

use super::*;

/// Bound devices whose group is the letter that their name begins with.
fn bound(names: &[&str]) -> (IommuSubsystem, Context, Vec<BoundDevice>) {
    let hardware: Arc<dyn IommuDriver> = SoftIommu::new("soft", SoftIommuConfig::default());
    let by_letter = move |device: &Endpoint| Some(DeviceGroup::named(&hardware, device.name.get(..1)?));
    let (iommu, memory) = IommuSubsystem::builder(by_letter).build();
    let context = Context::new("vmm", &memory);
    let plug = |(number, name): (u64, &&str)| {
        let member = iommu.add_device(&Endpoint::new(DeviceId::new(number), *name)).ok()??;
        context.bind(&member).ok()
    };
    let bound = (1..).zip(names).filter_map(plug).collect();
    (iommu, context, bound)
}

#[test]
fn f33_a_group_is_forgotten_with_its_last_bound_device() {
    let (_iommu, context, mut bound) = bound(&["a1", "a2", "b1"]);
    let known = || context.0.groups.lock().len();
    assert_eq!((bound.len(), known()), (3, 2));
    for left in [2, 1, 0] {
        let group = bound[0].device().group().clone();
        drop(bound.remove(0));
        assert_eq!((known(), context.owns(&group)), (left, left == 2));
    }
}

#[test]
fn page_tables_that_have_gone_are_forgotten() {
    let (_iommu, context, bound) = bound(&["a1"]);
    let id = context.ioas_alloc().unwrap();
    for _ in 0..10 {
        bound[0].attach(id).unwrap();
        bound[0].detach();
    }
    assert!(context.ioas(id).unwrap().0.lock_hwpts().len() <= 1);
}
