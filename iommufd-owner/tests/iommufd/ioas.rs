//! Address spaces: tables Ft1, Ft3 to Ft7, and F16.

use std::sync::Arc;

use iommu_core::address::{PAGE_SIZE, PageSizes};
use iommu_core::device_model::Errno;
use iommu_core::software::page_table::TableFormat;
use iommu_core::{Access, Iova, IovaRange, UserAddr};
use iommufd_owner::{Context, CopyRequest, LargePages, MapRequest, ObjectId, Place};
use iommufd_owner::{MapError, UnmapError};

use crate::rig::Rig;

const WINDOW: u64 = 0xfee0_0000;

fn setup() -> (Rig, Context, ObjectId) {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    (rig, context, ioas)
}

fn errno(result: Result<Iova, MapError>) -> Errno {
    result.unwrap_err().errno()
}

#[test]
fn f4_ids_begin_at_1_and_the_lowest_free_one_is_next() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ids: Vec<_> = (0..3).map(|_| context.ioas_alloc().unwrap().get()).collect();
    assert_eq!(ids, [1, 2, 3]);
    context.destroy(ObjectId::new(2)).unwrap();
    context.destroy(ObjectId::new(1)).unwrap();
    assert_eq!(context.ioas_alloc().unwrap().get(), 1);
    assert_eq!(context.destroy(ObjectId::new(2)).unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(context.destroy(ObjectId::new(0)).unwrap_err().errno(), Errno::ENOENT);
}

#[test]
fn ft4_what_is_not_mapped() {
    let (rig, context, ioas) = setup();
    let map = |place, bytes, addr| {
        let process: Arc<_> = rig.user.clone();
        context
            .ioas_map(ioas, MapRequest { iova: place, bytes, process, addr: UserAddr::new(addr), access: Access::Read })
    };
    let (ram, at) = (rig.ram.get(), |iova| Place::Fixed(Iova::new(iova)));
    assert_eq!(errno(map(at(u64::MAX), 0x1000, ram)), Errno::EOVERFLOW, "Ft4.2");
    assert_eq!(errno(map(at(0), u64::MAX, ram)), Errno::EOVERFLOW, "Ft4.2");
    assert_eq!(errno(map(at(0), 0, ram)), Errno::EINVAL, "Ft4.5");
    assert_eq!(errno(map(at(0), 0x1000, u64::MAX)), Errno::EOVERFLOW, "Ft4.6");
    assert_eq!(errno(map(at(u64::MAX - 1), 0x1000, ram)), Errno::EOVERFLOW, "Ft4.11");
    assert_eq!(errno(map(Place::Anywhere, u64::MAX / 2, 0)), Errno::EOVERFLOW, "F16");
    map(at(1), 1, ram).unwrap();
    assert_eq!(errno(map(at(0), 2, ram)), Errno::EEXIST, "Ft4.13");
    assert_eq!(context.ioas_unmap(ioas, Iova::new(1), 1), Ok(1), "F22: no alignment without a domain");
    let gone = ObjectId::new(77);
    assert_eq!(context.ioas_map(gone, rig.request(Place::Anywhere, 1, 0)).unwrap_err().errno(), Errno::ENOENT);
}

#[test]
fn ft4_with_a_device_attached_alignment_and_reserved_ranges_count() {
    let (rig, context, ioas) = setup();
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    let ranges = context.ioas_iova_ranges(ioas).unwrap();
    let text: Vec<String> = ranges.ranges.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["0x0-0xfedfffff", "0xfef00000-0x7fffffffff"]);
    assert_eq!(ranges.alignment, PAGE_SIZE);
    let map = |at: u64, pages| {
        context.ioas_map(ioas, rig.request(Place::Fixed(Iova::new(at)), pages, 0)).map_err(|error| error.errno())
    };
    assert_eq!(map(0x10, 1), Err(Errno::EINVAL), "Ft4.10");
    assert_eq!(map(WINDOW, 1), Err(Errno::EINVAL), "Ft4.12");
    assert_eq!(map(1 << 39, 1), Err(Errno::EINVAL), "Ft4.12: beyond the aperture");
    let beyond = rig.request(Place::Fixed(Iova::new(0)), 1, crate::rig::PAGES);
    assert_eq!(errno(context.ioas_map(ioas, beyond)), Errno::EFAULT, "Ft4.15");
    assert_eq!(map(0, 1), Ok(Iova::new(0)));
    assert_eq!((rig.process.pinned(), rig.locked.pages(), rig.reaches(0, 0)), (1, 1, Some(1)));
}

