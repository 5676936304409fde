//! `cargo xtask replay`: plays scenarios on our stack and compares with what a real kernel answered.

mod in_process;
mod in_room;
mod registers;
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

use crate::root;
use in_process::{InProcess, Resume};
use registers::Registers;

#[derive(clap::Args)]
pub(crate) struct Replay {
    /// Print only the steps that differ from the recording, and a summary
    #[arg(long)]
    check: bool,
    /// Play by real system calls: each scenario in a room of its own, by a program of its own
    #[arg(long)]
    room: bool,
    /// So many steps may differ: as many as nobody can explain yet
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    unexplained: usize,
    /// Scenario files, or folders of them
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// The folder of the workspace that holds what the project was measured against.
pub(crate) fn testdata() -> PathBuf {
    root().join("testdata")
}

/// Why no scenario can be played in a room here, if none can.
pub(crate) fn rooms_missing() -> Result<Option<String>> {
    in_room::missing(Topology::of("pc")?.boot()?)
}

/// The snapshot of this name.
pub(crate) fn snapshot(name: &str) -> Result<Snapshot> {
    Ok(Topology::of(name)?.snapshot)
}

/// A machine that was recorded.
struct Topology {
    snapshot: Snapshot,
    registers: Registers,
}

impl Topology {
    fn of(name: &str) -> Result<Self> {
        let known = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let folder = testdata().join("snapshots").join(name);
        ensure!(known && folder.is_dir(), "no topology called `{name}`");
        let snapshot = Snapshot::load(&DirTree::new(&folder)).with_context(|| format!("topology `{name}`"))?;
        Ok(Self { snapshot, registers: Registers::of(&folder)? })
    }

    /// The machine as it is after boot.
    fn boot(&self) -> Result<Machine> {
        self.registers.boot(&self.snapshot)
    }
}

impl Replay {
    /// Plays every file that can be read; whether the exit status is that of success.
    pub(crate) fn run(&self) -> Result<bool> {
        let program = if self.room { Some(in_room::build()?) } else { None };
        let mut topologies = BTreeMap::new();
        let mut tally = Tally::default();
        let mut out = anstream::stdout().lock();
        let print = if self.check { Print::Differences } else { Print::Everything };
        for path in self.files.iter().flat_map(|path| scenarios(path)) {
            let played = open(&path, &mut topologies).and_then(|(scenario, topology)| match &program {
                Some(program) => in_room::play(program, &path, topology.boot()?, print, &mut tally, &mut out),
                None => play(&scenario, topology, print, &mut tally, &mut out),
            });
            if let Err(error) = played {
                anstream::eprintln!("{error:#}");
                tally.broken += 1;
            }
        }
        if self.check {
            writeln!(out, "{tally}")?;
        }
        Ok(tally.is_good(self.unexplained))
    }
}

/// A scenario, and the topology that it is played on.
fn open<'a>(path: &Path, topologies: &'a mut BTreeMap<String, Topology>) -> Result<(Scenario, &'a Topology)> {
    let scenario = Scenario::read(path)?;
    let topology = match topologies.entry(scenario.topology.clone()) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => {
            let loaded = Topology::of(place.key()).with_context(|| format!("{}", path.display()))?;
            place.insert(loaded)
        }
    };
    Ok((scenario, topology))
}

/// Plays a scenario in process, prints, and counts. Between the going of a user and the end of the unbind that has waited for it, a
/// recording may show either; so one that differs is played the other way as well.
fn play(scenario: &Scenario, topology: &Topology, print: Print, tally: &mut Tally, out: &mut impl Write) -> Result<()> {
    let mut best: Option<(Tally, Vec<u8>)> = None;
    for resume in [Resume::AtOnce, Resume::WhenWaitedFor] {
        let (mut counted, mut text) = (Tally::default(), Vec::new());
        counted.play(scenario, player(topology.boot()?, resume)?, print, &mut text)?;
        if best.as_ref().is_none_or(|(before, _)| counted.differ < before.differ) {
            best = Some((counted, text));
        }
        if print == Print::Everything || counted.differ == 0 {
            break;
        }
    }
    if let Some((counted, text)) = best {
        *tally += counted;
        out.write_all(&text)?;
    }
    Ok(())
}

fn player(machine: Machine, resume: Resume) -> Result<Player<InProcess>> {
    Ok(Player::new(InProcess::new(machine, resume).context("no memory for a process")?))
}
