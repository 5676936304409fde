//! Fault queues: the call that makes one, and its file.
// F64, F95.

use core::fmt;

use iommu_core::UserAddr;
use iommu_core::device_model::Errno;
use iommu_core::hardware::PageAnswer;

use super::frame::{self, Frame};
use super::ioas::no_flags;
use super::structures::{FaultQueueAlloc, PageFault, PageResponse};
use super::table::{Call, Outcome};
use super::{CallError, Caller, Readiness, Reply};
use crate::fault_queue::{self, FaultQueue, HiddenFaultQueue};

/// `IOMMU_PGFAULT_FLAGS_PASID_VALID`.
const PASID_VALID: u32 = 1 << 0;
/// `IOMMU_PGFAULT_FLAGS_LAST_PAGE`.
const LAST_PAGE: u32 = 1 << 1;

/// `IOMMUFD_PAGE_RESP_SUCCESS`.
const RESPONSE_SUCCESS: u32 = 0;
/// `IOMMUFD_PAGE_RESP_INVALID`.
const RESPONSE_INVALID: u32 = 1;

/// A fault queue that was made, whose caller does not know it yet. Dropping it undoes the call.
#[must_use = "dropping it undoes the call"]
pub struct NewFaultQueue {
    hidden: HiddenFaultQueue,
    structure: FaultQueueAlloc,
    /// Where the caller's lies, and how long it is.
    at: UserAddr,
    size: u32,
}

impl NewFaultQueue {
    /// Tells the caller the number of the descriptor that its file gets; the call returns 0 then.
    ///
    /// # Errors
    /// The caller's structure cannot be written (`EFAULT`): there is no fault queue, and the number is free.
    pub fn install(mut self, fd: i32, caller: &dyn Caller) -> Result<FaultQueue, Errno> {
        self.structure.out_fault_fd = fd;
        frame::reply(caller, self.at, self.size, &self.structure).map_err(|error| error.told_to(caller))?;
        Ok(self.hidden.publish())
    }
}

impl fmt::Debug for NewFaultQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewFaultQueue").field("id", &self.structure.out_fault_id).finish_non_exhaustive()
    }
}

impl Call for FaultQueueAlloc {
    fn run(mut self, frame: &Frame<'_>) -> Outcome {
        no_flags(self.flags)?;
        let hidden = frame.context.new_fault_queue()?;
        self.out_fault_id = hidden.reserved.id().get();
        Ok(Reply::File(NewFaultQueue { hidden, structure: self, at: frame.at, size: frame.size }))
    }
}

/// Reads page faults from a fault queue, in whole groups. Returns how many bytes were read: none if no fault waits. Never
/// waits.
///
/// # Errors
/// `bytes` is not a multiple of 40 (`ESPIPE`), has no room for the first group (`EINVAL`), or the memory cannot be written
/// (`EFAULT`): the group that did not get there stays the first.
// F95a.
pub fn read(queue: &FaultQueue, at: UserAddr, bytes: u64, caller: &dyn Caller) -> Result<u64, Errno> {
    whole_records::<PageFault>(bytes, caller)?;
    piece_by_piece(caller, |done| read_group(queue, frame::plus(at, done)?, bytes - done, caller))
}

/// Reads one group, which stays if it does not get to the caller.
fn read_group(queue: &FaultQueue, at: UserAddr, room: u64, caller: &dyn Caller) -> Result<u64, CallError> {
    let record = size_of::<PageFault>() as u64;
    let faults = queue.read_group(usize::try_from(room / record).unwrap_or(usize::MAX))?;
    for (fault, number) in faults.iter().zip(0..) {
        let written = frame::plus(at, number * record).and_then(|at| frame::write(caller, at, &PageFault::from(fault)));
        if let Err(error) = written {
            // If it was answered meanwhile, nobody waits for it.
            let _ = queue.put_back(fault.cookie);
            return Err(error);
        }
    }
    Ok(faults.len() as u64 * record)
}

/// Answers page faults through the file of a fault queue. Returns how many bytes were taken.
///
/// # Errors
/// `bytes` is not a multiple of 8 (`ESPIPE`), or the first answer cannot be read (`EFAULT`), is none, or is for no group of
/// faults that was read and not answered (`EINVAL`).
// F95b.
pub fn write(queue: &FaultQueue, at: UserAddr, bytes: u64, caller: &dyn Caller) -> Result<u64, Errno> {
    whole_records::<PageResponse>(bytes, caller)?;
    piece_by_piece(caller, |done| {
        if done == bytes {
            return Ok(0);
        }
        let PageResponse { cookie, code } = frame::read(caller, frame::plus(at, done)?)?;
        let answer = match code {
            RESPONSE_SUCCESS => PageAnswer::Success,
            RESPONSE_INVALID => PageAnswer::Invalid,
            code => return Err(CallError::BadAnswer { code }),
        };
        queue.respond(cookie, answer)?;
        Ok(size_of::<PageResponse>() as u64)
    })
}

/// Returns what `poll` reports: readable while there is something to read, and always writable.
// F95c.
pub fn poll(queue: &FaultQueue) -> Readiness {
    Readiness { readable: queue.has_pending(), writable: true }
}

fn whole_records<T>(bytes: u64, caller: &dyn Caller) -> Result<(), Errno> {
    if bytes.is_multiple_of(size_of::<T>() as u64) {
        Ok(())
    } else {
        Err(CallError::NoRecords { bytes }.told_to(caller))
    }
}

/// Goes on from how many bytes were done until nothing more is. An error counts only before anything was.
fn piece_by_piece(caller: &dyn Caller, mut step: impl FnMut(u64) -> Result<u64, CallError>) -> Result<u64, Errno> {
    let mut done = 0;
    loop {
        match step(done) {
            Ok(0) => return Ok(done),
            Ok(bytes) => done += bytes,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error.told_to(caller)),
        }
    }
}

impl From<&fault_queue::PageFault> for PageFault {
    // F95e.
    fn from(fault: &fault_queue::PageFault) -> Self {
        let valid = if fault.pasid.is_some() { PASID_VALID } else { 0 };
        let last = if fault.more == 0 { LAST_PAGE } else { 0 };
        Self {
            flags: valid | last,
            dev_id: fault.device.get(),
            pasid: fault.pasid.unwrap_or(0),
            grpid: fault.group,
            perm: fault.permissions.bits(),
            reserved: 0,
            addr: fault.iova.get(),
            length: 0,
            cookie: fault.cookie,
        }
    }
}
