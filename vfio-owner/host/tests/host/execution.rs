//! Plans carried out and undone, with the process killed at every single step in between.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use tempfile::TempDir;
use vfio_host::{
    Binding, BindingError, Bindings, ExecutionError, Host, HostTree, JournalError, ModelBindings, Plan, Proof,
    SysfsBindings, UndoError, carry_out, undo,
};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::testbed;

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

/// Bindings that end with their process at one of the changes, or refuse one.
struct Mortal<'a> {
    inner: &'a dyn Bindings,
    left: Cell<u32>,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    KilledBefore,
    KilledAfter,
    Refused,
}

impl Mortal<'_> {
    fn change(&self, change: impl FnOnce() -> Result<(), BindingError>) -> Result<(), BindingError> {
        let last = self.left.get() == 0;
        self.left.set(self.left.get().wrapping_sub(1));
        match self.end {
            End::KilledBefore if last => resume_unwind(Box::new(Killed)),
            End::KilledAfter if last => {
                change()?;
                resume_unwind(Box::new(Killed))
            }
            End::Refused if last => Err(BindingError { at: "here".into(), reason: "refused".into() }),
            _ => change(),
        }
    }
}

impl Bindings for Mortal<'_> {
    fn binding(&self, device: PciAddress) -> Result<Binding, BindingError> {
        self.inner.binding(device)
    }

    fn load(&self, driver: &str) -> Result<(), BindingError> {
        self.change(|| self.inner.load(driver))
    }

    fn set_override(&self, device: PciAddress, driver: Option<&str>) -> Result<(), BindingError> {
        self.change(|| self.inner.set_override(device, driver))
    }

    fn unbind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError> {
        self.change(|| self.inner.unbind(device, driver))
    }

    fn bind(&self, device: PciAddress, driver: &str) -> Result<(), BindingError> {
        self.change(|| self.inner.bind(device, driver))
    }
}

fn state(host: &Host, bindings: &dyn Bindings) -> Vec<Binding> {
    host.pci.devices.iter().map(|device| bindings.binding(device.function.address).unwrap()).collect()
}

struct Killed;

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
            let mortal = Mortal { inner: &*bindings, left: Cell::new(at), end };
            let killed = dies(|| carry_out(plan, &mortal, &journal, &mut |_| ()).unwrap());
            for at in 0.. {
                let mortal = Mortal { inner: &*bindings, left: Cell::new(at), end };
                if !dies(|| undo(&mortal, &journal, &mut |_| ()).unwrap()) {
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
    for case in CASES {
        let tree = tree(case.table);
        for links in [Links::Symbolic, Links::Text] {
            let folder = lay(&tree, links);
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
}

#[test]
fn a_step_that_is_refused_undoes_those_before_it() {
    for (host, plan) in plans() {
        for at in 0..u32::try_from(plan.steps.len()).unwrap() {
            let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
            let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
            let mortal = Mortal { inner: &bindings, left: Cell::new(at), end: End::Refused };
            let error = carry_out(&plan, &mortal, &journal, &mut |_| ()).unwrap_err();
            assert!(matches!(error, ExecutionError::Step { .. }), "{error}");
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

#[test]
fn a_line_that_was_being_written_when_the_machine_stopped_does_not_count() {
    let (host, plan) = companion();
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    let (journal, before) = (folder.path().join("journal"), state(&host, &bindings));
    // Killed before the card is touched, which its neighbour has been.
    let mortal = Mortal { inner: &bindings, left: Cell::new(2), end: End::KilledBefore };
    assert!(dies(|| carry_out(&plan, &mortal, &journal, &mut |_| ()).unwrap()));
    let whole = std::fs::read(&journal).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for cut in last..whole.len() {
        std::fs::write(&journal, &whole[..cut]).unwrap();
        undo(&bindings, &journal, &mut |_| ()).unwrap();
        assert_eq!(state(&host, &bindings), before);
    }
}

#[test]
fn one_plan_is_carried_out_at_a_time() {
    let (host, plan) = companion();
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    let journal = folder.path().join("journal");
    let nothing = undo(&bindings, &journal, &mut |_| ()).unwrap_err();
    assert!(matches!(nothing, UndoError::Journal(JournalError::Missing { .. })), "{nothing}");
    carry_out(&plan, &bindings, &journal, &mut |_| ()).unwrap();
    let second = carry_out(&plan, &bindings, &journal, &mut |_| ()).unwrap_err();
    assert!(matches!(second, ExecutionError::Journal(JournalError::Exists { .. })), "{second}");
    undo(&bindings, &journal, &mut |_| ()).unwrap();
}

#[test]
fn a_journal_that_is_none_is_told_with_its_line() {
    let (host, _) = companion();
    let (bindings, folder) = (ModelBindings::of(&host), TempDir::new().unwrap());
    let journal = folder.path().join("journal");
    let head = "{\"journal\":1,\"devices\":[]}\n";
    for (text, line) in [
        ("nonsense\n".to_owned(), 1),
        ("{\"journal\":7,\"devices\":[]}\n".to_owned(), 1),
        (format!("{head}{{}}\n"), 2),
        (format!("{head}{{\"device\":\"x\",\"driver\":null,\"driver_override\":null}}\n"), 2),
        (format!("{head}{{\"device\":\"0000:01:00.0\",\"driver\":\"../../x\",\"driver_override\":null}}\n"), 2),
    ] {
        std::fs::write(&journal, &text).unwrap();
        let error = undo(&bindings, &journal, &mut |_| ()).unwrap_err();
        let UndoError::Journal(JournalError::Malformed { line: told, .. }) = error else { panic!("{error}") };
        assert_eq!(told, line, "{text}");
        assert!(journal.exists());
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
