//! Random calls.

use iommu_core::user_memory::Account;
use iommu_core::{Iova, Ownership};
use iommufd_owner::ObjectId;
use iommufd_owner::uapi::{Reply, fault_queue};
use proptest::prelude::*;

use super::{DATA, Task, nesting};

/// A random call, more or less like one that makes sense.
fn calls() -> impl Strategy<Value = (u32, Vec<u32>)> {
    let number = prop_oneof![8 => 0x80_u32..0x90, 3 => 0x64_u32..0x78, 1 => any::<u32>()];
    // Where the memory of the rig and that of the task lie.
    let memory = prop::sample::select(vec![0x1000_0000_u32, 0x1001_1000, 0x1001_2000, 0x1001_2ff8]);
    let word = prop_oneof![6 => 0_u32..8, 2 => (0_u32..16).prop_map(|page| page << 12), 1 => any::<u32>(), 1 => Just(u32::MAX), 1 => memory];
    let size = prop_oneof![8 => prop::sample::select(vec![8_u32, 12, 16, 24, 32, 40, 48]), 1 => any::<u32>()];
    (number, size, prop::collection::vec(word, 0..14)).prop_map(|(number, size, words)| {
        let request = if number < 0x100 { 0x3b00 | number } else { number };
        (request, core::iter::once(size).chain(words).collect())
    })
}

/// How many random calls are made: `UAPI_CALLS`, or 20,000.
fn how_many() -> usize {
    std::env::var("UAPI_CALLS").ok().and_then(|calls| calls.parse().ok()).unwrap_or(20_000)
}

/// Random numbers, sizes and bytes: no call unwinds, and nothing is held in the end.
#[test]
fn random_calls_leave_nothing() {
    const LIFE: usize = 200;
    let config = ProptestConfig {
        cases: u32::try_from(how_many().div_ceil(LIFE)).unwrap(),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(calls in prop::collection::vec(calls(), LIFE))| {
        let task = Task::with(&["a1", "a2", "b1"], nesting);
        let mut bound: Vec<_> = (0..3).map(|device| task.bind(device)).collect();
        let mut queues = Vec::new();
        for (number, (request, words)) in (0_u64..).zip(&calls) {
            // Pointers are numbers below 2^32, so that some lead to memory.
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            task.put(0, &[0; 128]);
            task.put(0, &bytes);
            let argument = if number % 16 == 15 { u64::from(words[0]) } else { task.room.get() };
            match task.ioctl(*request, argument) {
                Ok(Reply::File(new)) if number % 2 == 0 => queues.extend(new.install(3, &task)),
                Ok(_) | Err(_) => {}
            }
            let device = &bound[number as usize % 3];
            match number % 11 {
                0 => drop(device.attach(ObjectId::new(words[0] % 8))),
                1 => drop(device.replace(ObjectId::new(words[0] % 8))),
                2 => device.detach(),
                3 => drop(task.rig.device(0).write(Iova::new(u64::from(words[0])), &[1])),
                4 => queues.truncate(2),
                _ => {}
            }
            for queue in &queues {
                let _ = fault_queue::read(queue, task.at(DATA), u64::from(words[0]), &task);
                let _ = fault_queue::write(queue, task.at(0), u64::from(words[0] % 64), &task);
            }
        }
        drop(queues);
        bound.clear();
        let Task { rig, context, .. } = task;
        drop(context);
        prop_assert_eq!(rig.process.pinned(), 0);
        let accounts = [Account::Process, Account::User, Account::Pinned];
        prop_assert_eq!(accounts.map(|account| rig.process.locked(account)), [0; 3]);
        prop_assert!(rig.members.iter().all(|member| member.group().ownership() == Ownership::Idle));
    });
}
