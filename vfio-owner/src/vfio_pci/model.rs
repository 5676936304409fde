//! Models of the hardware behind a function.

use crate::device_ops::RegionIndex;

/// The hardware behind the regions of a function.
///
/// Accesses come from any thread, within the bounds of the region, with no lock held; so a write may raise an
/// interrupt.
pub trait FunctionModel: Send + Sync {
    /// Reads from `offset` of a BAR or the ROM.
    fn read(&self, region: RegionIndex, offset: u64, into: &mut [u8]);

    /// Writes to `offset` of a BAR.
    fn write(&self, region: RegionIndex, offset: u64, from: &[u8]);

    /// Resets the hardware to its state after power-on.
    fn reset(&self);
}
