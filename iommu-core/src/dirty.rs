//! Which pages devices have written.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::address::{Iova, PAGE_SIZE, UserAddr};
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

/// A part of a bitmap of dirty pages, gathered before it is written to where the bitmap is.
///
/// Bit n is bit `n % 8`, counted from the lowest, of byte `n / 8`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirtyBits {
    /// The first byte of the part.
    start: u64,
    /// And as many more as a word that lies across the end takes.
    bytes: Vec<u8>,
    /// Bytes from the first to the last in which a bit is set.
    used: Range<usize>,
}

/// Bytes of a part.
const PART: usize = 0x1000;

/// Bytes that a word takes wherever it begins.
const WORD: usize = size_of::<u128>();

impl DirtyBits {
    /// The number of bits in a part.
    pub const BITS: u64 = 8 * PART as u64;

    /// Creates a part in which no bit is set, at the start of a bitmap.
    pub fn new() -> Self {
        Self { start: 0, bytes: vec![0; PART + WORD], used: 0..0 }
    }

    /// Returns which bits of the bitmap are in this part.
    pub fn bits(&self) -> Range<u64> {
        let first = self.start * 8;
        first..first.saturating_add(Self::BITS)
    }

    /// Calls `write` with the bytes in which bits are set, if there are any, and where they begin in the bitmap. Then goes on
    /// with the part of the bitmap that has `bit`, with no bit set.
    ///
    /// # Errors
    /// That of `write`, to which it makes no difference.
    pub fn turn<E>(&mut self, bit: u64, write: impl FnOnce(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let used = core::mem::take(&mut self.used);
        let first = self.start + used.start as u64;
        self.start = bit / Self::BITS * PART as u64;
        let bytes = self.bytes.get_mut(used).filter(|bytes| !bytes.is_empty());
        bytes.map_or(Ok(()), |bytes| {
            let written = write(first, bytes);
            bytes.fill(0);
            written
        })
    }

    /// Sets the bits that lie in this part, and ignores the others.
    pub fn set(&mut self, bits: Range<u64>) {
        let part = self.bits();
        let (first, end) = (bits.start.max(part.start), bits.end.min(part.end));
        if first >= end {
            return;
        }
        let (first, last) = (place(first - part.start), place(end - 1 - part.start));
        self.uses(first.byte, last.byte);
        let (from, upto) = (u8::MAX << first.bit, u8::MAX >> (7 - last.bit));
        match self.bytes.get_mut(first.byte..=last.byte) {
            Some([byte]) => *byte |= from & upto,
            Some([head, middle @ .., tail]) => {
                *head |= from;
                middle.fill(u8::MAX);
                *tail |= upto;
            }
            _ => {}
        }
    }

    /// Sets the bits of a word, whose lowest is bit `at`; all of those that are set in it lie in this part.
    pub(crate) fn set_word(&mut self, at: u64, word: u64) {
        let (Some(offset), Some(highest)) = (at.checked_sub(self.start * 8), word.checked_ilog2()) else { return };
        let Place { byte, bit } = place(offset);
        let Some(bytes) = self.bytes.get_mut(byte..).and_then(<[u8]>::first_chunk_mut::<WORD>) else { return };
        *bytes = (u128::from_le_bytes(*bytes) | u128::from(word) << bit).to_le_bytes();
        let lowest = u64::from(word.trailing_zeros());
        self.uses(place(offset + lowest).byte, place(offset + u64::from(highest)).byte);
    }

    fn uses(&mut self, first: usize, last: usize) {
        let used = if self.used.is_empty() { first..last + 1 } else { self.used.clone() };
        self.used = used.start.min(first)..used.end.max(last + 1);
    }
}

impl Default for DirtyBits {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a bit of a part is.
struct Place {
    byte: usize,
    bit: u32,
}

const fn place(offset: u64) -> Place {
    Place { byte: (offset / 8) as usize, bit: (offset % 8) as u32 }
}

/// Sets the bits that are set in `bits` in as many bytes of user memory from `at` on as well, and leaves the others as they
/// are.
///
/// # Errors
/// Fails if some of the bytes are not there for reading and writing. Bits in pages before were set.
pub fn set_user_bits(memory: &dyn UserMemory, at: UserAddr, bits: &[u8]) -> Result<(), BadAddress> {
    let (mut at, mut left) = (at, bits);
    while !left.is_empty() {
        let in_page = PAGE_SIZE - at.get() % PAGE_SIZE;
        let count = usize::try_from(in_page).map_or(CHUNK, |bytes| bytes.min(CHUNK)).min(left.len());
        let (now, rest) = left.split_at(count);
        let mut chunk = [0; CHUNK];
        let chunk = chunk.get_mut(..count).unwrap_or_default();
        memory.read(at, chunk)?;
        chunk.iter_mut().zip(now).for_each(|(byte, bits)| *byte |= bits);
        memory.write(at, chunk)?;
        if !rest.is_empty() {
            at = at.checked_add(count as u64).ok_or(BadAddress { at })?;
        }
        left = rest;
    }
    Ok(())
}

/// As many bytes of a bitmap are read and written at once.
const CHUNK: usize = 512;

#[cfg(all(test, feature = "software", not(shuttle)))]
mod tests {
    use alloc::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::address::Access;
    use crate::software::{LockedPages, Memory, Process};

