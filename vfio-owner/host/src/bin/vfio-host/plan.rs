//! `vfio-host plan`, `apply`, `undo`

use std::fmt::Write as _;
use std::io::{Write as _, read_to_string, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;
use vfio_host::{
    CheckedPlan, Done, Extent, Guarded, Host, HostTree, Journal, Plan, PlanError, Source, SysfsBindings, undo,
};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use crate::output::{BAD, DOUBT, Format, GOOD, Outcome, plain, plain_json, print, print_json, say};

#[derive(clap::Args)]
pub(crate) struct Make {
    /// The devices that user space is to have
    #[arg(required = true)]
    devices: Vec<PciAddress>,
    /// Give away more than the devices, so that no driver takes it back
    #[arg(long, value_name = "WHAT", value_enum, default_value = "device")]
    whole: Whole,
    /// Touch this device although the machine lives on it (may be given again)
    #[arg(long, value_name = "DEVICE")]
    allow: Vec<PciAddress>,
    /// Print a shell script
    #[arg(long, conflicts_with = "json")]
    script: bool,
}

/// [`Extent`], as it is typed.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Whole {
    /// Only the devices; others of their groups leave their drivers if they have to
    Device,
    /// Every function of their cards
    Card,
    /// Everything in their groups that vfio-pci takes
    Group,
}

impl From<Whole> for Extent {
    fn from(whole: Whole) -> Self {
        match whole {
            Whole::Device => Self::Device,
            Whole::Card => Self::Card,
            Whole::Group => Self::Group,
        }
    }
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
    /// The devices that user space has no more, as they were planned; everything if none is named
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
        let devices = Extent::from(self.whole).of(host, &self.devices).map_err(PlanError::from);
        let plan = match devices.and_then(|devices| Plan::make(host, &devices, &self.allow)) {
            Ok(plan) => plan,
            Err(error) => return refuse(&error, format),
        };
        if format == Format::Json {
            print_json(&plan)?;
        } else if self.script {
            print(&plan.to_script(host))?;
        } else {
            print(&text(&plan)?)?;
        }
        Ok(Outcome::Possible)
    }
}

fn text(plan: &Plan) -> Result<String> {
    let mut out = String::new();
    for caution in &plan.cautions {
        writeln!(out, "{DOUBT}note:{DOUBT:#} {caution}")?;
    }
    if plan.steps.is_empty() {
        writeln!(out, "nothing to do: it is possible already")?;
    }
    for (number, step) in (1..).zip(&plan.steps) {
        writeln!(out, "{number}. {step}")?;
    }
    Ok(out)
}

fn refuse(error: &PlanError, format: Format) -> Result<Outcome> {
    #[derive(Serialize)]
    struct Refusal<'a> {
        error: String,
        /// What the machine lives on and would have to be named.
        guarded: &'a [Guarded],
    }
    let guarded: &[Guarded] = if let PlanError::Guarded { devices } = error { devices } else { &[] };
    if format == Format::Json {
        print_json(&Refusal { error: error.to_string(), guarded })?;
    } else {
        say(&format!("{BAD}no plan:{BAD:#} {error}"));
        if !guarded.is_empty() {
            let allow: Vec<String> = guarded.iter().map(|guarded| format!("--allow {}", guarded.device)).collect();
            say(&format!("If that is meant, say so: {}", allow.join(" ")));
        }
    }
    Ok(match error {
        PlanError::NoSuchDevice(_)
        | PlanError::DriversNotShown
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
            Err(error) => return Ok(finish(Err(error.into()))),
        };
        let done = checked.carry_out(&journal, &mut |done| tell(&done, format));
        if done.is_err() {
            // Nothing is left to be undone, or the folder stays.
            let _ = journal.remove_if_empty();
        }
        Ok(finish(done.map_err(Into::into)))
    }
}

impl Undo {
    pub(crate) fn run(&self, tree: &HostTree, format: Format) -> Outcome {
        let journal = Journal::open_existing(self.journal.path(tree)).map_err(anyhow::Error::from);
        finish(journal.and_then(|journal| {
            let bindings = SysfsBindings::new(tree);
            Ok(undo(&bindings, journal, &self.devices, &mut |done| tell(&done, format))?)
        }))
    }
}

/// What was tried and failed is no bad input.
fn finish(done: Result<()>) -> Outcome {
    done.map_or_else(
        |error| {
            say(&format!("{BAD}failed:{BAD:#} {error:#}"));
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
