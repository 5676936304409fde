//! Interrupts of a device file.

use core::fmt;

use iommu_core::device_model::Errno;

use super::event::Eventfd;

/// The number of an interrupt index, which may have several interrupts. The names are those of PCI devices.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IrqIndex(u32);

impl IrqIndex {
    /// INTx, the interrupt line.
    pub const INTX: Self = Self(0);
    /// Message-signalled interrupts.
    pub const MSI: Self = Self(1);
    /// MSI-X.
    pub const MSIX: Self = Self(2);
    /// Uncorrectable errors.
    pub const ERR: Self = Self(3);
    /// Requests to close the device.
    // V13.
    pub const REQ: Self = Self(4);
    /// Number of indexes of a PCI device.
    pub const PCI_COUNT: u32 = 5;

    /// Creates the index of this number, whether a device has it or not.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for IrqIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupt index {}", self.0)
    }
}

impl fmt::Debug for IrqIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IrqIndex({})", self.0)
    }
}

/// Description of an interrupt index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IrqInfo {
    /// Number of interrupts; 0 if there are none.
    pub count: u32,
    /// Whether a [`Trigger`](super::Trigger) can be set: `VFIO_IRQ_INFO_EVENTFD`.
    pub eventfd: bool,
    /// Whether interrupts can be masked.
    pub masking: IrqMasking,
    /// Whether the number of enabled interrupts is fixed until all are disabled: `VFIO_IRQ_INFO_NORESIZE`.
    pub noresize: bool,
}

/// Whether interrupts can be masked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IrqMasking {
    /// Interrupts cannot be masked.
    None,
    /// The user can mask them: `VFIO_IRQ_INFO_MASKABLE`.
    ByUser,
    /// The user can mask them, and an interrupt masks itself when it is signalled: `VFIO_IRQ_INFO_AUTOMASKED` as well.
    Automatic,
}

/// What to do with interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IrqAction {
    /// Masks interrupts.
    Mask,
    /// Unmasks interrupts, and signals one that is pending.
    Unmask,
    /// Triggers interrupts as if the device had raised them; or sets their triggers.
    Trigger,
}

/// Which interrupts an action applies to, or the triggers to set.
#[derive(Clone, Copy, Debug)]
pub enum IrqSource<'a> {
    /// Applies to `count` interrupts at once: `VFIO_IRQ_SET_DATA_NONE`.
    None {
        /// Number of interrupts.
        count: u32,
    },
    /// Applies at once to each interrupt whose entry is `true`: `VFIO_IRQ_SET_DATA_BOOL`.
    Bool(&'a [bool]),
    /// Sets the events that later interrupts signal, or, with [`IrqAction::Unmask`], that unmask them when the user
    /// signals them: `VFIO_IRQ_SET_DATA_EVENTFD`.
    Eventfd(&'a [Eventfd]),
}

impl IrqSource<'_> {
    /// Returns the number of interrupts, at most [`u32::MAX`].
    pub fn count(&self) -> u32 {
        let listed = match self {
            Self::None { count } => return *count,
            Self::Bool(each) => each.len(),
            Self::Eventfd(each) => each.len(),
        };
        u32::try_from(listed).unwrap_or(u32::MAX)
    }
}

/// Why interrupts were not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IrqError {
    /// The device has no such index.
    #[error("the device has no interrupts of {index}")]
    NoSuchIrq {
        /// The index.
        index: IrqIndex,
    },
    /// The range exceeds the interrupts of the device, or those enabled on an index that cannot grow.
    #[error("{count} interrupts from {start} on are not among the {available} of {index}")]
    OutOfRange {
        /// The index.
        index: IrqIndex,
        /// First interrupt of the range.
        start: u32,
        /// Number of interrupts in the range.
        count: u32,
        /// Number of interrupts available.
        available: u32,
    },
    /// A PCI device has one of INTx, MSI and MSI-X enabled at a time.
    #[error("{index} cannot be enabled while {active} is")]
    OtherActive {
        /// The index to be enabled.
        index: IrqIndex,
        /// The enabled index.
        active: IrqIndex,
    },
    /// No interrupt of the index is enabled.
    #[error("no interrupt of {index} is enabled")]
    NotSetUp {
        /// The index.
        index: IrqIndex,
    },
    /// `count` is invalid for this index: INTx has one interrupt, and enabling none is an error.
    #[error("a count of {count} is invalid for {index}")]
    WrongCount {
        /// The index.
        index: IrqIndex,
        /// The count of the request.
        count: u32,
    },
    /// Enabling none of the messages is an error.
    // Vt24.3.
    #[error("no vector of {index} was asked for")]
    NoVectors {
        /// The index.
        index: IrqIndex,
    },
    /// The device is not open.
    #[error("the device is not open")]
    NotOpen,
    /// One of the descriptors is no eventfd. Those before it were set on an index of several interrupts, and are removed
    /// again.
    #[error("interrupt {vector} of {index} got a descriptor that is no eventfd ({errno})")]
    BadEventfd {
        /// The index.
        index: IrqIndex,
        /// The interrupt.
        vector: u32,
        /// Why not.
        errno: Errno,
    },
    /// An eventfd that unmasks the interrupt is set already.
    #[error("{index} has an eventfd that unmasks it already")]
    UnmaskSet {
        /// The index.
        index: IrqIndex,
    },
    /// The index does not support this action, or not with this data.
    #[error("{index} has no such action: {action:?}")]
    Unsupported {
        /// The index.
        index: IrqIndex,
        /// The action.
        action: IrqAction,
    },
}

impl IrqError {
    /// Returns the error number that Linux gives.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoSuchIrq { .. }
            | Self::OutOfRange { .. }
            | Self::OtherActive { .. }
            | Self::NotSetUp { .. }
            | Self::WrongCount { .. } => Errno::EINVAL,
            Self::NoVectors { .. } => Errno::ERANGE,
            Self::NotOpen => Errno::EBADF,
            Self::BadEventfd { errno, .. } => *errno,
            Self::UnmaskSet { .. } => Errno::EBUSY,
            Self::Unsupported { .. } => Errno::ENOTTY,
        }
    }
}
