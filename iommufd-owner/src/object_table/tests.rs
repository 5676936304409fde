//! Random lives of objects against a plain list: F4 to F6, F9, table Ft1.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what a test takes for granted may fail it")]

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

type Object = Arc<u32>;

impl Lent for Object {
    fn lent(&self) -> u32 {
        u32::try_from(Arc::strong_count(self) - 1).unwrap()
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Reserve,
    Hide(usize),
    Publish(usize),
    PublishUsed(usize),
    PublishOwned(usize),
    DropReserved(usize),
    DropOwned(usize),
    DropUse(usize),
    /// A call finds an object.
    Get(u32),
    /// A call borrows an object.
    Borrow(u32),
    /// A call that borrowed one ends.
    GiveBack(usize),
    /// Another part of its making uses an object, or not the one that is meant.
    UseOf(u32, bool),
    Destroy(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let (place, id) = (0..4_usize, 0..8_u32);
    prop_oneof![
        5 => Just(Op::Reserve),
        2 => place.clone().prop_map(Op::Hide),
        3 => place.clone().prop_map(Op::Publish),
        1 => place.clone().prop_map(Op::PublishUsed),
        2 => place.clone().prop_map(Op::PublishOwned),
        1 => place.clone().prop_map(Op::DropReserved),
        1 => place.clone().prop_map(Op::DropOwned),
        4 => place.clone().prop_map(Op::DropUse),
        2 => place.prop_map(Op::GiveBack),
        3 => id.clone().prop_map(Op::Borrow),
        4 => id.clone().prop_map(Op::Get),
        2 => (id.clone(), prop::bool::weighted(0.8)).prop_map(|(id, meant)| Op::UseOf(id, meant)),
        3 => id.prop_map(Op::Destroy),
    ]
}

/// What stands behind an id, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Reserved,
    Hidden(u32),
    Public(u32),
    Leaving,
}

#[derive(Default)]
struct Reference {
    objects: BTreeMap<u32, (Known, u32)>,
    /// What was ever made; each is another.
    made: u32,
}

impl Reference {
    fn entry(&mut self, id: u32) -> &mut (Known, u32) {
        self.objects.get_mut(&id).unwrap()
    }

    fn make(&mut self) -> u32 {
        self.made += 1;
        self.made
    }

    fn release(&mut self, id: u32) {
        self.entry(id).1 -= 1;
        if self.objects[&id] == (Known::Leaving, 0) {
            self.objects.remove(&id);
        }
    }

