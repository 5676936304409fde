//! The verdict on a group is what a claim of it meets.

use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::reserved::{RegionKind, ReservedRegion};
use vfio_owner::iommu_core::sysfs::Snapshot;
use vfio_owner::iommu_core::{ClaimError, Iova, Owner};
use vfio_owner::testbed::{self, Machine};
use vfio_owner::viability::{GroupReason, Standing, Verdict, Viability, of_group, of_snapshot};

use crate::room::{CARD, Room};

fn blockers(viability: &Viability) -> Vec<(String, Option<String>)> {
    let driver = |device: &vfio_owner::viability::DeviceViability| device.driver.as_deref().map(str::to_owned);
    viability.in_the_way().map(|device| (device.device.to_string(), driver(device))).collect()
}

#[test]
fn a_verdict_is_what_the_claim_meets_in_every_group_of_both_machines() {
    for snapshot in [testbed::pc(), testbed::workstation()] {
        let machine = Machine::boot(&snapshot);
        for group in machine.iommu().groups() {
            let told = of_snapshot(&snapshot, group.id().get()).unwrap();
            let known = of_group(&group);
            let claim = group.claim(&Owner::new("user"));
            assert_eq!(told.verdict, if claim.is_ok() { Verdict::Viable } else { Verdict::NotViable }, "{told}");
            assert_eq!((known.verdict, blockers(&known)), (told.verdict, blockers(&told)));
            let refused = match claim {
                Err(ClaimError::KernelUse { devices, .. }) => devices.iter().cloned().collect(),
                Ok(_) => Vec::new(),
                Err(other) => panic!("{other}"),
            };
            let refused: Vec<_> =
                refused.iter().map(|user| (user.device.to_string(), Some(user.driver.to_string()))).collect();
            assert_eq!(blockers(&told), refused);
        }
    }
}

#[test]
fn d65_a_port_and_a_stub_are_not_in_the_way() {
    let machine = testbed::workstation();
    let port = machine.groups.iter().find(|group| group.members.len() > 2).unwrap();
    let viability = of_snapshot(&machine, port.number).unwrap();
    let managed = viability
        .devices
        .iter()
        .filter(|device| matches!(&device.standing, Standing::Managed { driver } if &**driver == "pcieport"));
    assert_eq!(managed.count(), 2, "{viability}");
    assert_eq!(blockers(&viability).len(), 2);
}

fn with_driver(driver: &str) -> Snapshot {
    let mut snapshot = testbed::pc();
    for device in snapshot.devices.iter_mut().filter(|device| device.group == Some(3)) {
        device.driver = None;
    }
    let third = snapshot.devices.iter_mut().find(|device| device.function.address.to_string() == CARD[2]).unwrap();
    third.driver = Some(driver.to_owned());
    snapshot
}

#[test]
fn what_a_tree_does_not_show_is_unknown_with_the_reason() {
    let verdict = |driver| of_snapshot(&with_driver(driver), 3).unwrap();
    assert_eq!(verdict("pci-stub").verdict, Verdict::Viable);
    assert_eq!(verdict("e1000").verdict, Verdict::NotViable);
    let unknown = verdict("nvidia");
    assert_eq!(unknown.verdict, Verdict::Unknown);
    assert_eq!(unknown.doubtful().count(), 1);
    assert!(unknown.to_string().contains("not known whether its driver nvidia does DMA"), "{unknown}");
    let perhaps = verdict("vfio-pci");
    assert_eq!(perhaps.verdict, Verdict::Unknown);
    assert!(matches!(perhaps.group_reason, Some(GroupReason::PerhapsOwned { .. })));
}

#[test]
fn i33_a_direct_region_is_in_the_way_for_ever() {
    let mut snapshot = with_driver("pci-stub");
    let region = ReservedRegion { first: Iova::new(0x1000), kind: RegionKind::Direct, last: Iova::new(0x1fff) };
    snapshot.groups.iter_mut().filter(|group| group.number == 3).for_each(|group| group.reserved.push(region));
    let viability = of_snapshot(&snapshot, 3).unwrap();
    assert_eq!((viability.verdict, viability.in_the_way().count()), (Verdict::NotViable, 3), "{viability}");
    let machine = Machine::boot(&snapshot);
    for device in &CARD[..2] {
        machine.unbind(device).unwrap().wait();
    }
    let claim = machine.group(CARD[2]).unwrap().claim(&Owner::new("user")).unwrap_err();
    assert_eq!(claim.errno(), Errno::EINVAL);
}

#[test]
fn an_owner_is_told() {
    let room = Room::new();
    room.free(CARD[0]);
    room.free(CARD[1]);
    let group = room.machine.group(CARD[0]).unwrap();
    assert_eq!(of_group(&group).verdict, Verdict::Viable);
    let claim = group.claim(&Owner::new("VMM 7")).unwrap();
    assert_eq!(of_group(&group).to_string(), "group 3 is not viable: group 3 belongs to VMM 7");
    drop(claim);
}
