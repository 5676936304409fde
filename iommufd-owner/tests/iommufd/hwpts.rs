//! Page tables: table Ft11, F42, F55 to F58.

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::hardware::{Capabilities, DirtyFlags, FaultReason, PagingFlags, UserData};
use iommu_core::software::nested::{Invalidation, STAGE_1_FORMAT, Stage1, stage_1_entry};
use iommu_core::{Access, Iova, UserMemory};
use iommufd_owner::{BoundDevice, Context, DirtyRequest, HwptRequest, Invalidations, ObjectId, ObjectType};
use iommufd_owner::{DirtyError, HwptError, InvalidateCause};

use crate::rig::{Fails, PAGES, Rig};

const PARENT: PagingFlags = PagingFlags::NEST_PARENT;
const TRACKED: PagingFlags = PagingFlags::DIRTY_TRACKING;

/// One device, bound, and an address space that shows all memory from 0 on.
fn one(change: impl FnOnce(&mut iommu_core::software::SoftIommuConfig)) -> (Rig, Context, BoundDevice, ObjectId) {
    let rig = Rig::with(&["a1"], |config| {
        config.capabilities = config.capabilities.union(Capabilities::NESTING);
        change(config);
    });
    let context = rig.context("vmm");
    let bound = context.bind(&rig.members[0]).unwrap();
    let ioas = context.ioas_alloc().unwrap();
    rig.map(&context, ioas, 0, PAGES, 0).unwrap();
    (rig, context, bound, ioas)
}

fn with(flags: PagingFlags) -> HwptRequest<'static> {
    HwptRequest { flags, ..HwptRequest::default() }
}

fn refused(result: Result<ObjectId, HwptError>) -> Errno {
    result.unwrap_err().errno()
}

/// A guest's table in page 0 of memory that leads its page 1 to page 5.
fn stage1(rig: &Rig) -> Vec<u8> {
    rig.process
        .write(entry(rig, 1), &stage_1_entry(Iova::new(5 * PAGE_SIZE), Access::ReadWrite).to_le_bytes())
        .unwrap();
    Stage1 { table: Iova::new(0), entries: 8 }.to_bytes()
}

fn entry(rig: &Rig, page: u64) -> iommu_core::UserAddr {
    iommu_core::UserAddr::new(rig.ram.get() + page * 8)
}

