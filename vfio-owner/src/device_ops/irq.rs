//! Interrupts of a device file.

use alloc::sync::Arc;
use core::fmt;

use iommu_core::device_model::Errno;

/// The number of a kind of interrupts, of which a device may have several each. The names are those of PCI devices.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IrqIndex(u32);

impl IrqIndex {
    /// The interrupt line.
    pub const INTX: Self = Self(0);
    /// Message-signalled interrupts.
    pub const MSI: Self = Self(1);
    /// The same, with a table of vectors.
    pub const MSIX: Self = Self(2);
    /// An error that cannot be corrected.
    pub const ERR: Self = Self(3);
    /// The device is asked back.
    // V13.
    pub const REQ: Self = Self(4);
    /// How many there are of a PCI device.
    pub const PCI_COUNT: u32 = 5;

    /// The index of this number, whether a device has it or not.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
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

/// What the interrupts of an index are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IrqInfo {
    /// How many; 0 if there are none.
    pub count: u32,
    /// Whether a [`Trigger`] can be set: `VFIO_IRQ_INFO_EVENTFD`.
    pub eventfd: bool,
    /// Whether they can be held back.
    pub masking: IrqMasking,
    /// Whether the number of those set up is fixed until all are torn down: `VFIO_IRQ_INFO_NORESIZE`.
    pub noresize: bool,
}

/// Whether interrupts can be held back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IrqMasking {
    /// They cannot.
    None,
    /// By the user: `VFIO_IRQ_INFO_MASKABLE`.
    ByUser,
    /// That too, and every interrupt masks itself when it comes: `VFIO_IRQ_INFO_AUTOMASKED` besides.
    Automatic,
}

/// What is done to interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IrqAction {
    /// They are held back.
    Mask,
    /// They come again, first the one that was held back.
    Unmask,
    /// They come now, as if the device had raised them; or what happens when they come is set.
    Trigger,
}

/// To which interrupts an action is done, or by what.
#[derive(Clone, Copy, Debug)]
pub enum IrqSource<'a> {
    /// Now, to so many: `VFIO_IRQ_SET_DATA_NONE`.
    None {
        /// How many.
        count: u32,
    },
    /// Now, to those that are true: `VFIO_IRQ_SET_DATA_BOOL`.
    Bool(&'a [bool]),
    /// From now on by these: `VFIO_IRQ_SET_DATA_EVENTFD`. `None` stands for the descriptor -1: the interrupt goes nowhere.
    Eventfd(&'a [Option<Trigger>]),
}

impl IrqSource<'_> {
    /// How many interrupts are meant; more than 32 bits can say are as many as they can.
    pub fn count(&self) -> u32 {
        let listed = match self {
            Self::None { count } => return *count,
            Self::Bool(each) => each.len(),
            Self::Eventfd(each) => each.len(),
        };
        u32::try_from(listed).unwrap_or(u32::MAX)
    }
}

/// What an interrupt sets off: an eventfd, or what stands in for it. Clones are the same trigger.
///
/// It is called on the thread that raises the interrupt, with no lock held. It may call the device, but not close it:
/// [`close`](super::DeviceOps::close) waits until every trigger has returned.
#[derive(Clone)]
pub struct Trigger(Arc<dyn Fn() + Send + Sync>);

impl Trigger {
    /// The trigger that calls `signal`.
    pub fn new(signal: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(signal))
    }

    /// Sets it off.
    pub fn signal(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trigger")
    }
}

/// Why interrupts were not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IrqError {
    /// The device has none of this index.
    #[error("the device has no interrupts of {index}")]
    NoSuchIrq {
        /// Which.
        index: IrqIndex,
    },
    /// The device has fewer of them, or fewer were set up of an index that cannot grow.
    #[error("{count} interrupts from {start} on are not among the {available} of {index}")]
    OutOfRange {
        /// Which.
        index: IrqIndex,
        /// The first that was meant.
        start: u32,
        /// How many were meant.
        count: u32,
        /// How many there are.
        available: u32,
    },
    /// A device of PCI has one of INTx, MSI and MSI-X at a time.
    #[error("{index} cannot be set up while {active} is")]
    OtherActive {
        /// Which was to be set up.
        index: IrqIndex,
        /// Which is.
        active: IrqIndex,
    },
    /// None of them is set up.
    #[error("no interrupt of {index} is set up")]
    NotSetUp {
        /// Which.
        index: IrqIndex,
    },
    /// So many cannot be meant: INTx is one; and nothing can be set up with none.
    #[error("{count} interrupts of {index} cannot be meant")]
    WrongCount {
        /// Which.
        index: IrqIndex,
        /// How many were meant.
        count: u32,
    },
    /// Nobody has the device open.
    #[error("the device is not open")]
    NotOpen,
    /// The index does not know this action, or not this way.
    #[error("{index} has no such action: {action:?}")]
    Unsupported {
        /// Which.
        index: IrqIndex,
        /// What was to be done.
        action: IrqAction,
    },
}

impl IrqError {
    /// The number of Linux.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoSuchIrq { .. }
            | Self::OutOfRange { .. }
            | Self::OtherActive { .. }
            | Self::NotSetUp { .. }
            | Self::WrongCount { .. } => Errno::EINVAL,
            Self::NotOpen => Errno::EBADF,
            Self::Unsupported { .. } => Errno::ENOTTY,
        }
    }
}
