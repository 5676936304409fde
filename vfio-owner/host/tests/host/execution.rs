//! Plans carried out and undone, with the process killed at every single step in between.

use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use vfio_host::{
    Binding, BindingError, Bindings, CheckedPlan, Done, ExecutionError, ExecutionFailure, Host, HostTree, Journal,
    JournalError, ModelBindings, Plan, PlanError, Proof, Step, SysfsBindings, UndoError, UndoFailure,
};
use vfio_owner::iommu_core::device_model::pci::{ConfigSpace, PciAddress};
use vfio_owner::testbed;

use crate::altered::{Alteration, Altered, Change};
use crate::corpus::CASES;
use crate::disk::{Links, contents, lay};
use crate::layout::{address, host, tree};

/// Every plan of the corpus and of both machines that come along.
fn plans() -> Vec<(Host, Plan)> {
    let corpus = CASES.iter().map(|case| (host(case.table), case.give.split_whitespace().map(address).collect()));
    let embedded = [testbed::pc(), testbed::workstation()].map(Host::of_snapshot).into_iter().flat_map(|host| {
        let devices: Vec<PciAddress> = host.pci.devices.iter().map(|device| device.function.address).collect();
        devices.into_iter().map(move |device| (host.clone(), vec![device]))
    });
    let all = corpus.chain(embedded);
    all.filter_map(|(host, give): (Host, Vec<PciAddress>)| Some((host.clone(), Plan::make(&host, &give, &[]).ok()?)))
        .collect()
}

/// The process ends at one of the changes, or one is refused.
struct Mortal {
    left: Cell<u32>,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    KilledBefore,
    KilledAfter,
    Refused,
}

fn refused() -> BindingError {
    BindingError::Refused { at: "here".into(), reason: "refused".into() }
}

impl Alteration for Mortal {
    fn change(&self, _: Change, make: &dyn Fn() -> Result<(), BindingError>) -> Result<(), BindingError> {
        let last = self.left.get() == 0;
        self.left.set(self.left.get().wrapping_sub(1));
        match self.end {
            End::KilledBefore if last => resume_unwind(Box::new(Killed)),
            End::KilledAfter if last => {
                make()?;
                resume_unwind(Box::new(Killed))
            }
            End::Refused if last => Err(refused()),
            _ => make(),
        }
    }
}

/// A machine on which `at` changes come through before that.
fn mortal_at(machine: &dyn Bindings, at: u32, end: End) -> Altered<'_, Mortal> {
    Altered { machine, by: Mortal { left: Cell::new(at), end } }
}

fn state(host: &Host, bindings: &dyn Bindings) -> Vec<Binding> {
    host.pci.devices.iter().map(|device| bindings.binding(device.function.address).unwrap()).collect()
}

struct Killed;

fn carry_out(
    plan: &Plan,
    bindings: &dyn Bindings,
    journal: &Path,
    tell: &mut dyn FnMut(Done),
) -> Result<(), ExecutionError> {
    let checked = CheckedPlan::new(plan, bindings).unwrap();
    let journal = Journal::open(journal).map_err(ExecutionError::NotBegun)?;
    let result = checked.carry_out(&journal, tell);
    journal.remove_if_empty().unwrap();
    result
}

/// Undoes everything.
fn undo(bindings: &dyn Bindings, journal: &Path, tell: &mut dyn FnMut(Done)) -> Result<(), UndoError> {
    undo_some(bindings, journal, &[], tell)
}

fn undo_some(
    bindings: &dyn Bindings,
    journal: &Path,
    devices: &[PciAddress],
    tell: &mut dyn FnMut(Done),
) -> Result<(), UndoError> {
    vfio_host::undo(bindings, Journal::open_existing(journal)?, devices, tell)
}

/// Whether the process was killed; any other panic goes on.
fn dies(run: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(()) => false,
        Err(panic) if panic.is::<Killed>() => true,
        Err(panic) => resume_unwind(panic),
    }
}