#[test]
fn ft11_nested_page_tables_and_what_is_not_one() {
    let (rig, context, bound, ioas) = one(|_| {});
    let bytes = stage1(&rig);
    let data = Some(UserData { kind: STAGE_1_FORMAT, bytes: &bytes });
    let nested = HwptRequest { data, ..HwptRequest::default() };
    let alloc = |parent, request| context.hwpt_alloc_with(bound.id(), parent, request);
    let plain = context.hwpt_alloc(bound.id(), ioas).unwrap();
    let parent = alloc(ioas, with(PARENT)).unwrap();
    assert_eq!(context.object_type(parent), Some(ObjectType::PagingHwpt));

    let no_format = Some(UserData { kind: 0, bytes: &bytes });
    assert_eq!(refused(alloc(parent, HwptRequest { data: no_format, ..nested })), Errno::EINVAL, "Ft11.2");
    let no_bytes = Some(UserData { kind: 1, bytes: &[] });
    assert_eq!(refused(alloc(parent, HwptRequest { data: no_bytes, ..nested })), Errno::EINVAL, "Ft11.2");
    assert_eq!(refused(alloc(ioas, nested)), Errno::EOPNOTSUPP, "Ft11.6");
    assert_eq!(refused(alloc(parent, HwptRequest::default())), Errno::EOPNOTSUPP, "Ft11.12");
    assert_eq!(refused(alloc(parent, HwptRequest { flags: PARENT, ..nested })), Errno::EOPNOTSUPP, "Ft11.12");
    assert!(matches!(alloc(plain, nested), Err(HwptError::WrongParent { .. })));
    assert_eq!(refused(alloc(plain, nested)), Errno::EINVAL, "Ft11.13");
    let faulting = HwptRequest { faults: Some(ioas), ..HwptRequest::default() };
    assert_eq!(refused(alloc(ioas, faulting)), Errno::EOPNOTSUPP, "Ft11.7");
    let short = Some(UserData { kind: STAGE_1_FORMAT, bytes: &bytes[1..] });
    assert_eq!(refused(alloc(parent, HwptRequest { data: short, ..nested })), Errno::EINVAL, "Ft11.14");
    let no_queue = HwptRequest { faults: Some(ioas), ..nested };
    assert_eq!(refused(alloc(parent, no_queue)), Errno::ENOENT, "Ft11.15");

    let child = alloc(parent, nested).unwrap();
    assert_eq!(context.object_type(child), Some(ObjectType::NestedHwpt));
    assert_eq!(refused(alloc(child, nested)), Errno::EINVAL, "Ft11.5");
    assert_eq!(refused(alloc(child, HwptRequest::default())), Errno::EINVAL, "Ft11.5 comes before Ft11.12");
    assert_eq!(context.destroy(parent).unwrap_err().errno(), Errno::EBUSY, "Ft2.3");
    assert_eq!(
        context.hwpt_start_dirty_tracking(child).unwrap_err().errno(),
        Errno::ENOENT,
        "of an address space only"
    );
    bound.attach(child).unwrap();
    assert_eq!([rig.reaches(0, 1), rig.reaches(0, 5)], [Some(6), None], "both stages");
    assert_eq!(context.destroy(child).unwrap_err().errno(), Errno::EBUSY, "Ft2.4");
    let ranges = context.ioas_iova_ranges(ioas).unwrap().ranges;
    assert_eq!(ranges.len(), 2, "Ft9.2: the interrupt window is reserved in the parent's address space");

    bound.detach();
    for id in [child, parent, plain, ioas] {
        context.destroy(id).unwrap();
    }
    assert_eq!(rig.process.pinned(), 0);
}

#[test]
fn ft11_13_an_automatic_page_table_is_no_parent() {
    let (rig, context, bound, ioas) = one(|_| {});
    let bytes = stage1(&rig);
    let automatic = bound.attach(ioas).unwrap();
    let data = Some(UserData { kind: STAGE_1_FORMAT, bytes: &bytes });
    let request = HwptRequest { data, ..HwptRequest::default() };
    assert_eq!(refused(context.hwpt_alloc_with(bound.id(), automatic, request)), Errno::EINVAL);
}

#[test]
fn f56_what_the_iommu_has_cached_is_forgotten_on_demand() {
    let (rig, context, bound, ioas) = one(|_| {});
    let bytes = stage1(&rig);
    let parent = context.hwpt_alloc_with(bound.id(), ioas, with(PARENT)).unwrap();
    let data = Some(UserData { kind: STAGE_1_FORMAT, bytes: &bytes });
    let child = context.hwpt_alloc_with(bound.id(), parent, HwptRequest { data, ..HwptRequest::default() }).unwrap();
    bound.attach(child).unwrap();
    assert_eq!(rig.reaches(0, 1), Some(6));
    rig.process.write(entry(&rig, 1), &stage_1_entry(Iova::new(9 * PAGE_SIZE), Access::Read).to_le_bytes()).unwrap();
    assert_eq!(rig.reaches(0, 1), Some(6), "cached");

    let all = Invalidation { first: 0, entries: 8 }.to_bytes();
    let forget = |id, kind, entry_bytes, bytes: &[u8]| {
        let entries = Invalidations { kind, entry_bytes, bytes };
        context.hwpt_invalidate(id, entries).map_err(|error| (error.handled, error.errno()))
    };
    assert_eq!(forget(parent, STAGE_1_FORMAT, 16, &all), Err((0, Errno::ENOENT)), "not nested");
    assert_eq!(forget(child, STAGE_1_FORMAT, 0, &all), Err((0, Errno::EINVAL)));
    assert_eq!(forget(child, STAGE_1_FORMAT, 15, &all), Err((0, Errno::EINVAL)));
    assert_eq!(forget(child, STAGE_1_FORMAT, 0x1001, &[0; 0x1001]), Err((0, Errno::EINVAL)), "longer than a page");
    assert_eq!(forget(child, STAGE_1_FORMAT, 1, &vec![0; (1 << 19) + 1]), Err((0, Errno::EINVAL)), "too many");
    assert_eq!(forget(child, 7, 16, &all), Err((0, Errno::EOPNOTSUPP)));
    // What is no array does not reach hardware, and the longest one does.
    let is_array = |entry_bytes, count: usize| {
        let entries = Invalidations { kind: 7, entry_bytes, bytes: &vec![0; entry_bytes * count] };
        let cause = context.hwpt_invalidate(child, entries).unwrap_err().cause;
        !matches!(cause, InvalidateCause::BadArray { .. })
    };
    assert_eq!([is_array(0x1000, 1), is_array(0x1001, 1), is_array(0x1001, 2)], [true, false, false]);
    assert_eq!([is_array(1, 1 << 19), is_array(1, (1 << 19) + 1)], [true, false]);
    assert_eq!(forget(child, STAGE_1_FORMAT, 0, &[]), Ok(0));
    assert_eq!(forget(child, 7, 16, &[]), Err((0, Errno::EOPNOTSUPP)), "F94: the format is looked at always");
    assert_eq!(rig.reaches(0, 1), Some(6), "nothing was forgotten");
    assert_eq!(forget(child, STAGE_1_FORMAT, 16, &[&all[..], &all[..]].concat()), Ok(2));
    assert_eq!(rig.reaches(0, 1), Some(10));
}

