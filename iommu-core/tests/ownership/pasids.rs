//! Table It9, I22, I23, I67: PASIDs that a driver attaches.

use std::sync::Arc;

use iommu_core::address::Access;
use iommu_core::device_model::sync::SpinMutex;
use iommu_core::device_model::{DeviceId, Errno};
use iommu_core::error::{AttachError, ClaimError, SetTypeError, SwitchError, UseError};
use iommu_core::hardware::{
    DomainKind, Endpoint, EndpointProperties, FaultSink, HardwareDomain, HardwareError, IommuDriver, Paging,
};
use iommu_core::software::{Memory, Requester, SoftIommu, SoftIommuConfig};
use iommu_core::{
    Attached, DefaultDomainType, Domain, IommuSubsystem, KernelUse, Member, Owner, Ownership, TypeRequest,
    generic_single_device_group,
};

use crate::common::{BUFFER, USER_TEXT, World};
use crate::{GROUP, claim, in_the_way, kernel, names, refusal, removed, use_by};

/// PASIDs 1 to 15, and a domain for them.
fn world(devices: &[&str]) -> (World, Arc<Domain>) {
    let world = World::new(SoftIommuConfig { max_pasids: 16, ..SoftIommuConfig::default() });
    for device in devices {
        drop(world.plug(device));
    }
    let domain = world.user_domain(&world.group(devices[0])).unwrap();
    (world, domain)
}

/// Whether the device reaches the user's page through the PASID.
fn reaches(soft: &SoftIommu, memory: &Memory, device: DeviceId, pasid: u32) -> bool {
    let mut bytes = [0; 6];
    let requester = Requester { device, pasid: Some(pasid) };
    soft.dma_read(requester, BUFFER, &mut bytes, memory).is_ok() && bytes == USER_TEXT
}

/// Which devices reach the user's page through the PASID.
fn who_reaches(world: &World, pasid: u32) -> Vec<String> {
    let devices = world.bus.devices();
    let reaching = devices.iter().filter(|dev| reaches(&world.soft, &world.memory, dev.id(), pasid));
    reaching.map(|dev| dev.name().to_string()).collect()
}

/// I35: every device of the group, beside the default domain, until it is dropped; several at a time.
#[test]
fn a_pasid_reaches_for_all_devices_of_the_group() {
    let (world, domain) = world(&["a0", "a1", "b0"]);
    let first = world.member("a0").attach_pasid(&domain, 1).unwrap();
    let second = world.member("a1").attach_pasid(&domain, 15).unwrap();
    assert_eq!([first.pasid(), second.pasid()], [1, 15]);
    assert_eq!([1, 2, 15].map(|pasid| who_reaches(&world, pasid).len()), [2, 0, 2]);
    assert_eq!(world.group("a0").attached(), Attached::Default(DefaultDomainType::Dma));
    drop(first);
    assert_eq!([1, 15].map(|pasid| who_reaches(&world, pasid).len()), [0, 2]);
    drop(second);
    assert_eq!((who_reaches(&world, 15).len(), Arc::strong_count(&domain)), (0, 1));
}

/// It9.2, before all that follows.
#[test]
fn a_removed_device_has_no_pasids() {
    let (world, _) = world(&["a0", "a1", "b0'"]);
    let foreign = world.group("b0'").allocate_paging().unwrap();
    let (_, gone) = removed(&world, "a1");
    let error = refusal(&world, || gone.attach_pasid(&foreign, 0));
    assert_eq!((&error, error.errno()), (&AttachError::NoGroup { device: "a1".into() }, Errno::ENODEV));
}

/// It9.3, It9.4: each with the device that cannot.
#[test]
fn a_pasid_belongs_to_the_iommu_and_the_range() {
    let (world, domain) = world(&["a0", "a1", "b0'"]);
    let foreign = world.group("b0'").allocate_paging().unwrap();
    let error = refusal(&world, || world.member("a1").attach_pasid(&foreign, 1));
    assert_eq!(error, AttachError::Foreign { device: "a0".into(), iommu: "iommu1".into() });
    for pasid in [0, 16, u32::MAX] {
        let error = refusal(&world, || world.member("a0").attach_pasid(&domain, pasid));
        assert_eq!((&error, error.errno()), (&AttachError::PasidRange { pasid, device: "a0".into() }, Errno::EINVAL));
        assert_eq!(error.to_string(), format!("PASID {pasid} is out of the range of a0"));
        assert!(who_reaches(&world, pasid).is_empty());
    }
}