#[test]
fn every_plan_ends_with_the_claim_and_its_undo_in_the_state_before() {
    let plans = plans();
    assert!(plans.len() > 50, "{}", plans.len());
    for (host, plan) in plans {
        let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
        let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
        let as_found = host.pci.devices.iter().map(|device| device.driver.clone());
        let modelled: Vec<_> = before.iter().map(|binding| binding.driver.clone()).collect();
        let renamed = |name: String| if name == "mlx5_vfio_pci" { "vfio-pci".to_owned() } else { name };
        assert_eq!(modelled, as_found.map(|driver| driver.map(renamed)).collect::<Vec<_>>());
        let mut done = 0;
        carry_out(&plan, &bindings, &journal, &mut |_| done += 1).unwrap();
        assert_eq!(done, plan.steps.len());
        Proof::of(bindings.machine(), &plan.devices).unwrap();
        undo(&bindings, &journal, &mut |_| ()).unwrap();
        assert_eq!(state(&host, &bindings), before);
        assert!(!journal.exists());
    }
}

/// Kills `run` at each of its changes in turn, on bindings that begin anew each time, until it comes through; undoes each
/// time, and kills that at each change as well.
fn killed_everywhere(host: &Host, plan: &Plan, fresh: impl Fn() -> Box<dyn Bindings>) {
    for end in [End::KilledBefore, End::KilledAfter] {
        for at in 0.. {
            let (bindings, folder) = (fresh(), TempDir::new().unwrap());
            let (journal, before) = (folder.path().join("journal"), state(host, &*bindings));
            let mortal = mortal_at(&*bindings, at, end);
            let killed = dies(|| carry_out(plan, &mortal, &journal, &mut |_| ()).unwrap());
            for at in 0.. {
                let mortal = mortal_at(&*bindings, at, end);
                if !journal.exists() || !dies(|| undo(&mortal, &journal, &mut |_| ()).unwrap()) {
                    break;
                }
            }
            assert_eq!(state(host, &*bindings), before, "killed at {at}: {plan:?}");
            assert!(!journal.exists());
            if !killed {
                break;
            }
        }
    }
}

#[test]
fn killed_at_every_step_it_is_undone_on_the_model() {
    for (host, plan) in plans() {
        killed_everywhere(&host, &plan, || Box::new(ModelBindings::of(&host)));
    }
}

#[test]
fn killed_at_every_step_it_is_undone_on_disk_to_the_byte() {
    // One kind of links or the other for each, for disks are slow.
    for (case, links) in CASES.iter().zip([Links::Symbolic, Links::Text].into_iter().cycle()) {
        let folder = lay(&tree(case.table), links);
        let copy = HostTree::copy(folder.path());
        let host = Host::of_tree(&copy).unwrap();
        let give: Vec<PciAddress> = case.give.split_whitespace().map(address).collect();
        let Ok(plan) = Plan::make(&host, &give, &[]) else { continue };
        let before = contents(folder.path());
        // The state of the disk is that before the run after every round.
        killed_everywhere(&host, &plan, || Box::new(SysfsBindings::new(&copy)));
        assert_eq!(contents(folder.path()), before, "{}, {links:?}", case.name);
    }
}

#[test]
fn a_step_that_is_refused_undoes_those_before_it() {
    for (host, plan) in plans() {
        for at in 0..u32::try_from(plan.steps.len()).unwrap() {
            let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
            let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
            let mortal = mortal_at(&bindings, at, End::Refused);
            let error = carry_out(&plan, &mortal, &journal, &mut |_| ()).unwrap_err();
            let ExecutionError::Undone { cause } = error else { panic!("{error}") };
            assert!(matches!(*cause, ExecutionFailure::Step { .. }), "{cause}");
            assert_eq!(state(&host, &bindings), before);
            assert!(!journal.exists());
        }
    }
}

fn companion() -> (Host, Plan) {
    let host = host(CASES.iter().find(|case| case.name == "companion audio").unwrap().table);
    let plan = Plan::make(&host, &[address("01:00.0")], &[]).unwrap();
    (host, plan)
}

/// The companion's machine with its card given away, and the folder that has the journal.
fn given_away() -> (ModelBindings, TempDir) {
    let (host, plan) = companion();
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    carry_out(&plan, &bindings, &folder.path().join("journal"), &mut |_| ()).unwrap();
    (bindings, folder)
}

/// A device that was given away is bound to another driver, by hand.
fn someone_binds(bindings: &ModelBindings, device: PciAddress, driver: &str) {
    bindings.unbind(device, "vfio-pci").unwrap();
    bindings.set_override(device, Some(driver)).unwrap();
    bindings.bind(device, driver).unwrap();
}

