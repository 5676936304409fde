//! Trees in which things are wrong at random.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Something that happens to a file of a tree.
#[derive(Clone, Debug)]
enum Damage {
    Delete,
    Truncate(prop::sample::Index),
    Byte(prop::sample::Index, u8),
    Replace(Vec<u8>),
    Text(String),
    /// It becomes a copy of another.
    CopyOf(prop::sample::Index),
    /// It becomes a link to another file, or to the directory of another.
    LinkTo(prop::sample::Index, bool),
    /// Something below it: a file is a directory now.
    Below(String),
    /// A file beside it.
    Beside(String),
}

fn damage() -> impl Strategy<Value = Damage> {
    let name = "[0-9a-f:.]{0,14}|0000:0[0-3]:0[0-7].[0-7]|[0-9]{1,40}|\\.\\./x|[a-z]{1,4}";
    let text = "0x[0-9a-f]{0,40}|-?[0-9]{1,40}|(\\.\\./){0,9}[a-z/0-9:.]{0,40}|0x[0-9a-f]{16} 0x[0-9a-f]{1,20} msi\n";
    prop_oneof![
        Just(Damage::Delete),
        any::<prop::sample::Index>().prop_map(Damage::Truncate),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Damage::Replace),
        text.prop_map(Damage::Text),
        any::<prop::sample::Index>().prop_map(Damage::CopyOf),
        (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(file, own)| Damage::LinkTo(file, own)),
        name.prop_map(Damage::Below),
        name.prop_map(Damage::Beside),
    ]
}

fn damaged(tree: &MemoryTree, damages: &[(prop::sample::Index, Damage)]) -> MemoryTree {
    let files: Vec<(&str, &[u8])> = tree.files().collect();
    let mut copy = tree.clone();
    for (index, damage) in damages {
        let (path, contents) = files[index.index(files.len())];
        let mut contents = contents.to_vec();
        match damage {
            Damage::Delete => {
                copy.remove(path);
                continue;
            }
            Damage::Truncate(at) => contents.truncate(at.index(contents.len() + 1)),
            Damage::Byte(at, byte) => {
                if !contents.is_empty() {
                    let at = at.index(contents.len());
                    contents[at] = *byte;
                }
            }
            Damage::Replace(new) => contents.clone_from(new),
            Damage::Text(text) => contents = text.clone().into_bytes(),
            Damage::CopyOf(other) => contents = other.get(&files).1.to_vec(),
            Damage::LinkTo(other, own) => {
                let target = other.get(&files).0;
                let target = if *own { target } else { target.rsplit_once('/').unwrap().0 };
                contents = format!("{}{target}", "../".repeat(path.matches('/').count())).into_bytes();
            }
            Damage::Below(name) => {
                copy.insert(&format!("{path}/{name}"), contents);
                copy.remove(path);
                continue;
            }
            Damage::Beside(name) => {
                copy.insert(&format!("{}/{name}", path.rsplit_once('/').unwrap().0), contents);
                continue;
            }
        }
        copy.insert(path, contents);
    }
    copy
}

/// Whether the parts of a snapshot say the same of each device.
fn check(snapshot: &Snapshot) {
    assert!(snapshot.devices.is_sorted_by(|a, b| a.function.address < b.function.address));
    assert!(snapshot.groups.is_sorted_by(|a, b| a.number < b.number));
    assert!(snapshot.drivers.is_sorted_by(|a, b| a.name < b.name));
    let mut groups = BTreeMap::new();
    let mut drivers = BTreeMap::new();
    for group in &snapshot.groups {
        groups.extend(group.members.iter().map(|&member| (member, group.number)));
    }
    for driver in &snapshot.drivers {
        drivers.extend(driver.devices.iter().map(|&device| (device, driver.name.clone())));
    }
    for device in &snapshot.devices {
        let address = device.function.address;
        assert_eq!(groups.remove(&address), device.group);
        assert_eq!(drivers.remove(&address), device.driver);
    }
    assert!(groups.is_empty() && drivers.is_empty(), "only devices that are there");
    let partition = grouping::partition(&snapshot.topology());
    assert_eq!(partition.iter().map(Vec::len).sum::<usize>(), snapshot.devices.len());
    for address in partition.into_iter().flatten() {
        let _ = grouping::reasons(&snapshot.topology(), address);
    }
}

/// Who is there, bound to what, in which group.
fn relations(snapshot: &Snapshot) -> BTreeSet<(PciAddress, Option<String>, Option<u32>)> {
    let devices = snapshot.devices.iter();
    devices.map(|device| (device.function.address, device.driver.clone(), device.group)).collect()
}

proptest! {
    #[test]
    fn no_damage_panics_or_makes_the_snapshot_contradict_itself(
        machine in prop::sample::select(&MACHINES[..]),
        damages in prop::collection::vec((any::<prop::sample::Index>(), damage()), 0..40),
    ) {
        if let Ok(snapshot) = Snapshot::load(&damaged(&memory(machine), &damages)) {
            check(&snapshot);
        }
    }

    #[test]
    fn no_single_damage_moves_a_device_unnoticed(
        machine in prop::sample::select(&MACHINES[..]),
        file: prop::sample::Index,
        damage in damage(),
    ) {
        let whole = Snapshot::load(&memory(machine)).unwrap();
        if let Ok(snapshot) = Snapshot::load(&damaged(&memory(machine), &[(file, damage)])) {
            check(&snapshot);
            let same = relations(&snapshot) == relations(&whole);
            prop_assert!(same || !snapshot.warnings.is_empty());
        }
    }
}
