//! `vfio-host`: says which device prevents user space from claiming a group, why, and what to do.

mod candidates;
mod change;
mod explain;
mod list;
mod output;
mod persist;
mod plan;
mod ready;
mod selection;
mod shell;
mod tool;

use std::io::{read_to_string, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser, Subcommand};
use vfio_host::{Host, HostTree, Trials, capture, draw};

use output::{Format, Outcome, print, warn_of};

/// Shows who owns each IOMMU group, which device prevents user space from claiming a group, and what to do about it.
///
/// Devices that the IOMMU cannot tell apart form a group, which belongs to kernel drivers or to one owner in user space, never
/// to both. "Group is not viable" means that a device of the group is still on a kernel driver. This program names it.
#[derive(Parser)]
#[command(name = "vfio-host", version, propagate_version = true)]
#[command(after_help = "\
Examples:
  vfio-host list                          who owns which group
  vfio-host explain 01:00.0               whether it can be assigned, and what prevents it
  vfio-host plan 01:00                    the steps for the whole card
  vfio-host plan eth1 group:4             devices by interface, disk, ids, class or group as well
  vfio-host plan 01:00.0 --json > p.json; sudo vfio-host apply p.json
  sudo vfio-host undo                     everything as it was before
  vfio-host explain --from - < posted.txt from what `lspci -nnk` and a list of groups show

Exit codes:
  0  possible, or done (diff: no difference)
  1  not possible, or failed (diff: there are differences)
  2  not known, or the input is bad")]
struct Arguments {
    #[command(flatten)]
    machine: Machine,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// The machine to look at.
#[derive(clap::Args)]
struct Machine {
    /// Look at this instead of the running machine: a snapshot, a folder with a copy of `/sys`, or a listing of groups and
    /// `lspci -nnk` as people post it; `-` for standard input
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "sysfs")]
    from: Option<PathBuf>,
    /// Work on a copy of sysfs in this folder, `apply` and `undo` as well
    #[arg(long, global = true, value_name = "DIR")]
    sysfs: Option<PathBuf>,
    /// That files may be opened for a moment
    #[arg(skip)]
    trials: Option<Trials>,
}

#[derive(Subcommand)]
enum Command {
    /// List the groups: devices, drivers, and who owns each group or can claim it
    List(list::List),
    /// List the devices that can be assigned without harm, cheapest first, each proved by a plan
    Candidates,
    /// Explain whether devices can be assigned to user space now, and what prevents it
    Explain(explain::Explain),
    /// Make the shortest plan that allows user space to open devices, proved on a model first
    Plan(plan::Make),
    /// Apply a plan, as root; `undo` reverts it
    Apply(plan::Apply),
    /// Revert everything to the state before `apply`, interrupted or not
    Undo(plan::Undo),
    /// Draw the machine as SVG: bridges as a tree, groups as areas, and what prevents a claim
    Draw {
        /// Output file, instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Check whether guests can run with devices: permissions, locked memory, interrupt remapping, reset, displays
    Ready(ready::Ready),
    /// Write the configuration of devices for another tool
    Tool(tool::Tool),
    /// Keep devices on vfio-pci over reboots, as root; `--undo` reverts it
    Persist(persist::Persist),
    /// Capture this machine in one file for `--from`, without serial numbers and MAC addresses
    Snapshot {
        /// Output file, instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Show what changed between two machines or snapshots: grouping, drivers, verdicts
    Diff {
        /// The state before
        before: PathBuf,
        /// The state after
        after: PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages
    Man {
        /// Folder to write to
        folder: PathBuf,
    },
}

impl Machine {
    fn tree(&self) -> HostTree {
        let live = || self.trials.map_or_else(HostTree::live, |trials| HostTree::live().trying(trials));
        self.sysfs.as_ref().map_or_else(live, HostTree::copy)
    }

    /// The machine, after a word on what its source left out.
    fn host(&self) -> Result<Host> {
        self.read(&self.tree())
    }

    /// The machine, looked at as closely as before a change.
    fn host_to_change(&self) -> Result<Host> {
        self.read(&self.tree().asking())
    }

    fn read(&self, tree: &HostTree) -> Result<Host> {
        let host = match &self.from {
            Some(path) if path == Path::new("-") => Host::of_text(&read_to_string(stdin())?, "standard input")?,
            Some(path) => Host::open(path)?,
            None => Host::of_tree(tree)?,
        };
        warn_of(&host);
        Ok(host)
    }

    /// The tree of a machine, with what no snapshot or listing has.
    fn complete(&self) -> Result<HostTree> {
        anyhow::ensure!(self.from.is_none(), "a snapshot does not show that; a running machine or `--sysfs DIR` does");
        Ok(self.tree())
    }

    /// The tree of a machine whose bindings can be changed.
    fn changeable(&self) -> Result<HostTree> {
        anyhow::ensure!(self.from.is_none(), "a snapshot cannot be changed; `--sysfs DIR` can");
        Ok(self.tree())
    }
}

impl Arguments {
    const fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }

    fn run(&self) -> Result<Outcome> {
        let format = self.format();
        match &self.command {
            Command::List(list) => list.run(&self.machine.host()?, format),
            Command::Candidates => candidates::run(&self.machine.host()?, format),
            Command::Ready(ready) => ready.run(&self.machine.complete()?, format),
            Command::Tool(tool) => tool.run(&self.machine.host()?),
            Command::Persist(persist) => persist.run(&self.machine.host()?, format),
            Command::Explain(explain) => explain.run(&self.machine.host()?, format),
            Command::Plan(make) => make.run(&self.machine.host_to_change()?, format),
            Command::Apply(apply) => apply.run(&self.machine.changeable()?, format),
            Command::Undo(undo) => Ok(undo.run(&self.machine.changeable()?, format)),
            Command::Draw { output } => write_out(&draw(&self.machine.host()?), output.as_deref()),
            Command::Snapshot { output } => snapshot(&self.machine.complete()?, output.as_deref()),
            Command::Diff { before, after } => change::run(before, after, format),
            Command::Completions { shell } => shell::completions(*shell, &mut Self::command()),
            Command::Man { folder } => shell::man_pages(folder, Self::command()),
        }
    }
}

fn snapshot(tree: &HostTree, output: Option<&Path>) -> Result<Outcome> {
    write_out(&capture(tree).with_context(|| tree.sysfs().display().to_string())?.to_archive(), output)
}

fn write_out(text: &str, output: Option<&Path>) -> Result<Outcome> {
    match output {
        Some(path) => std::fs::write(path, text).with_context(|| path.display().to_string())?,
        None => print(text)?,
    }
    Ok(Outcome::Possible)
}

fn main() -> ExitCode {
    let trials = match Trials::begin() {
        Ok(trials) => trials,
        Err(code) => return code,
    };
    let mut arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::usage(&error),
    };
    arguments.machine.trials = Some(trials);
    match arguments.run() {
        Ok(outcome) => outcome.into(),
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain("vfio-host", &error, arguments.format());
            Outcome::Unknown.into()
        }
    }
}
