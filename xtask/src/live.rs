//! `cargo xtask live`: real kernels in QEMU, and vfio-host on them.
//!
//! Each machine boots the distribution's kernel with an emulated IOMMU. In it, vfio-host is asked about every device, and the
//! kernel is asked as a VMM asks it: each answer must be the kernel's. Every plan is carried out, used and undone, and one is
//! killed before each change that it makes. Files of sysfs are written only inside these guests.

mod guest;
pub(crate) mod initramfs;
mod judgement;
pub(crate) mod packages;
mod topology;

use std::path::Path;
use std::time::Instant;

use anstream::println;
use anyhow::{Result, bail};
use live_guest::Report;

use crate::ci::shell::environment;
use crate::root;
use guest::{Guest, Job};
use judgement::{Judgement, judge};
use packages::{Missing, Tools};
use topology::{TOPOLOGIES, Topology};

/// Where packages, initramfs images and logs are kept.
pub(crate) const FOLDER: &str = "target/machines";

#[derive(clap::Args)]
pub(crate) struct Live {
    /// Run every machine on every kernel, and interrupt one device of each at every change
    #[arg(long)]
    full: bool,
    /// Run only these machines (may be repeated)
    #[arg(long, value_name = "NAME")]
    machine: Vec<String>,
    /// Run only these kernels (may be repeated)
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<String>,
    /// Run only these jobs (may be repeated)
    #[arg(long, value_name = "JOB")]
    job: Vec<Job>,
    /// Print correct answers as well
    #[arg(long, short)]
    verbose: bool,
}

/// What a run of machines came to.
pub(crate) enum Outcome {
    /// Everything was right.
    Right,
    /// Something was wrong.
    Wrong,
    /// The machines could not be run.
    Missing(Missing),
}

impl Live {
    /// Runs the machines; whether everything was right.
    pub(crate) fn run(&self) -> Result<bool> {
        std::env::set_current_dir(root())?;
        let begin = Instant::now();
        let outcome = self.outcome()?;
        println!("{} s", begin.elapsed().as_secs());
        match outcome {
            Outcome::Right => Ok(true),
            Outcome::Wrong => Ok(false),
            Outcome::Missing(missing) => bail!("{missing}"),
        }
    }

    fn outcome(&self) -> Result<Outcome> {
        let tools = match Tools::find(Path::new(FOLDER))? {
            Ok(tools) => tools,
            Err(missing) => return Ok(Outcome::Missing(missing)),
        };
        let mut kernels = tools.kernels(self.full || !self.kernel.is_empty())?;
        kernels.retain(|kernel| {
            self.kernel.is_empty() || self.kernel.iter().any(|wanted| kernel.version.contains(wanted))
        });
        let machines: Vec<&Topology> = TOPOLOGIES.iter().filter(|topology| self.wants(topology)).collect();
        if kernels.is_empty() || machines.is_empty() {
            let names: Vec<&str> = TOPOLOGIES.iter().map(|topology| topology.name).collect();
            bail!("no such kernel or machine; the machines are {}", names.join(", "));
        }
        build()?;
        let mut outcome = Outcome::Right;
        for kernel in &kernels {
            let initramfs = initramfs::build(kernel, &tools, Path::new(FOLDER))?;
            for topology in &machines {
                let guest = Guest { tools: &tools, kernel, initramfs: &initramfs, topology, folder: Path::new(FOLDER) };
                if !self.machine(&guest)? {
                    outcome = Outcome::Wrong;
                }
            }
        }
        Ok(outcome)
    }

    fn wants(&self, topology: &Topology) -> bool {
        if self.machine.is_empty() {
            self.full || topology.quick
        } else {
            self.machine.iter().any(|name| name == topology.name)
        }
    }

    /// The short run leaves out what costs most: every device bound by hand.
    fn jobs(&self, topology: &Topology) -> Vec<Job> {
        match (self.job.as_slice(), self.full) {
            ([], false) => vec![Job::Cycles, Job::Holders, Job::Kills],
            ([], true) if topology.lifelines => {
                vec![Job::Verdicts, Job::Cycles, Job::Lifelines, Job::Holders, Job::Kills]
            }
            ([], true) => vec![Job::Verdicts, Job::Cycles, Job::Holders, Job::Kills],
            (jobs, _) => jobs.to_vec(),
        }
    }

    /// Runs one machine; whether everything was right.
    fn machine(&self, guest: &Guest<'_>) -> Result<bool> {
        let begin = Instant::now();
        let reports = guest.run(&self.jobs(guest.topology))?;
        let mut wrong = 0;
        let mut right = 0;
        for report in &reports {
            match judge(report) {
                Judgement::Right(told) if self.verbose => {
                    right += 1;
                    println!("  ok    {told}");
                }
                Judgement::Right(_) => right += 1,
                Judgement::Wrong(told) => {
                    wrong += 1;
                    println!("  WRONG {told}");
                }
                Judgement::Note(told) => println!("  {told}"),
            }
        }
        if reports.last() != Some(&Report::Done) {
            wrong += 1;
            println!("  WRONG it did not come to its end; see {}", guest.console().display());
        }
        let seconds = begin.elapsed().as_secs();
        println!("{} on {}: {right} right, {wrong} wrong, {seconds} s", guest.topology.name, guest.kernel.version);
        Ok(wrong == 0)
    }
}

/// The step of `cargo xtask ci`: one machine, one kernel.
pub(crate) fn quick() -> Result<Outcome> {
    Live { full: false, machine: Vec::new(), kernel: Vec::new(), job: Vec::new(), verbose: false }.outcome()
}

/// Builds what runs in the guests. Optimized: an emulated processor is slow.
fn build() -> Result<()> {
    let arguments = ["build", "--profile", "live", "-p", "vfio-host", "-p", "live-guest"];
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    environment(duct::cmd(cargo, arguments)).run()?;
    Ok(())
}

/// Where a program that runs in the guests was built.
fn built(program: &str) -> std::path::PathBuf {
    Path::new("target/live").join(program)
}
