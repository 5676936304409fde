//! VFIO's calls on an iommufd: table Ft12, F61 to F63, F8; and options, Ft7.

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::user_memory::Account;
use iommu_core::{Access, Iova, UserAddr};
use iommufd_owner::compat::{CompatError, Protection};
use iommufd_owner::{Context, Extension, LargePages, MapRequest, ObjectId};

use crate::rig::Rig;

fn map(rig: &Rig, context: &Context, at: u64, pages: u64, from: u64) -> Result<(), Errno> {
    let addr = UserAddr::new(rig.ram.get() + from * PAGE_SIZE);
    let (iova, bytes, process) = (Iova::new(at * PAGE_SIZE), pages * PAGE_SIZE, rig.user.clone());
    context
        .compat_map(MapRequest { iova, bytes, process, addr, access: Access::ReadWrite })
        .map_err(|error| error.errno())
}

fn unmap(context: &Context, at: u64, pages: u64) -> Result<u64, Errno> {
    let unmapped = context.compat_unmap(Iova::new(at * PAGE_SIZE), pages * PAGE_SIZE);
    unmapped.map(|bytes| bytes / PAGE_SIZE).map_err(|error| error.errno())
}

#[test]
fn ft12_1_the_address_space_for_vfio() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    assert_eq!(context.compat_ioas(), None);
    assert_eq!(map(&rig, &context, 0, 1, 0), Err(Errno::ENODEV), "Ft12.7");
    assert_eq!(unmap(&context, 0, 1), Err(Errno::ENODEV));
    assert_eq!(context.compat_unmap_all(), Err(CompatError::NoIoas));
    assert_eq!(context.compat_info(), Err(CompatError::NoIoas));
    assert_eq!(context.compat_check_extension(Extension::DMA_CC), Err(CompatError::NoIoas), "Ft12.5");
    assert_eq!(context.compat_set_iommu(Extension::TYPE1_V2), Err(CompatError::NoIoas), "Ft12.6");
    assert_eq!(context.set_compat_ioas(ObjectId::new(7)).unwrap_err().errno(), Errno::ENOENT, "Ft12.2");

    let made = context.ensure_compat_ioas().unwrap();
    assert_eq!(context.ensure_compat_ioas(), Ok(made), "F63");
    let other = context.ioas_alloc().unwrap();
    context.set_compat_ioas(other).unwrap();
    assert_eq!(context.compat_ioas(), Some(other));
    context.destroy(other).unwrap();
    assert_eq!(context.compat_ioas(), None, "F8");
    context.set_compat_ioas(made).unwrap();
    context.clear_compat_ioas();
    assert_eq!(context.compat_ioas(), None, "Ft12.3");
    context.destroy(made).unwrap();
}

#[test]
fn ft12_8_type1_cuts_mappings_and_type1v2_does_not() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context_with_account("container", Account::Process);
    let ioas = context.ensure_compat_ioas().unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    context.compat_set_iommu(Extension::TYPE1_V2).unwrap();
    map(&rig, &context, 0, 8, 0).unwrap();
    assert_eq!(unmap(&context, 2, 1), Err(Errno::ENOENT), "bisected");
    assert_eq!(unmap(&context, 20, 1), Ok(0), "nothing mapped");
    context.compat_set_iommu(Extension::TYPE1).unwrap();
    bound.attach(ioas).unwrap();
    assert_eq!(unmap(&context, 2, 3), Ok(3));
    let reached: Vec<_> = (0..8).map(|at| rig.reaches(0, at)).collect();
    assert_eq!(reached, [Some(1), Some(2), None, None, None, Some(6), Some(7), Some(8)]);
    assert_eq!(rig.process.pinned(), 5);
    let inside = context.compat_unmap(Iova::new(0x800), PAGE_SIZE).unwrap_err();
    assert_eq!(inside.errno(), Errno::EINVAL, "F61: not where pages can be cut");
    assert_eq!(context.large_pages(ioas), Ok(LargePages::Disabled));
    assert_eq!(context.compat_unmap_all(), Ok(5 * PAGE_SIZE));
    assert_eq!(context.compat_unmap_all(), Ok(0));
    assert_eq!(rig.process.pinned(), 0);
}

