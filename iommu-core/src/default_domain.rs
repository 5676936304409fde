//! The default domain: how its type is chosen, and how it is set up.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::str::FromStr;

use device_model::Errno;

use crate::address::{Access, Iova, IovaRange, PhysAddr};
use crate::domain::Domain;
use crate::error::SetTypeError;
use crate::group_id::GroupId;
use crate::hardware::DefaultDomainType;
use crate::mapping::MapError;
use crate::member::Member;
use crate::reserved::{self, RegionKind, ReservedRegion};

/// What can be written to a group's `type` file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TypeRequest {
    /// This type.
    Explicit(DefaultDomainType),
    /// What the devices require, else what the machine is configured for.
    Auto,
}

/// A text that names no default domain type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not one of identity, DMA, DMA-FQ, auto")]
pub struct UnknownType;

impl UnknownType {
    /// Returns `EINVAL`.
    pub const fn errno(&self) -> Errno {
        Errno::EINVAL
    }
}

impl FromStr for TypeRequest {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, UnknownType> {
        Ok(match text.strip_suffix('\n').unwrap_or(text) {
            "identity" => Self::Explicit(DefaultDomainType::Identity),
            "DMA" => Self::Explicit(DefaultDomainType::Dma),
            "DMA-FQ" => Self::Explicit(DefaultDomainType::DmaLazy),
            "auto" => Self::Auto,
            _ => return Err(UnknownType),
        })
    }
}

/// What devices want of their default domain, and what the machine is configured for.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    wanted: Option<DefaultDomainType>,
    machine: DefaultDomainType,
}

impl Choice {
    /// Merges what the devices want: where they differ, identity wins; an explicit request must not differ from it.
    // I41.
    pub(crate) fn of(
        group: GroupId,
        members: &[Arc<Member>],
        request: TypeRequest,
        machine: DefaultDomainType,
    ) -> Result<Self, SetTypeError> {
        let mut merged: Option<(DefaultDomainType, &Member)> = None;
        for member in members {
            let Some(opinion) = member.properties().default_domain else { continue };
            let agreed = match merged {
                Some((other, _)) if other != opinion => DefaultDomainType::Identity,
                _ => opinion,
            };
            merged = Some((agreed, member));
        }
        let wanted = match (request, merged) {
            (TypeRequest::Auto, merged) => merged.map(|(opinion, _)| opinion),
            (TypeRequest::Explicit(wanted), Some((opinion, member))) if opinion != wanted => {
                return Err(SetTypeError::Refused { group, device: member.name().clone() });
            }
            (TypeRequest::Explicit(wanted), _) => Some(wanted),
        };
        Ok(Self { wanted, machine })
    }

    /// The type, unless hardware has no such domains.
    pub(crate) fn kind(self) -> DefaultDomainType {
        self.wanted.unwrap_or(self.machine)
    }

    /// Allocates a domain of this type; DMA if that is not possible and nobody wants the type. The type that it has.
    fn allocate(self, group: GroupId, member: &Member) -> Result<(Arc<Domain>, DefaultDomainType), SetTypeError> {
        let allocate =
            |kind: DefaultDomainType| Domain::allocate(kind.domain_kind(), member).map(|domain| (domain, kind));
        let kind = self.kind();
        match allocate(kind) {
            Err(_) if self.wanted.is_none() && kind != DefaultDomainType::Dma => allocate(DefaultDomainType::Dma),
            result => result,
        }
        .map_err(|cause| SetTypeError::Allocate { group, device: member.name().clone(), cause })
    }

    /// Makes a default domain in which the direct regions of all members are mapped. Called without the group lock.
    pub(crate) fn set_up(
        self,
        group: GroupId,
        members: &[Arc<Member>],
    ) -> Result<(Arc<Domain>, DefaultDomainType, DirectMappings), SetTypeError> {
        let first = members.first().ok_or(SetTypeError::NoDefaultDomain { group })?;
        let (domain, kind) = self.allocate(group, first)?;
        let mut direct = DirectMappings::default();
        for member in members {
            direct
                .map(&domain, &member.properties().reserved)
                .map_err(|_| SetTypeError::DirectRegion { device: member.name().clone() })?;
        }
        Ok((domain, kind, direct))
    }
}

/// What is mapped 1:1 in a default domain, for devices that are here, or were.
#[derive(Debug, Default)]
pub(crate) struct DirectMappings(Vec<IovaRange>);

impl DirectMappings {
    /// Maps the regions that must stay 1:1, but for what is mapped so for another device; and keeps the DMA API from using
    /// any region.
    pub(crate) fn map(&mut self, domain: &Domain, regions: &[ReservedRegion]) -> Result<(), MapError> {
        if let Some(space) = domain.dma_space() {
            space.reserve(regions);
        }
        let Some(geometry) = domain.geometry() else { return Ok(()) };
        let granule = geometry.page_sizes.smallest();
        let direct =
            regions.iter().filter(|region| matches!(region.kind, RegionKind::Direct | RegionKind::DirectRelaxable));
        for region in reserved::merge(direct.map(|region| ReservedRegion { kind: RegionKind::Direct, ..*region })) {
            let first = region.first.get() & !(granule - 1);
            let last = region.last.get() | (granule - 1);
            let Some(range) = IovaRange::new(Iova::new(first), Iova::new(last)) else { continue };
            for missing in range.without(self.0.iter().copied()) {
                let at = missing.first();
                domain.map_trusted(at, PhysAddr::new(at.get()), missing.bytes(), Access::ReadWrite)?;
                self.0.push(missing);
            }
        }
        Ok(())
    }
}
