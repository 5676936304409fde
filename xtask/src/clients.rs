//! `cargo xtask clients`: programs that others wrote, unmodified, in rooms.

mod iommufd_selftest;

use std::time::Instant;

use anstream::println;
use anyhow::{Context as _, Result, bail};
use duct::cmd;

use crate::style::{BAD, DIM, GOOD};

/// The programs.
const CLIENTS: &[Client] = &[iommufd_selftest::CLIENT];

#[derive(clap::Args)]
pub(crate) struct Clients {
    /// Run only these (`--list` lists them)
    #[arg(value_name = "NAME")]
    only: Vec<String>,
    /// List the programs, with the packages that they need
    #[arg(long)]
    list: bool,
    /// Install the packages that they need, with the distribution's package manager
    #[arg(long)]
    install: bool,
}

/// A program, or several that belong together.
struct Client {
    name: &'static str,
    what: &'static str,
    /// Packages of Debian that it comes with, or is made of.
    packages: &'static [&'static str],
    run: fn() -> Result<Outcome>,
}

/// How a client that did not fail went.
enum Outcome {
    /// It did all that it was to do, which is this.
    Passed(String),
    /// It did what it could here: what it did, and what is lacking.
    Partly(String, String),
    /// It needs what is not here.
    Skipped(String),
}

impl Clients {
    /// Runs the clients; whether none failed.
    pub(crate) fn run(&self) -> Result<bool> {
        if let Some(unknown) = self.only.iter().find(|name| CLIENTS.iter().all(|client| client.name != **name)) {
            bail!("no client called `{unknown}`; `--list` lists them");
        }
        let is_chosen = |client: &&Client| self.only.is_empty() || self.only.iter().any(|name| name == client.name);
        let chosen: Vec<&Client> = CLIENTS.iter().filter(is_chosen).collect();
        if self.list {
            for client in chosen {
                println!("{:<17} {} {DIM}({}){DIM:#}", client.name, client.what, client.packages.join(", "));
            }
            return Ok(true);
        }
        if self.install {
            let packages = chosen.iter().flat_map(|client| client.packages);
            let arguments = ["install", "--yes", "--no-install-recommends"].iter().chain(packages);
            cmd("apt-get", arguments).run().context("cannot install the packages")?;
        }
        let mut success = true;
        for client in chosen {
            let begin = Instant::now();
            let outcome = (client.run)();
            success &= outcome.is_ok();
            let (mark, style, remark) = match outcome {
                Ok(Outcome::Passed(what)) => (" ok ", GOOD, what),
                Ok(Outcome::Partly(what, lacking)) => (" ok ", GOOD, format!("{what} ({lacking})")),
                Ok(Outcome::Skipped(why)) => ("skip", DIM, why),
                Err(error) => ("FAIL", BAD, format!("{error:#}")),
            };
            let seconds = begin.elapsed().as_secs_f64();
            println!("{style} {mark} {style:#} {:<17} {DIM}{seconds:>6.1} s{DIM:#}  {remark}", client.name);
        }
        Ok(success)
    }
}
