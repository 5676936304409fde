//! Changing the type of the default domain.

use super::{Current, GroupState};
use crate::default_domain::TypeRequest;
use crate::error::SetTypeError;
use crate::group_id::GroupId;
use crate::hardware::DefaultDomainType;
use crate::ownership::Ownership;

impl GroupState {
    /// Turns DMA lazy in place, if that is what is asked for.
    // It10.4.
    pub(crate) fn turn_lazy(&mut self, group: GroupId, request: TypeRequest) -> Result<bool, SetTypeError> {
        let default = self.default.as_mut().ok_or(SetTypeError::NoDefaultDomain { group })?;
        let lazy = TypeRequest::Explicit(DefaultDomainType::DmaLazy);
        let turns = request == lazy && default.kind == DefaultDomainType::Dma;
        if turns {
            default.kind = DefaultDomainType::DmaLazy;
            if let Some(space) = default.domain.dma_space() {
                space.turn_lazy();
            }
        }
        Ok(turns)
    }

    /// Whether the default domain may be exchanged: nobody holds the group, and it is at home.
    // It10.5.
    pub(crate) fn check_type_change(&self, group: GroupId) -> Result<(), SetTypeError> {
        match &self.ownership {
            Ownership::Idle => {}
            Ownership::Kernel { .. } => return Err(SetTypeError::KernelUse { group, devices: self.kernel_users() }),
            Ownership::User { owner, .. } => return Err(SetTypeError::Owned { group, holder: owner.clone() }),
        }
        if !matches!(self.current, Current::Default) || !self.pasids.is_empty() {
            return Err(SetTypeError::DomainInUse { group });
        }
        Ok(())
    }
}