#[test]
fn f16_the_lowest_place_that_fits_is_taken() {
    let (rig, context, ioas) = setup();
    let place = |pages| context.ioas_map(ioas, rig.request(Place::Anywhere, pages, 0)).unwrap().get();
    assert_eq!(place(1), 0x1000, "never 0");
    assert_eq!(place(2), 0x2000);
    assert_eq!(place(2), 0x4000);
    context.ioas_unmap(ioas, Iova::new(0x2000), 0x2000).unwrap();
    assert_eq!(place(1), 0x2000);
    context.ioas_allow_iovas(ioas, &[(Iova::new(0x10_0000), Iova::new(0x10_0fff))]).unwrap();
    assert_eq!(place(1), 0x10_0000);
    let full = context.ioas_map(ioas, rig.request(Place::Anywhere, 1, 0)).unwrap_err();
    assert_eq!((full.errno(), full), (Errno::ENOSPC, MapError::NoPlace { bytes: PAGE_SIZE }));
}

#[test]
fn ft6_unmap_takes_whole_areas_in_ascending_order() {
    let (rig, context, ioas) = setup();
    for at in [0, 2, 4] {
        rig.map(&context, ioas, at, 2, 0).unwrap();
    }
    let unmap = |at: u64, bytes| context.ioas_unmap(ioas, Iova::new(at * PAGE_SIZE), bytes);
    assert_eq!(unmap(9, PAGE_SIZE).unwrap_err().errno(), Errno::ENOENT, "Ft6.5");
    assert_eq!(unmap(0, 0).unwrap_err().errno(), Errno::EINVAL, "Ft6.4");
    assert_eq!(unmap(1, u64::MAX).unwrap_err().errno(), Errno::EOVERFLOW, "Ft6.3");
    assert_eq!(unmap(1, PAGE_SIZE).unwrap_err().errno(), Errno::ENOENT, "Ft6.7");
    // F21: what came before the one that sticks out is gone.
    let cut = unmap(0, 5 * PAGE_SIZE).unwrap_err();
    assert!(matches!(cut, UnmapError::WouldCut { area } if area.first().get() == 4 * PAGE_SIZE));
    assert_eq!(unmap(0, 4 * PAGE_SIZE).unwrap_err().errno(), Errno::ENOENT);
    assert_eq!(unmap(0, u64::MAX), Ok(2 * PAGE_SIZE), "Ft6.2");
    assert_eq!(unmap(0, u64::MAX), Ok(0), "Ft6.2: 0 even when empty");
}

#[test]
fn ft3_what_is_allowed_keeps_devices_out() {
    let (rig, context, ioas) = setup();
    let allow = |ranges: &[(u64, u64)]| {
        let ranges: Vec<_> = ranges.iter().map(|(first, last)| (Iova::new(*first), Iova::new(*last))).collect();
        context.ioas_allow_iovas(ioas, &ranges).map_err(|error| error.errno())
    };
    assert_eq!(allow(&[(5, 5)]), Err(Errno::EINVAL), "Ft3.4");
    assert_eq!(allow(&[(6, 5)]), Err(Errno::EINVAL), "Ft3.4");
    assert_eq!(allow(&[(0, 9), (9, 12)]), Err(Errno::EINVAL), "Ft3.5");
    assert_eq!(allow(&[(WINDOW, WINDOW + 0xfff)]), Ok(()));
    let bound = context.bind(&rig.members[0]).unwrap();
    let refused = bound.attach(ioas).unwrap_err();
    assert_eq!(refused.errno(), Errno::EADDRINUSE, "F15");
    let cause = std::error::Error::source(&refused).unwrap().to_string();
    assert_eq!(
        (refused.to_string(), cause),
        ("a1 needs a reserved range".into(), "0xfee00000-0xfee00fff is in the allowed IOVA list".into())
    );
    assert_eq!(allow(&[]), Ok(()));
    bound.attach(ioas).unwrap();
    assert_eq!(allow(&[(WINDOW, WINDOW + 0xfff)]), Err(Errno::EADDRINUSE), "Ft3.6");
}

