//! What the simulated hardware does.

use crate::device_ops::RegionIndex;

/// The hardware behind the windows of a function.
///
/// Accesses come from any thread, within the bounds of the window, with no lock held; so a write may raise an
/// interrupt.
pub trait FunctionModel: Send + Sync {
    /// Reads from `offset` of a BAR's or the ROM's window on.
    fn read(&self, region: RegionIndex, offset: u64, into: &mut [u8]);

    /// Writes from `offset` of a BAR's window on.
    fn write(&self, region: RegionIndex, offset: u64, from: &[u8]);

    /// Back to the state after power-on.
    fn reset(&self);
}
