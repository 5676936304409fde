//! Structures of `linux/vfio.h`, field by field.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
            #[repr(C)]
            pub(super) struct $name {
                $(pub(super) $field: $type,)*
            }
        )*
    };
}

structures! {
    /// `vfio_group_status`, and what every structure begins with.
    Head { argsz: u32, flags: u32 }

    /// `vfio_device_info`.
    DeviceInfo { argsz: u32, flags: u32, num_regions: u32, num_irqs: u32, cap_offset: u32, pad: u32 }

    /// `vfio_region_info`.
    RegionInfo { argsz: u32, flags: u32, index: u32, cap_offset: u32, size: u64, offset: u64 }

    /// `vfio_irq_info`.
    IrqInfo { argsz: u32, flags: u32, index: u32, count: u32 }

    /// `vfio_irq_set` up to its data.
    IrqSet { argsz: u32, flags: u32, index: u32, start: u32, count: u32 }

    /// `vfio_pci_hot_reset_info` and `vfio_pci_hot_reset` up to their lists.
    HotReset { argsz: u32, flags: u32, count: u32 }

    /// `vfio_pci_dependent_device`.
    DependentDevice { id: u32, segment: u16, bus: u8, devfn: u8 }

    /// `vfio_device_ioeventfd`.
    IoEventfd { argsz: u32, flags: u32, offset: u64, data: u64, fd: i32 , reserved: u32 }

    /// `vfio_device_low_power_entry_with_wakeup`.
    LowPowerEntryWithWakeup { wakeup_eventfd: i32, reserved: u32 }

    /// `vfio_device_bind_iommufd`.
    BindIommufd { argsz: u32, flags: u32, iommufd: i32, out_devid: u32 }

    /// `vfio_device_attach_iommufd_pt`.
    AttachPt { argsz: u32, flags: u32, pt_id: u32 }

    /// `vfio_info_cap_header`: what each capability begins with.
    CapHeader { id: u16, version: u16, next: u32 }

    /// `vfio_region_info_cap_type` behind its header.
    RegionType { kind: u32, subtype: u32 }

    /// `vfio_region_info_cap_sparse_mmap` behind its header, up to its areas.
    SparseMmap { nr_areas: u32, reserved: u32 }

    /// `vfio_region_sparse_mmap_area`.
    SparseArea { offset: u64, size: u64 }

    /// `vfio_iommu_type1_info`.
    Type1Info { argsz: u32, flags: u32, iova_pgsizes: u64, cap_offset: u32, pad: u32 }

    /// `vfio_iommu_type1_info_cap_migration` behind its header.
    MigrationCap { flags: u32, pad: u32, pgsize_bitmap: u64, max_dirty_bitmap_size: u64 }

    /// `vfio_iommu_type1_info_cap_iova_range` behind its header, up to its ranges.
    IovaRangeCap { nr_iovas: u32, reserved: u32 }

    /// `vfio_iova_range`.
    IovaRange { start: u64, end: u64 }

    /// `vfio_iommu_type1_dma_map`.
    DmaMap { argsz: u32, flags: u32, vaddr: u64, iova: u64, size: u64 }

    /// `vfio_iommu_type1_dma_unmap` up to its bitmap.
    DmaUnmap { argsz: u32, flags: u32, iova: u64, size: u64 }

    /// `vfio_bitmap`.
    Bitmap { pgsize: u64, size: u64, data: u64 }

    /// `vfio_iommu_type1_dirty_bitmap_get`.
    DirtyGet { iova: u64, size: u64, bitmap: Bitmap }
}
