use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::address::{IovaRange, PageSizes};
use crate::hardware::DirtyFlags;

const KIB4: u64 = 1 << 12;
const MIB2: u64 = 1 << 21;
const GIB1: u64 = 1 << 30;

const fn sizes(bitmap: u64) -> PageSizes {
    PageSizes::from_bitmap(bitmap).unwrap()
}

fn format(address_bits: u32, bitmap: u64) -> TableFormat {
    TableFormat::new(address_bits, sizes(bitmap)).unwrap()
}

/// Every page of the smallest size by itself, and where the page that holds it begins and how large it is.
#[derive(Debug)]
struct Model {
    format: TableFormat,
    unit: u64,
    pages: BTreeMap<u64, Small>,
}

#[derive(Clone, Copy, Debug)]
struct Small {
    phys: u64,
    access: Access,
    first: u64,
    page: u64,
}

impl Model {
    fn new(format: TableFormat) -> Self {
        Self { format, unit: format.page_sizes().smallest(), pages: BTreeMap::new() }
    }

    fn map(&mut self, iova: u64, phys: u64, size: u64, access: Access) -> Result<(), TableError> {
        if !(iova | phys | size).is_multiple_of(self.unit) {
            return Err(TableError::Misaligned);
        }
        if size > 0 && iova.checked_add(size - 1).is_none_or(|last| last > self.format.last().get()) {
            return Err(TableError::OutOfRange);
        }
        if let Some((at, _)) = self.pages.range(iova..iova.saturating_add(size)).next() {
            return Err(TableError::Overlap(Iova::new(*at)));
        }
        let mut done = 0;
        while done < size {
            let (first, to) = (iova + done, phys + done);
            let fits = |page: &u64| (first | to).is_multiple_of(*page) && size - done >= *page;
            let page = self.format.page_sizes().largest_first().find(fits).unwrap();
            for n in (0..page / self.unit).map(|n| n * self.unit) {
                self.pages.insert(first + n, Small { phys: to + n, access, first, page });
            }
            done += page;
        }
        Ok(())
    }

    fn unmap(&mut self, iova: u64, size: u64) -> u64 {
        if !(iova | size).is_multiple_of(self.unit) {
            return 0;
        }
        let (mut at, mut unmapped) = (iova, 0);
        while at < iova.saturating_add(size) {
            let Some(&Small { first, page, .. }) = self.pages.get(&at) else { break };
            self.pages.retain(|n, _| *n < first || *n - first >= page);
            unmapped += page;
            at = first + page;
        }
        unmapped
    }

    /// How many tables these pages need: each is known by its level and the address bits above it.
    fn tables(&self) -> usize {
        let top = self.format.levels() - 1;
        let tables_of = |(iova, small): (&u64, &Small)| {
            let (iova, leaf) = (*iova, (small.page.trailing_zeros() - 12) / 9);
            (leaf..=top).map(move |level| (level, iova.checked_shr(12 + 9 * (level + 1)).unwrap_or(0)))
        };
        self.pages.iter().flat_map(tables_of).collect::<BTreeSet<_>>().len()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Map { iova: u64, phys: u64, size: u64, access: Access },
    Unmap { iova: u64, size: u64 },
}

/// Addresses that collide and meet the ends of larger pages often; `unit` is the size of the smallest page.
fn address(unit: u64) -> impl Strategy<Value = u64> {
    let large = prop_oneof![4 => (0_u64..4).prop_map(|n| n * 512), 1 => (0_u64..3).prop_map(|n| n * 512 * 512)];
    let small = prop_oneof![3 => Just(0), 2 => 0_u64..512];
    (large, small).prop_map(move |(large, small)| (large + small) * unit)
}

fn size(unit: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0_u64..6).prop_map(move |n| n * unit),
        4 => (1_u64..3, 0_u64..3).prop_map(move |(large, small)| (large * 512 + small) * unit),
        2 => (0_u64..1024).prop_map(move |n| n * unit),
        1 => Just(unit / 2),
    ]
}

