//! `vfio-host persist`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use vfio_host::{Host, Persistence, Plan, Selector};

use crate::output::{DIM, Format, GOOD, Outcome, print_text};
use crate::plan::refuse;
use crate::selection::select;

#[derive(clap::Args)]
pub(crate) struct Persist {
    /// The devices: address, slot, ids, group:N, interface, disk or class
    #[arg(required = true)]
    devices: Vec<Selector>,
    /// Keep this device from its driver although the host uses it (may be repeated)
    #[arg(long, value_name = "DEVICE")]
    allow: Vec<Selector>,
    /// Remove the files again
    #[arg(long)]
    undo: bool,
    /// Only show the files
    #[arg(long, conflicts_with = "undo")]
    dry_run: bool,
    /// Work on the files of the system below this folder
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Persist {
    pub(crate) fn run(&self, host: &Host, format: Format) -> Result<Outcome> {
        let devices = select(host, &self.devices)?;
        let kept = Persistence::of(host, &devices, &self.root)?;
        let mut out = String::new();
        if self.undo {
            for path in kept.remove(&self.root)? {
                writeln!(out, "{GOOD}removed:{GOOD:#} {}", Path::new("/").join(path).display())?;
            }
        } else {
            // What a plan must not touch now must not be taken at the next start either.
            if let Err(error) = Plan::make(host, &devices, &select(host, &self.allow)?) {
                return refuse(&error, format);
            }
            if !self.dry_run {
                kept.write(&self.root)?;
            }
            for file in &kept.files {
                writeln!(out, "{GOOD}{}{GOOD:#}", Path::new("/").join(&file.path).display())?;
                file.contents.lines().try_for_each(|line| writeln!(out, "    {DIM}{line}{DIM:#}"))?;
            }
        }
        if let Some(command) = kept.then.filter(|_| !self.dry_run && !out.is_empty()) {
            writeln!(out, "now run: {command}")?;
        }
        print_text(&out)?;
        Ok(Outcome::Possible)
    }
}