#[test]
fn an_entry_that_was_being_written_when_the_machine_stopped_does_not_count() {
    let (host, plan) = companion();
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
    let mortal = mortal_at(&bindings, 2, End::KilledBefore);
    assert!(dies(|| carry_out(&plan, &mortal, &journal, &mut |_| ()).unwrap()));
    fs::write(journal.join("0000:01:00.0.json.new"), "{\"journal\":2,\"dev").unwrap();
    undo(&bindings, &journal, &mut |_| ()).unwrap();
    assert_eq!(state(&host, &bindings), before);
    assert!(!journal.exists());
}

#[test]
fn one_process_at_a_time_has_the_journal() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("journal");
    let missing = Journal::open_existing(&path).unwrap_err();
    assert!(matches!(missing, JournalError::Missing { .. }), "{missing}");
    let first = Journal::open(&path).unwrap();
    let second = Journal::open(&path).unwrap_err();
    assert!(matches!(second, JournalError::InUse { .. }), "{second}");
    first.remove_if_empty().unwrap();
    assert!(!path.exists());
    Journal::open(&path).unwrap();
}

#[test]
fn a_journal_that_is_none_is_told_with_its_line_and_keeps_nothing_else_from_being_undone() {
    let (host, plan) = companion();
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
    carry_out(&plan, &bindings, &journal, &mut |_| ()).unwrap();
    let good = fs::read_to_string(journal.join("0000:01:00.0.json")).unwrap();
    for (name, text, line) in [
        ("0000:07:00.0.json", "nonsense\n".to_owned(), 1),
        ("0000:07:00.0.json", good.replace("\"journal\": 2", "\"journal\": 7"), 1),
        ("0000:07:00.0.json", good.clone(), 1),
        ("0000:01:00.0.json", good.replacen("vfio-pci", "../../x", 1), 1),
        ("0000:01:00.0.json", good.replace("\"order\": 2", "\"order\": \"x\""), 15),
    ] {
        let changed = journal.join(name);
        fs::write(&changed, &text).unwrap();
        let error = undo_some(&bindings, &journal, &[], &mut |_| ()).unwrap_err();
        let UndoError::Devices { failures } = &error else { panic!("{error}") };
        let [UndoFailure::Journal(JournalError::Malformed { path, line: told, .. })] = &failures[..] else {
            panic!("{error}")
        };
        assert_eq!((path, *told), (&changed, line), "{text}");
        fs::remove_file(&changed).unwrap();
        // The others were undone, and are out again for the next round.
        if name.starts_with("0000:07") {
            assert_eq!(state(&host, &bindings), before);
            carry_out(&plan, &bindings, &journal, &mut |_| ()).unwrap();
        } else {
            assert_eq!(bindings.binding(address("01:00.1")).unwrap().driver.as_deref(), Some("snd_hda_intel"));
            fs::write(&changed, &good).unwrap();
            undo(&bindings, &journal, &mut |_| ()).unwrap();
            carry_out(&plan, &bindings, &journal, &mut |_| ()).unwrap();
        }
    }
}

#[test]
fn a_journal_cannot_be_begun_where_there_is_no_folder() {
    let (host, plan) = companion();
    let (bindings, nowhere) = (ModelBindings::of(&host), Path::new("/nonexistent/journal"));
    let before = state(&host, &bindings);
    let error = carry_out(&plan, &bindings, nowhere, &mut |_| ()).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/journal: "), "{error}");
    assert_eq!(state(&host, &bindings), before);
}

/// Nothing can be written at a place where a folder is.
fn obstruct(journal: &Path, device: &str) {
    fs::create_dir_all(journal.join(format!("{device}.json.new"))).unwrap();
}

#[test]
fn a_failing_journal_leaves_the_machine_as_it_was() {
    let (host, plan) = companion();
    // It fails at once, at the second device, or when all is done.
    for (device, when) in [("0000:01:00.0", 0), ("0000:01:00.1", 0), ("0000:01:00.0", 3), ("0000:01:00.1", 1)] {
        let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
        let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
        let mut done = 0;
        if when == 0 {
            obstruct(&journal, device);
        }
        let checked = CheckedPlan::new(&plan, &bindings).unwrap();
        let opened = Journal::open(&journal).unwrap();
        let result = checked.carry_out(&opened, &mut |_| {
            done += 1;
            if done == when {
                obstruct(&journal, device);
            }
        });
        let error = result.unwrap_err();
        let told = if when == 0 { "; nothing was changed" } else { "; everything is as it was before" };
        assert!(error.to_string().ends_with(told), "{error}");
        assert_eq!(state(&host, &bindings), before, "{device} {when}");
        drop(opened);
        let nothing = undo(&bindings, &journal, &mut |_| ()).unwrap_err();
        assert!(matches!(nothing, UndoError::Journal(JournalError::Missing { .. })), "{nothing}");
    }
}

