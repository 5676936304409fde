use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::address::PageSizes;

const KIB4: u64 = 1 << 12;
const MIB2: u64 = 1 << 21;
const GIB1: u64 = 1 << 30;

const fn sizes(bitmap: u64) -> PageSizes {
    PageSizes::from_bitmap(bitmap).unwrap()
}

fn format(address_bits: u32, bitmap: u64) -> TableFormat {
    TableFormat::new(address_bits, sizes(bitmap)).unwrap()
}

/// Every page of 4 KiB by itself, and where the page that holds it begins and how large it is.
#[derive(Default, Clone, PartialEq, Debug)]
struct Model(BTreeMap<u64, (Place, u64, u64)>);

type Place = (u64, Access);

impl Model {
    fn map(&mut self, format: TableFormat, iova: u64, phys: u64, size: u64, access: Access) -> Result<(), Errno> {
        let smallest = format.page_sizes().smallest();
        if (iova | phys | size) & (smallest - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        if size > 0 && iova.checked_add(size - 1).is_none_or(|last| last > format.last().get()) {
            return Err(Errno::ERANGE);
        }
        if self.0.range(iova..iova.saturating_add(size)).next().is_some() {
            return Err(Errno::EEXIST);
        }
        let mut done = 0;
        while done < size {
            let (at, to) = (iova + done, phys + done);
            let fits = |page: &u64| at % page == 0 && to % page == 0 && size - done >= *page;
            let page = format.page_sizes().largest_first().find(fits).unwrap();
            for n in (0..page).step_by(4096) {
                self.0.insert(at + n, ((to + n, access), at, page));
            }
            done += page;
        }
        Ok(())
    }

    fn unmap(&mut self, format: TableFormat, iova: u64, size: u64) -> u64 {
        let smallest = format.page_sizes().smallest();
        if (iova | size) & (smallest - 1) != 0 {
            return 0;
        }
        let (mut at, mut unmapped) = (iova, 0);
        while at < iova.saturating_add(size) {
            let Some(&(_, first, page)) = self.0.get(&at) else { break };
            self.0.retain(|n, _| *n < first || *n - first >= page);
            unmapped += page;
            at = first + page;
        }
        unmapped
    }

    /// The tables that these pages need, each as its level and the address bits above it; the topmost always.
    fn tables(&self, format: TableFormat) -> usize {
        let top = format.levels() - 1;
        let tables_of = |(iova, (_, _, page)): (&u64, &(Place, u64, u64))| {
            let leaf = (page.trailing_zeros() - 12) / 9;
            let iova = *iova;
            (leaf..top).map(move |level| (level, iova >> (12 + 9 * (level + 1))))
        };
        self.0.iter().flat_map(tables_of).collect::<BTreeSet<_>>().len() + 1
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Map { iova: u64, phys: u64, size: u64, access: Access },
    Unmap { iova: u64, size: u64 },
}

/// Addresses that collide and meet the ends of larger pages often: near multiples of 2 MiB, sometimes of a GiB.
fn address() -> impl Strategy<Value = u64> {
    let large = prop_oneof![4 => (0_u64..4).prop_map(|n| n * MIB2), 1 => (0_u64..3).prop_map(|n| n * GIB1)];
    let small = prop_oneof![3 => Just(0), 2 => (0_u64..512).prop_map(|n| n * KIB4)];
    (large, small).prop_map(|(large, small)| large + small)
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0_u64..6).prop_map(|n| n * KIB4),
        4 => (1_u64..3, 0_u64..3).prop_map(|(large, small)| large * MIB2 + small * KIB4),
        2 => (0_u64..1024).prop_map(|n| n * KIB4),
        1 => Just(2048),
    ]
}

fn access() -> impl Strategy<Value = Access> {
    prop::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite])
}

fn step() -> impl Strategy<Value = Step> {
    let phys = prop_oneof![3 => address(), 1 => Just(0x1234_5000)];
    prop_oneof![
        3 => (address(), phys, size(), access())
            .prop_map(|(iova, phys, size, access)| Step::Map { iova, phys, size, access }),
        2 => (address(), size()).prop_map(|(iova, size)| Step::Unmap { iova, size }),
    ]
}

