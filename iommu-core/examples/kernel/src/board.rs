//! The bus of this machine: two chips soldered to a board, and their drivers.

use alloc::sync::Arc;

use device_model::sync::Users;
use device_model::{AnyDriver, BoundTo, Bus, Device, DmaApi, Driver, Match, ProbeError, Removal};
use iommu_core::IommuSubsystem;

use crate::line;

/// The bus. The IOMMU subsystem guards the DMA of its devices.
pub struct Board(pub IommuSubsystem);

/// What the board knows of a chip.
pub struct Chip {
    /// What kind of chip it is.
    pub kind: &'static str,
    /// What its transactions carry on the bus.
    pub requester: usize,
}

impl Bus for Board {
    type Device = Chip;
    type Id = &'static str;
    type Driver = dyn AnyDriver<Self>;
    type Dma = IommuSubsystem;

    fn name(&self) -> &'static str {
        "board"
    }

    fn dma(&self) -> &IommuSubsystem {
        &self.0
    }

    fn matches(&self, dev: &Device<Self>, driver: &dyn AnyDriver<Self>) -> Match {
        driver.ids().contains(&dev.description().kind).into()
    }
}

/// A driver for one kind of chip. It uses the DMA API, so the core counts it as a kernel user of the chip's group.
pub struct ChipDriver {
    name: Arc<str>,
    ids: [&'static str; 1],
}

impl ChipDriver {
    pub fn new(name: &str, kind: &'static str) -> Arc<Self> {
        Arc::new(Self { name: name.into(), ids: [kind] })
    }
}

impl Driver<Board> for ChipDriver {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn ids(&self) -> &[&'static str] {
        &self.ids
    }

    fn probe(&self, dev: &mut BoundTo<'_, Board, DmaApi>) -> Result<(), ProbeError> {
        // Those who have the chip open.
        dev.manage(Arc::new(Users::new()));
        line!("{}: {} is its driver", dev.device().name(), self.name);
        Ok(())
    }

    fn remove(&self, dev: &mut BoundTo<'_, Board, DmaApi>, _attempt: u32) -> Removal {
        let Some(users) = dev.resource::<Arc<Users>>() else { return Removal::Done };
        users.close();
        if users.inside() == 0 {
            return Removal::Done;
        }
        line!("{}: {} waits until nobody has it open", dev.device().name(), self.name);
        Removal::Waiting(users.clone())
    }
}