#[test]
fn a_plan_that_did_not_begin_and_cannot_be_forgotten_is_half_done() {
    /// The machine can be read once.
    struct Once(Cell<bool>);
    impl Alteration for Once {
        fn host(&self, machine: &dyn Bindings) -> Result<Host, BindingError> {
            if self.0.replace(true) { Err(refused()) } else { machine.host() }
        }
    }
    let (host, plan) = companion();
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
    let once = Altered { machine: &bindings, by: Once(Cell::new(false)) };
    let checked = CheckedPlan::new(&plan, &once).unwrap();
    obstruct(&journal, "0000:01:00.0");
    let error = checked.carry_out(&Journal::open(&journal).unwrap(), &mut |_| ()).unwrap_err();
    assert!(matches!(&error, ExecutionError::HalfDone { .. }), "{error}");
    assert_eq!(state(&host, &bindings), before);
}

#[test]
fn what_cannot_be_taken_back_is_said() {
    /// Refuses the bind, and the way back of the neighbour.
    struct Stubborn;
    impl Alteration for Stubborn {
        fn change(&self, change: Change, make: &dyn Fn() -> Result<(), BindingError>) -> Result<(), BindingError> {
            if change == Change::Bind { Err(refused()) } else { make() }
        }
    }
    let (host, plan) = companion();
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
    let error = carry_out(&plan, &Altered { machine: &bindings, by: Stubborn }, &journal, &mut |_| ()).unwrap_err();
    let ExecutionError::HalfDone { failures, .. } = &error else { panic!("{error}") };
    assert_eq!(failures.len(), 2, "{error}");
    assert!(error.to_string().contains("0000:01:00.1 was not restored: here: refused"), "{error}");
    // The journal still has them.
    undo(&bindings, &journal, &mut |_| ()).unwrap();
    assert_eq!(state(&host, &bindings), before);
}

const PAIR: &str = "
    proc
    00:01.0 root-port>01 pcieport 1
    01:00.0 vga nouveau 1
    01:00.1 audio snd_hda_intel 1
    01:00.2 usb xhci_hcd 1";

#[test]
fn plans_in_one_group_are_undone_in_any_order() {
    for order in [["01:00.0", "01:00.2"], ["01:00.2", "01:00.0"]] {
        let (host, folder) = (host(PAIR), TempDir::new().unwrap());
        let bindings = ModelBindings::of(&host);
        let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
        for device in ["01:00.0", "01:00.2"].map(address) {
            let now = bindings.host().unwrap();
            carry_out(&Plan::make(&now, &[device], &[]).unwrap(), &bindings, &journal, &mut |_| ()).unwrap();
        }
        let out = state(&host, &bindings);
        undo_some(&bindings, &journal, &[address(order[0])], &mut |done| {
            assert!(matches!(done, Done::Kept { .. }), "{done}");
        })
        .unwrap();
        // The other one can still be had: no member of the group is back on a kernel driver.
        assert_eq!(state(&host, &bindings), out);
        Proof::of(bindings.machine(), &[address(order[1])]).unwrap();
        let again = undo_some(&bindings, &journal, &[address(order[0])], &mut |_| ()).unwrap_err();
        assert!(matches!(again, UndoError::Journal(JournalError::NotOut { .. })), "{again}");
        undo_some(&bindings, &journal, &[address(order[1])], &mut |_| ()).unwrap();
        assert_eq!(state(&host, &bindings), before);
        assert!(!journal.exists());
    }
}