#[test]
fn ft5_a_copy_shares_pages_that_are_pinned_once() {
    let (rig, context, a) = setup();
    let b = context.ioas_alloc().unwrap();
    rig.map(&context, a, 0, 2, 3).unwrap();
    rig.map(&context, a, 2, 2, 7).unwrap();
    let copy = |from: u64, pages: u64, to: u64| {
        let request = CopyRequest {
            from: Iova::new(from * PAGE_SIZE),
            bytes: pages * PAGE_SIZE,
            place: Place::Fixed(Iova::new(to * PAGE_SIZE)),
            access: Access::ReadWrite,
        };
        context.ioas_copy(b, a, request).map(drop).map_err(|error| error.errno())
    };
    assert_eq!(copy(3, 2, 0), Err(Errno::ENOENT), "Ft5.6");
    assert_eq!(copy(1, 2, 10), Ok(()), "F20: across areas");
    assert_eq!(copy(1, 1, 11), Err(Errno::EEXIST));
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(b).unwrap();
    assert_eq!([rig.reaches(0, 10), rig.reaches(0, 11)], [Some(5), Some(8)]);
    assert_eq!((rig.process.pinned(), rig.locked.pages()), (2, 2));
    bound.replace(a).unwrap();
    assert_eq!((rig.process.pinned(), rig.locked.pages(), rig.reaches(0, 0)), (4, 4, Some(4)));
    drop(bound);
    assert_eq!(rig.process.pinned(), 0);
}

#[test]
fn ft7_large_pages_are_turned_off_before_domains_map() {
    let (rig, context, ioas) = setup();
    let set = |large| context.set_large_pages(ioas, large).map_err(|error| error.errno());
    let range = IovaRange::sized(Iova::new(1), 1).unwrap();
    let odd = MapRequest { bytes: 1, ..rig.request(Place::Fixed(range.first()), 1, 0) };
    context.ioas_map(ioas, odd).unwrap();
    assert_eq!(set(LargePages::Disabled), Err(Errno::EADDRINUSE), "Ft7.8");
    context.ioas_unmap(ioas, range.first(), 1).unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    rig.map(&context, ioas, 0, 1, 0).unwrap();
    assert_eq!(set(LargePages::Disabled), Err(Errno::EINVAL), "Ft7.7");
    assert_eq!(set(LargePages::Enabled), Ok(()), "Ft7.10");
}

#[test]
fn ft2_2_mappings_do_not_keep_an_address_space_but_page_tables_do() {
    let (rig, context, ioas) = setup();
    rig.map(&context, ioas, 0, 1, 0).unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    let by_hand = context.hwpt_alloc(bound.id(), ioas).unwrap();
    assert_eq!(context.destroy(ioas).unwrap_err().errno(), Errno::EBUSY);
    assert_eq!(rig.process.pinned(), 1, "a page table shows it, attached or not");
    context.destroy(by_hand).unwrap();
    context.destroy(ioas).unwrap();
    assert_eq!(rig.process.pinned(), 0);
}

#[test]
fn f16_memory_keeps_its_place_in_the_page_and_its_alignment() {
    let (rig, context, ioas) = setup();
    let place = |addr: u64, bytes| {
        let (place, process): (_, Arc<_>) = (Place::Anywhere, rig.user.clone());
        let request = MapRequest { iova: place, bytes, process, addr: UserAddr::new(addr), access: Access::Read };
        context.ioas_map(ioas, request).map(Iova::get)
    };
    assert_eq!(place(0x5234, 0x100), Ok(0x1234));
    assert_eq!(place(0x7234, 4), Ok(0x2234), "0x1234 is taken");
    assert_eq!(place(0x20_0000, 0x1_0000), Ok(0x1_0000), "as aligned as it is long");
    assert_eq!(place(0x1000, 0x4000), Ok(0x3000), "as aligned as the memory");
    assert_eq!(place(0, 0x80_0000), Ok(0x20_0000), "as aligned as a huge page");
}

