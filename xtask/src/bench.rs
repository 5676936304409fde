//! `cargo xtask bench`: measures the operations that programs wait for, each beside what one would otherwise use, and
//! compares with what it is to cost.

mod measure;
mod table;

use std::io::{IsTerminal as _, Write as _};

use anstream::{print, println};
use anyhow::{Result, bail};
use serde_json::json;

use crate::style::{BAD, BOLD, DIM, GOOD};
use measure::{Effort, Measurements};
use table::{Aim, PROGRAMS, Row, Unit, table};

#[derive(clap::Args)]
pub(crate) struct Bench {
    /// Measure only operations whose name contains one of these (`--list` lists them)
    #[arg(value_name = "NAME")]
    only: Vec<String>,
    /// List the operations, with what they are measured beside and what they are to cost
    #[arg(long)]
    list: bool,
    /// Spend less time on each number: good enough to see a factor of two
    #[arg(long)]
    short: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Measures and prints; fails only if something could not be measured.
    pub(crate) fn run(&self) -> Result<()> {
        let rows = table();
        let named = |row: &Row, name: &String| row.to_string().contains(name.as_str());
        if let Some(unknown) = self.only.iter().find(|name| !rows.iter().any(|row| named(row, name))) {
            bail!("no operation is called `{unknown}`; `--list` lists them");
        }
        let is_chosen = |row: &Row| self.only.is_empty() || self.only.iter().any(|name| named(row, name));
        let rows: Vec<Row> = rows.into_iter().filter(is_chosen).collect();
        if self.list {
            rows.iter().for_each(list);
            return Ok(());
        }
        let effort = if self.short { Effort::Short } else { Effort::Full };
        let measurements = self.measure(&rows, effort)?;
        let mut counts = Counts::default();
        if !self.json {
            println!("{BOLD}{}{BOLD:#}", Line::TITLE);
        }
        for row in &rows {
            let line = Line::of(row, &measurements)?;
            counts.add(&line);
            if self.json { line.print_json() } else { line.print() }
        }
        if !self.json {
            println!("\n{counts}");
        }
        Ok(())
    }

    fn measure(&self, rows: &[Row], effort: Effort) -> Result<Measurements> {
        let terminal = !self.json && std::io::stdout().is_terminal();
        let mut measurements = Measurements::begin()?;
        for program in PROGRAMS {
            let ids: Vec<&str> = rows.iter().filter(|row| row.program == program.bench).flat_map(Row::ids).collect();
            if ids.is_empty() {
                continue;
            }
            measurements.run(program, &ids, effort, |doing| {
                if terminal {
                    print!("{DIM}  ..  {doing:<90.90}{DIM:#}\r");
                    // Progress that cannot be shown is no reason to stop.
                    let _ = std::io::stdout().flush();
                }
            })?;
        }
        if terminal {
            print!("{:<96}\r", "");
        }
        Ok(measurements)
    }
}

fn list(row: &Row) {
    let names: Vec<_> = row.beside.iter().map(|rival| rival.name).collect();
    let beside = if names.is_empty() { String::new() } else { format!("beside {}", names.join(", ")) };
    println!("{:<50} {:<24} {DIM}{beside}{DIM:#}", row.to_string(), row.aim.to_string());
}

/// A row with what was measured.
struct Line<'a> {
    row: &'a Row,
    ours: f64,
    /// What each rival took.
    beside: Vec<f64>,
}

impl<'a> Line<'a> {
    const TITLE: &'static str =
        "      operation                                               ours  aim                     beside";

    fn of(row: &'a Row, measurements: &Measurements) -> Result<Self> {
        let value = |id: &str, scale: f64| Ok(measurements.get(id)? * scale / row.pieces);
        let beside = row.beside.iter().map(|rival| value(&rival.id, rival.scale)).collect::<Result<_>>()?;
        Ok(Self { row, ours: value(&row.ours, 1.0)?, beside })
    }

    /// How often the rival at `place` fits into ours.
    fn ratio(&self, place: usize) -> Option<f64> {
        self.beside.get(place).map(|other| self.ours / other)
    }

    /// Whether the aim is reached, if there is one.
    fn reached(&self) -> Option<bool> {
        match self.row.aim {
            Aim::None => None,
            Aim::Most(most) => Some(self.ours <= most),
            Aim::Times(most, rival) => {
                let place = self.row.beside.iter().position(|beside| beside.name == rival)?;
                Some(self.ratio(place)? <= most)
            }
        }
    }

    fn print(&self) {
        let (mark, style) = match self.reached() {
            Some(true) => (" ok ", GOOD),
            Some(false) => ("over", BAD),
            None => ("    ", DIM),
        };
        let unit = self.row.unit;
        let beside = self.row.beside.iter().zip(&self.beside);
        let beside =
            beside.map(|(rival, took)| format!("{} {} (x{:.2})", rival.name, unit.of(*took), self.ours / took));
        let (name, aim) = (self.row.to_string(), self.row.aim.to_string());
        let beside = beside.collect::<Vec<_>>().join(", ");
        println!("{style}{mark}{style:#}  {name:<50} {:>9}  {aim:<22}  {DIM}{beside}{DIM:#}", unit.of(self.ours));
    }

    fn print_json(&self) {
        let rivals = self.row.beside.iter().zip(&self.beside);
        let beside: Vec<_> = rivals
            .map(|(rival, took)| json!({ "name": rival.name, "value": took, "ratio": self.ours / took }))
            .collect();
        let unit = match self.row.unit {
            Unit::Time => "ns",
            Unit::Bytes => "bytes",
        };
        let line = json!({
            "operation": self.row.operation, "size": self.row.size, "unit": unit, "value": self.ours, "beside": beside,
            "aim": self.row.aim.to_string(), "reached": self.reached(),
        });
        println!("{line}");
    }
}

#[derive(Default)]
struct Counts {
    reached: usize,
    over: usize,
}

impl Counts {
    fn add(&mut self, line: &Line<'_>) {
        match line.reached() {
            Some(true) => self.reached += 1,
            Some(false) => self.over += 1,
            None => {}
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bench: {} of {} aims reached", self.reached, self.reached + self.over)
    }
}