#[test]
fn a_second_plan_that_fails_leaves_what_the_first_one_gave() {
    let card = address("01:00.0");
    for at in 0.. {
        let (host, folder) = (host(PAIR), TempDir::new().unwrap());
        let bindings = ModelBindings::of(&host);
        let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
        carry_out(&Plan::make(&host, &[card], &[]).unwrap(), &bindings, &journal, &mut |_| ()).unwrap();
        let (given, written) = (state(&host, &bindings), contents(&journal));
        let both = Plan::make(&bindings.host().unwrap(), &[card, address("01:00.2")], &[]).unwrap();
        if at == both.steps.len() {
            break;
        }
        let refusing = mortal_at(&bindings, u32::try_from(at).unwrap(), End::Refused);
        let mut told = Vec::new();
        let error = carry_out(&both, &refusing, &journal, &mut |done| told.push(done)).unwrap_err();
        assert!(matches!(error, ExecutionError::Undone { .. }), "{error}");
        assert_eq!(told.is_empty(), at == 0, "{told:?}");
        assert_eq!(state(&host, &bindings), given, "refused at {at}");
        assert_eq!(contents(&journal), written, "refused at {at}");
        undo(&bindings, &journal, &mut |_| ()).unwrap();
        assert_eq!(state(&host, &bindings), before, "refused at {at}");
    }
}

#[test]
fn a_bind_that_is_written_and_does_not_happen_is_a_failed_step() {
    /// Says yes to the bind, and does nothing.
    struct Hollow;
    impl Alteration for Hollow {
        fn change(&self, change: Change, make: &dyn Fn() -> Result<(), BindingError>) -> Result<(), BindingError> {
            if change == Change::Bind { Ok(()) } else { make() }
        }
    }
    let host = host("proc\n00:01.0 root-port+acs>01 pcieport 1\n01:00.0 nvme - 2");
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
    let plan = Plan::make(&host, &[address("01:00.0")], &[]).unwrap();
    let error = carry_out(&plan, &Altered { machine: &bindings, by: Hollow }, &journal, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("it was written, but the device is on"), "{error}");
    assert_eq!(state(&host, &bindings), before);
}

#[test]
fn undo_of_one_device_says_nothing_of_another_group() {
    let host = host("proc\n00:06.0 nic - 2\n00:07.0 nic - 3");
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    let (journal, devices) = (folder.path().join("journal"), ["00:06.0", "00:07.0"].map(address));
    for device in devices {
        let plan = Plan::make(&bindings.host().unwrap(), &[device], &[]).unwrap();
        carry_out(&plan, &bindings, &journal, &mut |_| ()).unwrap();
    }
    let mut told = Vec::new();
    undo_some(&bindings, &journal, &devices[..1], &mut |done| told.push(done)).unwrap();
    assert!(matches!(&told[..], [Done::Restored { device, .. }] if *device == devices[0]), "{told:?}");
}

#[test]
fn what_was_interrupted_is_undone_before_another_plan() {
    let (host, plan) = companion();
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    let journal = folder.path().join("journal");
    let mortal = mortal_at(&bindings, 1, End::KilledAfter);
    assert!(dies(|| carry_out(&plan, &mortal, &journal, &mut |_| ()).unwrap()));
    let left = state(&host, &bindings);
    let again = Plan::make(&bindings.host().unwrap(), &plan.devices, &[]).unwrap();
    let error = carry_out(&again, &bindings, &journal, &mut |_| ()).unwrap_err();
    assert!(matches!(&error, ExecutionError::NotBegun(JournalError::Interrupted { .. })), "{error}");
    assert_eq!(state(&host, &bindings), left);
}

#[test]
fn a_device_that_someone_has_changed_goes_back_to_what_they_made_of_it() {
    let card = address("01:00.0");
    let (bindings, folder) = given_away();
    let journal = folder.path().join("journal");
    someone_binds(&bindings, card, "pci-stub");
    let theirs = bindings.binding(card).unwrap();
    let again = Plan::make(&bindings.host().unwrap(), &[card], &[]).unwrap();
    carry_out(&again, &bindings, &journal, &mut |_| ()).unwrap();
    undo(&bindings, &journal, &mut |_| ()).unwrap();
    assert_eq!(bindings.binding(card).unwrap(), theirs);
}