    proptest! {
        /// Exactly these bits, whatever sets them and wherever the part lies.
        #[test]
        fn bits_are_set_and_no_others(
            part in 0_u64..4,
            runs in prop::collection::vec((0_u64..5 * DirtyBits::BITS, 0_u64..9000), 0..6),
            words in prop::collection::vec((0_u64..DirtyBits::BITS, any::<u64>()), 0..6),
        ) {
            let mut bits = DirtyBits::new();
            bits.turn(part * DirtyBits::BITS + 7, |_, _| Err(())).unwrap();
            let inside = bits.bits();
            let mut model = BTreeSet::new();
            for (start, count) in runs {
                bits.set(start..start + count);
                model.extend((start..start + count).filter(|bit| inside.contains(bit)));
            }
            for (at, word) in words {
                let word = word & u64::MAX >> (64 - (DirtyBits::BITS - at).min(64));
                bits.set_word(inside.start + at, word);
                model.extend((0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| inside.start + at + bit));
            }
            let (mut seen, mut written) = (BTreeSet::new(), None);
            let look = |first: u64, bytes: &[u8]| {
                written = Some((first, first + bytes.len() as u64 - 1));
                let is_set = |bit: &u64| bytes[usize::try_from(bit / 8).unwrap()] >> (bit % 8) & 1 == 1;
                seen.extend((0..bytes.len() as u64 * 8).filter(is_set).map(|bit| first * 8 + bit));
                Ok::<_, ()>(())
            };
            bits.turn(0, look).unwrap();
            prop_assert_eq!(&seen, &model);
            // What lies beside the bitmap in user memory is left alone.
            let bytes = |bits: Option<&u64>| bits.map(|bit| bit / 8);
            prop_assert_eq!(written, bytes(model.first()).zip(bytes(model.last())));
            prop_assert_eq!(bits, DirtyBits::new());
        }

        /// Whatever was there stays, wherever the bitmap begins.
        #[test]
        fn bits_are_set_in_user_memory(
            offset in 0_u64..5000, bits in prop::collection::vec(any::<u8>(), 0..3000), before in any::<u8>(),
        ) {
            let process = Process::new(&Memory::new(), LockedPages::unlimited());
            let memory = process.allocate(0x3000, Access::ReadWrite).unwrap();
            process.write(memory, &[before; 0x3000]).unwrap();
            set_user_bits(&*process, memory.checked_add(offset).unwrap(), &bits).unwrap();
            let mut model = vec![before; 0x3000];
            model[usize::try_from(offset).unwrap()..].iter_mut().zip(&bits).for_each(|(byte, bits)| *byte |= bits);
            let mut bytes = vec![0; 0x3000];
            process.read(memory, &mut bytes).unwrap();
            prop_assert_eq!(bytes, model);
        }
    }

    #[test]
    fn a_bitmap_that_is_not_there_is_an_error_where_it_ends() {
        let process = Process::new(&Memory::new(), LockedPages::unlimited());
        let memory = process.allocate(0x1000, Access::ReadWrite).unwrap();
        let last = memory.checked_add(0xffe).unwrap();
        assert_eq!(set_user_bits(&*process, last, &[1, 2]), Ok(()));
        set_user_bits(&*process, last, &[4, 4, 4]).unwrap_err();
        let mut bytes = [0; 2];
        process.read(last, &mut bytes).unwrap();
        assert_eq!(bytes, [5, 6], "what is there was set");
        set_user_bits(&*process, UserAddr::new(u64::MAX), &[1, 1]).unwrap_err();
        assert_eq!(set_user_bits(&*process, UserAddr::new(u64::MAX), &[]), Ok(()));
    }
}
