//! Windows: physical memory whose contents lie elsewhere.

use core::fmt;

use device_model::sync::Arc;

use super::{ALLOCATED_FROM, Memory};
use crate::address::PhysAddr;

/// Contents of a [`Window`]. Accesses come from any thread and stay within the window. A device's come with the IOMMU's
/// locks held: they must take no lock and not wait.
pub trait Contents: Send + Sync + fmt::Debug {
    /// Fills `into` from `offset` of the window on.
    fn read(&self, offset: u64, into: &mut [u8]);

    /// Stores `from` at `offset` of the window.
    fn write(&self, offset: u64, from: &[u8]);
}

/// Physical memory whose contents lie elsewhere, such as in a real process. Dropping it leaves memory that nobody has
/// written; its addresses are not used again.
#[derive(Debug)]
pub struct Window {
    memory: Memory,
    at: PhysAddr,
}

/// A window, as an access finds it.
pub(super) struct Opened {
    pub(super) contents: Arc<dyn Contents>,
    pub(super) offset: u64,
    /// How much of the access lies in it, in bytes.
    pub(super) length: usize,
}

#[derive(Clone)]
pub(super) struct Pane {
    bytes: u64,
    contents: Arc<dyn Contents>,
}

impl Window {
    /// Returns its first address, a multiple of its size.
    pub fn at(&self) -> PhysAddr {
        self.at
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let gone = self.memory.0.lock().windows.remove(&self.at.get());
        drop(gone);
    }
}

impl Memory {
    /// Allocates physical memory whose contents lie elsewhere; `None` when not so much is left. `bytes` is rounded up to a
    /// power of two.
    pub fn window(&self, bytes: u64, contents: Arc<dyn Contents>) -> Option<Window> {
        let bytes = bytes.checked_next_power_of_two()?;
        let mut memory = self.0.lock();
        let at = ALLOCATED_FROM.checked_add(memory.allocated)?.checked_next_multiple_of(bytes)?;
        memory.allocated = at.checked_add(bytes)? - ALLOCATED_FROM;
        memory.windows.insert(at, Pane { bytes, contents });
        Some(Window { memory: self.clone(), at: PhysAddr::new(at) })
    }

    /// The window that `at` lies in.
    pub(super) fn opened(&self, at: PhysAddr, length: usize) -> Option<Opened> {
        let memory = self.0.lock();
        let (start, pane) = memory.windows.range(..=at.get()).next_back()?;
        let offset = at.get() - start;
        let left = pane.bytes.checked_sub(offset).filter(|left| *left > 0)?;
        let length = usize::try_from(left).map_or(length, |left| left.min(length));
        Some(Opened { contents: pane.contents.clone(), offset, length })
    }
}
