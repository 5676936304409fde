//! Device features: `VFIO_DEVICE_FEATURE`.

use alloc::vec::Vec;

use iommu_core::device_model::Errno;

use super::event::Eventfd;

/// The number of a feature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FeatureId(u16);

impl FeatureId {
    /// The token of a physical function, which users of its virtual functions show.
    pub const VF_TOKEN: Self = Self(0);
    /// Entry into a low-power state.
    pub const LOW_POWER_ENTRY: Self = Self(3);
    /// Entry into a low-power state that signals an eventfd when it ends by itself.
    pub const LOW_POWER_ENTRY_WITH_WAKEUP: Self = Self(4);
    /// Exit from the low-power state.
    pub const LOW_POWER_EXIT: Self = Self(5);
    /// Bus mastering on or off, for devices without a configuration space.
    pub const BUS_MASTER: Self = Self(10);

    /// Creates the feature of this number.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// What a device lets its user do with a feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeatureSupport {
    /// Whether it can be read, set, or both.
    pub access: FeatureAccess,
    /// Size of its data in bytes, at least.
    pub bytes: u32,
}

/// Whether a feature can be read, set, or both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FeatureAccess {
    /// It can be read.
    Get,
    /// It can be set.
    Set,
    /// It can be read and set.
    GetAndSet,
}

impl FeatureAccess {
    /// Returns whether it can be read.
    pub const fn gets(self) -> bool {
        matches!(self, Self::Get | Self::GetAndSet)
    }

    /// Returns whether it can be set.
    pub const fn sets(self) -> bool {
        matches!(self, Self::Set | Self::GetAndSet)
    }
}

/// What a feature is set to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Feature {
    /// This token.
    VfToken([u8; 16]),
    /// The low-power state.
    LowPowerEntry,
    /// The low-power state, whose end by itself signals the eventfd.
    LowPowerEntryWithWakeup(Eventfd),
    /// The end of the low-power state.
    LowPowerExit,
    /// Bus mastering.
    BusMaster(BusMaster),
    /// A feature of another driver, as bytes.
    Other {
        /// Which one.
        id: FeatureId,
        /// Its data.
        data: Vec<u8>,
    },
}

impl Feature {
    /// Returns the feature's number.
    pub const fn id(&self) -> FeatureId {
        match self {
            Self::VfToken(_) => FeatureId::VF_TOKEN,
            Self::LowPowerEntry => FeatureId::LOW_POWER_ENTRY,
            Self::LowPowerEntryWithWakeup(_) => FeatureId::LOW_POWER_ENTRY_WITH_WAKEUP,
            Self::LowPowerExit => FeatureId::LOW_POWER_EXIT,
            Self::BusMaster(_) => FeatureId::BUS_MASTER,
            Self::Other { id, .. } => *id,
        }
    }
}

/// Whether a device may do DMA of its own accord.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BusMaster {
    /// It may.
    Set,
    /// It may not.
    Clear,
}

/// Why a feature was not read or set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeatureError {
    /// The device has no such feature.
    #[error("the device has no feature {}", id.number())]
    Unsupported {
        /// The feature.
        id: FeatureId,
    },
    /// The device is in the low-power state already.
    #[error("the device is in the low-power state already")]
    LowPower,
    /// The descriptor is no eventfd.
    #[error("the descriptor is no eventfd ({errno})")]
    BadEventfd {
        /// Why not.
        errno: Errno,
    },
    /// The driver refuses.
    #[error("the driver refuses ({errno})")]
    Driver {
        /// Its error.
        errno: Errno,
    },
}

impl FeatureError {
    /// Returns the error number that Linux gives.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Unsupported { .. } => Errno::ENOTTY,
            Self::LowPower => Errno::EINVAL,
            Self::BadEventfd { errno } | Self::Driver { errno } => errno,
        }
    }
}
