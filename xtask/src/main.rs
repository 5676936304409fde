//! Automation of this workspace: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod replay;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about)]
enum Command {
    /// Play scenarios and compare with what a real kernel answered
    Replay(replay::Replay),
}

fn main() -> Result<ExitCode> {
    let success = match Command::parse() {
        Command::Replay(replay) => replay.run()?,
    };
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
