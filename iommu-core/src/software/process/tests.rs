use alloc::vec::Vec;
use std::sync::Arc;

use proptest::prelude::*;

use super::{LockedPages, Process};
use crate::address::{Access, PAGE_SIZE, PhysAddr, UserAddr};
use crate::software::Memory;
use crate::user_memory::{Account, Limit, PinnedRun, UserMemory as _};

fn process() -> Arc<Process> {
    Process::new(&Memory::new(), LockedPages::unlimited())
}

#[test]
fn what_a_device_writes_the_process_reads() {
    let memory = Memory::new();
    let process = Process::new(&memory, LockedPages::unlimited());
    let at = process.allocate(3 * PAGE_SIZE, Access::ReadWrite).unwrap();
    let run = process.pin(at.checked_add(PAGE_SIZE).unwrap(), 2 * PAGE_SIZE, Access::Write).unwrap();
    assert_eq!(run.bytes, 2 * PAGE_SIZE);
    memory.write(run.phys, b"packet");
    let mut seen = [0; 6];
    process.read(at.checked_add(PAGE_SIZE).unwrap(), &mut seen).unwrap();
    assert_eq!(&seen, b"packet");
    process.unpin(run);
    assert_eq!(process.pinned(), 0);
}

#[test]
fn two_processes_share_no_page() {
    let memory = Memory::new();
    let [one, two] = [(); 2].map(|()| Process::new(&memory, LockedPages::unlimited()));
    let at = one.allocate(1, Access::ReadWrite).unwrap();
    assert_eq!(two.allocate(1, Access::ReadWrite), Some(at));
    one.write(at, b"secret").unwrap();
    let mut seen = [1; 6];
    two.read(at, &mut seen).unwrap();
    assert_eq!(seen, [0; 6]);
}

#[test]
fn memory_that_is_not_there_or_not_for_this_is_a_bad_address() {
    let process = process();
    let at = process.allocate(PAGE_SIZE, Access::Read).unwrap();
    let behind = at.checked_add(PAGE_SIZE).unwrap();
    assert_eq!(process.pin(at, PAGE_SIZE, Access::Write).unwrap_err().at, at);
    assert_eq!(process.write(at, b"x").unwrap_err().at, at);
    assert_eq!(process.pin(behind, PAGE_SIZE, Access::Read).unwrap_err().at, behind);
    assert_eq!(process.read(at, &mut [0; 4097]).unwrap_err().at, behind);
    assert!(process.pin(UserAddr::new(u64::MAX), 0, Access::Read).is_err());
    assert_eq!(process.allocate(u64::MAX, Access::Read), None);
    assert_eq!(process.pinned(), 0);
}

#[test]
fn pinned_pages_outlive_their_mapping() {
    let memory = Memory::new();
    let process = Process::new(&memory, LockedPages::unlimited());
    let at = process.allocate(PAGE_SIZE, Access::ReadWrite).unwrap();
    let run = process.pin(at, PAGE_SIZE, Access::ReadWrite).unwrap();
    process.unmap(at);
    assert!(process.read(at, &mut [0]).is_err());
    assert_eq!(process.pinned(), 1);
    process.unpin(run);
    assert_eq!(process.pinned(), 0);
}

#[test]
fn a_limit_counts_whole_pages_of_all_processes_of_a_user() {
    let memory = Memory::new();
    let user = LockedPages::limited(3 * PAGE_SIZE + 1);
    let [one, two] = [(); 2].map(|()| Process::of_user(&memory, LockedPages::limited(PAGE_SIZE), user.clone()));
    one.charge(Account::User, Limit::Enforced, 2).unwrap();
    two.charge(Account::User, Limit::Enforced, 1).unwrap();
    let refused = two.charge(Account::User, Limit::Enforced, 1).unwrap_err();
    assert_eq!((refused.locked, refused.limit, refused.wanted), (3, 3, 1));
    one.charge(Account::Process, Limit::Enforced, 1).unwrap();
    one.charge(Account::Process, Limit::Enforced, 1).unwrap_err();
    one.uncharge(Account::User, 2);
    assert_eq!(user.pages(), 1);
}

