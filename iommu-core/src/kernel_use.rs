//! The kernel's use of a device through the DMA API.

use alloc::boxed::Box;
use alloc::sync::Arc;

use once_cell::race::OnceBox;

use crate::dma_api::{Dma, DmaMapError};
use crate::error::UseError;
use crate::group::Group;
use crate::member::Member;

/// Lets a kernel driver do DMA through the DMA API with one device. Dropping it ends the use.
///
/// While it lives no user-space owner gets the group.
#[derive(Debug)]
#[must_use = "dropping the use ends it"]
pub struct KernelUse {
    member: Arc<Member>,
    /// What the driver maps, once it asks for it. Revoked before the use ends.
    dma: OnceBox<Dma>,
}

impl KernelUse {
    /// Begins a use by `driver`, whose name is for those who will be refused. Takes the group lock; the caller holds the
    /// device lock, so that the driver does not change.
    ///
    /// A device that was stopped when hardware failed is attached to the default domain first.
    ///
    /// # Errors
    /// User space owns the group, the driver of another device has attached a domain, the device was removed, or hardware
    /// refuses the default domain. Nothing has changed then.
    #[inline]
    pub fn begin(member: Arc<Member>, driver: &Arc<str>) -> Result<Self, UseError> {
        let group = &**member.group();
        let mut state = group.lock();
        if !state.is_ready() {
            drop(state);
            return Self::begin_in_any_state(member, driver);
        }
        let before = state.before();
        let displaced = state.begin_use(group.id(), &member, driver)?;
        let transition = before.map(|before| state.transition(group.id(), Some(member.name()), before, None));
        drop(state);
        drop(displaced);
        if let Some(transition) = transition {
            let undo = Uncounted(&member);
            group.tell(&transition);
            core::mem::forget(undo);
        }
        Ok(Self { member, dma: OnceBox::new() })
    }

    #[cold]
    fn begin_in_any_state(member: Arc<Member>, driver: &Arc<str>) -> Result<Self, UseError> {
        let group = &**member.group();
        let mut change = group.change();
        change.allow_use(group.id(), &member)?;
        let displaced = change.begin_use(group.id(), &member, driver)?;
        let undo = Uncounted(&member);
        change.finish(Some(member.name()), None);
        core::mem::forget(undo);
        drop(displaced);
        Ok(Self { member, dma: OnceBox::new() })
    }

    /// Returns the device that is used.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Returns the DMA API for this device. Takes the group lock, and allocates, the first time.
    ///
    /// # Errors
    /// The device was removed.
    pub fn dma(&self) -> Result<&Dma, DmaMapError> {
        self.dma.get_or_try_init(|| Dma::of(self).map(Box::new))
    }
}

impl Drop for KernelUse {
    #[inline]
    fn drop(&mut self) {
        let use_of = Counted(&self.member);
        // The use ends even if the IOMMU driver unwinds here.
        if let Some(dma) = self.dma.get() {
            dma.revoke();
        }
        drop(use_of);
    }
}

/// A use that is counted. Dropping it ends the use.
struct Counted<'a>(&'a Arc<Member>);

impl Drop for Counted<'_> {
    #[inline]
    fn drop(&mut self) {
        let group: &Group = self.0.group();
        let mut state = group.lock();
        let before = state.before();
        if state.end_use(self.0)
            && let Some(before) = before
        {
            let transition = state.transition(group.id(), Some(self.0.name()), before, None);
            drop(state);
            group.tell(&transition);
        }
    }
}

/// Ends a use that the observer unwound on, without telling it.
struct Uncounted<'a>(&'a Member);

impl Drop for Uncounted<'_> {
    fn drop(&mut self) {
        self.0.group().lock().end_use(self.0);
    }
}
