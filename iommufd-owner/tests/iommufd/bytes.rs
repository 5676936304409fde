//! Address spaces to the byte: mappings of any size and place, copies of parts of them, and what an access reads and writes,
//! against a plain list of mappings. F16, F20, F60, tables Ft4 to Ft6.

use std::sync::Arc;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::{Access, Iova, UserAddr, UserMemory};
use iommufd_owner::{Context, CopyRequest, IoasAccess, MapRequest, ObjectId, Place};
use proptest::prelude::*;

use crate::rig::{PAGES, Rig};
use crate::space::{Mapping, Space};

#[derive(Debug, Clone)]
enum Op {
    Map { at: Option<u64>, bytes: u64, from: u64, access: Access },
    Copy { from: u64, bytes: u64, at: Option<u64>, access: Access },
    Unmap { at: u64, bytes: u64 },
    Allow(Vec<(u64, u64)>),
    Read { at: u64, bytes: u64 },
    Write { at: u64, bytes: u64, byte: u8 },
}

/// Near the edge of a page, mostly.
fn number(pages: u64) -> impl Strategy<Value = u64> {
    let near = (1..pages, 0..9_u64).prop_map(|(page, more)| page * PAGE_SIZE + more - 4);
    prop_oneof![4 => near, 2 => (0..pages).prop_map(|page| page * PAGE_SIZE), 1 => 0..pages * PAGE_SIZE]
}

fn op() -> impl Strategy<Value = Op> {
    let access = || prop::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite, Access::ReadWrite]);
    let place = || prop::option::weighted(0.7, number(8));
    let bytes = || prop_oneof![1..40_u64, number(3).prop_map(|bytes| bytes.max(1))];
    prop_oneof![
        6 => (place(), bytes(), number(PAGES - 4), access())
            .prop_map(|(at, bytes, from, access)| Op::Map { at, bytes, from, access }),
        4 => (number(8), bytes(), place(), access())
            .prop_map(|(from, bytes, at, access)| Op::Copy { from, bytes, at, access }),
        3 => (number(8), bytes()).prop_map(|(at, bytes)| Op::Unmap { at, bytes }),
        1 => prop::collection::vec((number(8), 1..9_000_u64), 0..3).prop_map(Op::Allow),
        4 => (number(8), bytes()).prop_map(|(at, bytes)| Op::Read { at, bytes }),
        4 => (number(8), bytes(), any::<u8>()).prop_map(|(at, bytes, byte)| Op::Write { at, bytes, byte }),
    ]
}

/// Memory and mappings as they should be.
struct Reference {
    space: Space,
    memory: Vec<u8>,
}

impl Reference {
    /// Calls `touch` with each piece of memory that an access may use so, and where in its range that is.
    fn touch(
        &self,
        at: u64,
        bytes: u64,
        access: Access,
        mut touch: impl FnMut(std::ops::Range<usize>, usize),
    ) -> Result<(), Errno> {
        let mut done = 0;
        for part in self.space.parts(at, bytes) {
            if !part.access.permits(access) {
                return Err(Errno::EPERM);
            }
            let from = part.from as usize;
            touch(from..from + part.bytes as usize, done as usize);
            done += part.bytes;
        }
        if done == bytes { Ok(()) } else { Err(Errno::ENOENT) }
    }
}

struct Life {
    rig: Rig,
    context: Context,
    ioas: ObjectId,
    access: IoasAccess,
    reference: Reference,
}

impl Life {
    fn new() -> Self {
        let rig = Rig::new(&[]);
        let context = rig.context("vmm");
        let ioas = context.ioas_alloc().unwrap();
        let access = context.access_without_pins().unwrap();
        access.attach(ioas).unwrap();
        // Different bytes everywhere.
        let memory: Vec<u8> = (0..PAGES * PAGE_SIZE).map(|at| (at % 251) as u8).collect();
        rig.process.write(rig.ram, &memory).unwrap();
        let space = Space { ram: rig.ram.get(), ..Space::default() };
        Self { rig, context, ioas, access, reference: Reference { space, memory } }
    }

    fn play(&mut self, op: &Op) {
        let place = |at: Option<u64>| at.map_or(Place::Anywhere, |at| Place::Fixed(Iova::new(at)));
        match *op {
            Op::Map { at, bytes, from, access } => {
                let (process, addr): (Arc<_>, _) = (self.rig.user.clone(), UserAddr::new(self.rig.ram.get() + from));
                let request = MapRequest { iova: place(at), bytes, process, addr, access };
                let mapped = self.context.ioas_map(self.ioas, request);
                let part = Mapping { first: 0, bytes, from, access, most: access };
                let expected = self.reference.space.map(at, &[part]);
                assert_eq!(mapped.map(Iova::get).map_err(|error| error.errno()), expected);
            }
            Op::Copy { from, bytes, at, access } => {
                let request = CopyRequest { from: Iova::new(from), bytes, place: place(at), access };
                let copied = self.context.ioas_copy(self.ioas, self.ioas, request);
                let expected = self.reference.space.copy(from, bytes, at, access);
                assert_eq!(copied.map(Iova::get).map_err(|error| error.errno()), expected);
            }
            Op::Unmap { at, bytes } => {
                let unmapped = self.context.ioas_unmap(self.ioas, Iova::new(at), bytes);
                assert_eq!(unmapped.map_err(|error| error.errno()), self.reference.space.unmap(at, bytes));
            }
            Op::Allow(ref ranges) => {
                let ranges: Vec<_> = ranges.iter().map(|(first, more)| (*first, first + more)).collect();
                let given: Vec<_> = ranges.iter().map(|(first, last)| (Iova::new(*first), Iova::new(*last))).collect();
                let overlap = ranges.len() == 2 && ranges[0].0 <= ranges[1].1 && ranges[1].0 <= ranges[0].1;
                assert_eq!(self.context.ioas_allow_iovas(self.ioas, &given).is_err(), overlap);
                if !overlap {
                    self.reference.space.allowed = ranges;
                }
            }
            Op::Read { at, bytes } => {
                let mut expected = vec![0; bytes as usize];
                let memory = &self.reference.memory;
                let end = self.reference.touch(at, bytes, Access::Read, |from, to| {
                    expected[to..to + from.len()].copy_from_slice(&memory[from]);
                });
                let mut bytes = vec![0; bytes as usize];
                let read = self.access.read(Iova::new(at), &mut bytes);
                assert_eq!((read.map_err(|error| error.errno()), bytes), (end, expected));
            }
            Op::Write { at, bytes, byte } => {
                let written = vec![byte; bytes as usize];
                let mut memory = self.reference.memory.clone();
                let end = self.reference.touch(at, bytes, Access::Write, |to, _| memory[to].fill(byte));
                self.reference.memory = memory;
                let result = self.access.write(Iova::new(at), &written);
                assert_eq!(result.map_err(|error| error.errno()), end);
            }
        }
        let mut memory = vec![0; self.reference.memory.len()];
        self.rig.process.read(self.rig.ram, &mut memory).unwrap();
        assert!(memory == self.reference.memory, "memory after {op:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_is_where_it_was_mapped(ops in prop::collection::vec(op(), 1..50)) {
        let mut life = Life::new();
        for op in &ops {
            life.play(op);
        }
        let mapped: u64 = life.reference.space.mappings.iter().map(|mapping| mapping.bytes).sum();
        prop_assert_eq!(life.context.ioas_unmap(life.ioas, Iova::new(0), u64::MAX), Ok(mapped));
        prop_assert_eq!(life.rig.process.pinned(), 0);
    }
}