#[test]
fn ft5_what_is_wrong_with_a_copy_is_told_in_order() {
    let (rig, context, ioas) = setup();
    rig.map(&context, ioas, 0, 2, 0).unwrap();
    let gone = ObjectId::new(99);
    let good = CopyRequest {
        from: Iova::new(0),
        bytes: 2 * PAGE_SIZE,
        place: Place::Fixed(Iova::new(0x8000)),
        access: Access::ReadWrite,
    };
    let copy = |to, source, request| errno(context.ioas_copy(to, source, request));
    assert_eq!(copy(gone, gone, CopyRequest { bytes: u64::MAX, ..good }), Errno::EOVERFLOW, "Ft5.2");
    assert_eq!(copy(gone, gone, CopyRequest { from: Iova::new(u64::MAX), ..good }), Errno::EOVERFLOW, "Ft5.2");
    assert_eq!(copy(gone, gone, CopyRequest { bytes: 0, ..good }), Errno::ENOENT, "Ft5.4");
    assert_eq!(copy(gone, ioas, CopyRequest { bytes: 0, ..good }), Errno::EINVAL, "Ft5.5");
    assert_eq!(
        copy(gone, ioas, CopyRequest { from: Iova::new(1), bytes: u64::MAX - 1, ..good }),
        Errno::ENOENT,
        "Ft5.6"
    );
    assert_eq!(
        copy(gone, ioas, CopyRequest { from: Iova::new(3), bytes: u64::MAX - 1, ..good }),
        Errno::EOVERFLOW,
        "Ft5.5"
    );
    assert_eq!(copy(gone, ioas, good), Errno::ENOENT, "Ft5.7");
    assert_eq!(copy(ioas, ioas, CopyRequest { place: Place::Fixed(Iova::new(0)), ..good }), Errno::EEXIST, "Ft5.8");
    let read_only = MapRequest { access: Access::Read, ..rig.request(Place::Fixed(Iova::new(0x4000)), 1, 0) };
    context.ioas_map(ioas, read_only).unwrap();
    let of_that = CopyRequest { from: Iova::new(0x4000), bytes: PAGE_SIZE, ..good };
    assert_eq!(copy(ioas, ioas, of_that), Errno::EPERM, "Ft5.9");
    context.ioas_copy(ioas, ioas, CopyRequest { access: Access::Read, ..of_that }).unwrap();
}

#[test]
fn f53_a_mapping_that_a_domain_cannot_map_keeps_devices_out() {
    let (rig, context, ioas) = setup();
    let bound = context.bind(&rig.members[0]).unwrap();
    let odd = MapRequest { bytes: 1, ..rig.request(Place::Fixed(Iova::new(1)), 1, 0) };
    context.ioas_map(ioas, odd).unwrap();
    assert_eq!(bound.attach(ioas).unwrap_err().errno(), Errno::EADDRINUSE);
    assert_eq!((bound.is_attached(), rig.process.pinned()), (false, 0));
    assert_eq!(context.ioas_iova_ranges(ioas).unwrap().ranges, [IovaRange::ALL]);
    context.ioas_unmap(ioas, Iova::new(1), 1).unwrap();
    bound.attach(ioas).unwrap();
}

#[test]
fn ft4_ft6_numbers_at_their_ends() {
    let (rig, context, ioas) = setup();
    let map = |iova, bytes| {
        let (place, process): (_, Arc<_>) = (Place::Fixed(Iova::new(iova)), rig.user.clone());
        let request = MapRequest { iova: place, bytes, process, addr: UserAddr::new(0), access: Access::Read };
        context.ioas_map(ioas, request).map(Iova::get).map_err(|error| error.errno())
    };
    let longest = u64::MAX - PAGE_SIZE;
    assert_eq!(map(0, longest + 1), Err(Errno::EINVAL), "Ft4.5");
    assert_eq!(map(0, longest), Ok(0));
    assert_eq!(context.ioas_unmap(ioas, Iova::new(0), longest), Ok(longest));
    assert_eq!(map(u64::MAX, 1), Err(Errno::EOVERFLOW), "Ft4.2");
    assert_eq!(map(u64::MAX - 1, 2), Ok(u64::MAX - 1));
    let unmap = |iova, bytes| context.ioas_unmap(ioas, Iova::new(iova), bytes).map_err(|error| error.errno());
    assert_eq!(unmap(u64::MAX, 1), Err(Errno::EOVERFLOW), "Ft6.3");
    assert_eq!(unmap(u64::MAX, 0), Err(Errno::EOVERFLOW), "Ft6.3 comes before Ft6.4");
    assert_eq!(unmap(u64::MAX - 1, 2), Ok(2));
}

