//! `cargo xtask clients`: programs that others wrote, unmodified, in rooms.
//!
//! A client is a row of [`CLIENTS`] and a file in `clients/`, which makes machines, runs programs in rooms with them, and
//! checks what they did.

mod checks;
mod dpdk;
mod driverctl;
mod iommufd_selftest;
mod lspci;
mod need;
mod programs;
mod qemu;
mod report;
mod scripts;
mod start_up;
mod tap;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anstream::{eprintln, println};
use anyhow::{Result, anyhow, bail, ensure};
use vfio_owner::testbed::Machine;
use vfio_room::{Command, Room};

use crate::style::DIM;
use crate::{distribution, replay, root};
use checks::Checks;
use need::Need;
use report::Report;

/// The programs.
const CLIENTS: &[Client] = &[
    start_up::CLIENT,
    lspci::CLIENT,
    driverctl::CLIENT,
    scripts::SHELL,
    scripts::PYTHON,
    programs::CLIENT,
    dpdk::CLIENT,
    qemu::CLIENT,
    qemu::IOMMUFD,
    qemu::block::CLIENT,
    qemu::linux::CLIENT,
    iommufd_selftest::CLIENT,
];

#[derive(clap::Args)]
pub(crate) struct Clients {
    /// Run only these (`--list` lists them)
    #[arg(value_name = "NAME")]
    only: Vec<String>,
    /// List the programs, and what they need
    #[arg(long)]
    list: bool,
    /// Install what they need, with the distribution's package manager, as root
    #[arg(long)]
    install: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A program, or several that belong together.
struct Client {
    name: &'static str,
    /// What running it shows.
    shows: &'static str,
    needs: &'static [Need],
    /// What it shows more with.
    wants: &'static [Need],
    run: fn(&mut Checks) -> Result<()>,
}

impl Clients {
    /// Runs the clients; whether none failed.
    pub(crate) fn run(&self) -> Result<bool> {
        let chosen = self.chosen()?;
        if self.list {
            list(&chosen);
            return Ok(true);
        }
        if self.install {
            let packages = need::packages(&chosen);
            ensure!(packages.is_empty() || need::is_root(), "it needs root: apt-get install {}", packages.join(" "));
            for package in need::install(&chosen) {
                eprintln!("note: package {package} cannot be installed");
            }
        }
        let reports = run(&chosen, |report| {
            if !self.json {
                report.print();
            }
        })?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&reports)?);
        }
        Ok(reports.iter().all(|report| !report.has_failed()))
    }

    fn chosen(&self) -> Result<Vec<&'static Client>> {
        if let Some(unknown) = self.only.iter().find(|name| CLIENTS.iter().all(|client| client.name != **name)) {
            bail!("no client called `{unknown}`; `--list` lists them");
        }
        let is_chosen = |client: &&Client| self.only.is_empty() || self.only.iter().any(|name| name == client.name);
        Ok(CLIENTS.iter().filter(is_chosen).collect())
    }
}

/// Runs all clients; what was lacking. As root, what they need is installed first.
pub(crate) fn all() -> Result<Vec<String>> {
    let chosen: Vec<&Client> = CLIENTS.iter().collect();
    if need::is_root() {
        // What cannot be had is named by whoever needs it.
        need::install(&chosen);
    }
    let reports = run(&chosen, Report::print)?;
    let failed: Vec<&str> = reports.iter().filter(|report| report.has_failed()).map(Report::name).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(reports.iter().filter_map(Report::lacking).collect())
}

fn list(clients: &[&Client]) {
    let texts = |needs: &[Need]| needs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    for client in clients {
        println!("{:<17} {}", client.name, client.shows);
        let lines = [("needs", texts(client.needs)), ("wants", texts(client.wants))];
        for (what, text) in lines.iter().filter(|(_, text)| !text.is_empty()) {
            println!("{:<17} {DIM}{what}: {text}{DIM:#}", "");
        }
    }
}

/// Runs clients, one after the other, and `tell`s of each.
fn run(clients: &[&'static Client], tell: impl Fn(&Report)) -> Result<Vec<Report>> {
    let no_rooms = replay::rooms_missing()?;
    let mut reports = Vec::new();
    for client in clients {
        let unmet = client.needs.iter().filter(|need| !need.is_met()).map(|need| format!("no {need}"));
        let unmet: Vec<String> = no_rooms.iter().cloned().chain(unmet).collect();
        let begin = Instant::now();
        let mut checks = Checks::of(client.name);
        if unmet.is_empty() {
            checks.attempt("all of it", client.run);
        }
        Checks::clear();
        let report = Report::new(client, checks, unmet, begin.elapsed());
        tell(&report);
        reports.push(report);
    }
    Ok(reports)
}

/// Returns a command in the room that is killed if it does not end within ten minutes. A program without a folder may be one
/// of the administrator's.
fn limited(room: &Room, program: impl AsRef<OsStr>) -> Command<'_> {
    let program = program.as_ref();
    let found = program.to_str().and_then(distribution::program);
    let mut command = room.command("timeout");
    command.args(["--signal=KILL", "600"]).arg(found.as_deref().map_or(program, Path::as_os_str));
    command
}

/// Makes a folder for what a client needs on the disk.
fn folder(name: &str) -> Result<PathBuf> {
    let folder = root().join("target/clients").join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Runs a command that is to succeed; what it prints.
fn text(command: &mut Command<'_>) -> Result<String> {
    let output = command.output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}{}", output.status, printed.trim_end(), errors.trim_end());
    Ok(printed.into_owned())
}

/// Checks which driver a device is bound to.
fn is_driven_by(machine: &Machine, device: &str, driver: Option<&str>) -> Result<()> {
    let bound = machine.driver(device);
    ensure!(bound.as_deref() == driver, "{device} is bound to {bound:?}");
    Ok(())
}

/// Gives a device to user space.
fn hand_over(machine: &Machine, device: &str) -> Result<()> {
    if machine.driver(device).is_some() {
        machine.unbind(device)?.wait();
    }
    Ok(machine.bind(device, "vfio-pci")?)
}

/// Checks that nothing of a room is held any more.
fn is_empty(room: &Room) -> Result<()> {
    room.check_empty().map_err(|left| anyhow!("left behind: {left}"))
}
