//! V3, V28, V35: devices that no IOMMU isolates.

use std::sync::Arc;

use vfio_owner::backend::{Backend, Extension};
use vfio_owner::iommu_core::device_model::platform::{PlatformBus, PlatformDevice};
use vfio_owner::iommu_core::device_model::{
    BoundTo, BusHandle, DeviceSpec, Driver, DriverCore, DriverManaged, Errno, ProbeError, Removal,
};
use vfio_owner::iommu_core::hardware::Endpoint;
use vfio_owner::iommu_core::{GroupId, IommuSubsystem};
use vfio_owner::type1::Type1;
use vfio_owner::uapi::File;
use vfio_owner::{DeviceOps, DeviceSetId, NoIommuMode, Registration, Vfio};

use crate::rig::{NIC, Program};

type Bus = PlatformBus<IommuSubsystem>;

#[derive(Debug)]
struct Plain;

impl DeviceOps for Plain {}

/// Hands devices to VFIO, which are served by these operations.
struct Giving(Arc<str>, Vfio, Arc<dyn DeviceOps>);

impl Driver<Bus> for Giving {
    type Dma = DriverManaged;

    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn probe(&self, dev: &mut BoundTo<'_, Bus, DriverManaged>) -> Result<(), ProbeError> {
        let registration = self.1.register(dev.device(), &DeviceSetId::Alone, self.2.clone());
        dev.manage(registration.map_err(|error| ProbeError::caused_by(error.errno(), error))?);
        Ok(())
    }

    fn remove(&self, dev: &mut BoundTo<'_, Bus, DriverManaged>, attempt: u32) -> Removal {
        dev.resource_mut::<Registration>().map_or(Removal::Done, |registration| registration.unregister(attempt))
    }
}

/// Devices A and B, in no group.
pub(crate) struct Bare {
    bus: BusHandle<Bus>,
    pub(crate) vfio: Vfio,
    _core: DriverCore,
}

impl Bare {
    fn new(mode: NoIommuMode) -> Self {
        Self::serving(mode, Arc::new(Plain))
    }

    pub(crate) fn serving(mode: NoIommuMode, ops: Arc<dyn DeviceOps>) -> Self {
        let (iommu, physical) = IommuSubsystem::builder(|_: &Endpoint| None).build();
        let core = DriverCore::new();
        let bus = core.add_bus(PlatformBus::new(iommu));
        let type1: Arc<dyn Backend> = Arc::new(Type1::new(&physical));
        let vfio = Vfio::with_no_iommu_mode([type1], mode);
        bus.add_driver(Arc::new(Giving("vfio".into(), vfio.clone(), ops))).unwrap();
        for name in ["A", "B"] {
            bus.add_device(DeviceSpec::new(name, PlatformDevice::default())).unwrap();
        }
        Self { bus, vfio, _core: core }
    }

    pub(crate) fn bind(&self, device: &str) -> Result<(), Errno> {
        self.bus.device(device).unwrap().set_driver_override(Some("vfio"));
        self.bus.sysfs().bind("vfio", device).map_err(|error| error.errno())
    }
}

#[test]
fn vt1_4_without_the_mode_they_are_not_registered() {
    let bare = Bare::new(NoIommuMode::Disabled);
    assert_eq!(bare.bind("A"), Err(Errno::EINVAL));
    assert_eq!(bare.vfio.no_iommu_groups(), []);
    assert_eq!(bare.vfio.open_container().check_extension(Extension::NO_IOMMU), 0);
}

#[test]
fn each_has_a_group_of_its_own_and_no_file() {
    let bare = Bare::new(NoIommuMode::Enabled);
    bare.bind("B").unwrap();
    bare.bind("A").unwrap();
    let ids = [0, 1].map(GroupId::new);
    assert_eq!(bare.vfio.no_iommu_groups(), ids);
    assert_eq!((bare.vfio.group_nodes(), bare.vfio.device_nodes()), (vec![], vec![]), "Vt1.8");
    assert_eq!(bare.vfio.open_group(ids[0]).unwrap_err().errno(), Errno::ENOENT);
    let group = bare.vfio.open_no_iommu_group(ids[0]).unwrap();
    assert!(group.iommu_group().is_none());
    assert_eq!(bare.vfio.open_no_iommu_group(ids[0]).unwrap_err().errno(), Errno::EBUSY);
    bare.bus.sysfs().unbind("vfio", "B").unwrap().wait();
    assert_eq!(group.status().unwrap_err().errno(), Errno::ENODEV);
    bare.bus.device("B").unwrap().set_driver_override(None);
    bare.bind("B").unwrap();
    assert_eq!(bare.vfio.no_iommu_groups(), ids, "the number is free again");
}

