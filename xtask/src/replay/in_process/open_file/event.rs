//! Event files: `eventfd`, non-blocking.

use std::sync::atomic::{AtomicU64, Ordering};

use scenario_player::Errno;
use vfio_owner::device_ops;

/// How often it was signalled since it was read. Nobody but the machine signals it.
#[derive(Debug, Default)]
pub(in super::super) struct Event(AtomicU64);

impl device_ops::Event for Event {
    fn signal(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Event {
    pub(super) fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        let count = into.first_chunk_mut().ok_or(Errno::EINVAL)?;
        match self.0.swap(0, Ordering::SeqCst) {
            0 => Err(Errno::EAGAIN),
            signals => {
                *count = signals.to_ne_bytes();
                Ok(count.len())
            }
        }
    }
}