fn step(unit: u64) -> impl Strategy<Value = Step> {
    let access = prop::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite]);
    prop_oneof![
        3 => (address(unit), address(unit), size(unit), access)
            .prop_map(|(iova, phys, size, access)| Step::Map { iova, phys, size, access }),
        2 => (address(unit), size(unit)).prop_map(|(iova, size)| Step::Unmap { iova, size }),
    ]
}

fn format_and_steps() -> impl Strategy<Value = (TableFormat, Vec<Step>)> {
    let formats = prop::sample::select(vec![
        TableFormat::X86_39,
        TableFormat::X86_48,
        format(64, KIB4 | MIB2),
        format(39, KIB4),
        format(23, KIB4 | MIB2),
        format(48, MIB2 | GIB1),
        format(40, MIB2),
    ]);
    formats.prop_flat_map(|format| {
        let unit = format.page_sizes().smallest();
        (Just(format), prop::collection::vec(step(unit), 1..24))
    })
}

proptest! {
    /// Against a map of every smallest page: results and errors, counts, every translation, and that exactly
    /// the tables exist that the pages need, so none is empty and a failed map leaves nothing behind.
    // I37, I38.
    #[test]
    fn i37_i38_tables_do_as_a_flat_map((format, steps) in format_and_steps()) {
        let mut tables = PageTable::new(format);
        let mut model = Model::new(format);
        for step in steps {
            match step {
                Step::Map { iova, phys, size, access } => {
                    let result = tables.map(Iova::new(iova), PhysAddr::new(phys), size, access.into());
                    prop_assert_eq!(result, model.map(iova, phys, size, access), "{:?}", step);
                }
                Step::Unmap { iova, size } => {
                    prop_assert_eq!(tables.unmap(Iova::new(iova), size), model.unmap(iova, size), "{:?}", step);
                }
            }
            prop_assert_eq!(tables.tables(), model.tables(), "after {:?}", step);
        }
        agree(&tables, &model)?;
        for iova in model.pages.keys() {
            tables.unmap(Iova::new(*iova), model.unit);
        }
        prop_assert_eq!(tables.tables(), 0);
    }

    /// A range that meets a page anywhere is refused, and nothing of it is mapped afterwards.
    // I37.
    #[test]
    fn i37_overlap_maps_nothing(iova in address(KIB4), pages in 1_u64..2000, in_the_way in 0_u64..2000) {
        let at = Iova::new(iova + in_the_way % pages * KIB4);
        let mut tables = PageTable::new(TableFormat::X86_39);
        tables.map(at, PhysAddr::new(0), KIB4, Access::Read.into()).unwrap();
        let before = tables.tables();

        let refused = tables.map(Iova::new(iova), PhysAddr::new(iova), pages * KIB4, Access::ReadWrite.into());

        prop_assert_eq!(refused, Err(TableError::Overlap(at)));
        prop_assert_eq!(tables.tables(), before);
        for page in (iova..iova + pages * KIB4).step_by(4096).map(Iova::new) {
            prop_assert_eq!(tables.lookup(page).is_ok(), page == at);
        }
    }

    /// Whatever the numbers, every call returns.
    #[test]
    fn any_numbers_are_answered(
        bits in 0_u32..70, bitmap: u64, numbers in prop::collection::vec(edge(), 3), unmap in prop::collection::vec(edge(), 2)
    ) {
        let page_sizes = PageSizes::from_bitmap(bitmap).into_iter().chain([PageSizes::X86, sizes(KIB4)]);
        for format in page_sizes.filter_map(|sizes| TableFormat::new(bits, sizes)) {
            let mut tables = PageTable::new(format);
            let (iova, phys) = (Iova::new(numbers[0]), PhysAddr::new(numbers[1]));
            // What can be mapped has no more pages than a test has time for.
            let fits = numbers[2].saturating_sub(1) <= format.last().get() - iova.get().min(format.last().get());
            let size = if fits { numbers[2] % GIB1 } else { numbers[2] };
            let _ = tables.map(iova, phys, size, Access::Read.into());
            let _ = tables.translate(Iova::new(unmap[0]), Access::Write);
            tables.unmap(Iova::new(unmap[0]), unmap[1]);
        }
    }
}

fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        address(KIB4),
        (0_u64..3).prop_map(|n| u64::MAX - n * 4095),
        (12_u32..64, 0_u64..2).prop_map(|(bit, less)| (1 << bit) - less * KIB4),
    ]
}

fn agree(tables: &PageTable, model: &Model) -> Result<(), TestCaseError> {
    for (iova, small) in &model.pages {
        let Small { phys, access, first, page } = *small;
        let remaining = page - (iova - first) - 5;
        let protection = access.into();
        let expected = Translation { phys: PhysAddr::new(phys + 5), remaining, page_size: page, protection };
        prop_assert_eq!(tables.lookup(Iova::new(iova + 5)), Ok(expected));
        for wanted in [Access::Read, Access::Write, Access::ReadWrite] {
            let answer = if access.permits(wanted) { Ok(expected) } else { Err(FaultReason::NotPermitted) };
            prop_assert_eq!(tables.translate(Iova::new(iova + 5), wanted), answer);
        }
        for beside in [first.wrapping_sub(model.unit), first + page] {
            let reason = match model.pages.contains_key(&beside) {
                true => None,
                false if beside > model.format.last().get() => Some(FaultReason::BeyondAperture),
                false => Some(FaultReason::NotMapped),
            };
            prop_assert_eq!(tables.lookup(Iova::new(beside)).err(), reason);
        }
    }
    Ok(())
}

#[test]
fn levels_follow_from_the_address_bits() {
    for (bits, levels) in [(13, 1), (21, 1), (22, 2), (39, 3), (48, 4), (57, 5), (64, 6)] {
        assert_eq!(format(bits, KIB4).levels(), levels, "{bits} bits");
    }
    for (bits, bitmap) in [(12, KIB4), (65, KIB4), (48, KIB4 | 1 << 16), (48, 1 << 39), (21, MIB2), (30, GIB1)] {
        assert_eq!(TableFormat::new(bits, sizes(bitmap)), None, "{bits} bits, {bitmap:#x}");
    }
    assert_eq!(format(64, KIB4).last(), Iova::new(u64::MAX));
    assert_eq!(TableFormat::X86_39.geometry().last, Iova::new(0x7f_ffff_ffff));
}

#[test]
fn i38_unmap_goes_beyond_the_range_on_a_larger_page() {
    let mut tables = PageTable::new(TableFormat::X86_39);
    tables.map(Iova::new(0), PhysAddr::new(0), GIB1 + MIB2, Access::Read.into()).unwrap();
    assert_eq!(tables.tables(), 2, "one page of each size");
    assert_eq!(tables.unmap(Iova::new(0), KIB4), GIB1);
    assert_eq!(tables.unmap(Iova::new(GIB1 + MIB2 - KIB4), MIB2), MIB2, "across the start, then a hole");
    assert_eq!(tables.tables(), 0);
}

#[test]
fn the_last_page_of_the_space_can_be_mapped() {
    let mut tables = PageTable::new(format(64, KIB4));
    let page = Iova::new(u64::MAX - KIB4 + 1);
    tables.map(page, PhysAddr::new(page.get()), KIB4, Access::ReadWrite.into()).unwrap();
    assert_eq!(tables.lookup(Iova::new(u64::MAX)).unwrap().remaining, 1);
    tables.mark_dirty(Iova::new(u64::MAX));
    let mut dirty = Vec::new();
    tables.read_dirty(IovaRange::ALL, DirtyFlags::empty(), |pages| dirty.extend(pages.runs()));
    assert_eq!(dirty, [IovaRange::new(page, Iova::new(u64::MAX)).unwrap()]);
    assert_eq!(tables.map(page, PhysAddr::new(0), 2 * KIB4, Access::Read.into()), Err(TableError::OutOfRange));
    assert_eq!(tables.unmap(page, !(KIB4 - 1)), KIB4);
}
