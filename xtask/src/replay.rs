//! `cargo xtask replay`: plays scenarios on our stack and compares with what a real kernel answered.

mod in_process;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use scenario_player::Player;
use scenario_player::check::{Print, Tally, scenarios};
use scenario_player::language::Scenario;
use vfio_owner::iommu_core::sysfs::{DirTree, Snapshot};
use vfio_owner::testbed::Machine;

use in_process::InProcess;

#[derive(clap::Args)]
pub(crate) struct Replay {
    /// Print only the steps that differ from the recording, and a summary
    #[arg(long)]
    check: bool,
    /// Scenario files, or folders of them
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// The folder of the workspace that holds what the project was measured against.
pub(crate) fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata")
}

/// The snapshot of this name.
pub(crate) fn snapshot(name: &str) -> Result<Snapshot> {
    let known = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let folder = testdata().join("snapshots").join(name);
    ensure!(known && folder.is_dir(), "no topology called `{name}`");
    Snapshot::load(&DirTree::new(&folder)).with_context(|| format!("topology `{name}`"))
}

impl Replay {
    /// Plays every file that can be read; whether the exit status is that of success.
    pub(crate) fn run(&self) -> Result<bool> {
        let mut snapshots = BTreeMap::new();
        let mut tally = Tally::default();
        let mut out = anstream::stdout().lock();
        let print = if self.check { Print::Differences } else { Print::Everything };
        for path in self.files.iter().flat_map(|path| scenarios(path)) {
            match open(&path, &mut snapshots) {
                Ok((scenario, player)) => tally.play(&scenario, player, print, &mut out)?,
                Err(error) => {
                    anstream::eprintln!("{error:#}");
                    tally.broken += 1;
                }
            }
        }
        if self.check {
            writeln!(out, "{tally}")?;
        }
        Ok(tally.is_good())
    }
}

/// A scenario, and a player on its machine as it is after boot.
fn open(path: &Path, snapshots: &mut BTreeMap<String, Snapshot>) -> Result<(Scenario, Player<InProcess>)> {
    let scenario = Scenario::read(path)?;
    let machine = match snapshots.entry(scenario.topology.clone()) {
        Entry::Occupied(known) => Machine::boot(known.get()),
        Entry::Vacant(place) => {
            let loaded = snapshot(place.key()).with_context(|| format!("{}", path.display()))?;
            Machine::boot(place.insert(loaded))
        }
    };
    Ok((scenario, player(machine)?))
}

fn player(machine: Machine) -> Result<Player<InProcess>> {
    Ok(Player::new(InProcess::new(machine).context("no memory for a process")?))
}
