//! Models of the hardware behind a function.

use alloc::sync::Arc;

use crate::device_ops::{Follow, Polled, RegionIndex, RegionMemory};

/// The hardware behind the regions of a function.
///
/// Accesses come from any thread, within the bounds of the region, with no lock held; so a write may raise an
/// interrupt.
pub trait FunctionModel: Send + Sync {
    /// Reads from `offset` of a BAR or the ROM.
    fn read(&self, region: RegionIndex, offset: u64, into: &mut [u8]);

    /// Writes to `offset` of a BAR.
    fn write(&self, region: RegionIndex, offset: u64, from: &[u8]);

    /// Has the model take a BAR from `memory`, which programs have mapped, until [`unfollow`](Self::unfollow). Returns
    /// whether it does: a model whose registers do something when they are written, and that notices by
    /// [`poll`](Self::poll). Otherwise the contents are copied.
    fn follow(&self, region: RegionIndex, memory: &Arc<dyn RegionMemory>) -> Follow {
        let _ = (region, memory);
        Follow::Ignores
    }

    /// Ends what [`follow`](Self::follow) began.
    fn unfollow(&self, region: RegionIndex) {
        let _ = region;
    }

    /// Does what programs asked for in memory that the model follows. Called again and again
    /// meanwhile, and before the interrupt line is unmasked; from any thread.
    fn poll(&self) -> Polled {
        Polled::Idle
    }

    /// Resets the hardware to its state after power-on.
    fn reset(&self);
}