#[test]
fn undo_of_one_of_two_plans_is_taken_up_wherever_it_was_killed() {
    for end in [End::KilledBefore, End::KilledAfter] {
        for at in 0..8 {
            let (host, folder) = (host(PAIR), TempDir::new().unwrap());
            let bindings = ModelBindings::of(&host);
            let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
            let mut now = bindings.host().unwrap();
            carry_out(&Plan::make(&now, &[address("01:00.0")], &[]).unwrap(), &bindings, &journal, &mut |_| ())
                .unwrap();
            now = bindings.host().unwrap();
            let second = Plan::make(&now, &[address("01:00.2")], &[]).unwrap();
            let mortal = mortal_at(&bindings, at, end);
            dies(|| carry_out(&second, &mortal, &journal, &mut |_| ()).unwrap());
            for device in ["01:00.2", "01:00.0"].map(address) {
                undo_some(&bindings, &journal, &[device], &mut |_| ()).unwrap();
            }
            assert_eq!(state(&host, &bindings), before, "{end:?} {at}");
        }
    }
}

/// D16, D19: one override keeps the driver from binding, another is the only reason why it does.
#[test]
fn an_override_that_was_set_before_is_written_again_and_the_driver_bound() {
    for (driver, name) in [("nvme", "mine"), ("nvme", "nvme"), ("pci-stub", "pci-stub")] {
        let port = "proc\n00:01.0 root-port+acs>01 pcieport 1";
        let host = host(&format!("{port}\n01:00.0 nvme {driver} 2 override={name}"));
        let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
        let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
        let binding = Binding { driver: Some(driver.to_owned()), driver_override: Some(name.to_owned()) };
        assert_eq!(before[1], binding);
        let plan = Plan::make(&host, &[address("01:00.0")], &[]).unwrap();
        carry_out(&plan, &bindings, &journal, &mut |_| ()).unwrap();
        undo(&bindings, &journal, &mut |_| ()).unwrap();
        assert_eq!(state(&host, &bindings), before);
        killed_everywhere(&host, &plan, || Box::new(ModelBindings::of(&host)));
    }
}

#[test]
fn what_someone_else_has_changed_since_is_left_alone() {
    let (card, audio) = (address("01:00.0"), address("01:00.1"));
    let (bindings, folder) = given_away();
    let journal = folder.path().join("journal");
    someone_binds(&bindings, card, "pci-stub");
    let mut told = Vec::new();
    undo(&bindings, &journal, &mut |done| told.push(done)).unwrap();
    let alone = Binding { driver: Some("pci-stub".into()), driver_override: Some("pci-stub".into()) };
    assert!(told.contains(&Done::LeftAlone { device: card, binding: alone.clone() }), "{told:?}");
    assert_eq!(bindings.binding(card).unwrap(), alone);
    assert_eq!(bindings.binding(audio).unwrap().driver.as_deref(), Some("snd_hda_intel"));
    assert!(!journal.exists());
}

/// Without a driver it looks as an interrupted change does, but the plan was carried out to its end.
#[test]
fn a_device_that_someone_has_unbound_since_stays_without_a_driver() {
    let card = address("01:00.0");
    let (bindings, folder) = given_away();
    let journal = folder.path().join("journal");
    bindings.unbind(card, "vfio-pci").unwrap();
    let mut told = Vec::new();
    undo(&bindings, &journal, &mut |done| told.push(done)).unwrap();
    let alone = Binding { driver: None, driver_override: None };
    assert!(told.contains(&Done::LeftAlone { device: card, binding: alone.clone() }), "{told:?}");
    assert_eq!(bindings.binding(card).unwrap(), alone);
}

#[test]
fn a_device_that_has_gone_or_is_another_one_blocks_nothing() {
    let table = "proc\n00:01.0 root-port>01 pcieport 1\n01:00.0 vga nouveau 1\n01:00.1 audio snd_hda_intel 1";
    for instead in ["", "01:00.0 nvme vfio-pci 1 override=vfio-pci"] {
        let copy = lay(&tree(table), Links::Symbolic);
        let at = HostTree::copy(copy.path());
        let (bindings, journal) = (SysfsBindings::new(&at), copy.path().join("journal"));
        let plan = Plan::make(&Host::of_tree(&at).unwrap(), &[address("01:00.0")], &[]).unwrap();
        carry_out(&plan, &bindings, &journal, &mut |_| ()).unwrap();
        // The card is pulled, and perhaps another one plugged in.
        let later = format!("proc\n00:01.0 root-port>01 pcieport 1\n{instead}\n01:00.1 audio - 1");
        let later = lay(&tree(&later), Links::Symbolic);
        fs::create_dir_all(later.path().join("sys/bus/pci/drivers/snd_hda_intel")).unwrap();
        let at = HostTree::copy(later.path());
        let bindings = SysfsBindings::new(&at);
        let mut told = Vec::new();
        undo(&bindings, &journal, &mut |done| told.push(done)).unwrap();
        assert!(told.contains(&Done::Gone { device: address("01:00.0") }), "{told:?}");
        let audio = bindings.binding(address("01:00.1")).unwrap();
        assert_eq!(audio.driver.as_deref(), Some("snd_hda_intel"));
        if !instead.is_empty() {
            assert_eq!(bindings.binding(address("01:00.0")).unwrap().driver.as_deref(), Some("vfio-pci"));
        }
        assert!(!journal.exists());
    }
}

