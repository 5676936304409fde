//! One client on both ways: whatever it does, it gets the same answers, and its devices reach the same.

use proptest::prelude::*;
use vfio_owner::assignment::{AssignedDevice, AssignmentError, DeviceAssignment, GroupAssignment, IommufdAssignment};
use vfio_owner::iommu_core::Iova;
use vfio_owner::iommu_core::address::PAGE_SIZE;
use vfio_owner::iommu_core::device_model::Errno;

use crate::rig::{A0, A1, B0, Fails, KERNEL, Rig, VFIO};

const DEVICES: [&str; 3] = [A0, A1, B0];

#[derive(Debug, Clone)]
enum Op {
    Assign { device: usize },
    GiveBack { device: usize },
    Map { at: u64, pages: u64, from: u64 },
    Unmap { at: u64, pages: u64 },
    Fail { pin: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    let device = 0..DEVICES.len();
    prop_oneof![
        3 => device.clone().prop_map(|device| Op::Assign { device }),
        1 => device.prop_map(|device| Op::GiveBack { device }),
        4 => (0..16_u64, 1..5_u64, 0..10_u64).prop_map(|(at, pages, from)| Op::Map { at, pages, from }),
        2 => (0..16_u64, 1..9_u64).prop_map(|(at, pages)| Op::Unmap { at, pages }),
        1 => (0..6_u32).prop_map(|pin| Op::Fail { pin }),
    ]
}

/// A machine whose devices are assigned in one of the two ways.
struct Client {
    assigned: [Option<AssignedDevice>; DEVICES.len()],
    assignment: Box<dyn DeviceAssignment>,
    rig: Rig,
}

impl Client {
    fn new(way: impl FnOnce(&Rig) -> Box<dyn DeviceAssignment>) -> Self {
        let rig = Rig::of_devices(&DEVICES);
        for device in DEVICES {
            assert!(rig.bind(device, VFIO));
        }
        Self { assigned: Default::default(), assignment: way(&rig), rig }
    }

    fn both() -> [Self; 2] {
        [
            Self::new(|rig| Box::new(GroupAssignment::new(rig.machine.vfio()))),
            Self::new(|rig| {
                Box::new(IommufdAssignment::new(rig.machine.vfio(), rig.machine.open_iommufd("vmm")).unwrap())
            }),
        ]
    }

    /// Plays a step; what was unmapped, or that it was refused.
    fn play(&mut self, op: &Op) -> Result<u64, String> {
        let told = |error: AssignmentError| error.to_string();
        match *op {
            Op::Assign { device } if self.assigned[device].is_none() => {
                self.assigned[device] = Some(self.assignment.assign(DEVICES[device]).map_err(told)?);
                Ok(0)
            }
            Op::Assign { .. } => Ok(0),
            Op::GiveBack { device } => {
                self.assigned[device] = None;
                Ok(0)
            }
            Op::Map { at, pages, from } => {
                self.assignment.map(self.rig.request(at, pages, from)).map(|()| 0).map_err(told)
            }
            Op::Unmap { at, pages } => {
                self.assignment.unmap(Iova::new(at * PAGE_SIZE), pages * PAGE_SIZE).map_err(told)
            }
            Op::Fail { pin } => {
                self.rig.fail(Fails::Pin, pin);
                Ok(0)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_answer_alike_and_reach_the_same(ops in prop::collection::vec(op(), 1..40)) {
        let [mut groups, mut files] = Client::both();
        for op in &ops {
            let answers = [groups.play(op), files.play(op)];
            let [one, other] = answers.each_ref().map(|answer| answer.as_ref().ok());
            prop_assert_eq!(one, other, "{:?}: {:?}", op, &answers);
            for device in DEVICES {
                prop_assert_eq!(groups.rig.view(device), files.rig.view(device), "{:?}: {}", op, device);
            }
            prop_assert_eq!(groups.rig.pinned(), files.rig.pinned(), "{:?}", op);
            if !matches!(op, Op::Fail { .. }) {
                groups.rig.heal();
                files.rig.heal();
            }
        }
        for client in [groups, files] {
            let Client { assigned, assignment, rig } = client;
            drop(assigned);
            drop(assignment);
            rig.assert_idle("after a life");
        }
    }
}

#[test]
fn refusals_name_who_is_in_the_way_on_both_ways() {
    for mut client in Client::both() {
        let unknown = client.assignment.assign("0000:00:09.0").unwrap_err();
        assert_eq!(unknown.errno(), Errno::ENOENT, "{unknown}");
        client.rig.machine.unbind(A1).unwrap().wait();
        assert!(client.rig.bind(A1, KERNEL));
        let refused = client.assignment.assign(A0).unwrap_err().to_string();
        assert!(refused.contains("0000:0a:00.1 (e1000)"), "{refused}");
        client.rig.machine.unbind(A1).unwrap().wait();
        client.assigned[0] = Some(client.assignment.assign(A0).unwrap());
        let stranger = client.rig.machine.open_iommufd("a stranger");
        assert!(stranger.bind(&client.rig.machine.member(A0).unwrap()).is_err());
        assert!(!client.rig.bind(A1, KERNEL), "its neighbour is claimed");
    }
}

#[test]
fn mappings_outlive_the_devices() {
    for client in Client::both() {
        client.assignment.map(client.rig.request(2, 2, 5)).unwrap();
        assert_eq!(client.rig.pinned(), 0, "no device reaches it yet");
        for _ in 0..2 {
            let device = client.assignment.assign(B0).unwrap();
            assert_eq!((client.rig.reaches(B0, 3), client.rig.pinned()), (Some(7), 2));
            assert_eq!(&**device.name(), B0);
            drop(device);
            assert_eq!((client.rig.reaches(B0, 3), client.rig.pinned()), (None, 0));
        }
    }
}
