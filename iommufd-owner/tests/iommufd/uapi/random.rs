//! Random calls.

use std::collections::BTreeSet;

use iommu_core::address::PAGE_SIZE;
use iommu_core::software::nested::{STAGE_1_FORMAT, Stage1};
use iommu_core::user_memory::Account;
use iommu_core::{Iova, Ownership};
use iommufd_owner::uapi::{self, Reply, fault_queue};
use iommufd_owner::{BoundDevice, FaultQueue, ObjectId};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

use super::{DATA, Task, halves, nesting};

/// What a field may be.
#[derive(Debug, Clone, Copy)]
enum Field {
    Zero,
    Few,
    Id,
    Type,
    Length,
    Address,
    Pages,
    Iova,
}

use Field::{Address, Few, Id, Iova as Place, Length, Pages, Type, Zero};

/// The fields of each call behind its size.
const SHAPES: [(u32, &[Field]); 21] = [
    (0x66, &[Few]),
    (0x80, &[Id]),
    (0x81, &[Zero, Zero]),
    (0x82, &[Id, Few, Zero, Address]),
    (0x83, &[Few, Id, Id, Pages, Place, Place]),
    (0x84, &[Id, Few, Zero, Address, Zero, Zero]),
    (0x85, &[Few, Id, Zero, Address, Pages, Place]),
    (0x86, &[Id, Place, Pages]),
    (0x87, &[Few, Few, Id, Few, Zero]),
    (0x87, &[Few, Few, Zero, Few, Zero]),
    (0x88, &[Id, Few]),
    (0x89, &[Zero, Id, Id, Zero, Zero, Zero, Zero, Zero, Zero, Zero, Zero]),
    (0x89, &[Few, Id, Id, Zero, Zero, Type, Length, Address, Id, Zero]),
    (0x8a, &[Zero, Id, Length, Address, Zero, Zero, Zero, Zero]),
    (0x8b, &[Few, Id, Zero]),
    (0x8c, &[Id, Few, Zero, Place, Pages, Pages, Address]),
    (0x8d, &[Id, Address, Type, Length, Few, Zero]),
    (0x8e, &[Zero, Zero, Zero]),
    (0x70, &[Few, Zero, Zero, Zero, Zero, Zero, Zero, Zero, Zero]),
    (0x71, &[Few, Address, Place, Pages]),
    (0x72, &[Few, Place, Pages]),
];

fn words(field: Field) -> BoxedStrategy<Vec<u32>> {
    // Where the memory of the rig and that of the task lie.
    let address = select(vec![0x1000_0000_u64, 0x1000_8000, 0x1001_1000, 0x1001_2000, 0x1001_8ff8, 0]);
    let long = |number: u64| halves(number).to_vec();
    match field {
        Zero => Just(vec![0]).boxed(),
        Few => (0..8_u32).prop_map(|word| vec![word]).boxed(),
        Id => (1..12_u32).prop_map(|word| vec![word]).boxed(),
        Type => select(vec![0, 1, STAGE_1_FORMAT]).prop_map(|word| vec![word]).boxed(),
        Length => select(vec![0, 1, 8, 16, 24]).prop_map(|word| vec![word]).boxed(),
        Address => address.prop_map(long).boxed(),
        Pages => (0..8_u64).prop_map(move |pages| long(pages << 12)).boxed(),
        Place => (0..16_u64).prop_map(move |page| long(page << 12)).boxed(),
    }
}

/// A call that makes sense, but for a word here and there.
#[derive(Debug, Clone)]
struct Call {
    request: u32,
    words: Vec<u32>,
    /// The word that is another.
    odd: Option<(usize, u32)>,
}

fn call() -> impl Strategy<Value = Call> {
    let shaped = select(&SHAPES[..]).prop_flat_map(|(number, fields)| {
        let fields: Vec<_> = fields.iter().map(|field| words(*field)).collect();
        fields.prop_map(move |fields| {
            let fields = fields.concat();
            let size = 4 * (fields.len() as u32 + 1);
            (0x3b00 | number, std::iter::once(size).chain(fields).collect())
        })
    });
    let wild = (0x3b64..0x3ba8_u32, prop::collection::vec(any::<u32>(), 1..16));
    let wilder = (any::<u32>(), prop::collection::vec(any::<u32>(), 1..16));
    let call = prop_oneof![20 => shaped, 1 => wild, 1 => wilder];
    let odd = (0..16_usize, prop_oneof![any::<u32>(), 0..64_u32, Just(u32::MAX), Just(1 << 31)]);
    (call, prop::option::weighted(0.2, odd)).prop_map(|((request, words), odd)| Call { request, words, odd })
}

