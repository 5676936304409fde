//! Applying and undoing plans.
//!
//! Before a device is changed, its binding is recorded in the journal on disk. Undoing restores what is still as it was
//! left; it may be interrupted and restarted.

use std::collections::BTreeSet;

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::binding::{Binding, BindingError, Bindings};
use super::identity::Identity;
use super::journal::{Entry, Journal, JournalError, Progress};
use super::outcome::{Done, ExecutionError, ExecutionFailure, UndoError, UndoFailure};
use super::plan::{CheckedPlan, Step, guard_unbind};

impl CheckedPlan<'_> {
    /// Applies the plan, and reports each step to `tell`. Records in the journal what [`undo`] needs. When a step
    /// fails, all changes are undone at once.
    ///
    /// Before each unbind it is checked again whether the host uses the device, and which processes have it open.
    ///
    /// # Errors
    /// Fails if the journal cannot be written or a step fails. Nothing has changed, unless the error says so.
    pub fn carry_out(self, journal: &Journal, tell: &mut dyn FnMut(Done)) -> Result<(), ExecutionError> {
        let mut records = self.records(journal).map_err(ExecutionError::NotBegun)?;
        let result = self.take_all(journal, &mut records, tell);
        let Err(cause) = result else { return Ok(()) };
        let mut failures = Vec::new();
        for record in records.iter().rev() {
            failures.extend(record.roll_back(journal, self.bindings, tell).err());
        }
        Err(match (cause, failures) {
            (Cause::NotBegun(error), failures) if failures.is_empty() => ExecutionError::NotBegun(error),
            (Cause::NotBegun(error), failures) => ExecutionError::HalfDone { cause: Box::new(error.into()), failures },
            (Cause::Failed(cause), failures) if failures.is_empty() => {
                ExecutionError::Undone { cause: Box::new(cause) }
            }
            (Cause::Failed(cause), failures) => ExecutionError::HalfDone { cause: Box::new(cause), failures },
        })
    }

    fn take_all(&self, journal: &Journal, records: &mut [Record], tell: &mut dyn FnMut(Done)) -> Result<(), Cause> {
        for record in &*records {
            journal.write(&record.entry).map_err(Cause::NotBegun)?;
        }
        for step in &self.plan.steps {
            self.take(step).map_err(|error| ExecutionFailure::Step { step: step.clone(), error })?;
            tell(Done::Step(step.clone()));
        }
        for record in records.iter_mut().filter(|record| record.entry.progress == Progress::Applying) {
            record.entry.progress = Progress::Applied;
            journal.write(&record.entry).map_err(ExecutionFailure::Journal)?;
        }
        Ok(())
    }

    fn take(&self, step: &Step) -> Result<(), BindingError> {
        if let Step::Unbind { device, .. } = step {
            let allowed = self.plan.allowed.iter().copied().collect();
            guard_unbind(&self.bindings.host()?, *device, &allowed)?;
        }
        step.take(self.bindings)?;
        check(step, self.bindings)
    }

    /// What the journal is to have of each device: those that are touched, and those of their groups that now have to stay
    /// as they are for these, too.
    fn records(&self, journal: &Journal) -> Result<Vec<Record>, JournalError> {
        let (entries, failures) = journal.entries()?;
        if let Some(failure) = failures.into_iter().next() {
            return Err(failure);
        }
        let targets: BTreeSet<PciAddress> = self.plan.devices.iter().copied().collect();
        let mut order = entries.last().map_or(0, |entry| entry.order);
        let (mut records, mut seen) = (Vec::new(), BTreeSet::new());
        let touched = self.plan.steps.iter().filter_map(Step::device);
        for device in touched.chain(self.plan.devices.iter().copied()).filter(|device| seen.insert(*device)) {
            let Some(found) = self.host.pci.device(device) else { continue };
            order = order.saturating_add(1);
            let now = Binding { driver: found.driver.clone(), driver_override: found.driver_override.clone() };
            let previous = entries.iter().find(|entry| entry.device == device);
            let fresh = Entry::new(device, Identity::of(found), order, now.clone());
            let mut entry = match previous {
                Some(previous) if previous.progress != Progress::Applied => {
                    return Err(JournalError::Interrupted { path: journal.path().into(), device });
                }
                // What was before the first plan is what undoing all of them restores.
                Some(previous) if previous.after == now && previous.identity.fits(&fresh.identity) => previous.clone(),
                _ => fresh,
            };
            entry.progress = Progress::Applying;
            entry.after = self.after(device, now.clone());
            entry.needed_by.extend(&targets);
            entry.allowed.extend(&self.plan.allowed);
            records.push(Record { entry, previous: previous.cloned(), found: Some(now) });
        }
        let groups: BTreeSet<u32> = targets.iter().filter_map(|target| self.host.pci.device(*target)?.group).collect();
        for previous in entries.iter().filter(|entry| !seen.contains(&entry.device)) {
            let group = self.host.pci.device(previous.device).and_then(|device| device.group);
            if group.is_some_and(|group| groups.contains(&group)) {
                let mut entry = previous.clone();
                entry.needed_by.extend(&targets);
                records.push(Record { entry, previous: Some(previous.clone()), found: None });
            }
        }
        Ok(records)
    }

    /// What the device is bound to when all steps are done.
    fn after(&self, device: PciAddress, mut binding: Binding) -> Binding {
        for step in self.plan.steps.iter().filter(|step| step.device() == Some(device)) {
            match step {
                Step::Load { .. } => {}
                Step::Override { driver, .. } => binding.driver_override = Some(driver.clone()),
                Step::Unbind { .. } => binding.driver = None,
                Step::Bind { driver, .. } => binding.driver = Some(driver.clone()),
            }
        }
        binding
    }
}

