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

impl Unit {
    pub(super) fn new(name: impl Into<String>, config: SoftIommuConfig) -> Self {
        Self { name: name.into(), config, contexts: ContextTable::new(), faults: FaultLog::default() }
    }
}

/// All units of a driver.
#[derive(Debug)]
pub(super) struct Units(Box<[Arc<Unit>]>);

impl Units {
    pub(super) fn new(units: impl IntoIterator<Item = Arc<Unit>>) -> Self {
        Self(units.into_iter().collect())
    }

    /// Drops what devices have cached, as [`ContextTable::flush`], in all units.
    pub(super) fn flush(&self, translator: &Arc<Translator>, shards: Shards, range: IovaRange) {
        self.0.iter().for_each(|unit| unit.contexts.flush(translator, shards, range));
    }

    /// The unit that serves `dev`, sought first at `likely`, which it is if none does.
    pub(super) fn serving<'a>(&'a self, dev: &Endpoint, likely: &'a Unit) -> &'a Unit {
        if self.0.len() == 1 || likely.contexts.serves(dev.id) {
            return likely;
        }
        self.0.iter().find(|unit| unit.contexts.serves(dev.id)).map_or(likely, |unit| unit)
    }
}
