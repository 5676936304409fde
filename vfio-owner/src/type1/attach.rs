//! How a group comes under a container's domains.
// Table Vt14.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::slice;

use iommu_core::hardware::Capabilities;
use iommu_core::reserved::ReservedRegion;
use iommu_core::{Claim, Domain, GroupId, IovaRange};

use super::container::Type1Container;
use super::{UnsafeInterrupts, reach};
use crate::backend::{AttachGroupError, MapDmaError};

/// A domain, and the groups that are attached to it.
#[derive(Debug)]
pub(super) struct SharedDomain {
    pub(super) domain: Arc<Domain>,
    pub(super) coherency: Coherency,
    pub(super) groups: Vec<AttachedGroup>,
}

/// Whether all DMA through a domain is coherent with CPU caches.
// Vt14.13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coherency {
    Enforced,
    UpToTheDevice,
}

#[derive(Debug)]
pub(super) struct AttachedGroup {
    pub(super) id: GroupId,
    /// Where nothing may be mapped.
    pub(super) forbidden: Vec<ReservedRegion>,
}

impl Type1Container {
    pub(super) fn groups(&self) -> impl Iterator<Item = &AttachedGroup> {
        self.domains.iter().flat_map(|shared| &shared.groups)
    }

    /// What is mapped, checked for a group that comes. Returns what is allowed once it has come.
    // Vt14.8 to Vt14.12.
    fn check_group(
        &self,
        id: GroupId,
        domain: &Domain,
        forbidden: &[ReservedRegion],
        capabilities: Capabilities,
    ) -> Result<Vec<IovaRange>, AttachGroupError> {
        let no_range = || AttachGroupError::NoRange { group: id };
        let aperture = domain.geometry().and_then(|geometry| reach::aperture(&geometry)).ok_or_else(no_range)?;
        let reached = self.allowed.is_empty() || self.allowed.iter().any(|range| range.overlaps(aperture));
        let outside = self.mappings.iter().any(|(mapping, _)| !aperture.covers(mapping));
        if !reached || outside {
            return Err(AttachGroupError::Aperture { group: id, first: aperture.first(), last: aperture.last() });
        }
        for region in forbidden {
            let overlapped = reach::range_of(region).and_then(|range| self.mappings.first_in(range));
            if let Some((mapping, _)) = overlapped {
                return Err(AttachGroupError::Reserved { group: id, mapping, region: *region });
            }
        }
        let allowed = self.narrowed(Some(aperture), forbidden);
        if allowed.is_empty() {
            return Err(no_range());
        }
        let isolated = capabilities.contains(Capabilities::MSI_ISOLATION);
        if !isolated && self.config.unsafe_interrupts == UnsafeInterrupts::Refuse {
            return Err(AttachGroupError::UnsafeInterrupts { group: id });
        }
        Ok(allowed)
    }

    /// What is allowed, within an aperture and outside of these regions as well.
    fn narrowed(&self, aperture: Option<IovaRange>, forbidden: &[ReservedRegion]) -> Vec<IovaRange> {
        let all = [IovaRange::ALL];
        let allowed = if self.domains.is_empty() { all.as_slice() } else { &self.allowed };
        let within =
            allowed.iter().filter_map(|range| aperture.map_or(Some(*range), |aperture| range.intersection(aperture)));
        // Each hole makes one range more at most.
        let mut left = Vec::with_capacity(allowed.len() + forbidden.len());
        left.extend(within);
        forbidden.iter().filter_map(reach::range_of).for_each(|hole| IovaRange::cut_out(&mut left, hole));
        left
    }

    fn apertures(&self) -> impl Iterator<Item = IovaRange> {
        self.domains.iter().filter_map(|shared| reach::aperture(&shared.domain.geometry()?))
    }