/// Why carrying out stopped, and whether a step had been taken.
enum Cause {
    NotBegun(JournalError),
    Failed(ExecutionFailure),
}

impl From<ExecutionFailure> for Cause {
    fn from(failure: ExecutionFailure) -> Self {
        Self::Failed(failure)
    }
}

/// An entry as it is to be, and what was there before.
struct Record {
    entry: Entry,
    previous: Option<Entry>,
    /// What the device was bound to; `None` if it is not touched.
    found: Option<Binding>,
}

impl Record {
    fn roll_back(
        &self,
        journal: &Journal,
        bindings: &dyn Bindings,
        tell: &mut dyn FnMut(Done),
    ) -> Result<(), UndoFailure> {
        let device = self.entry.device;
        if let Some(found) = &self.found {
            let entry = Entry { before: found.clone(), progress: Progress::Undoing, ..self.entry.clone() };
            let failed = |error| UndoFailure::Device { device, error };
            let was = bindings.binding(device).map_err(failed)?;
            let done = restore(entry, bindings, &mut |_| Ok(()))?;
            if was != *found {
                tell(done);
            }
        }
        match &self.previous {
            Some(previous) if journal.read(device).is_ok_and(|entry| entry == *previous) => {}
            Some(previous) => journal.write(previous)?,
            None => journal.remove(device)?,
        }
        Ok(())
    }
}

/// A write to sysfs can succeed and leave the device with no driver, or with another.
fn check(step: &Step, bindings: &dyn Bindings) -> Result<(), BindingError> {
    let Some(device) = step.device() else { return Ok(()) };
    let now = bindings.binding(device)?;
    let as_meant = match step {
        Step::Load { .. } => true,
        Step::Override { driver, .. } => now.driver_override.as_ref() == Some(driver),
        Step::Unbind { .. } => now.driver.is_none(),
        Step::Bind { driver, .. } => now.driver.as_ref() == Some(driver),
    };
    if as_meant { Ok(()) } else { Err(not_as_written(device, &now)) }
}

fn not_as_written(device: PciAddress, now: &Binding) -> BindingError {
    BindingError::new(device, format!("it was written, but the device is on {now}"))
}

/// Undoes what was applied for `devices`, or everything if `devices` is empty, last change first.
///
/// A device is restored when no other device of its group is assigned any more, so plans can be undone in any order.
/// What someone else has changed since is left alone; a device that is gone, or cannot be restored, does not prevent
/// others from being restored. Before each unbind it is checked again whether the host uses the device, and which
/// processes have it open. The journal's folder is removed with the last entry.
///
/// # Errors
/// Fails if a device is not in the journal, or could not be restored; the others were. The journal keeps what was not
/// restored.
pub fn undo(
    bindings: &dyn Bindings,
    journal: Journal,
    devices: &[PciAddress],
    tell: &mut dyn FnMut(Done),
) -> Result<(), UndoError> {
    let (mut entries, unreadable) = journal.entries()?;
    let mut failures: Vec<UndoFailure> = unreadable.into_iter().map(UndoFailure::Journal).collect();
    if entries.is_empty() && failures.is_empty() {
        let path = journal.path().to_path_buf();
        journal.remove_if_empty()?;
        return Err(JournalError::Missing { path }.into());
    }
    let known: BTreeSet<PciAddress> = entries.iter().map(|entry| entry.device).collect();
    let out: BTreeSet<PciAddress> = entries.iter().flat_map(|entry| entry.needed_by.iter().copied()).collect();
    if let Some(device) = devices.iter().find(|device| !out.contains(device)) {
        return Err(JournalError::NotOut { path: journal.path().into(), device: *device }.into());
    }
    for entry in entries.iter_mut().rev() {
        let needed_by = entry.needed_by.len();
        entry.needed_by.retain(|target| !devices.is_empty() && !devices.contains(target) && known.contains(target));
        let done = if entry.needed_by.is_empty() {
            restore_and_forget(entry, bindings, &journal)
        } else if entry.needed_by.len() < needed_by {
            let needed_by = entry.needed_by.iter().copied().collect();
            journal.write(entry).map(|()| Done::Kept { device: entry.device, needed_by }).map_err(Into::into)
        } else {
            continue;
        };
        match done {
            Ok(done) => tell(done),
            Err(failure) => failures.push(failure),
        }
    }
    journal.remove_if_empty()?;
    if failures.is_empty() { Ok(()) } else { Err(UndoError::Devices { failures }) }
}

