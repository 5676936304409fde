//! Many threads, for long: no deadlock, no lost claim.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proptest::prelude::any;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use vfio_owner::backend::{Extension, Unmap};
use vfio_owner::iommu_core::Iova;
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::software::NumberedMemory;

use crate::rig::{A0, A1, A2, B0, B1, C0, KERNEL, Rig, VFIO};

const DEVICES: [&str; 6] = [A0, A1, A2, B0, B1, C0];
const THREADS: usize = 8;
const ROUNDS: usize = 400;

/// One whole way of a user, as far as it is let.
fn user(rig: &Rig, device: &str, page: u64) -> Option<()> {
    let group = rig.machine.group(device).ok()?;
    let file = rig.machine.open_group(device).ok()?;
    let container = rig.machine.vfio().open_container();
    file.set_container(&container).ok()?;
    // The last device may leave at any time, and takes the container along.
    container.set_iommu(Extension::TYPE1_V2).ok()?;
    container.map(&rig.request(page, 1, page % 8)).ok()?;
    let open = file.device(device).ok()?;
    assert!(group.ownership().owner().is_some(), "an open device is owned");
    let seen = NumberedMemory::seen(&rig.dma(open.member().unwrap()), Iova::new(page * PAGE_SIZE));
    assert_eq!(seen, Some(page % 8 + 1));
    if page.is_multiple_of(2) {
        drop(file);
        drop(container);
    } else {
        container.unmap(Unmap::All).unwrap();
    }
    drop(open);
    Some(())
}

fn random_bytes(count: usize) -> Vec<u8> {
    let bytes = proptest::collection::vec(any::<u8>(), count);
    bytes.new_tree(&mut TestRunner::default()).unwrap().current()
}

#[test]
fn threads_meet_and_nothing_is_lost() {
    let rig = Arc::new(Rig::of_devices(&DEVICES));
    let used = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (rig, used) = (rig.clone(), used.clone());
            let choices = random_bytes(2 * ROUNDS);
            thread::spawn(move || {
                for choice in choices.chunks(2) {
                    let device = DEVICES[usize::from(choice[0]) % DEVICES.len()];
                    match choice[1] % 8 {
                        0 => drop(rig.bind(device, KERNEL)),
                        1 | 2 => drop(rig.bind(device, VFIO)),
                        3 => {
                            if let Ok(unbind) = rig.machine.unbind(device) {
                                unbind.wait();
                            }
                        }
                        4 if choice[0] > 200 => {
                            if let Ok(remove) = rig.machine.remove(device) {
                                remove.wait();
                            }
                            rig.machine.rescan();
                        }
                        _ => {
                            let done = user(&rig, device, number as u64);
                            used.fetch_add(usize::from(done.is_some()), Ordering::Relaxed);
                        }
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    rig.assert_idle("after all threads");
    assert!(used.load(Ordering::Relaxed) > 0, "somebody came through");
}
