//! The last act: a kernel driver whose probe fails, and somebody who wants the group meanwhile.

use std::sync::{Arc, Weak};

use anyhow::{Context as _, Result, ensure};
use vfio_owner::iommu_core::Owner;
use vfio_owner::iommu_core::device_model::{BoundTo, DmaApi, Driver, Errno, ProbeError};
use vfio_owner::testbed::Pci;

use super::{CARD, Stage, stage, unbind};

/// A kernel driver that finds its device broken; the audience is asked while it is looking.
struct Faulty {
    name: Arc<str>,
    /// The machine of the stage has the driver.
    stage: Weak<Stage>,
    user: Owner,
}

impl Driver<Pci> for Faulty {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn probe(&self, dev: &mut BoundTo<'_, Pci, DmaApi>) -> Result<(), ProbeError> {
        if let Some(stage) = self.stage.upgrade() {
            stage.done(&format!("{} is probed for {}", self.name, stage::short(dev.device().name())), "");
            if let Err(refusal) = stage.group().claim(&self.user) {
                stage.refused("a VMM claims the group meanwhile", refusal.errno(), &refusal);
            }
        }
        Err(ProbeError::errno_only(Errno::EIO))
    }
}

pub(super) fn play(stage: &Arc<Stage>) -> Result<()> {
    stage.title("A kernel driver's probe fails while somebody wants the group");
    unbind(stage, CARD[0])?;
    let user = Owner::new("a VMM");
    let faulty = Faulty { name: "faulty".into(), stage: Arc::downgrade(stage), user: user.clone() };
    stage.machine().pci().add_driver(Arc::new(faulty))?;
    let bound = stage.machine().bind(CARD[0], "faulty");
    ensure!(bound.is_err(), "a driver whose probe fails was bound");
    stage.refused("faulty fails to probe function 0", Errno::EIO, &"the use that its bind began has ended with it");
    let claim = stage.group().claim(&user).context("the group is kept")?;
    stage.done("the VMM claims again", "");
    drop(claim);
    stage.done("the VMM lets go", "");
    Ok(())
}
