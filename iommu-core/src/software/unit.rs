//! Units: the IOMMUs of one machine that one driver drives.

use alloc::boxed::Box;
use alloc::string::String;

use device_model::sync::Arc;

use super::SoftIommuConfig;
use super::context::{ContextTable, Shards};
use super::domain::Translator;
use super::fault::FaultLog;
use crate::address::IovaRange;
use crate::hardware::Endpoint;

/// One IOMMU.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) config: SoftIommuConfig,
    pub(super) contexts: ContextTable,
    pub(super) faults: FaultLog,
}

/// All units of a driver.
#[derive(Debug)]
pub(super) struct Units(Box<[Unit]>);

impl Units {
    pub(super) fn new<N: Into<String>>(units: impl IntoIterator<Item = (N, SoftIommuConfig)>) -> Self {
        let unit = |(name, config): (N, _)| Unit {
            name: name.into(),
            config,
            contexts: ContextTable::new(),
            faults: FaultLog::default(),
        };
        Self(units.into_iter().map(unit).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    #[expect(clippy::indexing_slicing, reason = "a number of a unit comes from counting them, and none goes away")]
    pub(super) fn unit(&self, number: usize) -> &Unit {
        &self.0[number]
    }

    /// Drops what devices have cached, as [`ContextTable::flush`], in all units.
    pub(super) fn flush(&self, translator: &Arc<Translator>, shards: Shards, range: IovaRange) {
        self.0.iter().for_each(|unit| unit.contexts.flush(translator, shards, range));
    }

    /// The unit that serves `dev`, sought first at `likely`, which it is if none does.
    pub(super) fn serving(&self, dev: &Endpoint, likely: usize) -> &Unit {
        let likely = self.unit(likely);
        if self.0.len() == 1 || likely.contexts.serves(dev.id) {
            return likely;
        }
        self.0.iter().find(|unit| unit.contexts.serves(dev.id)).unwrap_or(likely)
    }
}