/// How many random calls are made: `UAPI_CALLS`, or 20,000.
fn how_many() -> u32 {
    std::env::var("UAPI_CALLS").ok().and_then(|calls| calls.parse().ok()).unwrap_or(20_000)
}

/// How many calls a context lives for.
const LIFE: u32 = 200;

/// Plays calls on a new machine, between what its devices and the files of fault queues do.
fn play(calls: &[Call], succeeded: &mut BTreeSet<u32>) {
    let task = Task::with(&["a1", "a2", "b1"], nesting);
    let mut bound: Vec<_> = (0..3).map(|device| task.bind(device)).collect();
    let ioas = task.context.ensure_compat_ioas().unwrap();
    let (device, stage1) = (bound[0].id().get(), Stage1 { table: Iova::new(0), entries: 1 }.to_bytes());
    task.map(ioas.get(), 7, 0, 8 * PAGE_SIZE).unwrap();
    task.call(0x89, &[48, 3, device, ioas.get()]).unwrap();
    task.put(DATA, &stage1);
    let ([low, high], parent) = (halves(task.at(DATA).get()), task.word(4));
    let (format, length) = (STAGE_1_FORMAT, stage1.len() as u32);
    task.call(0x89, &[48, 0, device, parent, 0, 0, format, length, low, high, 0, 0]).unwrap();
    let mut queues = Vec::new();
    for (turn, call) in calls.iter().enumerate() {
        let mut words = call.words.clone();
        if let Some((at, odd)) = call.odd
            && let Some(word) = words.get_mut(at)
        {
            *word = odd;
        }
        task.put(0, &[0; 128]);
        task.put(0, &words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>());
        let argument = if (0x3b64..=0x3b66).contains(&call.request) {
            words.get(1).copied().unwrap_or(0).into()
        } else {
            task.room.get()
        };
        match task.ioctl(call.request, argument) {
            Ok(Reply::File(new)) if turn % 4 > 0 => queues.extend(new.install(3, &task)),
            Ok(_) => {}
            Err(_) => continue,
        }
        succeeded.insert(call.request);
        between(&task, turn, words.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word)), &bound, &mut queues);
    }
    drop(queues);
    bound.clear();
    let Task { rig, context, .. } = task;
    drop(context);
    assert_eq!(rig.process.pinned(), 0);
    let accounts = [Account::Process, Account::User, Account::Pinned];
    assert_eq!(accounts.map(|account| rig.process.locked(account)), [0; 3]);
    assert!(rig.members.iter().all(|member| member.group().ownership() == Ownership::Idle));
}

fn between(task: &Task, turn: usize, some: u32, bound: &[BoundDevice], queues: &mut Vec<FaultQueue>) {
    let (device, id) = (&bound[turn % 3], ObjectId::new(some % 12));
    match turn % 6 {
        0 => drop(device.attach(id)),
        1 => drop(device.replace(id)),
        2 => device.detach(),
        3 => drop(task.rig.device(0).write(Iova::new(u64::from(some)), &[1])),
        _ => queues.truncate(2),
    }
    for queue in queues {
        let _ = fault_queue::read(queue, task.at(DATA), u64::from(some), task);
        let _ = fault_queue::write(queue, task.at(0), u64::from(some % 64), task);
    }
}

/// Random numbers, sizes and bytes: no call unwinds, nothing is held in the end, and each call is served now and then.
#[test]
fn random_calls_leave_nothing() {
    let cases = how_many().div_ceil(LIFE);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let succeeded = std::cell::RefCell::new(BTreeSet::new());
    let lives = prop::collection::vec(call(), LIFE as usize);
    TestRunner::new(config)
        .run(&lives, |calls| {
            play(&calls, &mut succeeded.borrow_mut());
            Ok(())
        })
        .unwrap();
    // With fewer, one may be served by chance only.
    if cases >= 1_000 {
        let served: Vec<_> = uapi::calls().filter(|call| call.name != "IOMMU_TEST_CMD").collect();
        let never = served.iter().filter(|call| !succeeded.borrow().contains(&call.request));
        assert_eq!(never.map(|call| call.name).collect::<Vec<_>>(), [""; 0]);
    }
}
