//! `cargo xtask ci`: everything that a change must pass; names every step that failed.

pub(crate) mod shell;
mod steps;

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anstream::{print, println};
use anyhow::{Result, bail};

use crate::root;
use crate::style::{BAD, DIM, GOOD};
use shell::Shell;
use steps::STEPS;

/// What is published, dependencies first.
pub(crate) const PACKAGES: [&str; 7] =
    ["dma-locks", "device-model", "iommu-core", "iommufd-owner", "vfio-owner", "vfio-host", "vfio-room"];

#[derive(clap::Args)]
pub(crate) struct Ci {
    /// Run only this step (may be repeated)
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// List the steps
    #[arg(long)]
    list: bool,
    /// Show the output of every step, not only of those that fail
    #[arg(long, short)]
    verbose: bool,
}

/// A step: what it is called, and what runs it.
struct Step {
    name: &'static str,
    what: &'static str,
    place: Place,
    run: fn(&Shell) -> Result<Verdict>,
}

/// Where a step has its time.
#[derive(Clone, Copy)]
enum Place {
    /// It keeps all processors busy.
    Alone,
    /// It keeps one busy, and runs beside all that come after it.
    Beside,
}

enum Verdict {
    Passed,
    /// Passed as far as it could be run here, and what is lacking.
    Partly(String),
    /// What it needs cannot be had here.
    Skipped(String),
}

impl Ci {
    /// Runs the steps; whether all passed.
    pub(crate) fn run(&self) -> Result<bool> {
        if self.list {
            for step in STEPS {
                println!("{:<10} {}", step.name, step.what);
            }
            return Ok(true);
        }
        if let Some(unknown) = self.only.iter().find(|name| STEPS.iter().all(|step| step.name != **name)) {
            bail!("no step called `{unknown}`; `--list` lists them");
        }
        std::env::set_current_dir(root())?;
        let chosen = STEPS.iter().filter(|step| self.only.is_empty() || self.only.iter().any(|name| name == step.name));
        let failed: Vec<&str> = std::thread::scope(|scope| {
            let mut beside = Vec::new();
            let mut failed = Vec::new();
            for step in chosen {
                match step.place {
                    Place::Alone => failed.extend(self.failed(step)),
                    Place::Beside => beside.push(scope.spawn(|| self.failed(step))),
                }
            }
            failed.extend(beside.into_iter().filter_map(|step| step.join().unwrap_or(Some("a step panicked"))));
            failed
        });
        if !failed.is_empty() {
            println!("{BAD}failed: {}{BAD:#}", failed.join(", "));
        }
        Ok(failed.is_empty())
    }

    /// Runs a step and reports it; its name if it failed.
    fn failed(&self, step: &Step) -> Option<&'static str> {
        let terminal = std::io::stdout().is_terminal();
        if terminal {
            print!("{DIM}  ..  {:<10} {}{DIM:#}\r", step.name, step.what);
            // What cannot be shown now is shown with the next line.
            let _ = std::io::stdout().flush();
        }
        let shell = Shell::new(self.verbose, terminal);
        let begin = Instant::now();
        let verdict = (step.run)(&shell);
        report(step, &verdict, shell.tests_passed(), begin.elapsed());
        verdict.is_err().then_some(step.name)
    }
}

fn report(step: &Step, verdict: &Result<Verdict>, tests: usize, took: Duration) {
    let (mark, style, remark) = match verdict {
        Ok(Verdict::Passed) if tests > 0 => (" ok ", GOOD, format!("{}: {tests} passed", step.what)),
        Ok(Verdict::Passed) => (" ok ", GOOD, step.what.to_owned()),
        Ok(Verdict::Partly(lacking)) => (" ok ", GOOD, format!("{} ({lacking})", step.what)),
        Ok(Verdict::Skipped(why)) => ("skip", DIM, format!("{} ({why})", step.what)),
        Err(error) => ("FAIL", BAD, format!("{error:#}")),
    };
    // What the terminal shows of a step while it runs gives way to its verdict.
    let clear = if std::io::stdout().is_terminal() { "\x1b[K" } else { "" };
    println!("{clear}{style} {mark} {style:#} {:<10} {DIM}{:>6.1} s{DIM:#}  {remark}", step.name, took.as_secs_f64());
}