#[test]
fn f57_f58_what_a_device_writes_is_noted_where_asked_for() {
    let (rig, context, bound, ioas) = one(|_| {});
    let plain = context.hwpt_alloc(bound.id(), ioas).unwrap();
    let tracked = context.hwpt_alloc_with(bound.id(), ioas, with(TRACKED)).unwrap();
    bound.attach(tracked).unwrap();
    let device = rig.device(0);
    let write = |page: u64| device.write(Iova::new(page * PAGE_SIZE + 7), &[1]).unwrap();
    let start = |id| context.hwpt_start_dirty_tracking(id).map_err(|error| error.errno());
    let stop = |id| context.hwpt_stop_dirty_tracking(id).map_err(|error| error.errno());
    let request = DirtyRequest { iova: Iova::new(0), bytes: PAGES * PAGE_SIZE, page_size: PAGE_SIZE };
    let read_with = |id, request, flags| {
        let mut bitmap = [0; 2];
        context.hwpt_get_dirty_bitmap(id, request, flags, &mut bitmap).map(|()| u16::from_le_bytes(bitmap))
    };
    let read = |id, request| read_with(id, request, DirtyFlags::NO_CLEAR);
    let refused = |id, request| read(id, request).unwrap_err().errno();

    write(1);
    assert_eq!(read(tracked, request), Ok(0), "nobody asked yet");
    assert_eq!(start(tracked), Ok(()));
    for page in [2, 9] {
        write(page);
    }
    device.read(Iova::new(3 * PAGE_SIZE), &mut [0]).unwrap();
    assert_eq!(read(tracked, request), Ok(1 << 2 | 1 << 9));
    let bits = |request| {
        let mut set = Vec::new();
        let look = |first: u64, bytes: &[u8]| {
            let is_set = |bit: &u64| bytes[usize::try_from(bit / 8).unwrap()] >> (bit % 8) & 1 == 1;
            set.extend((0..8 * bytes.len() as u64).filter(is_set).map(|bit| 8 * first + bit));
        };
        context.hwpt_read_dirty(tracked, request, DirtyFlags::NO_CLEAR, look).map(|()| set)
    };
    assert_eq!(bits(request), Ok(vec![2, 9]));
    let both = DirtyRequest { iova: Iova::new(2 * PAGE_SIZE), bytes: 8 * PAGE_SIZE, page_size: 2 * PAGE_SIZE };
    assert_eq!(bits(both), Ok(vec![0, 3]));
    for page in [8, 10] {
        write(page);
    }
    assert_eq!(bits(request), Ok(vec![2, 8, 9, 10]));
    for page in [8, 10] {
        let one = DirtyRequest { iova: Iova::new(page * PAGE_SIZE), bytes: PAGE_SIZE, ..request };
        context.hwpt_read_dirty(tracked, one, DirtyFlags::empty(), |_, _| {}).unwrap();
    }
    assert_eq!(read(tracked, DirtyRequest { page_size: 4 * PAGE_SIZE, ..request }), Ok(1 << 0 | 1 << 2), "coarser");
    let upper = DirtyRequest { iova: Iova::new(8 * PAGE_SIZE), bytes: 8 * PAGE_SIZE, ..request };
    assert_eq!(read_with(tracked, upper, DirtyFlags::empty()), Ok(1 << 1));
    assert_eq!(read(tracked, request), Ok(1 << 2), "what was told is forgotten, the rest is not");
    let coarse = DirtyRequest { page_size: 4 * PAGE_SIZE, bytes: 4 * PAGE_SIZE, ..request };
    assert_eq!(read(tracked, DirtyRequest { iova: Iova::new(4 * PAGE_SIZE), ..coarse }), Ok(0));
    assert_eq!(
        refused(tracked, DirtyRequest { iova: Iova::new(2 * PAGE_SIZE), ..coarse }),
        Errno::EINVAL,
        "F91: begin"
    );
    assert_eq!(refused(tracked, DirtyRequest { bytes: 6 * PAGE_SIZE, ..coarse }), Errno::EINVAL, "F91: end");
    assert_eq!(
        refused(tracked, DirtyRequest { bytes: 0x800, ..request }),
        Errno::EINVAL,
        "the address space's alignment"
    );
    let odd = DirtyRequest { page_size: 3 * PAGE_SIZE, ..coarse };
    assert_eq!(read(tracked, odd), Ok(1 << 2), "F92: the lowest bit of the page size");
    let hole = DirtyRequest { iova: Iova::new(100 * PAGE_SIZE), ..request };
    assert_eq!(read(tracked, hole), Ok(0), "F92c: a hole");
    assert_eq!(stop(tracked), Ok(()));
    write(4);
    assert_eq!(read(tracked, request).map(|bits| bits & 1 << 4), Ok(0), "it has stopped");
    assert_eq!(start(tracked), Ok(()));
    assert_eq!(read(tracked, request), Ok(0), "F57: it begins with nothing written");

    assert_eq!([start(plain), stop(plain)], [Err(Errno::EOPNOTSUPP); 2]);
    assert_eq!([start(ioas), stop(ioas)], [Err(Errno::ENOENT); 2]);
    assert_eq!(refused(ioas, request), Errno::ENOENT);
    assert_eq!(refused(tracked, DirtyRequest { bytes: 0, ..request }), Errno::EINVAL);
    assert_eq!(refused(tracked, DirtyRequest { page_size: 0, ..request }), Errno::EINVAL);
    assert_eq!(refused(tracked, DirtyRequest { iova: Iova::new(8), ..request }), Errno::EINVAL);
    assert_eq!(refused(tracked, DirtyRequest { iova: Iova::new(u64::MAX - 0xfff), ..request }), Errno::EOVERFLOW);
    assert_eq!(refused(plain, request), Errno::EOPNOTSUPP);
    let too_long = DirtyRequest { bytes: 32 * PAGE_SIZE, ..request };
    assert_eq!(read(tracked, too_long), Err(DirtyError::BitmapTooSmall { wanted: 4 }));
}

