//! Small interleavings of ownership, explored by the model checker: every schedule.
//!
//! Each scene ends with the invariants of its title; all end with an idle group. `cargo xtask ci --only model` runs them
//! and shows how many schedules each explored.
#![cfg(shuttle)]
#![expect(clippy::unwrap_used, reason = "what a test takes for granted may fail it")]

use std::sync::Arc;

use device_model::DeviceId;
use device_model::sync::thread;
use iommu_core::hardware::{Endpoint, EndpointProperties, FaultSink, HardwareDomain, HardwareError, IommuDriver};
use iommu_core::{
    Attached, Claim, DefaultDomainType, DomainKind, Group, IommuSubsystem, KernelUse, Member, Owner, Ownership,
    TypeRequest, generic_single_device_group,
};
use shuttle::scheduler::DfsScheduler;
use shuttle::{Config, Runner};

/// How many schedules a scene may have.
const BUDGET: usize = 200_000;

#[derive(Debug)]
struct Null;

impl IommuDriver for Null {
    fn name(&self) -> &'static str {
        "null"
    }
    fn probe(&self, _dev: &Endpoint, _faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        Ok(EndpointProperties::default())
    }
    fn release(&self, _dev: &Endpoint) {}
    fn allocate(&self, _kind: DomainKind, _dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        Ok(Box::new(Self))
    }
    fn block(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }
}

impl HardwareDomain for Null {
    fn attach(&self, _dev: &Endpoint) -> Result<(), HardwareError> {
        Ok(())
    }
}

/// A group of two devices.
struct Scene {
    iommu: IommuSubsystem,
    members: [Arc<Member>; 2],
}

impl Scene {
    fn new() -> Self {
        let hardware: Arc<dyn IommuDriver> = Arc::new(Null);
        let (iommu, _) =
            IommuSubsystem::builder(move |_: &Endpoint| Some(generic_single_device_group(&hardware))).build();
        let members = [1, 2].map(|number| Self::plug(&iommu, number));
        Self { iommu, members }
    }

    fn plug(iommu: &IommuSubsystem, number: u64) -> Arc<Member> {
        iommu.add_device(&Endpoint::new(DeviceId::new(number), format!("dev{number}"))).unwrap().unwrap()
    }

    fn group(&self) -> Arc<Group> {
        self.members[0].group().clone()
    }
}

/// Explores every schedule of a scene, of which there must not be too many to do so.
fn explore(title: &str, scene: impl Fn() + Send + Sync + 'static) {
    let schedules = Runner::new(DfsScheduler::new(Some(BUDGET), false), Config::default()).run(scene);
    assert!(schedules < BUDGET, "{title}: more than {BUDGET} schedules, so that not all were explored");
    println!("{title}: all {schedules} schedules");
}

fn kernel_use(member: &Arc<Member>) -> Result<KernelUse, iommu_core::UseError> {
    KernelUse::begin(member.clone(), &"kernel".into())
}

/// A user-owned group is off the default domain, any other is on it (I4).
fn assert_consistent(group: &Group) {
    let attached = group.attached();
    match group.ownership() {
        Ownership::User { .. } => assert!(matches!(attached, Attached::Blocking | Attached::Own)),
        Ownership::Idle | Ownership::Kernel { .. } => assert!(matches!(attached, Attached::Default(_))),
    }
}

#[test]
fn two_uses_and_a_group_claim_have_one_winner() {
    explore("two uses and a group claim (Lt4.1, Lt4.2)", || {
        let scene = Scene::new();
        let group = scene.group();
        let drivers = scene.members.clone().map(|member| thread::spawn(move || kernel_use(&member)));
        let claimer = group.clone();
        let claim = thread::spawn(move || claimer.claim(&Owner::new("vfio")));
        let uses = drivers.map(|thread| thread.join().unwrap());
        let claim = claim.join().unwrap();
        assert_ne!(uses[0].is_ok(), claim.is_ok());
        assert_ne!(uses[1].is_ok(), claim.is_ok());
        assert_consistent(&group);
        drop((uses, claim));
        assert_eq!(group.ownership(), Ownership::Idle);
    });
}

