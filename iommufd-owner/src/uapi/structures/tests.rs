//! What is decoded here lies where the kernel's headers say.

use iommufd_bindings as iommufd;
use vfio_bindings::bindings::vfio;

use alloc::vec::Vec;

use super::*;
use crate::uapi::calls;

/// Compares the size of a structure, and where each field lies.
macro_rules! same {
    ($ours:ident, $theirs:path { $($field:ident $(is $other:ident)?),* $(,)? }) => {
        assert_eq!(size_of::<$ours>(), size_of::<$theirs>(), stringify!($theirs));
        $(same!(@field $ours, $theirs, $field $(, $other)?);)*
    };
    (@field $ours:ident, $theirs:path, $field:ident) => { same!(@field $ours, $theirs, $field, $field) };
    (@field $ours:ident, $theirs:path, $field:ident, $other:ident) => {
        assert_eq!(
            core::mem::offset_of!($ours, $field),
            core::mem::offset_of!($theirs, $other),
            concat!(stringify!($theirs), "::", stringify!($other)),
        );
    };
}

#[test]
fn structures_of_iommufd() {
    same!(Destroy, iommufd::iommu_destroy { size, id });
    same!(IoasAlloc, iommufd::iommu_ioas_alloc { size, flags, out_ioas_id });
    same!(Range, iommufd::iommu_iova_range { start, last });
    same!(IoasIovaRanges, iommufd::iommu_ioas_iova_ranges {
        size, ioas_id, num_iovas, reserved is __reserved, allowed_iovas, out_iova_alignment,
    });
    same!(IoasAllowIovas, iommufd::iommu_ioas_allow_iovas {
        size, ioas_id, num_iovas, reserved is __reserved, allowed_iovas,
    });
    same!(IoasMap, iommufd::iommu_ioas_map { size, flags, ioas_id, reserved is __reserved, user_va, length, iova, });
    same!(IoasCopy, iommufd::iommu_ioas_copy { size, flags, dst_ioas_id, src_ioas_id, length, dst_iova, src_iova });
    same!(IoasUnmap, iommufd::iommu_ioas_unmap { size, ioas_id, iova, length });
    same!(IommuOption, iommufd::iommu_option { size, option_id, op, reserved is __reserved, object_id, val64, });
    same!(VfioIoas, iommufd::iommu_vfio_ioas { size, ioas_id, op, reserved is __reserved, });
    same!(HwptAlloc, iommufd::iommu_hwpt_alloc {
        size, flags, dev_id, pt_id, out_hwpt_id, reserved is __reserved, data_type, data_len, data_uptr, fault_id,
        reserved2 is __reserved2,
    });
    same!(HwInfo, iommufd::iommu_hw_info {
        size, flags, dev_id, data_len, data_uptr, out_data_type is __bindgen_anon_1, out_max_pasid_log2,
        reserved is __reserved, out_capabilities,
    });
    same!(HwptSetDirtyTracking, iommufd::iommu_hwpt_set_dirty_tracking {
        size, flags, hwpt_id, reserved is __reserved,
    });
    same!(HwptGetDirtyBitmap, iommufd::iommu_hwpt_get_dirty_bitmap {
        size, hwpt_id, flags, reserved is __reserved, iova, length, page_size, data,
    });
    same!(HwptInvalidate, iommufd::iommu_hwpt_invalidate {
        size, hwpt_id, data_uptr, data_type, entry_len, entry_num, reserved is __reserved,
    });
    same!(FaultQueueAlloc, iommufd::iommu_fault_alloc { size, flags, out_fault_id, out_fault_fd });
    same!(PageFault, iommufd::iommu_hwpt_pgfault {
        flags, dev_id, pasid, grpid, perm, reserved is __reserved, addr, length, cookie,
    });
    same!(PageResponse, iommufd::iommu_hwpt_page_response { cookie, code });
    assert_eq!(size_of::<Test>(), 72, "not in the headers; Ft20.16");
}