    /// Puts a group that is attached to `fresh` under a domain that is there already, if one takes it.
    // Vt14.14.
    fn share(
        &self,
        claim: &Claim,
        fresh: &Arc<Domain>,
        coherency: Coherency,
    ) -> Result<Option<usize>, AttachGroupError> {
        for (place, shared) in self.domains.iter().enumerate().filter(|(_, shared)| shared.coherency == coherency) {
            claim.detach();
            if claim.attach(&shared.domain).is_ok() {
                return Ok(Some(place));
            }
            claim.attach(fresh)?;
        }
        Ok(None)
    }

    /// Everything that is mapped, into a new domain as well. On failure nothing is pinned that was not before;
    /// what was mapped into the domain goes with it.
    // Vt14.15.
    fn replay(&mut self, group: GroupId, fresh: &SharedDomain) -> Result<(), AttachGroupError> {
        let failed = |mapping, cause| AttachGroupError::Replay { group, mapping, cause };
        let Some(model) = self.domains.first() else {
            return self.pin_all(fresh).map_err(|(mapping, cause)| failed(mapping, cause));
        };
        for (range, mapping) in self.mappings.iter() {
            mapping
                .replay(&self.memory, range, &model.domain, &fresh.domain)
                .map_err(|cause| failed(range, cause.into()))?;
        }
        Ok(())
    }

    /// What was mapped while there was no domain, into the first one.
    // V48.
    fn pin_all(&mut self, first: &SharedDomain) -> Result<(), (IovaRange, MapDmaError)> {
        let ranges: Vec<IovaRange> = self.mappings.iter().map(|(range, _)| range).collect();
        for (done, range) in ranges.iter().enumerate() {
            let Some((_, mapping)) = self.mappings.get_mut(range.first()) else { continue };
            if let Err(error) = mapping.pin(&self.processes, &self.memory, *range, slice::from_ref(first)) {
                for earlier in ranges.iter().take(done) {
                    if let Some((_, mapping)) = self.mappings.get_mut(earlier.first()) {
                        mapping.unpin(&self.processes, *earlier, slice::from_ref(first));
                    }
                }
                return Err((*range, error));
            }
        }
        Ok(())
    }

    /// Ranges and page sizes, after groups have left.
    pub(super) fn measure(&mut self) {
        self.allowed = if self.domains.is_empty() {
            // Whatever the next group can address.
            Vec::new()
        } else {
            let holes = self.groups().flat_map(|group| &group.forbidden).filter_map(reach::range_of);
            reach::allowed(self.apertures(), holes)
        };
        self.measure_pages();
    }

    /// Page sizes, after the domains have changed.
    fn measure_pages(&mut self) {
        let sizes = self.domains.iter().filter_map(|shared| Some(shared.domain.geometry()?.page_sizes));
        self.page_sizes = reach::page_sizes(sizes);
    }

    pub(super) fn join(&mut self, claim: &Claim, fresh: Arc<Domain>) -> Result<(), AttachGroupError> {
        let (id, capabilities) = (claim.group().id(), claim.group().capabilities());
        let forbidden = reach::forbidden(claim.group().reserved_regions());
        let allowed = self.check_group(id, &fresh, &forbidden, capabilities)?;
        let enforced = capabilities.contains(Capabilities::ENFORCED_COHERENCY);
        let coherency = if enforced { Coherency::Enforced } else { Coherency::UpToTheDevice };
        if let Some(place) = self.share(claim, &fresh, coherency)? {
            // In a domain that is there already, whose aperture counts as it is.
            self.allowed = self.narrowed(None, &forbidden);
            if let Some(shared) = self.domains.get_mut(place) {
                shared.groups.push(AttachedGroup { id, forbidden });
            }
        } else {
            let fresh = SharedDomain { domain: fresh, coherency, groups: vec![AttachedGroup { id, forbidden }] };
            self.replay(id, &fresh)?;
            self.domains.push(fresh);
            self.allowed = allowed;
            self.measure_pages();
        }
        Ok(())
    }
}