#[test]
fn a_use_that_ends_and_a_claim() {
    explore("use, end of the use, and a device claim (Lt4.3, Lt4.5)", || {
        let scene = Scene::new();
        let group = scene.group();
        let member = scene.members[0].clone();
        let driver = thread::spawn(move || kernel_use(&member).is_ok());
        let claim = scene.members[1].claim(&Owner::new("iommufd"));
        let used = driver.join().unwrap();
        assert!(used || claim.is_ok(), "the first of the two wins");
        assert_consistent(&group);
        drop(claim);
        assert_eq!(group.ownership(), Ownership::Idle);
    });
}

#[test]
fn two_owners_and_a_use() {
    explore("two device claims of two owners and a use", || {
        let scene = Scene::new();
        let group = scene.group();
        let claims =
            scene.members.clone().map(|member| thread::spawn(move || member.claim(&Owner::new(member.name().clone()))));
        let used = kernel_use(&scene.members[0]);
        let claims = claims.map(|claim| claim.join().unwrap());
        let winners = claims.iter().filter(|claim| claim.is_ok()).count() + usize::from(used.is_ok());
        assert_eq!(winners, 1);
        assert_consistent(&group);
        drop((claims, used));
        assert_eq!(group.ownership(), Ownership::Idle);
    });
}

#[test]
fn claims_of_one_owner_nest() {
    explore("two device claims of one owner, each released (T14)", || {
        let scene = Scene::new();
        let group = scene.group();
        let owner = Owner::new("iommufd");
        let threads = scene.members.clone().map(|member| {
            let owner = owner.clone();
            thread::spawn(move || {
                let claim = member.claim(&owner).unwrap();
                assert_ne!(member.group().attached(), Attached::Default(DefaultDomainType::Dma));
                drop(claim);
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(group.ownership(), Ownership::Idle);
        assert_consistent(&group);
    });
}

#[test]
fn claim_and_hot_add() {
    explore("claim and hot-add (Lt4.7, Lt4.8)", || {
        let scene = Scene::new();
        let group = scene.group();
        let iommu = scene.iommu.clone();
        let plug = thread::spawn(move || Scene::plug(&iommu, 3));
        let claim = group.claim(&Owner::new("vfio")).unwrap();
        let late = plug.join().unwrap();
        assert!(Arc::ptr_eq(late.group(), &group));
        assert!(kernel_use(&late).is_err(), "I14");
        assert_consistent(&group);
        drop(claim);
        assert!(kernel_use(&late).is_ok());
    });
}

#[test]
fn claim_and_hot_remove() {
    explore("claim and hot-remove (Lt4.9)", || {
        let scene = Scene::new();
        let group = scene.group();
        let (iommu, leaving) = (scene.iommu.clone(), scene.members[1].clone());
        let unplug = thread::spawn(move || iommu.remove(&leaving));
        let claim = scene.members[1].claim(&Owner::new("iommufd"));
        unplug.join().unwrap();
        assert_eq!(group.ownership().is_held(), claim.is_ok(), "removal changes no count (I19)");
        assert_consistent(&group);
        drop(claim);
        assert_eq!(group.ownership(), Ownership::Idle);
        assert_consistent(&group);
    });
}

#[test]
fn type_change_and_a_use() {
    explore("type change and a use (It10.5)", || {
        let scene = Scene::new();
        let group = scene.group();
        let (iommu, changed) = (scene.iommu.clone(), group.clone());
        let identity = TypeRequest::Explicit(DefaultDomainType::Identity);
        let change = thread::spawn(move || iommu.set_default_domain_type(&changed, identity));
        let used = kernel_use(&scene.members[0]).unwrap();
        let before = group.default_domain_type();
        let change = change.join().unwrap();
        if change.is_err() {
            assert_eq!(group.default_domain_type(), Some(DefaultDomainType::Dma));
        }
        assert_eq!(group.default_domain_type(), before, "the type does not change under a user");
        assert_consistent(&group);
        drop(used);
    });
}

#[test]
fn attach_replace_and_release() {
    explore("attach, replace and a release", || {
        let scene = Scene::new();
        let group = scene.group();
        let owner = Owner::new("iommufd");
        let [first, second]: [Claim; 2] = scene.members.clone().map(|member| member.claim(&owner).unwrap());
        let domain = group.allocate_paging().unwrap();
        let other = group.allocate_paging().unwrap();
        let attach = thread::spawn(move || {
            let _ = first.attach(&domain);
        });
        let replace = thread::spawn(move || second.replace(&other).unwrap());
        attach.join().unwrap();
        replace.join().unwrap();
        assert_eq!(group.ownership(), Ownership::Idle, "both claims went with their threads");
        assert_consistent(&group);
    });
}