#[test]
fn ft11_8_dirty_tracking_is_up_to_the_device() {
    let (_rig, context, bound, ioas) = one(|config| {
        config.lacking.insert("a1".into(), Capabilities::DIRTY_TRACKING);
    });
    assert_eq!(refused(context.hwpt_alloc_with(bound.id(), ioas, with(TRACKED))), Errno::EOPNOTSUPP);
}

#[test]
fn f55_coherency_is_decided_when_a_page_table_is_made() {
    let rig = Rig::with(&["a1", "b1", "c1"], |config| {
        config.lacking.insert("b1".into(), Capabilities::ENFORCED_COHERENCY);
    });
    let context = rig.context("vmm");
    let [able, unable, like_the_first] = [0, 1, 2].map(|device: usize| context.bind(&rig.members[device]).unwrap());
    let ioas = context.ensure_compat_ioas().unwrap();
    assert_eq!(context.compat_coherent(), Ok(true), "nothing is attached");
    let first = able.attach(ioas).unwrap();
    assert_eq!(context.compat_coherent(), Ok(true));
    let second = unable.attach(ioas).unwrap();
    assert_ne!(first, second, "it does not fit the device that cannot, and F46 makes another");
    assert_eq!(context.compat_coherent(), Ok(false));
    assert_eq!(like_the_first.attach(ioas).unwrap(), first, "F46: the oldest one that fits");
    like_the_first.detach();
    assert_eq!(able.replace(second).unwrap(), second, "one that leaves it to the device can be shared");
    assert_eq!(unable.replace(first).unwrap_err().errno(), Errno::ENOENT, "F47");
}

