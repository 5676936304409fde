//! The log of faults, as fault registers keep it.

use alloc::vec::Vec;

use device_model::sync::SpinMutex;

use crate::hardware::Fault;

/// Number of faults that a [`SoftIommu`](super::SoftIommu) keeps until they are taken. Later ones are only counted, as
/// hardware does when its fault registers are full.
pub const FAULT_LOG_CAPACITY: usize = 256;

/// The faults that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct FaultLog(SpinMutex<Records>);

#[derive(Debug, Default)]
struct Records {
    kept: Vec<Fault>,
    dropped: u64,
}

impl FaultLog {
    pub(super) fn record(&self, fault: Fault) {
        let mut records = self.0.lock();
        if records.kept.len() < FAULT_LOG_CAPACITY {
            records.kept.push(fault);
        } else {
            records.dropped += 1;
        }
    }

    pub(super) fn take(&self) -> Vec<Fault> {
        core::mem::take(&mut self.0.lock().kept)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}