/// What the kernel answered where numbers are extreme; in whole, as the calls of the ioctl differ.
#[test]
fn ft12_7_and_ft12_8_extremes() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    context.ensure_compat_ioas().unwrap();
    let end = u64::MAX;
    let map = |iova, bytes| {
        let request = MapRequest {
            iova: Iova::new(iova),
            bytes,
            process: rig.user.clone(),
            addr: rig.ram,
            access: Access::ReadWrite,
        };
        context.compat_map(request).map_err(|error| error.errno())
    };
    let unmap = |iova, bytes| context.compat_unmap(Iova::new(iova), bytes).map_err(|error| error.errno());
    assert_eq!(map(0, end), Err(Errno::EINVAL));
    assert_eq!(map(end, PAGE_SIZE), Err(Errno::EOVERFLOW));
    assert_eq!(map(end, 1), Ok(()));
    assert_eq!(map(end - 0xfff, PAGE_SIZE), Err(Errno::EEXIST));
    assert_eq!(unmap(end, 1), Ok(1));
    assert_eq!(unmap(0, 0), Err(Errno::EINVAL));
    assert_eq!(unmap(end, 2), Err(Errno::EOVERFLOW));
    assert_eq!(unmap(0, end), Ok(0));
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(context.compat_ioas().unwrap()).unwrap();
    for (iova, bytes) in [(0, end), (end, PAGE_SIZE), (end, 0x1001), (end - 0xfff, PAGE_SIZE), (0, end - 0xfff)] {
        assert_eq!(map(iova, bytes), Err(Errno::EINVAL), "{iova:#x} {bytes:#x}");
    }
    assert_eq!(map(end - 0xfff, 2 * PAGE_SIZE), Err(Errno::EOVERFLOW));
    assert_eq!([unmap(end, 1), unmap(0, end), unmap(end - 0xfff, PAGE_SIZE)], [Ok(0); 3]);
}

#[test]
fn ft12_8_a_cut_at_the_first_or_last_byte_is_none() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    context.ensure_compat_ioas().unwrap();
    context.compat_set_iommu(Extension::TYPE1).unwrap();
    let unmap = |iova, bytes| context.compat_unmap(Iova::new(iova), bytes).map_err(|error| error.errno());
    map(&rig, &context, 1, 2, 0).unwrap();
    assert_eq!(unmap(0, 0x1001), Err(Errno::ENOENT));
    assert_eq!(unmap(0x1001, 0x1fff), Err(Errno::ENOENT));
    assert_eq!(unmap(0x1001, 0x1000), Err(Errno::EINVAL));
    assert_eq!(unmap(0x1000, 0x1001), Err(Errno::EINVAL));
    map(&rig, &context, 3, 2, 0).unwrap();
    let sticking_out = context.compat_unmap(Iova::new(0x1000), 0x2001).unwrap_err();
    assert!(matches!(sticking_out, CompatError::Unmap { unmapped: 0x2000, .. }), "F96d: {sticking_out}");
    assert_eq!(unmap(0x4000, 0), Err(Errno::EINVAL));
    assert_eq!(unmap(0x3000, 0x1000), Ok(0x1000), "the last end is cut first, and stays so");
}