fn restore_and_forget(entry: &Entry, bindings: &dyn Bindings, journal: &Journal) -> Result<Done, UndoFailure> {
    let done = restore(entry.clone(), bindings, &mut |entry| journal.write(entry))?;
    journal.remove(entry.device)?;
    Ok(done)
}

/// Restores the device of an entry, as far as it is still as it was left. `begin` is told before the first change.
fn restore(
    mut entry: Entry,
    bindings: &dyn Bindings,
    begin: &mut dyn FnMut(&Entry) -> Result<(), JournalError>,
) -> Result<Done, UndoFailure> {
    let device = entry.device;
    let failed = |error| UndoFailure::Device { device, error };
    if let Some(writer) = bindings.pending(device) {
        let waits = format!("process {writer} still waits for the kernel to change it");
        return Err(failed(BindingError::new(device, waits)));
    }
    let host = bindings.host().map_err(failed)?;
    let found = host.pci.device(device);
    if !found.is_some_and(|found| Identity::of(found).fits(&entry.identity)) {
        return Ok(Done::Gone { device });
    }
    let now = bindings.binding(device).map_err(failed)?;
    let mut wanted = Binding { driver: now.driver.clone(), driver_override: entry.before.driver_override.clone() };
    let is_as_left = entry.left_driver(&now);
    if is_as_left {
        wanted.driver.clone_from(&entry.before.driver);
    }
    if !entry.left_override(&now) {
        wanted.driver_override.clone_from(&now.driver_override);
    }
    if now != wanted {
        entry.progress = Progress::Undoing;
        entry.before = wanted.clone();
        begin(&entry)?;
        change(device, &now, &wanted, &entry.allowed, bindings).map_err(failed)?;
    }
    Ok(if is_as_left {
        Done::Restored { device, binding: wanted }
    } else {
        Done::LeftAlone { device, binding: wanted }
    })
}

impl Entry {
    /// Whether the driver is where a plan, or an interruption, left it.
    fn left_driver(&self, now: &Binding) -> bool {
        let interrupted = self.progress != Progress::Applied && now.driver.is_none();
        now.driver == self.after.driver || now.driver == self.before.driver || interrupted
    }

    /// Whether the override is what a plan, or an interruption, left.
    fn left_override(&self, now: &Binding) -> bool {
        let interrupted = self.progress == Progress::Undoing && now.driver_override.is_none();
        now.driver_override == self.after.driver_override
            || now.driver_override == self.before.driver_override
            || interrupted
    }
}

/// Brings a device from one binding to another. An override keeps every other driver from binding, so while the driver is
/// bound there is none, and it is written afterwards; but one by the name of the driver comes first, for it may be all that
/// makes that one match.
// D16, D19.
fn change(
    device: PciAddress,
    now: &Binding,
    wanted: &Binding,
    allowed: &BTreeSet<PciAddress>,
    bindings: &dyn Bindings,
) -> Result<(), BindingError> {
    let rebind = now.driver != wanted.driver;
    let mut driver_override = now.driver_override.clone();
    if let Some(driver) = now.driver.as_deref().filter(|_| rebind) {
        guard_unbind(&bindings.host()?, device, allowed)?;
        bindings.unbind(device, driver)?;
    }
    if let Some(driver) = wanted.driver.as_deref().filter(|_| rebind) {
        let while_bound = wanted.driver_override.clone().filter(|name| name == driver);
        if driver_override != while_bound {
            bindings.set_override(device, while_bound.as_deref())?;
            driver_override = while_bound;
        }
        bindings.bind(device, driver)?;
    }
    if driver_override != wanted.driver_override {
        bindings.set_override(device, wanted.driver_override.as_deref())?;
    }
    let reached = bindings.binding(device)?;
    if reached == *wanted { Ok(()) } else { Err(not_as_written(device, &reached)) }
}
