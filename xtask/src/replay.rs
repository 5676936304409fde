//! `cargo xtask replay`: plays scenarios on our stack and compares with what a real kernel answered.

mod language;
mod player;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use vfio_owner::iommu_core::sysfs::{DirTree, Snapshot};
use vfio_owner::testbed::Machine;

use language::{Line, Scenario};
use player::{Player, Reply};

#[derive(clap::Args)]
pub(crate) struct Replay {
    /// Print only the steps that differ from the recording or are not known yet, and a summary
    #[arg(long)]
    check: bool,
    /// With --check, fail only on steps that differ
    #[arg(long, requires = "check")]
    allow_unknown: bool,
    /// Scenario files
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

/// All recordings that come with the project.
pub(crate) fn recordings() -> Vec<PathBuf> {
    let folders = ["basics", "random"].map(|folder| testdata().join("scenarios").join(folder));
    let mut files: Vec<PathBuf> = folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())))
        .collect();
    files.sort();
    files
}

#[derive(Default)]
struct Tally {
    steps: usize,
    agree: usize,
    differ: usize,
    unknown: usize,
}

impl Replay {
    /// Plays every file; whether the exit status is that of success.
    pub(crate) fn run(&self) -> Result<bool> {
        let mut snapshots: BTreeMap<String, Snapshot> = BTreeMap::new();
        let mut tally = Tally::default();
        let mut out = anstream::stdout().lock();
        for path in &self.files {
            let scenario = Scenario::read(path)?;
            if !snapshots.contains_key(&scenario.topology) {
                let loaded = snapshot(&scenario.topology).with_context(|| format!("{}", path.display()))?;
                snapshots.insert(scenario.topology.clone(), loaded);
            }
            let Some(machine) = snapshots.get(&scenario.topology).map(Machine::boot) else { continue };
            for line in self.play(&scenario, Player::new(machine), &mut tally) {
                writeln!(out, "{line}")?;
            }
        }
        if !self.check {
            return Ok(true);
        }
        let Tally { steps, agree, differ, unknown } = tally;
        let files = self.files.len();
        writeln!(out, "replay: {files} files, {steps} steps, {agree} agree, {differ} differ, {unknown} unknown")?;
        Ok(differ == 0 && (unknown == 0 || self.allow_unknown))
    }

    /// The lines to print.
    fn play(&self, scenario: &Scenario, mut player: Player, tally: &mut Tally) -> Vec<String> {
        let mut printed = Vec::new();
        for (number, line) in (1..).zip(&scenario.lines) {
            let step = match line {
                Line::Text(text) if !self.check => {
                    printed.push(text.clone());
                    continue;
                }
                Line::Text(_) => continue,
                Line::Step(step) => step,
            };
            let reply = player.play(step);
            if !self.check {
                printed.push(step.with_answer(&reply));
                continue;
            }
            tally.steps += 1;
            let place = format!("{}:{number}: {}", scenario.path.display(), step.text);
            match (&step.recorded, &reply) {
                (_, Reply::Unknown(reason)) => {
                    tally.unknown += 1;
                    if !self.allow_unknown {
                        printed.push(format!("{place}\n    unknown: {reason}"));
                    }
                }
                (Some(recorded), Reply::Answer(ours)) if recorded == ours => tally.agree += 1,
                (recorded, Reply::Answer(ours)) => {
                    tally.differ += 1;
                    let recorded = recorded.as_deref().unwrap_or("nothing");
                    printed.push(format!("{place}\n    recorded: {recorded}\n    ours:     {ours}"));
                }
            }
        }
        printed
    }
}
