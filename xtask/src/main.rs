//! Automation of this workspace: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod api;
mod ci;
mod demo;
mod drivers;
mod explore;
mod kernel;
mod live;
mod mutants;
mod replay;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about)]
enum Command {
    /// Compare the public API of each library with its snapshot
    Api(api::Api),
    /// Everything that a change must pass, cheapest first
    Ci(ci::Ci),
    /// Boot the snapshot of a real machine and tell the story of one card
    Demo,
    /// List the drivers of a source tree of Linux by name, for the verdicts from names
    Drivers(drivers::Drivers),
    /// Play the designs of DMA ownership in every interleaving, and show what goes wrong
    Explore(explore::Explore),
    /// Build the example kernel and boot it in QEMU
    Kernel,
    /// Boot real kernels in QEMU and compare what vfio-host says and does with what they do
    Live(live::Live),
    /// Break the rules on purpose, one at a time, and look that the tests notice
    Mutants(mutants::Mutants),
    /// Play scenarios and compare with what a real kernel answered
    Replay(replay::Replay),
}

fn main() -> Result<ExitCode> {
    let success = match Command::parse() {
        Command::Api(api) => api.run().map(|()| true)?,
        Command::Ci(ci) => ci.run()?,
        Command::Demo => demo::run().map(|()| true)?,
        Command::Drivers(drivers) => drivers.run().map(|()| true)?,
        Command::Explore(explore) => explore.run()?,
        Command::Kernel => kernel::run().map(|()| true)?,
        Command::Live(live) => live.run()?,
        Command::Mutants(mutants) => mutants.run()?,
        Command::Replay(replay) => replay.run()?,
    };
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
