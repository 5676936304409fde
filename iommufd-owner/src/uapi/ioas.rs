//! Calls on address spaces.

use alloc::sync::Arc;

use iommu_core::{Access, Iova, MapRequest, UserAddr};

use super::CallError;
use super::frame::{self, Frame};
use super::structures::{IoasAlloc, IoasAllowIovas, IoasCopy, IoasIovaRanges, IoasMap, IoasUnmap, Range};
use super::table::{Call, DONE, Outcome};
use crate::io_page_table::MapError;
use crate::ioas::{AllowedRanges, CopyRequest, IoasError, Place};
use crate::object_id::ObjectId;

impl Call for IoasAlloc {
    // F69.
    fn run(mut self, frame: &Frame<'_>) -> Outcome {
        no_flags(self.flags)?;
        let new = frame.context.new_ioas()?;
        self.out_ioas_id = new.reserved.id().get();
        frame.reply(&self)?;
        new.publish();
        DONE
    }
}

impl Call for IoasIovaRanges {
    // F70.
    fn run(mut self, frame: &Frame<'_>) -> Outcome {
        reserved(self.reserved == 0)?;
        let found = frame.context.ioas_iova_ranges(ObjectId::new(self.ioas_id))?;
        let room = self.num_iovas;
        for (range, number) in found.ranges.iter().zip(0..room) {
            let range = Range { start: range.first().get(), last: range.last().get() };
            frame::write(frame.caller, entry(self.allowed_iovas, number)?, &range)?;
        }
        let total = found.ranges.len();
        self.num_iovas = u32::try_from(total).unwrap_or(u32::MAX);
        self.out_iova_alignment = found.alignment;
        frame.reply(&self)?;
        if self.num_iovas > room { Err(CallError::MoreRanges { total, room }) } else { DONE }
    }
}

impl Call for IoasAllowIovas {
    // Table Ft3: each range is checked before the next is read.
    fn run(self, frame: &Frame<'_>) -> Outcome {
        reserved(self.reserved == 0)?;
        let ioas = frame.context.ioas(ObjectId::new(self.ioas_id))?;
        let mut allowed = AllowedRanges::default();
        for number in 0..self.num_iovas {
            let Range { start, last } = frame::read(frame.caller, entry(self.allowed_iovas, number)?)?;
            allowed.insert(Iova::new(start), Iova::new(last))?;
        }
        ioas.allow(allowed).map_err(IoasError::Range)?;
        DONE
    }
}

impl Call for IoasMap {
    // Table Ft4.
    fn run(mut self, frame: &Frame<'_>) -> Outcome {
        let flags = self.flags;
        no_flags(flags & !(FIXED_IOVA | READABLE_WRITEABLE))?;
        reserved(self.reserved == 0)?;
        no_extremes([self.iova, self.length])?;
        let request = MapRequest {
            iova: place(flags, self.iova),
            bytes: self.length,
            process: Arc::clone(frame.caller.memory()),
            addr: UserAddr::new(self.user_va),
            access: access(flags)?,
        };
        self.iova = frame.context.ioas_map(ObjectId::new(self.ioas_id), request)?.get();
        // What is mapped stays so, whether or not the caller learns where.
        // F30.
        frame.reply(&self)?;
        DONE
    }
}

impl Call for IoasCopy {
    // Table Ft5.
    fn run(mut self, frame: &Frame<'_>) -> Outcome {
        let flags = self.flags;
        no_flags(flags & !(FIXED_IOVA | READABLE_WRITEABLE))?;
        no_extremes([self.length, self.src_iova, self.dst_iova])?;
        let request = CopyRequest {
            from: Iova::new(self.src_iova),
            bytes: self.length,
            place: place(flags, self.dst_iova),
            access: access(flags)?,
        };
        let (to, source) = (ObjectId::new(self.dst_ioas_id), ObjectId::new(self.src_ioas_id));
        self.dst_iova = frame.context.ioas_copy(to, source, request)?.get();
        frame.reply(&self)?;
        DONE
    }
}

impl Call for IoasUnmap {
    // Table Ft6.
    fn run(mut self, frame: &Frame<'_>) -> Outcome {
        self.length = frame.context.ioas_unmap(ObjectId::new(self.ioas_id), Iova::new(self.iova), self.length)?;
        frame.reply(&self)?;
        DONE
    }
}

/// Where a range of an array lies.
fn entry(array: u64, number: u32) -> Result<UserAddr, CallError> {
    frame::plus(UserAddr::new(array), u64::from(number) * size_of::<Range>() as u64)
}

/// Refuses any flag.
pub(super) fn no_flags(flags: u32) -> Result<(), CallError> {
    if flags == 0 { Ok(()) } else { Err(CallError::UnknownFlags { flags }) }
}

/// Refuses reserved fields that are not zero.
pub(super) fn reserved(is_zero: bool) -> Result<(), CallError> {
    if is_zero { Ok(()) } else { Err(CallError::Reserved) }
}

/// `IOMMU_IOAS_MAP_FIXED_IOVA`.
const FIXED_IOVA: u32 = 1 << 0;
/// `IOMMU_IOAS_MAP_WRITEABLE`.
const WRITEABLE: u32 = 1 << 1;
/// `IOMMU_IOAS_MAP_READABLE`.
const READABLE: u32 = 1 << 2;
const READABLE_WRITEABLE: u32 = READABLE | WRITEABLE;

fn place(flags: u32, iova: u64) -> Place {
    if flags & FIXED_IOVA == 0 { Place::Anywhere } else { Place::Fixed(Iova::new(iova)) }
}

fn access(flags: u32) -> Result<Access, CallError> {
    match flags & READABLE_WRITEABLE {
        READABLE => Ok(Access::Read),
        WRITEABLE => Ok(Access::Write),
        READABLE_WRITEABLE => Ok(Access::ReadWrite),
        _ => Err(CallError::NoAccess),
    }
}

/// Refuses numbers that the kernel refuses before it looks at anything, also where they mean nothing.
// Ft4.2, Ft5.2.
fn no_extremes<const N: usize>(numbers: [u64; N]) -> Result<(), CallError> {
    if numbers.contains(&u64::MAX) { Err(MapError::Overflow.into()) } else { Ok(()) }
}
