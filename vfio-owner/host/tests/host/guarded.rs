//! What no plan may do, asked of the machine as it is when the plan is carried out.

use std::cell::Cell;

use tempfile::TempDir;
use vfio_host::{
    BindingError, Bindings, CheckedPlan, HeldFile, Holder, Holders, Host, Journal, ModelBindings, Plan, PlanError,
    PlanFileError,
};

use crate::altered::{Alteration, Altered};
use crate::layout::{address, host};

/// Something happens to the machine once a plan for it has been checked.
struct Later {
    then: Host,
    checked: Cell<bool>,
}

impl Alteration for Later {
    fn host(&self, machine: &dyn Bindings) -> Result<Host, BindingError> {
        if self.checked.replace(true) { Ok(self.then.clone()) } else { machine.host() }
    }
}

/// Carries out a plan for the disk of a machine that is another one by then; why it was not.
fn refused(then: impl FnOnce(&mut Host)) -> String {
    let found = host("proc\n00:01.0 root-port+acs>01 pcieport 1\n01:00.0 nvme nvme 2");
    let (inner, mut later) = (ModelBindings::of(&found), found.clone());
    then(&mut later);
    let bindings = Altered { machine: &inner, by: Later { then: later, checked: Cell::new(false) } };
    let plan = Plan::make(&found, &[address("01:00.0")], &[]).unwrap();
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path().join("journal")).unwrap();
    let error = CheckedPlan::new(&plan, &bindings).unwrap().carry_out(&journal, &mut |_| ()).unwrap_err();
    assert_eq!(inner.binding(address("01:00.0")).unwrap().driver.as_deref(), Some("nvme"), "{error}");
    error.to_string()
}

#[test]
fn a_device_that_a_process_has_by_now_is_not_unbound() {
    let holder = Holder { process: 7, name: "qemu".to_owned(), file: HeldFile::Group(2) };
    let error = refused(|host| host.holders = Holders::All(vec![holder]));
    assert!(error.contains("process 7 (qemu)"), "{error}");
}

#[test]
fn a_device_that_the_machine_lives_on_by_now_is_not_unbound() {
    let mounted = host("proc\n00:01.0 root-port+acs>01 pcieport 1\n01:00.0 nvme nvme 2 on=/data");
    let error = refused(|host| host.lifelines = mounted.lifelines);
    assert!(error.contains("/data is mounted from it"), "{error}");
}

#[test]
fn what_may_be_changed_is_named_device_by_device() {
    let host = host("proc\n00:17.0 sata ahci 4 on=/\n00:1f.0 nvme nvme 4 on=/srv");
    let [disk, other] = ["00:17.0", "00:1f.0"].map(address);
    let error = Plan::make(&host, &[disk], &[disk]).unwrap_err();
    let PlanError::Guarded { devices } = &error else { panic!("{error}") };
    assert_eq!(devices.iter().map(|guarded| guarded.device).collect::<Vec<_>>(), [other]);
    assert!(Plan::make(&host, &[disk], &[disk, other]).is_ok());
}

#[test]
fn a_name_that_no_driver_can_have_gets_into_no_plan() {
    for name in ["nvme\nrm -r", "../nvme", "-x", "$(x)"] {
        let mut host = host("proc\n00:01.0 root-port+acs>01 pcieport 1\n01:00.0 nvme nvme 2");
        for device in host.pci.devices.iter_mut().filter(|device| device.function.address == address("01:00.0")) {
            device.driver_override = Some(name.to_owned());
        }
        let error = Plan::make(&host, &[address("01:00.0")], &[]).unwrap_err();
        assert!(matches!(&error, PlanError::DriverName { name: told, .. } if told == name), "{error}");
    }
}

/// V60: no driver is taken from a physical function whose virtual functions would go with it.
#[test]
fn no_plan_removes_virtual_functions() {
    let layout =
        |vf: &str| format!("proc\n00:01.0 root-port>01 pcieport 1\n01:00.0 nic i40e 1\n01:00.1 nic i40e 1\n{vf}");
    let target = address("01:00.1");
    let error = Plan::make(&host(&layout("01:02.0 vf iavf 1 vf=01:00.0")), &[target], &[]).unwrap_err();
    assert_eq!(error, PlanError::LosesVirtualFunctions { device: address("01:00.0"), count: 1 });
    assert!(Plan::make(&host(&layout("")), &[target], &[]).is_ok());
}

#[test]
fn a_file_with_such_a_name_is_no_plan() {
    let host = host("proc\n00:06.0 nic i40e 2");
    let json = Plan::make(&host, &[address("00:06.0")], &[]).unwrap().to_json();
    assert!(Plan::from_json(&json).is_ok());
    let error = Plan::from_json(&json.replace("i40e", "../i40e")).unwrap_err();
    assert_eq!(error, PlanFileError::DriverName("../i40e".to_owned()));
}