#[test]
fn a_container_in_no_iommu_mode_serves_nothing() {
    let bare = Bare::new(NoIommuMode::Enabled);
    bare.bind("A").unwrap();
    bare.bind("B").unwrap();
    let program = Program::with(&[NIC]);
    let group = program.open(File::Group(bare.vfio.open_no_iommu_group(GroupId::new(0)).unwrap()));
    let container = program.open(File::Container(bare.vfio.open_container()));
    let extension = |number| program.value(container, 101, number);
    assert_eq!((extension(8), extension(1)), (Ok(1), Ok(1)), "V57: empty, it can become either");
    assert_eq!(program.words(group, 103, &[8, 0]).unwrap()[1], 1, "viable");
    let set = || program.call(group, 104, &container.to_ne_bytes()).map(|_| ());
    program.privileged.set(false);
    assert_eq!(set(), Err(Errno::EPERM), "Vt7.1");
    program.privileged.set(true);
    assert_eq!(set(), Ok(()));
    assert_eq!((extension(8), extension(1)), (Ok(1), Ok(0)));
    let nic = program.group(NIC);
    assert_eq!(program.call(nic, 104, &container.to_ne_bytes()).map(|_| ()), Err(Errno::EPERM), "Vt7.2");
    let isolated = program.container();
    program.call(nic, 104, &isolated.to_ne_bytes()).unwrap();
    let also = program.open(File::Group(bare.vfio.open_no_iommu_group(GroupId::new(1)).unwrap()));
    assert_eq!(program.call(also, 104, &isolated.to_ne_bytes()).map(|_| ()), Err(Errno::EPERM), "Vt7.2");
    assert_eq!(program.value(isolated, 102, 8), Err(Errno::ENODEV), "Vt8.2");
    let device = || program.call(group, 106, b"A\0").map(|done| done.0);
    assert_eq!(device(), Err(Errno::EINVAL), "Vt6.8");
    assert_eq!(program.value(container, 102, 3), Err(Errno::ENODEV));
    program.privileged.set(false);
    assert_eq!(program.value(container, 102, 8), Err(Errno::EPERM), "V28");
    program.privileged.set(true);
    assert_eq!(program.value(container, 102, 8), Ok(0));
    for nr in [112, 113, 114, 117, 118] {
        assert_eq!(program.value(container, nr, 0), Err(Errno::ENOTTY), "V28: {nr}");
    }
    program.privileged.set(false);
    assert_eq!(device(), Err(Errno::EPERM), "Vt6.9");
    program.privileged.set(true);
    let device = device().unwrap();
    assert_eq!(program.words(device, 107, &[16]).unwrap()[1..4], [0, 0, 0]);
    assert_eq!(program.value(group, 105, 0), Err(Errno::EBUSY));
    program.close(device);
    assert_eq!(program.value(group, 105, 0), Ok(0));
    assert_eq!(program.value(container, 102, 8), Err(Errno::EINVAL), "no group any more");
    assert_eq!((extension(8), extension(1)), (Ok(1), Ok(1)));
}

#[test]
fn an_iommufd_is_for_one_kind() {
    let bare = Bare::new(NoIommuMode::Enabled);
    bare.bind("A").unwrap();
    let program = Program::with(&[NIC]);
    let group = program.open(File::Group(bare.vfio.open_no_iommu_group(GroupId::new(0)).unwrap()));
    let nic = program.group(NIC);
    let put = |group: i32, iommufd: i32| program.call(group, 104, &iommufd.to_ne_bytes()).map(|_| ());
    let [with, without] = [program.iommufd(), program.iommufd()];
    put(nic, with).unwrap();
    assert_eq!(put(group, with), Err(Errno::EINVAL), "Vt4.5");
    put(group, without).unwrap();
    program.value(nic, 105, 0).unwrap();
    assert_eq!(put(nic, without), Err(Errno::EINVAL));
    let device = program.call(group, 106, b"A\0").unwrap().0;
    assert_eq!(program.words(device, 107, &[16]).unwrap()[2], 0, "V35: nothing is bound or attached");
}

#[test]
fn vt7_2_a_container_has_groups_of_one_kind() {
    let bare = Bare::new(NoIommuMode::Enabled);
    bare.bind("A").unwrap();
    bare.bind("B").unwrap();
    let program = Program::with(&[NIC]);
    let groups = [0, 1].map(|id| bare.vfio.open_no_iommu_group(GroupId::new(id)).unwrap());
    let isolated = program.machine.open_group(NIC).unwrap();
    let container = program.machine.vfio().open_container();
    isolated.set_container(&container).unwrap();
    assert_eq!(groups[0].set_container(&container).unwrap_err().errno(), Errno::EPERM);
    isolated.unset_container().unwrap();
    for group in &groups {
        group.set_container(&container).unwrap();
    }
    assert_eq!(isolated.set_container(&container).unwrap_err().errno(), Errno::EPERM);
    groups[0].unset_container().unwrap();
    assert_eq!(isolated.set_container(&container).unwrap_err().errno(), Errno::EPERM, "one is left");
    groups[1].unset_container().unwrap();
    isolated.set_container(&container).unwrap();
}
