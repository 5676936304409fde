//! How answers look.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use vfio_host::{Fact, Host, SCHEMA};
use vfio_owner::viability::Verdict;

pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const DOUBT: Style = AnsiColor::Yellow.on_default();
pub(crate) const STRONG: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();

/// For whom the answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

/// What a run came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Possible,
    NotPossible,
    Unknown,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Possible => 0,
            Outcome::NotPossible => 1,
            Outcome::Unknown => 2,
        })
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Viable => Self::Possible,
            Verdict::NotViable => Self::NotPossible,
            Verdict::Unknown => Self::Unknown,
        }
    }
}

pub(crate) const fn style_of(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Viable => GOOD,
        Verdict::NotViable => BAD,
        Verdict::Unknown => DOUBT,
    }
}

/// Prints all of it, coloured if on a terminal.
pub(crate) fn print(text: &str) -> Result<()> {
    Ok(anstream::stdout().write_all(text.as_bytes())?)
}

/// Prints `{"schema": …, NAME: VALUE}`.
pub(crate) fn print_json(name: &'static str, value: &impl Serialize) -> Result<()> {
    struct Document<'a, T>(&'static str, &'a T);

    impl<T: Serialize> Serialize for Document<'_, T> {
        fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(2))?;
            map.serialize_entry("schema", &SCHEMA)?;
            map.serialize_entry(self.0, self.1)?;
            map.end()
        }
    }

    print(&(serde_json::to_string_pretty(&Document(name, value))? + "\n"))
}

/// Whoever read our output has had enough of it.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Rows whose columns begin at the same place in all of them, the last one as long as it is.
pub(crate) struct Columns {
    rows: Vec<Vec<(Style, String)>>,
}

impl Columns {
    pub(crate) const fn new() -> Self {
        Self { rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = (Style, String)>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// How wide each column is.
    pub(crate) fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for row in &self.rows {
            widths.resize(row.len().max(widths.len()), 0);
            for (width, (_, text)) in widths.iter_mut().zip(row) {
                *width = text.chars().count().max(*width);
            }
        }
        widths
    }

    /// The rows, each after `indent`.
    pub(crate) fn write(&self, out: &mut String, indent: &str, widths: &[usize]) -> std::fmt::Result {
        for row in &self.rows {
            out.push_str(indent);
            let last = row.iter().rposition(|(_, text)| !text.is_empty()).unwrap_or(0);
            for (column, ((style, text), width)) in row.iter().zip(widths).enumerate().take(last + 1) {
                let padding = if column == last { 0 } else { width.saturating_sub(text.chars().count()) + 2 };
                write!(out, "{style}{text}{style:#}{:padding$}", "")?;
            }
            out.push('\n');
        }
        Ok(())
    }
}

/// A driver in a column.
pub(crate) fn driver_of(driver: &Fact<String>) -> String {
    match driver {
        Fact::Is(driver) => driver.clone(),
        Fact::Absent => "-".to_owned(),
        Fact::Unknown => "?".to_owned(),
    }
}

/// What the source left out or got wrong, each kind once.
pub(crate) fn warn_of(host: &Host) {
    let mut kinds: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for warning in &host.pci.warnings {
        let (_, count) = kinds.entry(warning.reason.to_string()).or_insert((&warning.path, 0));
        *count += 1;
    }
    for (reason, (path, count)) in kinds {
        let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        anstream::eprintln!("{DOUBT}note:{DOUBT:#} {path}{more}: {reason}");
    }
    let skipped = host.skipped_lines();
    if skipped > 0 {
        let lines = if skipped == 1 { "1 line was".to_owned() } else { format!("{skipped} lines were") };
        anstream::eprintln!("{DOUBT}note:{DOUBT:#} {lines} not understood and passed over");
    }
}
