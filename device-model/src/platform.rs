//! A bus of devices that are just there: the platform bus.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use crate::bus::{Bus, Match};
use crate::device::{Device, DeviceGuard, Override};
use crate::dma::{DmaConfigure, DmaUse};
use crate::driver::{DmaApi, Driver, ProbeError, Removal};

/// The platform bus.
pub struct PlatformBus {
    dma: Arc<dyn DmaConfigure>,
}

impl PlatformBus {
    /// A platform bus whose drivers do DMA as `dma` allows.
    pub fn new(dma: Arc<dyn DmaConfigure>) -> Self {
        Self { dma }
    }
}

impl fmt::Debug for PlatformBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlatformBus")
    }
}

/// What the bus knows of a device: the kind that it is, which drivers list among their ids. Without it, the kind is the
/// name up to the last dot (`serial8250` of `serial8250.0`).
#[derive(Debug, Clone)]
pub struct PlatformKind(pub Arc<str>);

/// A driver for platform devices.
#[derive(Debug)]
pub struct PlatformDriver {
    driver: Arc<dyn Driver>,
    ids: Vec<Arc<str>>,
    dma_api: DmaApi,
}

impl PlatformDriver {
    /// `driver`, for devices of the kind that it is named after.
    pub fn new(driver: Arc<dyn Driver>, dma_api: DmaApi) -> Self {
        Self { driver, ids: Vec::new(), dma_api }
    }

    /// For devices of these kinds, and no others (D21).
    #[must_use]
    pub fn with_ids<S: Into<Arc<str>>>(mut self, ids: impl IntoIterator<Item = S>) -> Self {
        self.ids = ids.into_iter().map(Into::into).collect();
        self
    }
}

impl Driver for PlatformDriver {
    fn name(&self) -> &Arc<str> {
        self.driver.name()
    }

    fn probe(&self, dev: &mut DeviceGuard<'_>) -> Result<(), ProbeError> {
        self.driver.probe(dev)
    }

    fn remove(&self, dev: &mut DeviceGuard<'_>, attempt: u32) -> Removal {
        self.driver.remove(dev, attempt)
    }
}

fn typed(driver: &dyn Driver) -> Option<&PlatformDriver> {
    (driver as &dyn Any).downcast_ref()
}

impl Bus for PlatformBus {
    fn name(&self) -> &'static str {
        "platform"
    }

    fn matches(&self, dev: &Device, driver: &dyn Driver) -> Match {
        let Some(platform) = typed(driver) else { return Match::No };
        match dev.override_verdict(driver.name()) {
            Override::Demands => return Match::Yes,
            Override::Excludes => return Match::No,
            Override::Unset => {}
        }
        let name = dev.name().rsplit_once('.').map_or(&**dev.name(), |(kind, _)| kind);
        let kind = dev.details::<PlatformKind>().map_or(name, |kind| &kind.0);
        let fits = if platform.ids.is_empty() {
            kind == &**driver.name()
        } else {
            platform.ids.iter().any(|id| &**id == kind)
        };
        if fits { Match::Yes } else { Match::No }
    }

    fn dma_configure(&self, dev: &DeviceGuard<'_>) -> Result<DmaUse, ProbeError> {
        let api = dev.driver().and_then(|driver| typed(&**driver)).map_or(DmaApi::Kernel, |driver| driver.dma_api);
        self.dma.dma_configure(dev, api)
    }
}
