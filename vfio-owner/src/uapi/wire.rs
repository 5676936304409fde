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

    /// `vfio_device_info_cap_pci_atomic_comp` behind its header.
    AtomicCompleter { flags: u32, reserved: u32 }

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

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use core::mem::offset_of;

    use vfio_bindings::bindings::vfio as kernel;

    use super::*;

    /// Each field is where the kernel's header has it.
    macro_rules! same {
        ($($ours:ident = $theirs:ident { $($field:ident = $name:ident),* };)*) => {
            $($(assert_eq!(
                offset_of!($ours, $field),
                offset_of!(kernel::$theirs, $name),
                concat!(stringify!($theirs), ".", stringify!($name)),
            );)*)*
        };
    }

    #[test]
    fn fields_are_where_the_header_has_them() {
        same! {
            Head = vfio_group_status { argsz = argsz, flags = flags };
            DeviceInfo = vfio_device_info {
                argsz = argsz, flags = flags, num_regions = num_regions, num_irqs = num_irqs, cap_offset = cap_offset,
                pad = pad
            };
            RegionInfo = vfio_region_info {
                argsz = argsz, flags = flags, index = index, cap_offset = cap_offset, size = size, offset = offset
            };
            IrqInfo = vfio_irq_info { argsz = argsz, flags = flags, index = index, count = count };
            IrqSet = vfio_irq_set { argsz = argsz, flags = flags, index = index, start = start, count = count };
            HotReset = vfio_pci_hot_reset_info { argsz = argsz, flags = flags, count = count };
            HotReset = vfio_pci_hot_reset { argsz = argsz, flags = flags, count = count };
            DependentDevice = vfio_pci_dependent_device { segment = segment, bus = bus, devfn = devfn };
            IoEventfd = vfio_device_ioeventfd { argsz = argsz, flags = flags, offset = offset, data = data, fd = fd };
            LowPowerEntryWithWakeup = vfio_device_low_power_entry_with_wakeup {
                wakeup_eventfd = wakeup_eventfd, reserved = reserved
            };
            BindIommufd = vfio_device_bind_iommufd {
                argsz = argsz, flags = flags, iommufd = iommufd, out_devid = out_devid
            };
            AttachPt = vfio_device_attach_iommufd_pt { argsz = argsz, flags = flags, pt_id = pt_id };
            CapHeader = vfio_info_cap_header { id = id, version = version, next = next };
            Type1Info = vfio_iommu_type1_info {
                argsz = argsz, flags = flags, iova_pgsizes = iova_pgsizes, cap_offset = cap_offset, pad = pad
            };
            IovaRange = vfio_iova_range { start = start, end = end };
            DmaMap = vfio_iommu_type1_dma_map { argsz = argsz, flags = flags, vaddr = vaddr, iova = iova, size = size };
            DmaUnmap = vfio_iommu_type1_dma_unmap { argsz = argsz, flags = flags, iova = iova, size = size };
            Bitmap = vfio_bitmap { pgsize = pgsize, size = size, data = data };
            DirtyGet = vfio_iommu_type1_dirty_bitmap_get { iova = iova, size = size, bitmap = bitmap };
            SparseArea = vfio_region_sparse_mmap_area { offset = offset, size = size };
        }
    }

    /// What follows a capability's header, in bytes.
    const fn body<T>() -> usize {
        size_of::<T>() - size_of::<CapHeader>()
    }

    #[test]
    fn structures_have_the_sizes_of_the_header() {
        assert_eq!(size_of::<Head>(), size_of::<kernel::vfio_group_status>());
        assert_eq!(size_of::<Head>(), size_of::<kernel::vfio_iommu_type1_dirty_bitmap>());
        assert_eq!(size_of::<Head>(), size_of::<kernel::vfio_device_feature>());
        assert_eq!(size_of::<DeviceInfo>(), size_of::<kernel::vfio_device_info>());
        assert_eq!(size_of::<RegionInfo>(), size_of::<kernel::vfio_region_info>());
        assert_eq!(size_of::<IrqInfo>(), size_of::<kernel::vfio_irq_info>());
        assert_eq!(size_of::<IrqSet>(), size_of::<kernel::vfio_irq_set>());
        assert_eq!(size_of::<DependentDevice>(), size_of::<kernel::vfio_pci_dependent_device>());
        assert_eq!(size_of::<IoEventfd>(), size_of::<kernel::vfio_device_ioeventfd>());
        assert_eq!(size_of::<Type1Info>(), size_of::<kernel::vfio_iommu_type1_info>());
        assert_eq!(size_of::<DmaMap>(), size_of::<kernel::vfio_iommu_type1_dma_map>());
        assert_eq!(size_of::<DmaUnmap>(), size_of::<kernel::vfio_iommu_type1_dma_unmap>());
        assert_eq!(size_of::<Bitmap>(), size_of::<kernel::vfio_bitmap>());
        assert_eq!(size_of::<DirtyGet>(), size_of::<kernel::vfio_iommu_type1_dirty_bitmap_get>());
        assert_eq!(size_of::<MigrationCap>(), body::<kernel::vfio_iommu_type1_info_cap_migration>());
        assert_eq!(size_of::<IovaRangeCap>(), body::<kernel::vfio_iommu_type1_info_cap_iova_range>());
        assert_eq!(size_of::<u32>(), body::<kernel::vfio_iommu_type1_info_dma_avail>());
        assert_eq!(size_of::<AtomicCompleter>(), body::<kernel::vfio_device_info_cap_pci_atomic_comp>());
        assert_eq!(size_of::<RegionType>(), body::<kernel::vfio_region_info_cap_type>());
        assert_eq!(size_of::<SparseMmap>(), body::<kernel::vfio_region_info_cap_sparse_mmap>());
    }
}
