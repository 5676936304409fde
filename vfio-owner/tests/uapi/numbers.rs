//! The numbers of the calls, by kind of file.

use std::collections::BTreeMap;

use vfio_bindings::bindings::vfio::{VFIO_BASE, VFIO_TYPE};
use vfio_owner::uapi::{Kind, calls};

/// What `linux/vfio.h` adds to the base.
const HEADER: [(&str, u32); 23] = [
    ("VFIO_GET_API_VERSION", 0),
    ("VFIO_CHECK_EXTENSION", 1),
    ("VFIO_SET_IOMMU", 2),
    ("VFIO_GROUP_GET_STATUS", 3),
    ("VFIO_GROUP_SET_CONTAINER", 4),
    ("VFIO_GROUP_UNSET_CONTAINER", 5),
    ("VFIO_GROUP_GET_DEVICE_FD", 6),
    ("VFIO_DEVICE_GET_INFO", 7),
    ("VFIO_DEVICE_GET_REGION_INFO", 8),
    ("VFIO_DEVICE_GET_IRQ_INFO", 9),
    ("VFIO_DEVICE_SET_IRQS", 10),
    ("VFIO_DEVICE_RESET", 11),
    ("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", 12),
    ("VFIO_IOMMU_GET_INFO", 12),
    ("VFIO_DEVICE_PCI_HOT_RESET", 13),
    ("VFIO_IOMMU_MAP_DMA", 13),
    ("VFIO_IOMMU_UNMAP_DMA", 14),
    ("VFIO_IOMMU_DIRTY_PAGES", 17),
    ("VFIO_DEVICE_IOEVENTFD", 16),
    ("VFIO_DEVICE_FEATURE", 17),
    ("VFIO_DEVICE_BIND_IOMMUFD", 18),
    ("VFIO_DEVICE_ATTACH_IOMMUFD_PT", 19),
    ("VFIO_DEVICE_DETACH_IOMMUFD_PT", 20),
];

#[test]
fn calls_have_the_numbers_of_the_header() {
    let header: BTreeMap<&str, u32> = HEADER.into_iter().collect();
    let base = u32::from(VFIO_TYPE) << 8 | VFIO_BASE;
    let kinds = [Kind::Container, Kind::Group, Kind::Device, Kind::DeviceFile];
    let mut named: BTreeMap<&str, u32> = BTreeMap::new();
    for kind in kinds {
        let mut numbers = Vec::new();
        for call in calls(kind) {
            assert_eq!(Some(&(call.number - base)), header.get(call.name), "{}", call.name);
            named.insert(call.name, call.number - base);
            numbers.push(call.number);
        }
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "{kind:?}: a number stands for one call");
    }
    assert_eq!(named, header, "each call is served by some file");
}