#[test]
fn a_lifted_limit_counts_and_refuses_nothing() {
    let own = LockedPages::limited(PAGE_SIZE);
    let process = Process::new(&Memory::new(), own.clone());
    process.charge(Account::Process, Limit::Lifted, 3).unwrap();
    process.charge(Account::Process, Limit::Enforced, 1).unwrap_err();
    process.charge(Account::Pinned, Limit::Enforced, 9).unwrap();
    assert_eq!([Account::Process, Account::User, Account::Pinned].map(|account| process.locked(account)), [3, 3, 9]);
    own.set_limit(Some(4 * PAGE_SIZE));
    process.charge(Account::Process, Limit::Enforced, 1).unwrap();
    assert_eq!(process.limit(), Limit::Enforced);
    process.set_limit(Limit::Lifted);
    assert_eq!(process.limit(), Limit::Lifted);
}

#[test]
fn memory_is_mapped_protected_and_unmapped_in_parts() {
    let process = process();
    let at = process.allocate(8 * PAGE_SIZE, Access::ReadWrite).unwrap();
    let page = |number: u64| at.checked_add(number * PAGE_SIZE).unwrap();
    process.write(page(2), b"kept").unwrap();
    let run = process.pin(page(0), 8 * PAGE_SIZE, Access::ReadWrite).unwrap();
    process.protect(page(2), 2 * PAGE_SIZE, Some(Access::Read)).unwrap();
    process.protect(page(4), PAGE_SIZE, None).unwrap();
    process.unmap_range(page(5), PAGE_SIZE);
    process.map_at(page(6), PAGE_SIZE, Access::ReadWrite).unwrap();
    let mut seen = [0; 4];
    process.read(page(2), &mut seen).unwrap();
    assert_eq!(&seen, b"kept");
    let writable: Vec<_> = (0..8).filter(|number| process.write(page(*number), b"x").is_ok()).collect();
    let readable: Vec<_> = (0..8).filter(|number| process.read(page(*number), &mut seen).is_ok()).collect();
    assert_eq!((writable, readable), ([0, 1, 6, 7].to_vec(), [0, 1, 2, 3, 6, 7].to_vec()));
    assert_eq!(process.pin(page(0), 8 * PAGE_SIZE, Access::Write).unwrap().bytes, 2 * PAGE_SIZE);
    // Up to the hole it has changed.
    assert_eq!(process.protect(page(3), 4 * PAGE_SIZE, Some(Access::ReadWrite)).unwrap_err().at, page(5));
    process.write(page(4), b"x").unwrap();
    assert!(process.map_at(page(0), 1, Access::Read).is_none());
    assert!(process.map_at(UserAddr::new(0u64.wrapping_sub(PAGE_SIZE)), 2 * PAGE_SIZE, Access::Read).is_none());
    // What is pinned stays though all of it is gone, and goes then.
    process.unmap_range(page(0), 8 * PAGE_SIZE);
    assert_eq!(process.pinned(), 10);
    process.unpin(run);
    assert_eq!(process.pinned(), 2);
}

proptest! {
    /// Pins and unpins of any runs balance, whatever the pieces.
    #[test]
    fn pins_balance(runs in prop::collection::vec((0_u64..16, 1_u64..16), 1..20)) {
        let process = process();
        let at = process.allocate(32 * PAGE_SIZE, Access::ReadWrite).unwrap();
        let mut pinned = Vec::new();
        let mut sum = 0;
        for (first, pages) in runs {
            let run = process.pin(at.checked_add(first * PAGE_SIZE).unwrap(), pages * PAGE_SIZE, Access::Read).unwrap();
            sum += pages;
            pinned.push(run);
            prop_assert_eq!(process.pinned(), sum);
        }
        for run in pinned {
            for page in 0..run.bytes / PAGE_SIZE {
                let phys = PhysAddr::new(run.phys.get() + page * PAGE_SIZE);
                process.unpin(PinnedRun { phys, bytes: PAGE_SIZE });
            }
        }
        prop_assert_eq!(process.pinned(), 0);
    }
}