/// It9.5: in the whole group, even for the same domain; the first one stays.
#[test]
fn a_pasid_is_attached_once() {
    let (world, domain) = world(&["a0", "a1"]);
    let _first = world.member("a0").attach_pasid(&domain, 7).unwrap();
    let error = refusal(&world, || world.member("a1").attach_pasid(&domain, 7));
    assert_eq!((&error, error.errno()), (&AttachError::PasidAttached { pasid: 7, group: GROUP }, Errno::EBUSY));
    assert_eq!(error.to_string(), "PASID 7 of group 0 is attached already");
    assert_eq!(who_reaches(&world, 7), ["a0", "a1"]);
}

/// It9.7: the devices before the one that refuses lose it again, and the number is free.
#[test]
fn a_device_that_refuses_a_pasid_is_named() {
    let (world, domain) = world(&["a0", "a1", "a2"]);
    world.fail_nth(2);
    let error = refusal(&world, || world.member("a0").attach_pasid(&domain, 7));
    assert!(world.disarm());
    let cause = HardwareError::new(Errno::EIO, "on command");
    assert_eq!(error, AttachError::Switch(SwitchError { group: GROUP, device: "a2".into(), cause }));
    assert_eq!((error.errno(), who_reaches(&world, 7).len()), (Errno::EIO, 0));
    assert!(world.group("a0").claim(&Owner::new("vm")).is_ok(), "no trace of it is left");
    let _again = world.member("a0").attach_pasid(&domain, 7).unwrap();
}

/// Where we differ from Linux (I29, I67): not in a group that user space owns.
#[test]
fn an_owner_keeps_pasids_out() {
    let (world, domain) = world(&["a0"]);
    let claim = claim(&world, "a0");
    let error = refusal(&world, || world.member("a0").attach_pasid(&domain, 1));
    let holder = claim.group().ownership().owner().cloned().unwrap();
    assert_eq!((&error, error.errno()), (&AttachError::Owned { group: GROUP, holder }, Errno::EBUSY));
}

/// I67, It4.1, It10.5: claims and changes of type are kept out, whoever is counted.
#[test]
fn a_pasid_keeps_others_out() {
    let (world, domain) = world(&["a0", "a1"]);
    let group = world.group("a0");
    let pasid = world.member("a0").attach_pasid(&domain, 1).unwrap();
    let error = refusal(&world, || group.claim(&Owner::new("vm")));
    assert_eq!(error, ClaimError::DomainInUse { group: GROUP, devices: names(&["a0", "a1"]) });
    assert_eq!(refusal(&world, || world.member("a1").claim(&Owner::new("vm"))), error);
    let identity = TypeRequest::Explicit(DefaultDomainType::Identity);
    let error = refusal(&world, || world.iommu.set_default_domain_type(&group, identity));
    assert_eq!((&error, error.errno()), (&SetTypeError::DomainInUse { group: GROUP }, Errno::EBUSY));
    drop(pasid);
    assert_eq!(world.iommu.set_default_domain_type(&group, identity), Ok(()));
    assert!(group.claim(&Owner::new("vm")).is_ok());
}

/// I22, It2.3, It2.5, T30: with nobody counted it is not looked at; the second driver is refused.
#[test]
fn a_pasid_keeps_the_drivers_of_siblings_out() {
    let (world, domain) = world(&["a0", "a1"]);
    let pasid = world.member("a0").attach_pasid(&domain, 1).unwrap();
    let _use = use_by(&world, "a0", "gpu");
    let error = refusal(&world, || KernelUse::begin(world.member("a1"), &"disk".into()));
    assert_eq!(error, UseError::DomainInUse { group: GROUP, devices: in_the_way(&[("a0", "gpu")]) });
    assert_eq!(error.errno(), Errno::EBUSY);
    drop(pasid);
    let _other = use_by(&world, "a1", "disk");
    assert_eq!(world.group("a0").ownership(), kernel(2));
}

/// Where we differ from Linux (I23, It3.2): no count leaks; the PASID alone keeps claims out.
#[test]
fn a_use_that_ends_before_its_pasid_is_over() {
    let (world, domain) = world(&["a0"]);
    let group = world.group("a0");
    let kernel_use = use_by(&world, "a0", "gpu");
    let pasid = world.member("a0").attach_pasid(&domain, 1).unwrap();
    drop(kernel_use);
    assert_eq!(group.ownership(), Ownership::Idle);
    let error = refusal(&world, || group.claim(&Owner::new("vm")));
    assert_eq!(error, ClaimError::DomainInUse { group: GROUP, devices: names(&["a0"]) });
    drop(pasid);
    assert!(group.claim(&Owner::new("vm")).is_ok());
}

