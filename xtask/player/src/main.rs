//! Plays scenarios on the kernel that it runs on.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use scenario_player::check::{Print, Tally, scenarios};
use scenario_player::language::Scenario;
use scenario_player::{Kernel, Player, is_a_playground};

fn main() -> Result<ExitCode> {
    ensure!(
        is_a_playground(),
        "this takes devices from their drivers: it plays in a room, or as a guest's first process"
    );
    let mut print = Print::Everything;
    let mut tally = Tally::default();
    let mut out = std::io::stdout().lock();
    for argument in std::env::args_os().skip(1) {
        if argument == "--check" {
            print = Print::Differences;
            continue;
        }
        for path in scenarios(Path::new(&argument)) {
            let scenario = Scenario::read(&path)?;
            let kernel = Kernel::new().context("no memory to play in")?;
            tally.play(&scenario, Player::new(kernel), print, &mut out)?;
        }
    }
    if print == Print::Differences {
        writeln!(out, "{tally}")?;
    }
    Ok(if tally.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
