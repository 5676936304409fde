//! What a software IOMMU is like.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::page_table::TableFormat;
use crate::address::{Iova, IovaRange};
use crate::hardware::{Capabilities, DefaultDomainType, Description, DomainKind, EndpointProperties};
use crate::reserved::{RegionKind, ReservedRegion};

/// How a [`SoftIommu`](super::SoftIommu) is built, and what it says of the devices that it serves.
#[derive(Clone, Debug)]
pub struct SoftIommuConfig {
    /// The page tables of its domains.
    pub format: TableFormat,
    /// Where writes are interrupts, if anywhere: reported as a region of kind [`RegionKind::Msi`] for every device.
    pub interrupt_window: Option<RangeInclusive<Iova>>,
    /// Further reserved regions, by the name of the device.
    pub reserved: BTreeMap<String, Vec<ReservedRegion>>,
    /// Required default domain types, by the name of the device.
    pub default_domains: BTreeMap<String, DefaultDomainType>,
    /// Kinds of domains that this IOMMU does not have: allocating one fails with `EOPNOTSUPP`.
    pub absent: Vec<DomainKind>,
    /// PASIDs that each device has: 1 to one less than this. 0 for none at all.
    pub max_pasids: u32,
    /// What it can do for devices.
    pub capabilities: Capabilities,
    /// Whether it has a translation cache (IOTLB) that holds all it has translated until it is flushed, so that a missing flush
    /// always shows. Off by default: then each device caches the few translations that it used last.
    pub iotlb: bool,
    /// Capabilities that it lacks for single devices, by the device's name.
    pub lacking: BTreeMap<String, Capabilities>,
    /// What it tells user space of itself, unless it tells of the domains that it nests. Empty by default.
    pub description: Description,
}

impl Default for SoftIommuConfig {
    /// As common on x86: 39 bits of address, pages of every size, the interrupt window at `0xfee00000`, every kind of
    /// domain; no PASIDs.
    fn default() -> Self {
        Self {
            format: TableFormat::X86_39,
            interrupt_window: Some(Iova::new(0xfee0_0000)..=Iova::new(0xfeef_ffff)),
            reserved: BTreeMap::new(),
            default_domains: BTreeMap::new(),
            absent: Vec::new(),
            max_pasids: 0,
            capabilities: Capabilities::CACHE_COHERENCY
                .union(Capabilities::MSI_ISOLATION)
                .union(Capabilities::ENFORCED_COHERENCY)
                .union(Capabilities::DIRTY_TRACKING),
            iotlb: false,
            lacking: BTreeMap::new(),
            description: Description::default(),
        }
    }
}

impl SoftIommuConfig {
    /// The interrupt window; an empty range is none.
    pub(super) fn window(&self) -> Option<IovaRange> {
        let window = self.interrupt_window.as_ref()?;
        IovaRange::new(*window.start(), *window.end())
    }

    pub(super) fn properties(&self, device: &str) -> EndpointProperties {
        let mut reserved: Vec<ReservedRegion> = self.reserved.get(device).cloned().unwrap_or_default();
        if let Some(window) = self.window() {
            reserved.push(ReservedRegion { first: window.first(), kind: RegionKind::Msi, last: window.last() });
        }
        EndpointProperties {
            reserved,
            default_domain: self.default_domains.get(device).copied(),
            max_pasids: self.max_pasids,
            capabilities: self.capabilities.difference(self.lacking.get(device).copied().unwrap_or_default()),
        }
    }
}
