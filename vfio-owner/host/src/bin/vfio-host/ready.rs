//! `vfio-host ready`

use std::fmt::Write as _;

use anyhow::Result;
use vfio_host::{Check, Host, HostTree, Selector, State, readiness};

use crate::output::{BAD, DIM, DOUBT, Format, GOOD, Outcome, print_json, print_text};
use crate::selection::select;

#[derive(clap::Args)]
pub(crate) struct Ready {
    /// The devices that the guest has: address, slot, ids, group:N, interface, disk or class
    devices: Vec<Selector>,
    /// How much memory the guest has, such as 8G
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    memory: Option<u64>,
}

impl Ready {
    pub(crate) fn run(&self, tree: &HostTree, format: Format) -> Result<Outcome> {
        let host = Host::of_tree(tree)?;
        let checks = readiness(tree, &host, &select(&host, &self.devices)?, self.memory);
        if format == Format::Json {
            print_json("checks", &checks)?;
        } else {
            print_text(&text(&checks)?)?;
        }
        let worst = |state| checks.iter().any(|check| check.state == state);
        Ok(match () {
            () if worst(State::NotReady) => Outcome::NotPossible,
            () if worst(State::Unknown) => Outcome::Unknown,
            () => Outcome::Possible,
        })
    }
}

fn text(checks: &[Check]) -> Result<String> {
    let mut out = String::new();
    for check in checks {
        let (style, word) = match check.state {
            State::Ready => (GOOD, "ok"),
            State::NotReady => (BAD, "no"),
            _ => (DOUBT, "?"),
        };
        let device = check.device.map_or_else(String::new, |device| format!("{device} "));
        writeln!(out, "{style}{word:<3}{style:#} {device}{}: {}", check.subject, check.found)?;
        if let Some(remedy) = &check.remedy {
            writeln!(out, "    {DIM}{remedy}{DIM:#}")?;
        }
    }
    Ok(out)
}

/// A number of bytes, with a unit of powers of 1024 behind it.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().trim_end_matches("IB") {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        unit => return Err(format!("no unit of memory is called {unit}: K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "so much memory no machine has".to_owned())
}
