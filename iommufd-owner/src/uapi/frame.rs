//! A call under way: whose it is, and where its structure lies.
// F80 to F87.

use iommu_core::UserAddr;
use iommu_core::user_memory::BadAddress;

use super::structures::Structure;
use super::{CallError, Caller};
use crate::context::Context;

/// A call under way.
pub(super) struct Frame<'a> {
    pub(super) context: &'a Context,
    pub(super) caller: &'a dyn Caller,
    /// Where the structure lies.
    pub(super) at: UserAddr,
    /// How long the caller says that it is.
    pub(super) size: u32,
}

impl Frame<'_> {
    /// Reads the structure. What the caller did not supply is zero, what is not known must be.
    // F82, F84.
    pub(super) fn structure<T: Structure>(&self, least: usize) -> Result<T, CallError> {
        let full = size_of::<T>();
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        if size < least {
            return Err(CallError::TooShort { size: self.size, least });
        }
        if size > full && !is_zero(self.caller, plus(self.at, full as u64)?, (size - full) as u64)? {
            return Err(CallError::UnknownTail { full });
        }
        let mut structure = T::new_zeroed();
        let known = structure.as_mut_bytes().get_mut(..size.min(full)).unwrap_or_default();
        self.caller.read(self.at, known)?;
        Ok(structure)
    }

    /// Writes the structure back, as much of it as the caller has room for.
    // F85.
    pub(super) fn reply<T: Structure>(&self, structure: &T) -> Result<(), CallError> {
        reply(self.caller, self.at, self.size, structure)
    }
}

/// Writes a structure of `size` bytes back, as far as it goes.
pub(super) fn reply<T: Structure>(
    caller: &dyn Caller,
    at: UserAddr,
    size: u32,
    structure: &T,
) -> Result<(), CallError> {
    let bytes = structure.as_bytes();
    let size = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len());
    Ok(caller.write(at, bytes.get(..size).unwrap_or_default())?)
}

/// The address so many bytes further on.
pub(super) fn plus(at: UserAddr, bytes: u64) -> Result<UserAddr, CallError> {
    at.checked_add(bytes).ok_or(CallError::Memory(BadAddress { at }))
}

/// Reads a structure.
pub(super) fn read<T: Structure>(caller: &dyn Caller, at: UserAddr) -> Result<T, CallError> {
    let mut structure = T::new_zeroed();
    caller.read(at, structure.as_mut_bytes())?;
    Ok(structure)
}

/// Writes a structure.
pub(super) fn write<T: Structure>(caller: &dyn Caller, at: UserAddr, structure: &T) -> Result<(), CallError> {
    Ok(caller.write(at, structure.as_bytes())?)
}

/// A part of a page.
const CHUNK: usize = 512;

/// Calls `touch` for each chunk of a range, which is there as a whole or not at all, for as long as it returns true. Returns
/// whether it always did.
fn chunks(
    at: UserAddr,
    bytes: u64,
    mut touch: impl FnMut(UserAddr, usize) -> Result<bool, CallError>,
) -> Result<bool, CallError> {
    let mut done = 0;
    while done < bytes {
        let at = plus(at, done)?;
        let part = (CHUNK as u64 - at.get() % CHUNK as u64).min(bytes - done);
        if !touch(at, usize::try_from(part).unwrap_or_default())? {
            return Ok(false);
        }
        done += part;
    }
    Ok(true)
}

/// Whether a range is all zero.
fn is_zero(caller: &dyn Caller, at: UserAddr, bytes: u64) -> Result<bool, CallError> {
    let mut chunk = [0; CHUNK];
    chunks(at, bytes, |at, part| {
        let part = chunk.get_mut(..part).unwrap_or_default();
        caller.read(at, part)?;
        Ok(part.iter().all(|byte| *byte == 0))
    })
}

/// Zeroes a range.
pub(super) fn zero(caller: &dyn Caller, at: UserAddr, bytes: u64) -> Result<(), CallError> {
    let chunk = [0; CHUNK];
    let zeroed = chunks(at, bytes, |at, part| {
        caller.write(at, chunk.get(..part).unwrap_or_default())?;
        Ok(true)
    });
    zeroed.map(drop)
}