    fn retire(&mut self, id: u32) {
        self.entry(id).0 = Known::Leaving;
        if self.objects[&id].1 == 0 {
            self.objects.remove(&id);
        }
    }
}

/// Takes what is at a place, counted around.
fn take<T>(from: &mut Vec<T>, place: usize) -> Option<T> {
    if from.is_empty() { None } else { Some(from.remove(place % from.len())) }
}

#[derive(Default)]
struct Held {
    reserved: Vec<ReservedId<Object>>,
    owned: Vec<Owned<Object>>,
    uses: Vec<Use>,
    lent: Vec<(u32, Object)>,
}

fn destroyed_by_reference(held: &Held, reference: &Reference, id: ObjectId) -> Result<u32, DestroyError> {
    match reference.objects.get(&id.get()) {
        Some((Known::Public(made), 0)) => match held.lent.iter().filter(|(lent, _)| lent == made).count() {
            0 => Ok(*made),
            lent => Err(DestroyError::InUse { id, uses: u32::try_from(lent).unwrap() }),
        },
        Some((Known::Public(_), uses)) => Err(DestroyError::InUse { id, uses: *uses }),
        _ => Err(DestroyError::NoObject { id }),
    }
}

fn play(table: &ObjectTable<Object>, held: &mut Held, reference: &mut Reference, op: Op) -> Result<(), TestCaseError> {
    match op {
        Op::Reserve => {
            let lowest = (1..100).find(|id| !reference.objects.contains_key(id)).unwrap();
            let reserved = table.reserve().unwrap();
            prop_assert_eq!(reserved.id().get(), lowest);
            reference.objects.insert(lowest, (Known::Reserved, 0));
            held.reserved.push(reserved);
        }
        Op::Hide(place) => {
            let Some(reserved) = take(&mut held.reserved, place) else { return Ok(()) };
            let made = reference.make();
            reserved.hide(Arc::new(made));
            reference.entry(reserved.id().get()).0 = Known::Hidden(made);
            held.reserved.push(reserved);
        }
        Op::Publish(place) | Op::PublishUsed(place) | Op::PublishOwned(place) => {
            let Some(reserved) = take(&mut held.reserved, place) else { return Ok(()) };
            let (made, id) = (reference.make(), reserved.id());
            let object = Arc::new(made);
            let uses = match op {
                Op::PublishUsed(_) => {
                    let (published, used) = reserved.publish_used(object);
                    prop_assert_eq!(published, id);
                    held.uses.push(used);
                    1
                }
                Op::PublishOwned(_) => {
                    held.owned.push(reserved.publish_owned(object));
                    1
                }
                _ => {
                    prop_assert_eq!(reserved.publish(object), id);
                    0
                }
            };
            let entry = reference.entry(id.get());
            *entry = (Known::Public(made), entry.1 + uses);
        }
        Op::DropReserved(place) => {
            if let Some(reserved) = take(&mut held.reserved, place) {
                reference.retire(reserved.id().get());
            }
        }
        Op::DropOwned(place) => {
            if let Some(owned) = take(&mut held.owned, place) {
                let id = owned.id().get();
                reference.retire(id);
                reference.release(id);
            }
        }
        Op::DropUse(place) => {
            if let Some(used) = take(&mut held.uses, place) {
                reference.release(used.id.get());
            }
        }
        Op::Get(id) => {
            let found = table.get(ObjectId::new(id));
            match reference.objects.get_mut(&id) {
                Some((Known::Public(made), uses)) => {
                    let (object, in_use) = found.unwrap();
                    prop_assert_eq!(*object, *made);
                    *uses += 1;
                    held.uses.push(in_use);
                }
                _ => prop_assert!(found.is_none()),
            }
        }
        Op::Borrow(id) => {
            let lent = table.peek(ObjectId::new(id), Arc::clone);
            match reference.objects.get(&id) {
                Some((Known::Public(made), _)) => held.lent.push((*made, lent.unwrap())),
                _ => prop_assert!(lent.is_none()),
            }
        }
        Op::GiveBack(place) => drop(take(&mut held.lent, place)),
        Op::UseOf(id, meant) => {
            let found = table.use_of(ObjectId::new(id), |_| meant);
            match reference.objects.get_mut(&id) {
                Some((Known::Public(_) | Known::Hidden(_), uses)) if meant => {
                    *uses += 1;
                    held.uses.push(found.unwrap());
                }
                _ => prop_assert!(found.is_none()),
            }
        }
        Op::Destroy(number) => {
            let id = ObjectId::new(number);
            let destroyed = table.remove(id).map(|object| *object);
            let expected = destroyed_by_reference(held, reference, id);
            if expected.is_ok() {
                reference.objects.remove(&number);
            }
            prop_assert_eq!(destroyed, expected);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn calls_find_what_is_public_and_destroy_what_is_unused(ops in prop::collection::vec(op(), 1..60)) {
        let table = ObjectTable::new();
        let (mut held, mut reference) = (Held::default(), Reference::default());
        for op in ops {
            play(&table, &mut held, &mut reference, op)?;
            for id in 0..10 {
                let public = match reference.objects.get(&id) {
                    Some((Known::Public(made), _)) => Some(*made),
                    _ => None,
                };
                prop_assert_eq!(table.peek(ObjectId::new(id), |object| **object), public);
            }
            prop_assert_eq!(table.is_empty(), reference.objects.is_empty());
        }
    }
}

#[test]
fn a_use_outlives_its_table() {
    let table = ObjectTable::new();
    let id = table.reserve().unwrap().publish(Arc::new(1));
    let (_object, used) = table.get(id).unwrap();
    assert_eq!(format!("{used:?}"), "Use(1)");
    drop(table);
    drop(used);
}
