//! Which pages devices have written.

use core::ops::Range;

use crate::address::{Iova, UserAddr};
use crate::user_memory::{BadAddress, UserMemory};

/// A range whose dirty pages are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirtyRequest {
    /// IOVA of the first bit.
    pub iova: Iova,
    /// Size of the range in bytes.
    pub bytes: u64,
    /// How many bytes one bit stands for.
    pub page_size: u64,
}

/// Sets bits of a bitmap in user memory, and leaves the others as they are. Bit n is bit `n % 8`, counted from the lowest, of
/// the byte `n / 8` bytes behind `bitmap`, which may lie anywhere.
///
/// # Errors
/// Fails if some of the bytes are not there for reading and writing. Bits before them were set.
pub fn set_user_bits(memory: &dyn UserMemory, bitmap: UserAddr, bits: Range<u64>) -> Result<(), BadAddress> {
    let mut next = bits.start;
    while next < bits.end {
        let at = bitmap.checked_add(next / 8).ok_or(BadAddress { at: bitmap })?;
        let end = bits.end.min((next / 8 + CHUNK as u64).saturating_mul(8));
        let mut chunk = [0; CHUNK];
        let used = usize::try_from(end.div_ceil(8) - next / 8).map_or(CHUNK, |used| used.min(CHUNK));
        let chunk = chunk.get_mut(..used).unwrap_or_default();
        memory.read(at, chunk)?;
        for bit in next..end {
            let byte = usize::try_from(bit / 8 - next / 8).ok().and_then(|byte| chunk.get_mut(byte));
            if let Some(byte) = byte {
                *byte |= 1 << (bit % 8);
            }
        }
        memory.write(at, chunk)?;
        next = end;
    }
    Ok(())
}

/// As many bytes of a bitmap are read and written at once.
const CHUNK: usize = 256;

#[cfg(all(test, feature = "software", not(shuttle)))]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;
    use crate::address::Access;
    use crate::software::{LockedPages, Memory, Process};

    proptest! {
        /// Exactly these bits, wherever the bitmap begins; the others keep what they were.
        #[test]
        fn bits_are_set_and_no_others(start in 0_u64..9000, count in 0_u64..9000, offset in 0_u64..5000, before in any::<u8>()) {
            let process = Process::new(&Memory::new(), LockedPages::unlimited());
            let memory = process.allocate(0x3000, Access::ReadWrite).unwrap();
            process.write(memory, &[before; 0x3000]).unwrap();
            let bitmap = memory.checked_add(offset).unwrap();
            set_user_bits(&*process, bitmap, start..start + count).unwrap();
            let mut bytes = vec![0; 0x3000 - usize::try_from(offset).unwrap()];
            process.read(bitmap, &mut bytes).unwrap();
            for bit in 0..bytes.len() as u64 * 8 {
                let is = bytes[usize::try_from(bit / 8).unwrap()] >> (bit % 8) & 1;
                let was = before >> (bit % 8) & 1;
                prop_assert_eq!(is == 1, was == 1 || (start..start + count).contains(&bit), "bit {}", bit);
            }
        }
    }

    #[test]
    fn a_bitmap_that_is_not_there_is_an_error_where_it_ends() {
        let process = Process::new(&Memory::new(), LockedPages::unlimited());
        let memory = process.allocate(0x1000, Access::ReadWrite).unwrap();
        assert_eq!(set_user_bits(&*process, memory, 0..0x8000), Ok(()));
        set_user_bits(&*process, memory, 0x7ff8..0x8001).unwrap_err();
        set_user_bits(&*process, UserAddr::new(u64::MAX), 0..9).unwrap_err();
        assert_eq!(set_user_bits(&*process, UserAddr::new(u64::MAX), 0..0), Ok(()));
    }
}