#[test]
fn structures_of_a_container() {
    same!(ContainerInfo, vfio::vfio_iommu_type1_info { argsz, flags, iova_pgsizes, cap_offset, pad });
    assert_eq!(size_of::<ContainerInfoHead>(), core::mem::offset_of!(vfio::vfio_iommu_type1_info, cap_offset));
    same!(CapabilityHeader, vfio::vfio_info_cap_header { id, version, next });
    same!(DmaAvail, vfio::vfio_iommu_type1_info_dma_avail { header, avail });
    same!(IovaRanges, vfio::vfio_iommu_type1_info_cap_iova_range { header, nr_iovas, reserved });
    same!(DmaMap, vfio::vfio_iommu_type1_dma_map { argsz, flags, vaddr, iova, size });
    same!(DmaUnmap, vfio::vfio_iommu_type1_dma_unmap { argsz, flags, iova, size });
}

#[test]
fn numbers() {
    let of_iommufd = [
        ("IOMMU_DESTROY", iommufd::IOMMUFD_CMD_DESTROY),
        ("IOMMU_IOAS_ALLOC", iommufd::IOMMUFD_CMD_IOAS_ALLOC),
        ("IOMMU_IOAS_ALLOW_IOVAS", iommufd::IOMMUFD_CMD_IOAS_ALLOW_IOVAS),
        ("IOMMU_IOAS_COPY", iommufd::IOMMUFD_CMD_IOAS_COPY),
        ("IOMMU_IOAS_IOVA_RANGES", iommufd::IOMMUFD_CMD_IOAS_IOVA_RANGES),
        ("IOMMU_IOAS_MAP", iommufd::IOMMUFD_CMD_IOAS_MAP),
        ("IOMMU_IOAS_UNMAP", iommufd::IOMMUFD_CMD_IOAS_UNMAP),
        ("IOMMU_OPTION", iommufd::IOMMUFD_CMD_OPTION),
        ("IOMMU_VFIO_IOAS", iommufd::IOMMUFD_CMD_VFIO_IOAS),
        ("IOMMU_HWPT_ALLOC", iommufd::IOMMUFD_CMD_HWPT_ALLOC),
        ("IOMMU_GET_HW_INFO", iommufd::IOMMUFD_CMD_GET_HW_INFO),
        ("IOMMU_HWPT_SET_DIRTY_TRACKING", iommufd::IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING),
        ("IOMMU_HWPT_GET_DIRTY_BITMAP", iommufd::IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP),
        ("IOMMU_HWPT_INVALIDATE", iommufd::IOMMUFD_CMD_HWPT_INVALIDATE),
        ("IOMMU_FAULT_QUEUE_ALLOC", iommufd::IOMMUFD_CMD_FAULT_QUEUE_ALLOC),
        ("IOMMU_TEST_CMD", iommufd::IOMMUFD_CMD_BASE + 0x20),
    ];
    let of_a_container = [
        ("VFIO_GET_API_VERSION", 0),
        ("VFIO_CHECK_EXTENSION", 1),
        ("VFIO_SET_IOMMU", 2),
        ("VFIO_IOMMU_GET_INFO", 12),
        ("VFIO_IOMMU_MAP_DMA", 13),
        ("VFIO_IOMMU_UNMAP_DMA", 14),
    ];
    let types = (u32::from(iommufd::IOMMUFD_TYPE) << 8, u32::from(vfio::VFIO_TYPE) << 8);
    let expected: Vec<_> = of_iommufd
        .map(|(name, number)| (name, types.0 | number))
        .into_iter()
        .chain(of_a_container.map(|(name, number)| (name, types.1 | (vfio::VFIO_BASE + number))))
        .collect();
    assert_eq!(calls().map(|call| (call.name, call.request)).collect::<Vec<_>>(), expected);
}

/// What was shorter once still is enough; everything else has one size.
#[test]
fn sizes() {
    let several: Vec<_> =
        calls().filter(|call| call.least != call.full).map(|call| (call.name, call.least, call.full)).collect();
    let expected = [
        ("IOMMU_HWPT_ALLOC", core::mem::offset_of!(iommufd::iommu_hwpt_alloc, data_type), 48),
        ("IOMMU_GET_HW_INFO", core::mem::offset_of!(iommufd::iommu_hw_info, out_capabilities), 40),
        ("IOMMU_TEST_CMD", 68, 72),
        ("VFIO_IOMMU_GET_INFO", core::mem::offset_of!(vfio::vfio_iommu_type1_info, cap_offset), 24),
    ];
    assert_eq!(several, expected);
}
