//! `vfio-host plan`, `apply`, `undo`

use std::fmt::Write as _;
use std::io::{Write as _, read_to_string, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;
use vfio_host::{
    CheckedPlan, Done, Explanation, Guarded, Host, HostTree, Journal, Plan, PlanError, Reason, Selector, Source,
    SysfsBindings, undo,
};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use crate::output::{DOUBT, Format, GOOD, Outcome, complain, plain, plain_json, print, print_json, print_text, say};
use crate::selection::select;

#[derive(clap::Args)]
pub(crate) struct Make {
    /// The devices that user space is to have: address (01:00.0), a whole card (01:00), a whole group (group:4), ids, interface,
    /// disk or class
    #[arg(required = true)]
    devices: Vec<Selector>,
    /// Touch this device although the host uses it (may be repeated)
    #[arg(long, value_name = "DEVICE")]
    allow: Vec<Selector>,
    /// Print a shell script
    #[arg(long, conflicts_with = "json")]
    script: bool,
}

#[derive(clap::Args)]
pub(crate) struct Apply {
    /// What `plan --json` printed; `-` for standard input
    plan: PathBuf,
    #[command(flatten)]
    journal: JournalFolder,
}

#[derive(clap::Args)]
pub(crate) struct Undo {
    /// The devices to give back, named as for `plan`; everything that was applied if none is named
    devices: Vec<PciAddress>,
    #[command(flatten)]
    journal: JournalFolder,
}

#[derive(clap::Args)]
struct JournalFolder {
    /// Where the journal is, from which `undo` works [default: /run/vfio-host.journal, or in DIR of `--sysfs DIR`]
    #[arg(long, value_name = "FOLDER")]
    journal: Option<PathBuf>,
}

impl JournalFolder {
    /// What was bound does not outlive the running kernel, and neither does `/run`.
    fn path(&self, tree: &HostTree) -> PathBuf {
        self.journal.clone().unwrap_or_else(|| match tree.source() {
            Source::Live => PathBuf::from("/run/vfio-host.journal"),
            _ => tree.sysfs().join("vfio-host.journal"),
        })
    }
}

impl Make {
    pub(crate) fn run(&self, host: &Host, format: Format) -> Result<Outcome> {
        let devices = select(host, &self.devices)?;
        let plan = match Plan::make(host, &devices, &select(host, &self.allow)?) {
            Ok(plan) => plan,
            Err(error) => return refuse(&error, format),
        };
        let in_doubt = in_doubt(host, &devices)?;
        if format == Format::Json {
            print(&(plain_json(&plan.to_json()) + "\n"))?;
        } else if self.script {
            print(&plan.to_script(host))?;
        } else {
            print_text(&text(&plan, in_doubt.as_ref())?)?;
        }
        Ok(if in_doubt.is_none() { Outcome::Possible } else { Outcome::Unknown })
    }
}

/// What no step clears and what may be in the way all the same.
fn in_doubt(host: &Host, devices: &[PciAddress]) -> Result<Option<Reason>> {
    let explanations = Explanation::of_each(host, devices)?;
    let mut reasons = explanations.iter().flat_map(|explanation| &*explanation.by_group.reasons);
    Ok(reasons.find(|reason| **reason == Reason::PerhapsHeld).cloned())
}

fn text(plan: &Plan, in_doubt: Option<&Reason>) -> Result<String> {
    let mut out = String::new();
    for caution in &plan.cautions {
        writeln!(out, "{DOUBT}note:{DOUBT:#} {caution}")?;
    }
    match (plan.steps.is_empty(), in_doubt) {
        (true, None) => writeln!(out, "nothing to do: it is possible already")?,
        (true, Some(reason)) => writeln!(out, "nothing to do, unless it is in use already: {reason}")?,
        (false, _) => {}
    }
    for (number, step) in (1..).zip(&plan.steps) {
        writeln!(out, "{number}. {step}")?;
    }
    Ok(out)
}

pub(crate) fn refuse(error: &PlanError, format: Format) -> Result<Outcome> {
    #[derive(Serialize)]
    struct Refusal<'a> {
        message: String,
        /// What the machine lives on and would have to be named.
        guarded: &'a [Guarded],
    }
    let guarded: &[Guarded] = if let PlanError::Guarded { devices } = error { devices } else { &[] };
    if format == Format::Json {
        print_json("error", &Refusal { message: error.to_string(), guarded })?;
    } else {
        complain("no plan", &anyhow::anyhow!("{error}"), format);
        if !guarded.is_empty() {
            let allow: Vec<String> = guarded.iter().map(|guarded| format!("--allow {}", guarded.device)).collect();
            say(&format!("If that is meant, say so: {}", allow.join(" ")));
        }
    }
    Ok(match error {
        PlanError::NoSuchDevice(_)
        | PlanError::NotShown { .. }
        | PlanError::DriverName { .. }
        | PlanError::Unreadable(_) => Outcome::Unknown,
        _ => Outcome::NotPossible,
    })
}

impl Apply {
    pub(crate) fn run(&self, tree: &HostTree, format: Format) -> Result<Outcome> {
        let plan = read_plan(&self.plan)?;
        let bindings = SysfsBindings::new(tree);
        let checked = match CheckedPlan::new(&plan, &bindings) {
            Ok(checked) => checked,
            Err(error) => return refuse(&error, format),
        };
        if checked.plan().steps.is_empty() {
            return Ok(Outcome::Possible);
        }
        let journal = match Journal::open(self.journal.path(tree)) {
            Ok(journal) => journal,
            Err(error) => return Ok(finish(Err(error.into()), format)),
        };
        let done = checked.carry_out(&journal, &mut |done| tell(&done, format));
        if done.is_err() {
            // Nothing is left to be undone, or the folder stays.
            let _ = journal.remove_if_empty();
        }
        Ok(finish(done.map_err(Into::into), format))
    }
}

impl Undo {
    pub(crate) fn run(&self, tree: &HostTree, format: Format) -> Outcome {
        let journal = Journal::open_existing(self.journal.path(tree)).map_err(anyhow::Error::from);
        let undone = journal.and_then(|journal| {
            let bindings = SysfsBindings::new(tree);
            Ok(undo(&bindings, journal, &self.devices, &mut |done| tell(&done, format))?)
        });
        finish(undone, format)
    }
}

/// What was tried and failed is no bad input.
fn finish(done: Result<()>, format: Format) -> Outcome {
    done.map_or_else(
        |error| {
            complain("failed", &error, format);
            Outcome::NotPossible
        },
        |()| Outcome::Possible,
    )
}

/// Each step as it is done, as a line: whoever reads this may be waiting for the next. If nobody reads it, the plan goes on.
fn tell(done: &Done, format: Format) {
    let line = match format {
        Format::Json => plain_json(&serde_json::to_string(done).unwrap_or_default()),
        Format::Text => plain(&format!("{GOOD}done:{GOOD:#} {done}")),
    };
    let _ = writeln!(anstream::stdout(), "{line}");
}

fn read_plan(path: &Path) -> Result<Plan> {
    let text = if path == Path::new("-") { read_to_string(stdin()) } else { std::fs::read_to_string(path) };
    let text = text.with_context(|| path.display().to_string())?;
    Plan::from_json(&text).with_context(|| path.display().to_string())
}