/// I18: a device that leaves loses its PASIDs; those that stay keep them, and one that comes has none of them.
#[test]
fn devices_come_and_go_beside_a_pasid() {
    let (world, domain) = world(&["a0", "a1"]);
    let pasid = world.member("a0").attach_pasid(&domain, 1).unwrap();
    let (gone, _) = removed(&world, "a0");
    drop(world.plug("a2"));
    assert!(!reaches(&world.soft, &world.memory, gone.id(), 1));
    assert_eq!(who_reaches(&world, 1), ["a1"]);
    let error = refusal(&world, || world.group("a1").claim(&Owner::new("vm")));
    assert_eq!(error, ClaimError::DomainInUse { group: GROUP, devices: names(&["a1", "a2"]) });
    drop(pasid);
    assert!(who_reaches(&world, 1).is_empty());
    assert!(world.group("a1").claim(&Owner::new("vm")).is_ok());
}

/// How many PASIDs a device has is the number that its name begins with. Remembers what goes.
#[derive(Debug)]
struct Uneven {
    soft: Arc<SoftIommu>,
    gone: Arc<SpinMutex<Vec<String>>>,
}

impl IommuDriver for Uneven {
    fn name(&self) -> &str {
        self.soft.name()
    }
    fn probe(&self, dev: &Endpoint, faults: Arc<dyn FaultSink>) -> Result<EndpointProperties, HardwareError> {
        let max_pasids = dev.name.split(' ').next().unwrap().parse().unwrap();
        Ok(EndpointProperties { max_pasids, ..self.soft.probe(dev, faults)? })
    }
    fn release(&self, dev: &Endpoint) {
        self.gone.lock().push(format!("{} is released", dev.name));
        self.soft.release(dev);
    }
    fn allocate(&self, kind: DomainKind, dev: &Endpoint) -> Result<Box<dyn HardwareDomain>, HardwareError> {
        Ok(Box::new(Remembering { inner: self.soft.allocate(kind, dev)?, gone: self.gone.clone() }))
    }
    fn block(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        self.soft.block(dev)
    }
}

#[derive(Debug)]
struct Remembering {
    inner: Box<dyn HardwareDomain>,
    gone: Arc<SpinMutex<Vec<String>>>,
}

impl HardwareDomain for Remembering {
    fn attach(&self, dev: &Endpoint) -> Result<(), HardwareError> {
        self.inner.attach(dev)
    }
    fn attach_pasid(&self, dev: &Endpoint, pasid: u32) -> Result<(), HardwareError> {
        self.inner.attach_pasid(dev, pasid)
    }
    fn detach_pasid(&self, dev: &Endpoint, pasid: u32) {
        self.gone.lock().push(format!("{} loses {pasid}", dev.name));
        self.inner.detach_pasid(dev, pasid);
    }
    fn paging(&self) -> Option<&dyn Paging> {
        self.inner.paging()
    }
}

/// It9.4: the tightest device counts, but not one without PASIDs; that one is left alone, and can attach none.
#[test]
fn the_tightest_device_with_pasids_counts() {
    let soft = SoftIommu::new("soft", SoftIommuConfig { max_pasids: 16, ..SoftIommuConfig::default() });
    let gone = Arc::new(SpinMutex::new(Vec::new()));
    let hardware: Arc<dyn IommuDriver> = Arc::new(Uneven { soft: soft.clone(), gone: gone.clone() });
    let shared = hardware.clone();
    let (iommu, right) =
        IommuSubsystem::builder(move |_: &Endpoint| Some(generic_single_device_group(&shared))).build();
    let names = ["16 many", "0 none", "4 few"];
    let [many, none, few]: [Arc<Member>; 3] = [0, 1, 2].map(|n| {
        let endpoint = Endpoint::new(DeviceId::new(n + 1), names[usize::try_from(n).unwrap()]);
        iommu.add_device(&endpoint).unwrap().unwrap()
    });
    let domain = many.group().allocate_paging().unwrap();
    domain.map(&right, BUFFER, crate::common::USER_PAGE, 0x1000, Access::ReadWrite).unwrap();
    let memory = Memory::new();
    memory.write(crate::common::USER_PAGE, &USER_TEXT);
    let error = many.attach_pasid(&domain, 4).unwrap_err();
    assert_eq!(error, AttachError::PasidRange { pasid: 4, device: "4 few".into() });
    let error = none.attach_pasid(&domain, 3).unwrap_err();
    assert_eq!(error, AttachError::PasidRange { pasid: 3, device: "0 none".into() });
    let pasid = many.attach_pasid(&domain, 3).unwrap();
    let reaching = [&many, &none, &few].map(|member| reaches(&soft, &memory, member.device(), 3));
    assert_eq!(reaching, [true, false, true]);
    // I18: a device loses its PASIDs before its IOMMU lets it go, those without have none to lose, and no one twice.
    iommu.remove(&few);
    drop(pasid);
    assert_eq!(*gone.lock(), ["4 few loses 3", "4 few is released", "16 many loses 3"]);
}
