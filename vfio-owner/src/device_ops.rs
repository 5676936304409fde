//! Operations of a VFIO driver on its devices.

mod event;
mod feature;
mod ioeventfd;
mod irq;
mod region;
mod reset;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_model::Errno;

pub use event::{Event, Eventfd, Listening, Trigger};
pub use feature::{BusMaster, Feature, FeatureAccess, FeatureError, FeatureId, FeatureSupport};
pub use ioeventfd::{IoEventfd, IoEventfdError, IoWidth};
pub use irq::{IrqAction, IrqError, IrqIndex, IrqInfo, IrqMasking, IrqSource};
pub use region::{Follow, MappableArea, Polled, RegionCapability, RegionError, RegionIndex, RegionInfo, RegionMemory};
pub use reset::{AffectedFunction, LinkState, NoHotReset, ResetError};

/// The operations of one device. The defaults describe a device without regions and interrupts.
///
/// Called with no lock of this crate held. Calls of [`open`](Self::open) and [`close`](Self::close) alternate; all
/// others, except [`request`](Self::request) and [`hot_reset`](Self::hot_reset), come from any thread while the device
/// is open.
pub trait DeviceOps: Send + Sync + fmt::Debug {
    /// Opens the device for its first user, who owns its DMA already.
    ///
    /// # Errors
    /// The device is not opened; the caller gets this error.
    fn open(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Closes the device after its last user. It must not do DMA or raise interrupts when this returns; its DMA
    /// ownership is released afterwards.
    // V30.
    fn close(&self) {}

    /// Requests that the users close the device, since its driver is being unbound. Called without the device lock, by
    /// the thread that waits for the users, whether or not the device is open; `attempt` counts the calls from 0.
    fn request(&self, attempt: u32) {
        let _ = attempt;
    }

    /// Resumes the device, which its user is about to use, if the user has let it enter a low-power state.
    // V70, V95.
    fn resume(&self) {}

    /// Returns the description of the device: `VFIO_DEVICE_GET_INFO`.
    fn info(&self) -> DeviceInfo {
        DeviceInfo::default()
    }

    /// Returns the description of a region, or `None` without such a region (`EINVAL`): `VFIO_DEVICE_GET_REGION_INFO`.
    /// An empty region has size 0.
    fn region(&self, index: RegionIndex) -> Option<RegionInfo> {
        let _ = index;
        None
    }

    /// Reads from `offset` of the region up to its end at most. Returns how many bytes were read.
    ///
    /// # Errors
    /// Fails if there is no such region, `offset` is beyond its end, or the region cannot be read at present. Nothing
    /// was read.
    fn read(&self, index: RegionIndex, offset: u64, into: &mut [u8]) -> Result<usize, RegionError> {
        let _ = (offset, into);
        Err(RegionError::NoSuchRegion { index })
    }

    /// Writes to `offset` of the region up to its end at most. Returns how many bytes were written.
    ///
    /// # Errors
    /// Fails if there is no such region, `offset` is beyond its end, or the region is read-only or cannot be written at
    /// present. Nothing was written.
    fn write(&self, index: RegionIndex, offset: u64, from: &[u8]) -> Result<usize, RegionError> {
        let _ = (offset, from);
        Err(RegionError::NoSuchRegion { index })
    }

    /// Has the device take a region from `memory`, which programs have mapped: what they do there is seen by
    /// [`poll`](Self::poll) only. Returns whether it does; otherwise whoever maps copies the contents.
    fn follow(&self, index: RegionIndex, memory: &Arc<dyn RegionMemory>) -> Follow {
        let _ = (index, memory);
        Follow::Ignores
    }

    /// Ends what [`follow`](Self::follow) began: the memory goes away.
    fn unfollow(&self, index: RegionIndex) {
        let _ = index;
    }

    /// Does what programs asked for in the memory of regions that the device [follows](Self::follow). Called again and
    /// again meanwhile, from any thread.
    fn poll(&self) -> Polled {
        Polled::Idle
    }

    /// Returns the description of an interrupt index, or `None` without such an index (`EINVAL`):
    /// `VFIO_DEVICE_GET_IRQ_INFO`. An empty index has count 0.
    fn irq(&self, index: IrqIndex) -> Option<IrqInfo> {
        let _ = index;
        None
    }

    /// Applies `action` to the interrupts of this index from `start` on, with the data of `source`:
    /// `VFIO_DEVICE_SET_IRQS`. [`IrqAction::Trigger`] with [`IrqSource::Eventfd`] enables interrupts; with `None {
    /// count: 0 }` it disables the whole index.
    ///
    /// # Errors
    /// Fails if the index, range, action or data is invalid, or another index is enabled. Nothing was changed.
    fn set_irqs(&self, index: IrqIndex, start: u32, action: IrqAction, source: IrqSource<'_>) -> Result<(), IrqError> {
        let _ = (start, action, source);
        Err(IrqError::NoSuchIrq { index })
    }

    /// Resets the device to its state after power-on: `VFIO_DEVICE_RESET`. Interrupts stay enabled.
    ///
    /// # Errors
    /// Fails if the device cannot be reset alone (see [`DeviceInfo::resettable`]), or its driver is being unbound.
    fn reset(&self) -> Result<(), ResetError> {
        Err(ResetError::NotResettable)
    }

    /// Returns the functions that a hot reset of the device affects, in the order of the bus, this one included.
    ///
    /// # Errors
    /// Neither the slot nor the bus of the device can be reset.
    // V88.
    fn affected(&self) -> Result<Vec<AffectedFunction>, NoHotReset> {
        Err(NoHotReset)
    }

    /// Checks whether the device can be reset with its whole set now.
    ///
    /// # Errors
    /// The driver is being unbound, which holds the device lock.
    fn may_hot_reset(&self) -> Result<(), ResetError> {
        Ok(())
    }

    /// Resets the device as part of a reset of its whole [set](crate::vfio_pci::ResetScope).
    // V55.
    fn hot_reset(&self) {}

    /// Returns whether the link to the devices of the set comes back after a hot reset.
    // V91.
    fn link_after_hot_reset(&self) -> LinkState {
        LinkState::Up
    }

    /// Returns what the user can do with a feature; `None` if the device does not have it (`ENOTTY`):
    /// `VFIO_DEVICE_FEATURE`.
    fn feature(&self, id: FeatureId) -> Option<FeatureSupport> {
        let _ = id;
        None
    }

    /// Returns the data of a feature that can be read.
    ///
    /// # Errors
    /// Fails if there is no such feature, or the driver refuses.
    fn get_feature(&self, id: FeatureId) -> Result<Vec<u8>, FeatureError> {
        Err(FeatureError::Unsupported { id })
    }

    /// Sets a feature that can be set.
    ///
    /// # Errors
    /// Fails if there is no such feature, or the driver refuses.
    fn set_feature(&self, feature: Feature) -> Result<(), FeatureError> {
        Err(FeatureError::Unsupported { id: feature.id() })
    }

    /// Sets or removes a write that the device makes whenever an eventfd is signalled: `VFIO_DEVICE_IOEVENTFD`.
    ///
    /// # Errors
    /// Fails if the device has no such call, the write is outside of a BAR, or the same is there already or is not.
    fn set_ioeventfd(&self, write: IoEventfd) -> Result<(), IoEventfdError> {
        let _ = write;
        Err(IoEventfdError::Unsupported)
    }

    /// Checks whether a user who asks for the device by `name`, and perhaps more after it, means this one. `true` if so.
    ///
    /// # Errors
    /// The name means this device, but what follows is not acceptable.
    // Vt6.3.
    fn matches(&self, device: &str, name: &str) -> Result<bool, Errno> {
        Ok(device == name)
    }
}

/// Description of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceInfo {
    /// The convention that its regions and interrupts follow.
    pub kind: DeviceKind,
    /// Whether the device can be reset alone.
    pub resettable: bool,
    /// Number of region indexes, from 0 on.
    pub regions: u32,
    /// Number of interrupt indexes, from 0 on.
    pub irqs: u32,
    /// Atomic operations that the way to memory completes: the capability `VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP`.
    pub atomics: PciAtomicOps,
}

/// Widths of PCI atomic operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PciAtomicOps(u32);

impl PciAtomicOps {
    /// 32 bits.
    pub const BITS_32: Self = Self(1 << 0);
    /// 64 bits.
    pub const BITS_64: Self = Self(1 << 1);
    /// 128 bits.
    pub const BITS_128: Self = Self(1 << 2);

    /// Returns the widths of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the widths as bits, those of 32 bits lowest.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// The convention that the regions and interrupts of a device follow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum DeviceKind {
    /// No convention.
    #[default]
    Unspecified,
    /// PCI: `VFIO_DEVICE_FLAGS_PCI`.
    Pci,
    /// Platform: `VFIO_DEVICE_FLAGS_PLATFORM`.
    Platform,
}
