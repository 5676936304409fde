use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

proptest! {
    /// Any lengths and alignments, over the seams of a few frames: what was written last is read, the rest is zero.
    #[test]
    fn memory_keeps_what_was_written(
        writes in prop::collection::vec((0_usize..20_000, prop::collection::vec(any::<u8>(), 0..9000)), 0..8),
        (start, len) in (0_usize..20_000, 0_usize..15_000),
        base in prop::sample::select(vec![0, 0xfee0_0123, u64::MAX - 40_000]),
    ) {
        let memory = Memory::new();
        let mut model = vec![0; 40_000];
        for (at, bytes) in &writes {
            memory.clone().write(PhysAddr::new(base + *at as u64), bytes);
            model[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        let mut read = vec![0xff; len];
        memory.read(PhysAddr::new(base + start as u64), &mut read);
        prop_assert_eq!(&read, &model[start..start + len]);
    }
}

/// Whoever writes a part of a word leaves the rest of it to others.
#[test]
fn threads_that_write_beside_each_other_lose_nothing() {
    let memory = Memory::new();
    let rounds = if cfg!(miri) { 10 } else { 10_000_u32 };
    std::thread::scope(|scope| {
        for place in 0..2 {
            let memory = &memory;
            scope.spawn(move || {
                for round in 0..rounds {
                    let bytes = round.to_le_bytes();
                    memory.write(PhysAddr::new(0x1000 + place), &bytes[..1]);
                    assert_eq!(memory.bytes::<1>(PhysAddr::new(0x1000 + place)), bytes[..1]);
                }
            });
        }
    });
}

#[test]
fn reading_makes_no_frames() {
    let memory = Memory::new();
    assert_eq!(memory.bytes::<64>(PhysAddr::new(4090)), [0; 64]);
    assert_eq!(memory.frames(), 0);
    memory.write(PhysAddr::new(4090), &[1; 64]);
    assert_eq!(memory.frames(), 2);
}

#[test]
fn nobody_answers_past_the_end() {
    let memory = Memory::new();
    let ends: Vec<u8> = (1..=8).collect();
    memory.write(PhysAddr::new(u64::MAX - 3), &ends);
    assert_eq!(memory.bytes::<8>(PhysAddr::new(u64::MAX - 3)), [1, 2, 3, 4, 0, 0, 0, 0]);
    assert_eq!(memory.bytes::<4>(PhysAddr::new(0)), [0; 4]);
}

#[derive(Debug)]
struct Elsewhere(SpinMutex<[u8; 0x2000]>);

impl Contents for Elsewhere {
    fn read(&self, offset: u64, into: &mut [u8]) {
        into.copy_from_slice(&self.0.lock()[usize::try_from(offset).unwrap()..][..into.len()]);
    }

    fn write(&self, offset: u64, from: &[u8]) {
        self.0.lock()[usize::try_from(offset).unwrap()..][..from.len()].copy_from_slice(from);
    }
}

#[test]
fn a_window_shows_what_lies_elsewhere() {
    let memory = Memory::new();
    memory.allocate(1).unwrap();
    let elsewhere = Arc::new(Elsewhere(SpinMutex::new([0; 0x2000])));
    let window = memory.window(0x2000, elsewhere.clone()).unwrap();
    let at = window.at();
    assert!(at.get().is_multiple_of(0x2000));
    // The end of the access lies behind the window.
    memory.write(PhysAddr::new(at.get() + 0x1ffe), &[1, 2, 3, 4]);
    assert_eq!(elsewhere.0.lock()[0x1ffe..], [1, 2]);
    assert_eq!(memory.bytes(PhysAddr::new(at.get() + 0x1ffe)), [1, 2, 3, 4]);
    assert_eq!(memory.frames(), 1);
    let next = memory.allocate(1).unwrap();
    assert!(next.get() >= at.get() + 0x2000);
    drop(window);
    assert_eq!(memory.bytes(PhysAddr::new(at.get() + 0x1ffe)), [0, 0, 3, 4]);
}

#[test]
fn an_access_may_begin_in_front_of_a_window() {
    let memory = Memory::new();
    let in_front = memory.allocate(0x2000).unwrap();
    let elsewhere = Arc::new(Elsewhere(SpinMutex::new([0; 0x2000])));
    let window = memory.window(0x2000, elsewhere.clone()).unwrap();
    let at = PhysAddr::new(in_front.get() + 0x1ffe);
    assert_eq!(window.at().get(), at.get() + 2);
    memory.write(at, &[1, 2, 3, 4]);
    assert_eq!(elsewhere.0.lock()[..2], [3, 4]);
    assert_eq!(memory.bytes(at), [1, 2, 3, 4]);
}

#[test]
fn a_window_is_of_whole_frames() {
    let memory = Memory::new();
    let windows =
        [0, 1, 0x1001].map(|bytes| memory.window(bytes, Arc::new(Elsewhere(SpinMutex::new([0; 0x2000])))).unwrap());
    assert_eq!(windows.each_ref().map(|window| window.at().get() & 0xfff), [0; 3]);
    assert!(memory.allocate(1).unwrap().is_aligned(0x1000));
    let whole = 1 << 63;
    assert!(memory.window(whole + 1, Arc::new(Elsewhere(SpinMutex::new([0; 0x2000])))).is_none());
}
