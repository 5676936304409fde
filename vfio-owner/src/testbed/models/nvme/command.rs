//! Commands, and how they end.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An entry of a submission queue.
#[derive(FromBytes, Immutable, Debug)]
#[repr(C)]
pub(super) struct Command {
    pub(super) opcode: u8,
    /// Fused operations and scatter-gather lists, which there are none of.
    flags: u8,
    pub(super) id: U16,
    pub(super) namespace: U32,
    _reserved: [u8; 16],
    pub(super) prp: [U64; 2],
    /// The words 10 to 15 of the entry.
    pub(super) words: [U32; 6],
}

pub(super) const COMMAND_SIZE: usize = size_of::<Command>();

impl Command {
    /// Whether it is a command by itself, with its data described by PRPs.
    pub(super) const fn is_plain(&self) -> bool {
        self.flags == 0
    }

    /// Returns word `10 + index` of the entry.
    pub(super) fn word(&self, index: usize) -> u32 {
        self.words.get(index).copied().unwrap_or_default().get()
    }

    /// Returns the lower and the upper half of a word.
    pub(super) fn halves(&self, index: usize) -> (u16, u16) {
        let [a, b, c, d] = self.word(index).to_le_bytes();
        (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
    }
}

/// An entry of a completion queue.
#[derive(IntoBytes, Immutable, Debug)]
#[repr(C)]
pub(super) struct Completion {
    pub(super) result: U32,
    reserved: U32,
    submission_head: U16,
    submission_queue: U16,
    id: U16,
    /// The status above the phase bit.
    status: U16,
}

pub(super) const COMPLETION_SIZE: usize = size_of::<Completion>();

/// Retrying is useless.
const DO_NOT_RETRY: u16 = 1 << 15;

impl Completion {
    pub(super) fn new(queue: u16, head: u16, id: u16, phase: bool, outcome: Result<u32, Status>) -> Self {
        let status = outcome.err().map_or(0, |Status(code)| code << 1 | DO_NOT_RETRY);
        Self {
            result: outcome.unwrap_or_default().into(),
            reserved: 0.into(),
            submission_head: head.into(),
            submission_queue: queue.into(),
            id: id.into(),
            status: (status | u16::from(phase)).into(),
        }
    }
}

/// Why a command failed: the type of the status in the upper byte, the code in the lower one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Status(u16);

impl Status {
    pub(super) const INVALID_OPCODE: Self = Self(0x001);
    pub(super) const INVALID_FIELD: Self = Self(0x002);
    pub(super) const DATA_TRANSFER: Self = Self(0x004);
    pub(super) const INVALID_NAMESPACE: Self = Self(0x00b);
    pub(super) const INVALID_PRP_OFFSET: Self = Self(0x013);
    pub(super) const LBA_OUT_OF_RANGE: Self = Self(0x080);
    pub(super) const INVALID_COMPLETION_QUEUE: Self = Self(0x100);
    pub(super) const INVALID_QUEUE: Self = Self(0x101);
    pub(super) const INVALID_QUEUE_SIZE: Self = Self(0x102);
    pub(super) const TOO_MANY_EVENT_REQUESTS: Self = Self(0x105);
    pub(super) const INVALID_VECTOR: Self = Self(0x108);
    pub(super) const INVALID_LOG_PAGE: Self = Self(0x109);
    pub(super) const INVALID_QUEUE_DELETION: Self = Self(0x10c);
    pub(super) const NOT_SAVEABLE: Self = Self(0x10d);
    pub(super) const WRITE_FAULT: Self = Self(0x280);
    pub(super) const UNRECOVERED_READ: Self = Self(0x281);
}
