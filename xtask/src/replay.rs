//! `cargo xtask replay`: plays scenarios on our stack and compares with what a real kernel answered.

mod language;
mod player;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use vfio_owner::iommu_core::sysfs::{DirTree, Snapshot};
use vfio_owner::testbed::Machine;

use language::{Action, Line, Scenario, Step};
use player::{Player, Reply};

#[derive(clap::Args)]
pub(crate) struct Replay {
    /// Print only the steps that differ from the recording or are not known yet, and a summary
    #[arg(long)]
    check: bool,
    /// With --check, fail only on steps that differ
    #[arg(long, requires = "check")]
    allow_unknown: bool,
    /// With --check, play each file only up to its first step of VFIO or iommufd
    #[arg(long, requires = "check")]
    machine_only: bool,
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

/// The scenarios in a folder, by name; anything else is a scenario itself.
pub(crate) fn scenarios(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return vec![path.to_owned()] };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "scn"))
        .collect();
    files.sort();
    files
}

#[derive(Default)]
struct Tally {
    files: usize,
    steps: usize,
    agree: usize,
    differ: usize,
    unknown: usize,
    /// Steps of VFIO and iommufd, and those behind them, with `--machine-only`.
    left_out: usize,
    /// Files that could not be read.
    broken: usize,
}

impl Tally {
    fn print(&self, replay: &Replay, out: &mut impl Write) -> Result<()> {
        let Self { files, steps, agree, differ, unknown, left_out, .. } = self;
        if replay.machine_only {
            writeln!(out, "replay: {left_out} steps left out, of VFIO or iommufd or behind such a step")?;
        }
        writeln!(out, "replay: {files} files, {steps} steps, {agree} agree, {differ} differ, {unknown} unknown")?;
        Ok(())
    }
}

impl Replay {
    /// Plays every file that can be read; whether the exit status is that of success.
    pub(crate) fn run(&self) -> Result<bool> {
        let mut snapshots = BTreeMap::new();
        let mut tally = Tally::default();
        let mut out = anstream::stdout().lock();
        for path in self.files.iter().flat_map(|path| scenarios(path)) {
            match open(&path, &mut snapshots) {
                Ok((scenario, player)) => self.play(&scenario, player, &mut tally, &mut out)?,
                Err(error) => {
                    anstream::eprintln!("{error:#}");
                    tally.broken += 1;
                }
            }
        }
        if self.check {
            tally.print(self, &mut out)?;
        }
        Ok(tally.broken == 0 && tally.differ == 0 && (tally.unknown == 0 || self.allow_unknown))
    }

    fn play(&self, scenario: &Scenario, mut player: Player, tally: &mut Tally, out: &mut impl Write) -> Result<()> {
        tally.files += 1;
        let mut behind_another_layer = false;
        for (number, line) in (1..).zip(&scenario.lines) {
            let step = match line {
                Line::Text(_) if self.check => continue,
                Line::Text(text) => {
                    writeln!(out, "{text}")?;
                    continue;
                }
                Line::Step(step) => step,
            };
            behind_another_layer |= !matches!(step.action, Action::Machine(_));
            if self.machine_only && behind_another_layer {
                tally.left_out += 1;
                continue;
            }
            let reply = player.play(step);
            if !self.check {
                writeln!(out, "{}", step.with_answer(&reply))?;
            } else if let Some(verdict) = self.compare(step, &reply, tally) {
                writeln!(out, "{}:{number}: {}\n{verdict}", scenario.path.display(), step.text)?;
            }
        }
        Ok(())
    }

    /// Counts a step; what to say of it, if anything.
    fn compare(&self, step: &Step, reply: &Reply, tally: &mut Tally) -> Option<String> {
        tally.steps += 1;
        let recorded = step.recorded.as_deref().unwrap_or("nothing");
        match reply {
            Reply::Unknown(reason) => {
                tally.unknown += 1;
                (!self.allow_unknown).then(|| format!("    recorded: {recorded}\n    unknown:  {reason}"))
            }
            Reply::Answer(ours) if ours.to_string() == recorded => {
                tally.agree += 1;
                None
            }
            Reply::Answer(ours) => {
                tally.differ += 1;
                Some(format!("    recorded: {recorded}\n    ours:     {ours}"))
            }
        }
    }
}

/// A scenario, and a player on its machine as it is after boot.
fn open(path: &Path, snapshots: &mut BTreeMap<String, Snapshot>) -> Result<(Scenario, Player)> {
    let scenario = Scenario::read(path)?;
    let machine = match snapshots.entry(scenario.topology.clone()) {
        Entry::Occupied(known) => Machine::boot(known.get()),
        Entry::Vacant(place) => {
            let loaded = snapshot(place.key()).with_context(|| format!("{}", path.display()))?;
            Machine::boot(place.insert(loaded))
        }
    };
    Ok((scenario, Player::new(machine)?))
}