#[test]
fn f42_what_the_iommu_is_like() {
    let (_rig, context, bound, ioas) = one(|_| {});
    let told = context.hw_info(bound.id()).unwrap();
    assert_eq!((told.description.kind, told.description.bytes.len()), (STAGE_1_FORMAT, 8));
    assert!(told.capabilities.contains(Capabilities::DIRTY_TRACKING));
    assert_eq!(context.hw_info(ioas).unwrap_err().errno(), Errno::ENOENT);
}

#[test]
fn hardware_that_refuses_leaves_nothing_of_a_nested_page_table() {
    let (rig, context, bound, ioas) = one(|_| {});
    let bytes = stage1(&rig);
    let parent = context.hwpt_alloc_with(bound.id(), ioas, with(PARENT)).unwrap();
    let data = Some(UserData { kind: STAGE_1_FORMAT, bytes: &bytes });
    let nested = HwptRequest { data, ..HwptRequest::default() };
    rig.fail(Fails::Hardware, 0);
    assert_eq!(refused(context.hwpt_alloc_with(bound.id(), parent, nested)), Errno::EIO);
    rig.heal();
    let child = context.hwpt_alloc_with(bound.id(), parent, nested).unwrap();
    bound.attach(parent).unwrap();
    rig.fail(Fails::Hardware, 0);
    assert_eq!(bound.replace(child).unwrap_err().errno(), Errno::EIO);
    rig.heal();
    assert_eq!(rig.reaches(0, 5), Some(6), "still the parent");
    bound.replace(child).unwrap();
    assert_eq!(rig.device(0).read(Iova::new(2 * PAGE_SIZE), &mut [0]).unwrap_err().reason, FaultReason::NotMapped);
    drop(bound);
    for id in [child, parent, ioas] {
        context.destroy(id).unwrap();
    }
    rig.assert_idle();
}

#[test]
fn f92c_a_hole_ends_what_is_told() {
    let (rig, context, bound, ioas) = one(|_| {});
    rig.map(&context, ioas, PAGES + 1, 2, 0).unwrap();
    let tracked = context.hwpt_alloc_with(bound.id(), ioas, with(TRACKED)).unwrap();
    bound.attach(tracked).unwrap();
    context.hwpt_start_dirty_tracking(tracked).unwrap();
    for page in [PAGES - 1, PAGES + 1] {
        rig.device(0).write(Iova::new(page * PAGE_SIZE), &[1]).unwrap();
    }
    let flags = DirtyFlags::NO_CLEAR;
    let read = |first: u64, pages| {
        let (iova, bytes) = (Iova::new(first * PAGE_SIZE), pages * PAGE_SIZE);
        let mut bitmap = [0x80];
        let request = DirtyRequest { iova, bytes, page_size: PAGE_SIZE };
        context.hwpt_get_dirty_bitmap(tracked, request, flags, &mut bitmap).map(|()| bitmap[0])
    };
    assert_eq!(read(PAGES - 2, 6), Ok(0x82), "up to the hole; other bits stay");
    assert_eq!(read(PAGES, 4), Ok(0x80), "it begins with the hole");
    assert_eq!(read(PAGES + 2, 1), Ok(0x80), "begins inside of a mapping");
    assert_eq!(read(PAGES + 1, 1), Ok(0x81));
}
