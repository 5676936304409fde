//! Plays a scenario on the kernel that it runs on: in a room, in a guest, or as a guest's first process.

mod init;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use scenario_player::check::{Print, Tally};
use scenario_player::language::Scenario;
use scenario_player::{Kernel, Player, is_a_playground};

fn main() -> Result<ExitCode> {
    if init::is_first_process() {
        return init::play_and_power_off(play);
    }
    ensure!(
        is_a_playground(),
        "this takes devices from their drivers: it plays in a room, or in a guest with a file `/playground`"
    );
    play()
}

fn play() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (print, file) = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--check", file] => (Print::Differences, *file),
        [file] => (Print::Everything, *file),
        _ => bail!("usage: scenario-player [--check] FILE"),
    };
    let scenario = Scenario::read(Path::new(file))?;
    let player = Player::new(Kernel::new().context("no memory to play in")?);
    let mut tally = Tally::default();
    let mut out = std::io::stdout().lock();
    tally.play(&scenario, player, print, &mut out)?;
    if print == Print::Differences {
        writeln!(out, "{tally}")?;
    }
    Ok(if tally.is_good(0) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
