//! The player as a program of its own, in a room.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use scenario_player::check::{Print, Tally};
use vfio_owner::testbed::Machine;
use vfio_room::{Room, RoomError};

use crate::ci::shell::environment;

/// Why there are no rooms here, if there are none.
pub(super) fn missing(machine: Machine) -> Result<Option<String>> {
    match Room::new(&Arc::new(machine))?.enter(|| ()) {
        Ok(()) => Ok(None),
        Err(error @ (RoomError::SecondListener | RoomError::NoNotification | RoomError::Forbidden(_))) => {
            Ok(Some(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Builds the program; where it is.
pub(super) fn build() -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    environment(duct::cmd(cargo, ["build", "--quiet", "-p", "scenario-player"])).run()?;
    let own = std::env::current_exe()?;
    Ok(own.with_file_name("scenario-player"))
}

/// Plays a scenario on a machine, prints, and counts.
pub(super) fn play(
    program: &Path,
    scenario: &Path,
    machine: Machine,
    print: Print,
    tally: &mut Tally,
    out: &mut impl Write,
) -> Result<()> {
    let room = Room::new(&Arc::new(machine))?;
    let mut command = room.command(program);
    if print == Print::Differences {
        command.arg("--check");
    }
    let played = command.arg(scenario).output()?;
    let text = String::from_utf8_lossy(&played.stdout);
    if print == Print::Everything {
        write!(out, "{text}")?;
        return Ok(());
    }
    let (differences, count) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    if !differences.is_empty() {
        writeln!(out, "{differences}")?;
    }
    if tally.add(count).is_none() {
        let said = String::from_utf8_lossy(&played.stderr);
        bail!("{}: {}, {}", scenario.display(), played.status, said.trim());
    }
    Ok(())
}
