//! The default domain: how its type is chosen, how it is set up, and when it may be changed.

use alloc::vec::Vec;
use core::str::FromStr;

use device_model::Errno;
use slab::Slab;

use crate::address::{Access, Iova, IovaRange, PhysAddr};
use crate::domain::Domain;
use crate::error::SetTypeError;
use crate::group::{Current, DefaultDomain, Group, GroupId, GroupState, Record};
use crate::hardware::DefaultDomainType;
use crate::mapping::MapError;
use crate::ownership::Ownership;
use crate::reserved::{self, RegionKind, ReservedRegion};

/// What can be written to a group's `type` file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TypeRequest {
    /// This type.
    Explicit(DefaultDomainType),
    /// What the devices want, else what the machine is configured for.
    Auto,
}

/// A text that names no default domain type (It10.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not one of identity, DMA, DMA-FQ, auto")]
pub struct UnknownType;

impl UnknownType {
    /// `EINVAL`.
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

impl Group {
    /// Changes the type of the default domain (table It10). DMA turns lazy in place, whoever holds the group; every
    /// other change needs a group that nobody holds. Takes the group lock.
    ///
    /// # Errors
    /// The default domain is the old one, and every device is attached to it.
    pub fn set_default_domain_type(
        &self,
        request: TypeRequest,
        machine: DefaultDomainType,
    ) -> Result<(), SetTypeError> {
        let id = self.id();
        let mut guard = self.lock();
        let state = &mut *guard;
        let default = state.default.as_mut().ok_or(SetTypeError::NoDefaultDomain { group: id })?;
        if request == TypeRequest::Explicit(DefaultDomainType::DmaLazy) && default.kind == DefaultDomainType::Dma {
            default.kind = DefaultDomainType::DmaLazy;
            return Ok(());
        }
        match &state.ownership {
            Ownership::Idle => {}
            Ownership::Kernel { .. } => {
                return Err(SetTypeError::KernelUse { group: id, devices: state.kernel_users() });
            }
            Ownership::User { owner, .. } => {
                return Err(SetTypeError::Owned { group: id, holder: owner.clone() });
            }
        }
        if !matches!(state.current, Current::Default) || !state.pasids.is_empty() {
            return Err(SetTypeError::DomainInUse { group: id });
        }
        state.set_up_default(id, request, machine)
    }
}

impl GroupState {
    /// Gives the group a default domain of the type that fits all its devices, and attaches every device to it (I40).
    pub(crate) fn set_up_default(
        &mut self,
        group: GroupId,
        request: TypeRequest,
        machine: DefaultDomainType,
    ) -> Result<(), SetTypeError> {
        let wanted = choose(group, &self.members, request)?;
        let kind = wanted.unwrap_or(machine);
        if self.default.as_ref().is_some_and(|default| default.kind == kind) {
            return Ok(());
        }
        let fallback = wanted.is_none();
        let mut default = allocate(group, &self.members, kind, fallback)?;
        for (_, record) in &self.members {
            default
                .map_direct(&record.properties.reserved)
                .map_err(|_| SetTypeError::DirectRegion { device: record.endpoint.name.clone() })?;
        }
        self.switch_default(group, &default.domain).map_err(SetTypeError::Switch)?;
        self.default = Some(default);
        self.current = Current::Default;
        Ok(())
    }
}

/// What the devices want (I41): where they differ, identity wins; an explicit request must not differ from it.
fn choose(
    group: GroupId,
    members: &Slab<Record>,
    request: TypeRequest,
) -> Result<Option<DefaultDomainType>, SetTypeError> {
    let mut merged: Option<(DefaultDomainType, &Record)> = None;
    for (_, record) in members {
        let Some(opinion) = record.properties.default_domain else { continue };
        let agreed = match merged {
            Some((other, _)) if other != opinion => DefaultDomainType::Identity,
            _ => opinion,
        };
        merged = Some((agreed, record));
    }
    match (request, merged) {
        (TypeRequest::Auto, merged) => Ok(merged.map(|(opinion, _)| opinion)),
        (TypeRequest::Explicit(wanted), Some((opinion, record))) if opinion != wanted => {
            Err(SetTypeError::Refused { group, device: record.endpoint.name.clone() })
        }
        (TypeRequest::Explicit(wanted), _) => Ok(Some(wanted)),
    }
}

fn allocate(
    group: GroupId,
    members: &Slab<Record>,
    kind: DefaultDomainType,
    fallback: bool,
) -> Result<DefaultDomain, SetTypeError> {
    let (_, first) = members.iter().next().ok_or(SetTypeError::NoDefaultDomain { group })?;
    let domain = |kind: DefaultDomainType| {
        Domain::allocate(kind.domain_kind(), &first.iommu, &first.endpoint).map(|domain| DefaultDomain {
            domain,
            kind,
            direct: Vec::new(),
        })
    };
    match domain(kind) {
        Err(_) if fallback && kind != DefaultDomainType::Dma => domain(DefaultDomainType::Dma),
        result => result,
    }
    .map_err(|cause| SetTypeError::Allocate { group, device: first.endpoint.name.clone(), cause })
}

impl DefaultDomain {
    /// Maps the regions that must stay 1:1, but for what is mapped so for another device, one that has left perhaps.
    fn map_direct(&mut self, regions: &[ReservedRegion]) -> Result<(), MapError> {
        let Some(geometry) = self.domain.geometry() else { return Ok(()) };
        let granule = geometry.page_sizes.smallest();
        let direct =
            regions.iter().filter(|region| matches!(region.kind, RegionKind::Direct | RegionKind::DirectRelaxable));
        for region in reserved::merge(direct.map(|region| ReservedRegion { kind: RegionKind::Direct, ..*region })) {
            let first = region.first.get() & !(granule - 1);
            let last = region.last.get() | (granule - 1);
            let Some(range) = IovaRange::new(Iova::new(first), Iova::new(last)) else { continue };
            for missing in range.without(self.direct.iter().copied()) {
                let at = missing.first();
                self.domain.map(at, PhysAddr::new(at.get()), missing.bytes(), Access::ReadWrite)?;
                self.direct.push(missing);
            }
        }
        Ok(())
    }

    /// For a device that joins later (I12).
    pub(crate) fn map_direct_late(&mut self, regions: &[ReservedRegion]) {
        // Linux ignores errors here as well: the device joins, and faults where firmware wanted it mapped.
        let _ = self.map_direct(regions);
    }
}