#[test]
fn ft12_7_a_mapping_that_devices_cannot_reach() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ensure_compat_ioas().unwrap();
    let request = || MapRequest {
        iova: Iova::new(0),
        bytes: PAGE_SIZE,
        process: rig.user.clone(),
        addr: rig.ram,
        access: Access::Read,
    };
    context.compat_map_inaccessible(request()).unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    assert_eq!(bound.attach(ioas).unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(context.compat_unmap_all(), Ok(PAGE_SIZE));
    bound.attach(ioas).unwrap();
    assert_eq!(context.compat_map_inaccessible(request()).unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(rig.process.pinned(), 0);
}

#[test]
fn f98c_page_sizes_are_those_of_every_domain() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ensure_compat_ioas().unwrap();
    assert_eq!(context.compat_info().unwrap().page_sizes, !0xfff);
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    assert_eq!(context.compat_info().unwrap().page_sizes, 1 << 12 | 1 << 21 | 1 << 30);
}

#[test]
fn ft12_6_type1_comes_too_late_for_domains_with_mappings() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ensure_compat_ioas().unwrap();
    let bound = context.bind(&rig.members[0]).unwrap();
    bound.attach(ioas).unwrap();
    map(&rig, &context, 0, 1, 0).unwrap();
    assert_eq!(context.compat_set_iommu(Extension::TYPE1).unwrap_err().errno(), Errno::EINVAL, "Ft7.7");
    context.compat_set_iommu(Extension::TYPE1_V2).unwrap();
    assert_eq!(context.compat_info().unwrap().ranges.len(), 2, "Ft12.10");
}

#[test]
fn ft12_5_extensions_and_f63_devices_without_an_iommu() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let says = |context: &Context| {
        let asked =
            [Extension::TYPE1, Extension::TYPE1_V2, Extension::UNMAP_ALL, Extension::NO_IOMMU, Extension::NESTING];
        asked.map(|extension| context.compat_check_extension(extension).unwrap())
    };
    assert_eq!(says(&context), [true, true, true, false, false]);
    assert_eq!(context.compat_set_iommu(Extension::NO_IOMMU).unwrap_err().errno(), Errno::EINVAL);
    let ioas = context.ensure_compat_ioas().unwrap();
    assert_eq!(context.enter_no_iommu_mode().unwrap_err().errno(), Errno::EINVAL, "F63");
    context.destroy(ioas).unwrap();
    context.enter_no_iommu_mode().unwrap();
    assert_eq!(context.protection(), Protection::None);
    assert_eq!(context.ensure_compat_ioas().unwrap_err().errno(), Errno::EINVAL, "F63");
    assert_eq!(says(&context), [false, false, false, true, false]);
    assert_eq!(context.compat_set_iommu(Extension::NO_IOMMU), Ok(()));
    assert_eq!(context.compat_set_iommu(Extension::TYPE1), Err(CompatError::WrongType));
}

#[test]
fn ft7_4_who_answers_for_locked_pages_is_chosen_first() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    assert_eq!(context.account(), Account::User, "F26");
    context.set_account(Account::Process).unwrap();
    assert_eq!(context.account(), Account::Process);
    let ioas = context.ioas_alloc().unwrap();
    assert_eq!(context.set_account(Account::User).unwrap_err().errno(), Errno::EBUSY);
    assert_eq!(context.large_pages(ioas), Ok(LargePages::Enabled));
    context.destroy(ioas).unwrap();
    context.set_account(Account::User).unwrap();
}

#[test]
fn f61_what_an_access_has_pinned_is_not_cut() {
    let rig = Rig::new(&["a1"]);
    let context = rig.context("vmm");
    let ioas = context.ensure_compat_ioas().unwrap();
    context.compat_set_iommu(Extension::TYPE1).unwrap();
    map(&rig, &context, 0, 4, 0).unwrap();
    let access = context.access(|_| {}).unwrap();
    access.attach(ioas).unwrap();
    let pins = access.pin(Iova::new(0), PAGE_SIZE, Access::Read).unwrap();
    assert_eq!([unmap(&context, 2, 1), unmap(&context, 2, 2), unmap(&context, 0, 2)], [Err(Errno::EINVAL); 3]);
    drop(pins);
    assert_eq!(unmap(&context, 2, 1), Ok(1));
}
