//! What an IOMMU of Intel's says of itself, `struct iommu_hw_info_vtd`: flags, the capability register, the extended one.

use iommu_core::hardware::Description;

const TYPE_INTEL_VTD: u32 = 1;

/// One with page tables of three levels and large pages, without dirty bits.
pub(super) fn describe() -> Description {
    const FLAGS: u64 = 0;
    const CAPABILITIES: [u64; 2] = [0xd2_008c_2226_0206, 0xf0_0f5a];
    let words = [FLAGS].into_iter().chain(CAPABILITIES);
    Description { kind: TYPE_INTEL_VTD, bytes: words.flat_map(u64::to_ne_bytes).collect() }
}

/// The capability registers of an IOMMU, if it says that it is Intel's.
pub(super) fn registers(description: &Description) -> Option<[u64; 2]> {
    let register = |at: usize| description.bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes);
    if description.kind == TYPE_INTEL_VTD { Some([register(8)?, register(16)?]) } else { None }
}