fn formats() -> impl Strategy<Value = TableFormat> {
    prop::sample::select(vec![
        TableFormat::X86_39,
        TableFormat::X86_48,
        format(64, KIB4 | MIB2),
        format(39, KIB4),
        format(31, MIB2),
        format(23, KIB4 | MIB2),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Against a map of every 4 KiB page: results and errors (I37), counts (I38), every translation, and that exactly
    /// the tables exist that the pages need, so none is empty and a failed map leaves nothing behind.
    #[test]
    fn i37_i38_tables_do_as_a_flat_map(format in formats(), steps in prop::collection::vec(step(), 1..24)) {
        let mut tables = PageTable::new(format);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Map { iova, phys, size, access } => {
                    let before = model.clone();
                    let expected = model.map(format, iova, phys, size, access);
                    let result = tables.map(Iova::new(iova), PhysAddr::new(phys), size, access);
                    prop_assert_eq!(result.map_err(MapError::errno), expected, "{:?}", step);
                    if let Err(MapError::Overlap(at)) = result {
                        prop_assert!(before.0.contains_key(&at.get()), "the first page in the way is named");
                        prop_assert!(before.0.range(iova..at.get()).next().is_none());
                    }
                }
                Step::Unmap { iova, size } => {
                    let expected = model.unmap(format, iova, size);
                    prop_assert_eq!(tables.unmap(Iova::new(iova), size), expected, "{:?}", step);
                }
            }
            prop_assert_eq!(tables.tables(), model.tables(format), "after {:?}", step);
        }
        agree(&tables, &model)?;
        for iova in model.0.keys().copied().collect::<Vec<_>>() {
            tables.unmap(Iova::new(iova), format.page_sizes().smallest());
        }
        prop_assert_eq!(tables.tables(), 1);
    }

    /// A range that meets a page anywhere is refused, and nothing of it is mapped afterwards (I37).
    #[test]
    fn i37_overlap_maps_nothing(iova in address(), pages in 1_u64..2000, in_the_way in 0_u64..2000) {
        let at = Iova::new(iova + in_the_way % pages * KIB4);
        let mut tables = PageTable::new(TableFormat::X86_39);
        tables.map(at, PhysAddr::new(0), KIB4, Access::Read).unwrap();
        let before = tables.tables();

        let refused = tables.map(Iova::new(iova), PhysAddr::new(iova), pages * KIB4, Access::ReadWrite);

        prop_assert_eq!(refused, Err(MapError::Overlap(at)));
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
            // Not more pages than a test has time for.
            let size = if numbers[2] > GIB1 { numbers[2] | 1 << 63 } else { numbers[2] };
            let _ = tables.map(iova, phys, size, Access::Read);
            let _ = tables.translate(Iova::new(unmap[0]), Access::Write);
            tables.unmap(Iova::new(unmap[0]), unmap[1]);
        }
    }
}

fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        address(),
        (0_u64..3).prop_map(|n| u64::MAX - n * 4095),
        (12_u32..64, 0_u64..2).prop_map(|(bit, less)| (1 << bit) - less * KIB4),
    ]
}

fn agree(tables: &PageTable, model: &Model) -> Result<(), TestCaseError> {
    let (smallest, last) = (tables.format().page_sizes().smallest(), tables.format().last());
    for (iova, ((phys, access), first, page)) in &model.0 {
        let expected =
            Translation { phys: PhysAddr::new(phys + 5), remaining: page - (iova - first) - 5, access: *access };
        prop_assert_eq!(tables.lookup(Iova::new(iova + 5)), Ok(expected));
        for beside in [first.wrapping_sub(smallest), first + page] {
            let mapped = model.0.contains_key(&beside);
            let reason = if beside > last.get() { FaultReason::BeyondAperture } else { FaultReason::NotMapped };
            prop_assert_eq!(tables.lookup(Iova::new(beside)).err(), (!mapped).then_some(reason));
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
    tables.map(Iova::new(0), PhysAddr::new(0), GIB1 + MIB2, Access::Read).unwrap();
    assert_eq!(tables.tables(), 2, "one page of each size");
    assert_eq!(tables.unmap(Iova::new(0), KIB4), GIB1);
    assert_eq!(tables.unmap(Iova::new(GIB1 + MIB2 - KIB4), MIB2), MIB2, "across the start, then a hole");
    assert_eq!(tables.tables(), 1);
}

#[test]
fn the_last_page_of_the_space_can_be_mapped() {
    let mut tables = PageTable::new(format(64, KIB4));
    let page = Iova::new(u64::MAX - KIB4 + 1);
    tables.map(page, PhysAddr::new(page.get()), KIB4, Access::ReadWrite).unwrap();
    assert_eq!(tables.lookup(Iova::new(u64::MAX)).unwrap().remaining, 1);
    assert_eq!(tables.map(page, PhysAddr::new(0), 2 * KIB4, Access::Read), Err(MapError::OutOfRange));
    assert_eq!(tables.unmap(page, !(KIB4 - 1)), KIB4);
}
