//! The first process of a guest: sets it up, does its jobs, reports, and switches it off.
#![forbid(unsafe_code)]

mod claim;
mod holder;
mod job;
mod lifeline;
mod machine;
mod program;
mod trace;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use live_guest::{HOLD, JOBS, KILL, REPORTS, Report};
use nix::sys::reboot::{RebootMode, reboot};

/// Where reports go.
pub(crate) struct Reporter(File);

impl Reporter {
    /// Reports a fact.
    pub(crate) fn tell(&mut self, report: &Report) -> Result<()> {
        let line = serde_json::to_string(report)? + "\n";
        Ok(self.0.write_all(line.as_bytes())?)
    }
}

fn main() -> Result<()> {
    if let Some(traced) = trace::Traced::asked_for() {
        return traced.become_program();
    }
    holder::hold_if_asked()?;
    if std::process::id() != 1 {
        bail!("this is for the guests of `cargo xtask live`, as their first process");
    }
    machine::mount_kernel_file_systems()?;
    let port = OpenOptions::new().write(true).open(REPORTS).context(REPORTS)?;
    let mut reporter = Reporter(port);
    if let Err(error) = work(&mut reporter) {
        reporter.tell(&Report::Failed { reason: format!("{error:#}") })?;
    }
    reboot(RebootMode::RB_POWER_OFF)?;
    Ok(())
}

fn work(reporter: &mut Reporter) -> Result<()> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let options = |name| line.split_whitespace().filter_map(move |word| word.strip_prefix(name));
    machine::bring_up()?;
    let seconds = fs::read_to_string("/proc/uptime")?;
    reporter.tell(&Report::Booted {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        seconds: seconds.split(' ').next().unwrap_or_default().parse()?,
        devices: machine::devices()?.len(),
    })?;
    for job in options(JOBS).flat_map(|jobs| jobs.split(',')).filter(|job| !job.is_empty()) {
        match job {
            "verdicts" => job::verdicts(reporter)?,
            "cycles" => job::cycles(reporter)?,
            "lifelines" => lifeline::lifelines(reporter)?,
            _ => bail!("no job called `{job}`"),
        }
    }
    for device in options(HOLD) {
        holder::holders(device, reporter)?;
    }
    for device in options(KILL) {
        job::kills(device, reporter)?;
    }
    reporter.tell(&Report::Done)
}
