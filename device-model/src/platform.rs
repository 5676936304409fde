//! The platform bus: devices that cannot be discovered.

use alloc::sync::Arc;
use core::fmt;

use crate::bus::{Bus, Match};
use crate::device::Device;
use crate::dma::DmaConfigure;
use crate::driver::AnyDriver;
use crate::driver_override::Override;

/// The platform bus; `G` configures the DMA of its devices.
pub struct PlatformBus<G> {
    dma: G,
}

impl<G: DmaConfigure<PlatformDevice>> PlatformBus<G> {
    /// Creates a platform bus whose drivers do DMA as `dma` allows.
    pub const fn new(dma: G) -> Self {
        Self { dma }
    }
}

impl<G> fmt::Debug for PlatformBus<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlatformBus")
    }
}

/// Bus-specific data of a platform device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlatformDevice {
    /// Kind of the device, as drivers list it in their id tables. `None` for the name up to the last dot (`serial8250`
    /// of `serial8250.0`).
    pub kind: Option<Arc<str>>,
}

/// A driver's ids are the kinds of device that it fits; without any, it fits the kind that it is named after.
impl<G: DmaConfigure<PlatformDevice>> Bus for PlatformBus<G> {
    type Device = PlatformDevice;
    type Id = Arc<str>;
    type Driver = dyn AnyDriver<Self>;
    type Dma = G;

    fn name(&self) -> &'static str {
        "platform"
    }

    fn dma(&self) -> &G {
        &self.dma
    }

    // D21.
    fn matches(&self, dev: &Device<Self>, driver: &dyn AnyDriver<Self>) -> Match {
        let (name, ids) = (driver.name(), driver.ids());
        match dev.override_verdict(name) {
            Override::Demands => return Match::Yes,
            Override::Excludes => return Match::No,
            Override::Unset => {}
        }
        let by_name = || dev.name().rsplit_once('.').map_or(&**dev.name(), |(kind, _)| kind);
        let kind = dev.description().kind.as_deref().unwrap_or_else(by_name);
        let fits = if ids.is_empty() { kind == &**name } else { ids.iter().any(|id| &**id == kind) };
        fits.into()
    }
}
