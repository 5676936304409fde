//! The structures of `include/uapi/linux/iommufd.h`, and those of VFIO's that an iommufd serves, as they lie in memory.
// Table Ft20, F95e, F96.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Any bytes are such a structure, and it consists of nothing else.
pub(super) trait Structure: Sized + FromBytes + IntoBytes + Immutable {}

impl<T: FromBytes + IntoBytes + Immutable> Structure for T {}

macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
            #[repr(C)]
            pub(super) struct $name {
                $(pub(super) $field: $type,)*
            }
        )*
    };
}

structures! {
    /// `struct iommu_destroy`.
    Destroy { size: u32, id: u32, }

    /// `struct iommu_ioas_alloc`.
    IoasAlloc { size: u32, flags: u32, out_ioas_id: u32, }

    /// `struct iommu_iova_range`.
    Range { start: u64, last: u64, }

    /// `struct iommu_ioas_iova_ranges`.
    IoasIovaRanges {
        size: u32,
        ioas_id: u32,
        num_iovas: u32,
        reserved: u32,
        allowed_iovas: u64,
        out_iova_alignment: u64,
    }

    /// `struct iommu_ioas_allow_iovas`.
    IoasAllowIovas { size: u32, ioas_id: u32, num_iovas: u32, reserved: u32, allowed_iovas: u64, }

    /// `struct iommu_ioas_map`.
    IoasMap { size: u32, flags: u32, ioas_id: u32, reserved: u32, user_va: u64, length: u64, iova: u64, }

    /// `struct iommu_ioas_copy`.
    IoasCopy {
        size: u32,
        flags: u32,
        dst_ioas_id: u32,
        src_ioas_id: u32,
        length: u64,
        dst_iova: u64,
        src_iova: u64,
    }

    /// `struct iommu_ioas_unmap`.
    IoasUnmap { size: u32, ioas_id: u32, iova: u64, length: u64, }

    /// `struct iommu_option`.
    IommuOption { size: u32, option_id: u32, op: u16, reserved: u16, object_id: u32, val64: u64, }

    /// `struct iommu_vfio_ioas`.
    VfioIoas { size: u32, ioas_id: u32, op: u16, reserved: u16, }

    /// `struct iommu_hwpt_alloc`.
    HwptAlloc {
        size: u32,
        flags: u32,
        dev_id: u32,
        pt_id: u32,
        out_hwpt_id: u32,
        reserved: u32,
        data_type: u32,
        data_len: u32,
        data_uptr: u64,
        fault_id: u32,
        reserved2: u32,
    }

    /// `struct iommu_hw_info`.
    HwInfo {
        size: u32,
        flags: u32,
        dev_id: u32,
        data_len: u32,
        data_uptr: u64,
        out_data_type: u32,
        out_max_pasid_log2: u8,
        reserved: [u8; 3],
        out_capabilities: u64,
    }

    /// `struct iommu_hwpt_set_dirty_tracking`.
    HwptSetDirtyTracking { size: u32, flags: u32, hwpt_id: u32, reserved: u32, }

    /// `struct iommu_hwpt_get_dirty_bitmap`.
    HwptGetDirtyBitmap {
        size: u32,
        hwpt_id: u32,
        flags: u32,
        reserved: u32,
        iova: u64,
        length: u64,
        page_size: u64,
        data: u64,
    }

    /// `struct iommu_hwpt_invalidate`.
    HwptInvalidate {
        size: u32,
        hwpt_id: u32,
        data_uptr: u64,
        data_type: u32,
        entry_len: u32,
        entry_num: u32,
        reserved: u32,
    }

    /// `struct iommu_fault_alloc`.
    FaultQueueAlloc { size: u32, flags: u32, out_fault_id: u32, out_fault_fd: i32, }

    /// `struct iommu_test_cmd`, whose operations are for the kernel's own tests.
    Test { size: u32, op: u32, rest: [u64; 8], }

    /// `struct iommu_hwpt_pgfault`.
    PageFault {
        flags: u32,
        dev_id: u32,
        pasid: u32,
        grpid: u32,
        perm: u32,
        reserved: u32,
        addr: u64,
        length: u32,
        cookie: u32,
    }

    /// `struct iommu_hwpt_page_response`.
    PageResponse { cookie: u32, code: u32, }

    /// `struct vfio_iommu_type1_info` as it was before its capabilities.
    ContainerInfoHead { argsz: u32, flags: u32, iova_pgsizes: u64, }

    /// `struct vfio_iommu_type1_info`.
    ContainerInfo { argsz: u32, flags: u32, iova_pgsizes: u64, cap_offset: u32, pad: u32, }

    /// `struct vfio_info_cap_header`.
    CapabilityHeader { id: u16, version: u16, next: u32, }

    /// `struct vfio_iommu_type1_info_dma_avail`.
    DmaAvail { header: CapabilityHeader, avail: u32, }

    /// `struct vfio_iommu_type1_info_cap_iova_range` before its ranges.
    IovaRanges { header: CapabilityHeader, nr_iovas: u32, reserved: u32, }

    /// `struct vfio_iommu_type1_dma_map`.
    DmaMap { argsz: u32, flags: u32, vaddr: u64, iova: u64, size: u64, }

    /// `struct vfio_iommu_type1_dma_unmap` before its data.
    DmaUnmap { argsz: u32, flags: u32, iova: u64, size: u64, }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
