//! How a group comes under a container's domains.
// Table Vt14.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::slice;

use iommu_core::hardware::Capabilities;
use iommu_core::reserved::ReservedRegion;
use iommu_core::{Claim, Domain, GroupId, IovaRange};

use super::container::Type1Container;
use super::{UnsafeInterrupts, reach};
use crate::backend::{AttachGroupError, MapDmaError};

/// A domain that groups are attached to.
#[derive(Debug)]
pub(super) struct SharedDomain {
    pub(super) domain: Arc<Domain>,
    pub(super) coherency: Coherency,
    number: DomainNumber,
    /// How many.
    groups: usize,
}

/// The domains of a container are numbered as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct DomainNumber(u64);

/// Whether all DMA through a domain is coherent with CPU caches.
// Vt14.13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coherency {
    Enforced,
    UpToTheDevice,
}

#[derive(Debug)]
pub(super) struct AttachedGroup {
    /// To which domain.
    domain: DomainNumber,
    /// Where nothing may be mapped.
    forbidden: Vec<ReservedRegion>,
}

/// What is cut out of the addresses that are allowed.
fn holes(forbidden: &[ReservedRegion]) -> impl Iterator<Item = IovaRange> {
    forbidden.iter().filter_map(reach::range_of)
}

impl Type1Container {
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
        let mapped = !self.mappings.is_empty();
        let outside = mapped && self.mappings.iter().any(|(mapping, _)| !aperture.covers(mapping));
        if !reached || outside {
            return Err(AttachGroupError::Aperture { group: id, first: aperture.first(), last: aperture.last() });
        }
        for region in forbidden.iter().filter(|_| mapped) {
            let overlapped = reach::range_of(region).and_then(|range| self.mappings.first_in(range));
            if let Some((mapping, _)) = overlapped {
                return Err(AttachGroupError::Reserved { group: id, mapping, region: *region });
            }
        }
        let allowed = self.narrowed(aperture, forbidden);
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
    fn narrowed(&self, aperture: IovaRange, forbidden: &[ReservedRegion]) -> Vec<IovaRange> {
        let all = [IovaRange::ALL];
        let allowed = if self.domains.is_empty() { all.as_slice() } else { &self.allowed };
        // Each hole makes one range more at most.
        let mut left = Vec::with_capacity(allowed.len() + forbidden.len());
        left.extend(allowed.iter().filter_map(|range| range.intersection(aperture)));
        holes(forbidden).for_each(|hole| IovaRange::cut_out(&mut left, hole));
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
            reach::allowed(self.apertures(), self.groups.iter().flat_map(|group| holes(&group.forbidden)))
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
            holes(&forbidden).for_each(|hole| IovaRange::cut_out(&mut self.allowed, hole));
            if let Some(shared) = self.domains.get_mut(place) {
                shared.groups += 1;
                self.groups.insert(id, AttachedGroup { domain: shared.number, forbidden });
            }
        } else {
            let number = self.domains.last().map_or_else(DomainNumber::default, |last| DomainNumber(last.number.0 + 1));
            let fresh = SharedDomain { domain: fresh, coherency, number, groups: 1 };
            self.replay(id, &fresh)?;
            self.domains.push(fresh);
            self.groups.insert(id, AttachedGroup { domain: number, forbidden });
            self.allowed = allowed;
            self.measure_pages();
        }
        Ok(())
    }

    /// Takes a group out of its domain.
    pub(super) fn leave(&mut self, claim: &Claim) {
        let Some(left) = self.groups.remove(claim.group().id()) else { return };
        claim.detach();
        let Ok(place) = self.domains.binary_search_by_key(&left.domain, |shared| shared.number) else { return };
        if let Some(shared) = self.domains.get_mut(place) {
            shared.groups -= 1;
            if shared.groups == 0 {
                if self.domains.len() == 1 {
                    self.remove_all(IovaRange::ALL);
                }
                self.domains.remove(place);
            } else if self.groups.iter().rev().any(|group| group.forbidden == left.forbidden) {
                // The same ranges and page sizes as before.
                return;
            }
        }
        self.measure();
    }
}
