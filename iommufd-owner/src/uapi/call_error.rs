//! Why a call is refused.

use iommu_core::device_model::Errno;
use iommu_core::user_memory::BadAddress;

use super::{Caller, Capability};
use crate::compat::CompatError;
use crate::dirty::DirtyError;
use crate::fault_queue::{NoRoomError, UnknownCookieError};
use crate::hwpt::HwptError;
use crate::invalidate::InvalidateError;
use crate::io_page_table::{MapError, UnmapError};
use crate::ioas::IoasError;
use crate::object_id::{NoIdsError, NoObjectError};
use crate::object_table::DestroyError;

/// Why a call was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The caller's memory is not there.
    #[error(transparent)]
    Memory(#[from] BadAddress),
    /// The file has no such call.
    #[error("the file has no call {request:#x}")]
    NoCall {
        /// The number.
        request: u32,
    },
    /// The structure is shorter than the call's first version.
    #[error("the structure is of {size} bytes, the call needs {least}")]
    TooShort {
        /// How long the caller says that it is.
        size: u32,
        /// How long it must be.
        least: usize,
    },
    /// The structure is longer than the last version that is known, and what follows is not zero.
    #[error("the structure says more than its {full} bytes that are known")]
    UnknownTail {
        /// How long it is.
        full: usize,
    },
    /// A flag is not known, or not for this.
    #[error("unknown flags {flags:#x}")]
    UnknownFlags {
        /// The flags that are not known.
        flags: u32,
    },
    /// A reserved field is not zero.
    #[error("a reserved field is not zero")]
    Reserved,
    /// A call of a VFIO container has an unknown flag, or arguments that contradict its flags.
    #[error("flags {flags:#x} are unknown, or contradict the arguments")]
    ContainerFlags {
        /// The flags.
        flags: u32,
    },
    /// There is no such option, or no such operation on it.
    #[error("option {option} has no operation {operation}")]
    NoOption {
        /// The option.
        option: u32,
        /// The operation.
        operation: u16,
    },
    /// There is no such operation on the address space of VFIO's calls.
    #[error("the address space of VFIO's calls has no operation {operation}")]
    NoCompatOperation {
        /// The operation.
        operation: u16,
    },
    /// The option cannot have that value.
    #[error("option {option} cannot be {value}")]
    BadValue {
        /// The option.
        option: u32,
        /// The value.
        value: u64,
    },
    /// The caller lacks a capability.
    #[error("the caller lacks {capability:?}")]
    NotCapable {
        /// The capability.
        capability: Capability,
    },
    /// A mapping is to permit neither reads nor writes.
    #[error("the mapping is to permit neither reads nor writes")]
    NoAccess,
    /// There is less room than there are ranges; those that fit, and how many there are, were written.
    #[error("there are {total} ranges, and room for {room}")]
    MoreRanges {
        /// How many there are.
        total: usize,
        /// How many fit.
        room: u32,
    },
    /// Data are longer than a page.
    #[error("data of {bytes} bytes are longer than a page")]
    LongData {
        /// How long they are.
        bytes: u32,
    },
    /// Data of a page table without a type, or a type without data.
    #[error("type {kind} does not go with data of {bytes} bytes")]
    DataType {
        /// The type.
        kind: u32,
        /// How long the data are.
        bytes: u32,
    },
    /// Entries are longer than a page, too many, or none.
    #[error("{count} entries of {bytes} bytes are no array")]
    BadArray {
        /// How long an entry is.
        bytes: u32,
        /// How many there are.
        count: u32,
    },
    /// The answer to a page fault is none.
    #[error("code {code} is no answer to a page fault")]
    BadAnswer {
        /// The code.
        code: u32,
    },
    /// The length is not one of whole records.
    #[error("{bytes} bytes are not a number of records")]
    NoRecords {
        /// The length.
        bytes: u64,
    },
    /// The call is for test support, which has nothing to do here.
    #[error("there is no test operation {operation}")]
    NoTest {
        /// The operation.
        operation: u32,
    },
    /// There is no such object.
    #[error(transparent)]
    NoObject(#[from] NoObjectError),
    /// The context has no id left.
    #[error(transparent)]
    NoIds(#[from] NoIdsError),
    /// The object was not destroyed.
    #[error(transparent)]
    Destroy(#[from] DestroyError),
    /// The address space refused.
    #[error(transparent)]
    Ioas(#[from] IoasError),
    /// Nothing was mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Nothing was unmapped, or not all.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
    /// No page table was made, or no device described.
    #[error(transparent)]
    Hwpt(#[from] HwptError),
    /// Dirty tracking was refused.
    #[error(transparent)]
    Dirty(#[from] DirtyError),
    /// Not every entry was handled; how many were was written.
    #[error(transparent)]
    Invalidate(#[from] InvalidateError),
    /// A call of a VFIO container was refused.
    #[error(transparent)]
    Compat(#[from] CompatError),
    /// No page faults were read.
    #[error(transparent)]
    NoRoom(#[from] NoRoomError),
    /// The answer is for no page fault.
    #[error(transparent)]
    UnknownCookie(#[from] UnknownCookieError),
}

impl CallError {
    /// Returns the error number that Linux gives.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Memory(error) => error.errno(),
            Self::NoCall { .. } => Errno::ENOTTY,
            Self::TooShort { .. }
            | Self::ContainerFlags { .. }
            | Self::BadValue { .. }
            | Self::NoAccess
            | Self::DataType { .. }
            | Self::BadArray { .. }
            | Self::BadAnswer { .. } => Errno::EINVAL,
            Self::UnknownTail { .. } | Self::LongData { .. } => Errno::E2BIG,
            Self::UnknownFlags { .. }
            | Self::Reserved
            | Self::NoOption { .. }
            | Self::NoCompatOperation { .. }
            | Self::NoTest { .. } => Errno::EOPNOTSUPP,
            Self::NotCapable { .. } => Errno::EPERM,
            Self::MoreRanges { .. } => Errno::EMSGSIZE,
            Self::NoRecords { .. } => Errno::ESPIPE,
            Self::NoObject(error) => error.errno(),
            Self::NoIds(error) => error.errno(),
            Self::Destroy(error) => error.errno(),
            Self::Ioas(error) => error.errno(),
            Self::Map(error) => error.errno(),
            Self::Unmap(error) => error.errno(),
            Self::Hwpt(error) => error.errno(),
            Self::Dirty(error) => error.errno(),
            Self::Invalidate(error) => error.errno(),
            Self::Compat(error) => error.errno(),
            Self::NoRoom(error) => error.errno(),
            Self::UnknownCookie(error) => error.errno(),
        }
    }

    /// Tells the caller; returns the number.
    pub(super) fn told_to(self, caller: &dyn Caller) -> Errno {
        caller.refused(&self);
        self.errno()
    }
}
