//! Automation of this workspace: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod api;
mod ci;
mod clients;
mod demo;
mod distribution;
mod drivers;
mod explore;
mod kernel;
mod live;
mod mutants;
mod replay;
mod style;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about)]
enum Command {
    /// Compare the public API of each library with its snapshot
    Api(api::Api),
    /// Run every check that a change must pass, cheapest first
    Ci(ci::Ci),
    /// Run programs that others wrote, unmodified, on a simulated machine
    Clients(clients::Clients),
    /// Boot the snapshot of a real machine and follow one card through every kind of use
    Demo,
    /// List the drivers of a Linux source tree by name, for verdicts from names
    Drivers(drivers::Drivers),
    /// Search the designs of DMA ownership in every interleaving for violations
    Explore(explore::Explore),
    /// Build the example kernel and boot it in QEMU
    Kernel,
    /// Boot real kernels in QEMU and compare the answers of vfio-host with theirs
    Live(live::Live),
    /// Mutation test: break the rules one at a time, and check that a test fails
    Mutants(mutants::Mutants),
    /// Replay scenarios and compare with the answers of a real kernel
    Replay(replay::Replay),
}

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn main() -> Result<ExitCode> {
    let success = match Command::parse() {
        Command::Api(api) => api.run().map(|()| true)?,
        Command::Ci(ci) => ci.run()?,
        Command::Clients(clients) => clients.run()?,
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
