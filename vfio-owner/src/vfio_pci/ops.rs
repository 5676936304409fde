//! What vfio-pci does for the user of a device.

use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::Errno;

use super::config::Effect;
use super::features::Power;
use super::interrupts::{Due, Interrupts};
use super::ioeventfds::IoEventfds;
use super::{ResetAlone, Session, VfioPciDevice, resets_by_itself, whole};
use crate::device_ops::{
    AffectedFunction, DeviceInfo, DeviceKind, DeviceOps, Feature, FeatureError, FeatureId, FeatureSupport, Follow,
    IoEventfd, IoEventfdError, IrqAction, IrqError, IrqIndex, IrqInfo, IrqSource, LinkState, NoHotReset, Polled,
    RegionError, RegionIndex, RegionInfo, RegionMemory, ResetError,
};

impl DeviceOps for VfioPciDevice {
    // V99.
    fn open(&self) -> Result<(), Errno> {
        if self.by_itself == ResetAlone::Works || self.neighbours.was_alone() {
            self.may_reset().map_err(ResetError::errno)?;
        }
        let reset = self.resets_alone();
        self.reset_model(reset);
        let mut state = self.state.lock();
        state.config.reset();
        let interrupts = Interrupts::new(self.irqs, state.config.intx_line());
        state.session = Some(Session { interrupts, ioeventfds: IoEventfds::default(), power: Power::default(), reset });
        Ok(())
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.config.reset();
        let session = state.session.take();
        drop(state);
        self.signalling.wait();
        drop(session);
        self.reset_model(self.resets_alone());
    }

    /// Signals the user's request trigger, each time anew.
    // V13.
    fn request(&self, _attempt: u32) {
        self.raise(IrqIndex::REQ, 0);
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            kind: DeviceKind::Pci,
            resettable: self.reset_for_user() == ResetAlone::Works,
            regions: RegionIndex::PCI_COUNT,
            irqs: IrqIndex::PCI_COUNT,
            atomics: self.neighbours.atomics(&self.function.config),
        }
    }

    fn region(&self, index: RegionIndex) -> Option<RegionInfo> {
        if index == RegionIndex::CONFIG {
            let size = self.state.lock().config.size();
            return Some(RegionInfo { size, readable: true, writable: true, ..RegionInfo::empty(index) });
        }
        (index < RegionIndex::CONFIG).then(|| self.describe_window(index))
    }

    // Table Vt30.
    fn read(&self, index: RegionIndex, offset: u64, into: &mut [u8]) -> Result<usize, RegionError> {
        if into.is_empty() {
            return Ok(0);
        }
        if index != RegionIndex::CONFIG {
            return self.read_window(index, offset, into);
        }
        let state = self.state.lock();
        state.config.may_access(offset, into.len())?;
        state.config.read(whole(offset), into);
        Ok(into.len())
    }

    fn write(&self, index: RegionIndex, offset: u64, from: &[u8]) -> Result<usize, RegionError> {
        if from.is_empty() {
            return Ok(0);
        }
        if index != RegionIndex::CONFIG {
            return self.write_window(index, offset, from);
        }
        let effect = self.change(|state| {
            if let Err(error) = state.config.may_access(offset, from.len()) {
                return (Err(error), Due::default());
            }
            let Some(session) = &mut state.session else {
                return (Ok(state.config.write(whole(offset), from, 0)), Due::default());
            };
            let effect = state.config.write(whole(offset), from, session.interrupts.msi_vectors());
            (Ok(effect), session.interrupts.set_line(state.config.intx_line()))
        })?;
        if effect == Effect::FunctionReset && resets_by_itself(&self.function.config) {
            self.power_on();
        }
        Ok(from.len())
    }

    fn follow(&self, index: RegionIndex, memory: &Arc<dyn RegionMemory>) -> Follow {
        self.model.follow(index, memory)
    }

    fn unfollow(&self, index: RegionIndex) {
        self.model.unfollow(index);
    }

    fn poll(&self) -> Polled {
        self.model.poll()
    }

    fn irq(&self, index: IrqIndex) -> Option<IrqInfo> {
        self.irqs.describe(index)
    }

    fn set_ioeventfd(&self, write: IoEventfd) -> Result<(), IoEventfdError> {
        self.change_ioeventfd(&write)
    }

    fn set_irqs(&self, index: IrqIndex, start: u32, action: IrqAction, source: IrqSource<'_>) -> Result<(), IrqError> {
        if (index, action) == (IrqIndex::INTX, IrqAction::Unmask) {
            // What the user has just written to mapped registers may have ended the interrupt.
            self.model.poll();
        }
        self.change(|state| {
            let Some(session) = &mut state.session else { return (Err(IrqError::NotOpen), Due::default()) };
            let set = session.interrupts.set(index, start, action, source);
            state.config.show_msix(session.interrupts.active());
            match set {
                Ok(due) => (Ok(()), due),
                Err(error) => (Err(error), Due::default()),
            }
        })
    }

    // V86.
    fn reset(&self) -> Result<(), ResetError> {
        if self.reset_for_user() == ResetAlone::Fails {
            return Err(ResetError::NotResettable);
        }
        self.may_reset()?;
        self.power_on();
        Ok(())
    }

    fn resume(&self) {
        self.wake();
    }

    fn feature(&self, id: FeatureId) -> Option<FeatureSupport> {
        self.supports(id)
    }

    fn set_feature(&self, feature: Feature) -> Result<(), FeatureError> {
        self.change_feature(feature)
    }

    fn matches(&self, device: &str, name: &str) -> Result<bool, Errno> {
        self.is_asked_for(device, name)
    }

    fn affected(&self) -> Result<Vec<AffectedFunction>, NoHotReset> {
        self.neighbours.affected()
    }

    fn may_hot_reset(&self) -> Result<(), ResetError> {
        self.may_reset()
    }

    fn hot_reset(&self) {
        self.power_on();
    }

    fn link_after_hot_reset(&self) -> LinkState {
        self.neighbours.link_after_reset()
    }
}