#[test]
fn f16_the_highest_place_is_a_page_below_the_end() {
    let (rig, context, ioas) = setup();
    let last_two = u64::MAX - 2 * PAGE_SIZE + 1;
    context.ioas_allow_iovas(ioas, &[(Iova::new(last_two), Iova::new(u64::MAX))]).unwrap();
    let place = || context.ioas_map(ioas, rig.request(Place::Anywhere, 1, 1));
    assert_eq!(place().map(Iova::get), Ok(last_two));
    assert_eq!(errno(place()), Errno::ENOSPC);
}

#[test]
fn f16_alignment_is_looked_at_before_there_is_a_place() {
    let (rig, context, ioas) = setup();
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    let place = |inside: u64| {
        let request = rig.request(Place::Anywhere, 1, 1);
        context.ioas_map(ioas, MapRequest { addr: UserAddr::new(request.addr.get() + inside), ..request })
    };
    context.ioas_allow_iovas(ioas, &[(Iova::new(0x4000), Iova::new(0x4fff))]).unwrap();
    assert_eq!(place(0).map(Iova::get), Ok(0x4000), "a page of memory is as aligned as it must be");
    assert_eq!((errno(place(8)), errno(place(0))), (Errno::EINVAL, Errno::ENOSPC));
}

#[test]
fn ft4_13_what_is_mapped_already_is_told_before_memory_is_misaligned() {
    let (rig, context, ioas) = setup();
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    rig.map(&context, ioas, 0, 1, 0).unwrap();
    let map = |at: u64| {
        let request = rig.request(Place::Fixed(Iova::new(at)), 1, 1);
        errno(context.ioas_map(ioas, MapRequest { addr: UserAddr::new(request.addr.get() + 8), ..request }))
    };
    assert_eq!([map(0), map(0x1000)], [Errno::EEXIST, Errno::EINVAL]);
    // The same of a copy, whose source shows more than whole pages.
    let source = context.ioas_alloc().unwrap();
    let request = rig.request(Place::Fixed(Iova::new(0)), 1, 1);
    context.ioas_map(source, MapRequest { addr: UserAddr::new(request.addr.get() + 8), ..request }).unwrap();
    let copy = |at: u64| {
        let (from, place) = (Iova::new(0), Place::Fixed(Iova::new(at)));
        errno(context.ioas_copy(ioas, source, CopyRequest { from, bytes: PAGE_SIZE, place, access: Access::Read }))
    };
    assert_eq!([copy(0), copy(0x1000)], [Errno::EEXIST, Errno::EINVAL]);
}

#[test]
fn f13_f53_whoever_needs_whole_pages_refuses_every_other_mapping() {
    let part = PAGE_SIZE / 2;
    // Where it is, how long it is, and where its memory begins in the page.
    for (at, bytes, inside) in
        [(part, PAGE_SIZE, 0), (0, part, 0), (0, PAGE_SIZE, part), (part, part, 0), (0, part, part)]
    {
        let (rig, context, ioas) = setup();
        let request = rig.request(Place::Fixed(Iova::new(PAGE_SIZE + at)), 1, 0);
        let addr = UserAddr::new(request.addr.get() + inside);
        context.ioas_map(ioas, MapRequest { bytes, addr, ..request }).unwrap();
        let access = context.access(|_| {}).unwrap();
        let bound = context.bind(&rig.members[0]).unwrap();
        let refused = [
            access.attach(ioas).unwrap_err().errno(),
            bound.attach(ioas).unwrap_err().errno(),
            context.set_large_pages(ioas, LargePages::Disabled).unwrap_err().errno(),
        ];
        assert_eq!(refused, [Errno::EADDRINUSE; 3], "{bytes:#x} bytes at {at:#x} of memory at {inside:#x}");
    }
}

#[test]
fn f53_a_domain_whose_pages_are_larger_than_the_cpus_is_not_filled() {
    let rig = Rig::with(&["a1"], |config| {
        config.format = TableFormat::new(39, PageSizes::from_bitmap(2 << 20).unwrap()).unwrap();
    });
    let context = rig.context("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    assert_eq!(bound.attach(ioas).unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(context.ioas_iova_ranges(ioas).unwrap().ranges, [IovaRange::ALL]);
    context.destroy(ioas).unwrap();
}