/// The configuration space of the companion's card, with a serial number at 0x104 and some bytes changed.
fn card_with(changes: &[(usize, u8)], length: usize) -> ConfigSpace {
    let (host, _) = companion();
    let mut bytes = host.pci.device(address("01:00.0")).unwrap().function.config.bytes();
    bytes.splice(0x100..0x10c, [0x03, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    for (at, byte) in changes {
        *bytes.get_mut(*at).unwrap() = *byte;
    }
    bytes.truncate(length);
    ConfigSpace::new(bytes)
}

#[test]
fn a_card_is_known_by_its_ids_class_and_serial_number_as_far_as_they_are_shown() {
    /// The card reads as this.
    struct Reads(ConfigSpace);
    impl Alteration for Reads {
        fn host(&self, machine: &dyn Bindings) -> Result<Host, BindingError> {
            let mut host = machine.host()?;
            let card = host.pci.devices.iter_mut().find(|device| device.function.address == address("01:00.0"));
            Arc::make_mut(&mut card.unwrap().function).config = self.0.clone();
            Ok(host)
        }
    }
    let serial = |byte: u8| (0x104..0x10c).map(|at| (at, byte)).collect::<Vec<_>>();
    for (what, later, same) in [
        ("as it was", card_with(&[], 4096), true),
        ("device id", card_with(&[(2, 1)], 4096), false),
        ("class", card_with(&[(11, 1)], 4096), false),
        ("serial number, low", card_with(&[(0x104, 9)], 4096), false),
        ("serial number, high", card_with(&[(0x10b, 9)], 4096), false),
        ("no serial number", card_with(&serial(0), 4096), true),
        ("no serial number, either", card_with(&serial(0xff), 4096), true),
        ("subsystem not shown", card_with(&[(0x2c, 0xff), (0x2d, 0xff)], 4096), true),
        ("capabilities not shown", card_with(&[], 64), true),
    ] {
        let (host, plan) = companion();
        let (model, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
        let (journal, before) = (folder.path().join("journal"), state(&host, &model));
        let reads = |config: ConfigSpace| Altered { machine: &model, by: Reads(config) };
        carry_out(&plan, &reads(card_with(&[], 4096)), &journal, &mut |_| ()).unwrap();
        let mut told = Vec::new();
        undo(&reads(later), &journal, &mut |done| told.push(done)).unwrap();
        assert_eq!(!told.contains(&Done::Gone { device: address("01:00.0") }), same, "{what}: {told:?}");
        assert_eq!(state(&host, &model) == before, same, "{what}");
    }
}

#[test]
fn undo_does_not_unbind_what_the_machine_lives_on_by_now() {
    // A disk on no driver is given away; then it is bound to its driver again and mounted, and the journal is old.
    let table =
        |driver: &str, more: &str| format!("proc\n00:01.0 root-port+acs>01 pcieport 1\n01:00.0 nvme {driver} 2 {more}");
    let copy = lay(&tree(&table("-", "")), Links::Symbolic);
    let at = HostTree::copy(copy.path());
    let journal = copy.path().join("journal");
    let plan = Plan::make(&Host::of_tree(&at).unwrap(), &[address("01:00.0")], &[]).unwrap();
    carry_out(&plan, &SysfsBindings::new(&at), &journal, &mut |_| ()).unwrap();
    let later = lay(&tree(&table("nvme", "override=vfio-pci on=/data")), Links::Symbolic);
    let bindings_later = HostTree::copy(later.path());
    let bindings_later = SysfsBindings::new(&bindings_later);
    let mut told = Vec::new();
    undo(&bindings_later, &journal, &mut |done| told.push(done)).unwrap();
    assert!(matches!(&told[..], [Done::LeftAlone { .. }]), "{told:?}");
    assert_eq!(bindings_later.binding(address("01:00.0")).unwrap().driver.as_deref(), Some("nvme"));

    // The driver that it was left on is in use by now, as one that is interrupted may be: refused, and kept.
    let copy = lay(&tree(&table("nvme", "")), Links::Symbolic);
    let at = HostTree::copy(copy.path());
    let plan = Plan::make(&Host::of_tree(&at).unwrap(), &[address("01:00.0")], &[]).unwrap();
    carry_out(&plan, &SysfsBindings::new(&at), &journal, &mut |_| ()).unwrap();
    let later = lay(&tree(&table("vfio-pci", "override=vfio-pci on=/data")), Links::Symbolic);
    let error = undo(&SysfsBindings::new(&HostTree::copy(later.path())), &journal, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("/data is mounted from it"), "{error}");
    assert!(journal.join("0000:01:00.0.json").exists());
    undo(&SysfsBindings::new(&at), &journal, &mut |_| ()).unwrap();
}

#[test]
fn a_forged_plan_is_refused_by_the_library() {
    let host = host("proc\n00:17.0 sata ahci 4 on=/\n00:01.0 root-port+acs>01 pcieport 1\n01:00.0 nvme nvme 2");
    let bindings = ModelBindings::of(&host);
    let good = Plan::make(&host, &[address("01:00.0")], &[]).unwrap();
    let unbind = |device: &str, driver: &str| Step::Unbind { device: address(device), driver: driver.into() };
    let forged = [
        Plan { steps: vec![unbind("00:17.0", "ahci")], ..good.clone() },
        Plan { steps: [good.steps.clone(), vec![unbind("00:17.0", "ahci")]].concat(), ..good.clone() },
        Plan { steps: good.steps.iter().rev().cloned().collect(), ..good.clone() },
        Plan { steps: Vec::new(), ..good.clone() },
    ];
    for plan in forged {
        let text = plan.to_json();
        let error = CheckedPlan::new(&Plan::from_json(&text).unwrap(), &bindings).unwrap_err();
        assert!(matches!(error, PlanError::Stale), "{error}: {text}");
    }
    let disk = Plan { devices: vec![address("00:17.0")], ..good.clone() };
    let error = CheckedPlan::new(&disk, &bindings).unwrap_err();
    assert!(matches!(error, PlanError::Guarded { .. }), "{error}");
    assert_eq!(CheckedPlan::new(&good, &bindings).unwrap().plan(), &good);
}

#[test]
fn what_the_kernel_has_not_answered_is_kept_until_it_has() {
    /// The kernel waits for someone at the first unbind, which is made when nobody looks any more.
    #[derive(Default)]
    struct Slow(Cell<Option<u32>>);
    impl Alteration for Slow {
        fn change(&self, change: Change, make: &dyn Fn() -> Result<(), BindingError>) -> Result<(), BindingError> {
            if change != Change::Unbind {
                return make();
            }
            let (writer, holders) = (8, vec!["process 7 (qemu)".to_owned()]);
            self.0.set(Some(writer));
            Err(BindingError::NoAnswer { at: "unbind".into(), seconds: 20, writer, holders })
        }
        fn pending(&self, device: PciAddress) -> Option<u32> {
            self.0.get().filter(|_| device == address("01:00.1"))
        }
    }
    let (host, plan) = companion();
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
    let slow = Altered { machine: &bindings, by: Slow::default() };
    let error = carry_out(&plan, &slow, &journal, &mut |_| ()).unwrap_err();
    assert!(matches!(error, ExecutionError::HalfDone { .. }), "{error}");
    assert!(error.to_string().contains("seems to wait for process 7 (qemu)"), "{error}");
    // It looks as if nothing had happened, and must not be forgotten.
    assert_eq!(state(&host, &bindings), before);
    let error = undo(&slow, &journal, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("process 8 still waits for the kernel"), "{error}");
    // Now it is answered.
    bindings.unbind(address("01:00.1"), "snd_hda_intel").unwrap();
    undo(&bindings, &journal, &mut |_| ()).unwrap();
    assert_eq!(state(&host, &bindings), before);
    assert!(!journal.exists());
}
