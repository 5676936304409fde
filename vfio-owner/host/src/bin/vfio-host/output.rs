//! How answers look.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use vfio_host::{Fact, Host, SCHEMA, is_printable};
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
    Ok(anstream::stdout().write_all(plain(text).as_bytes())?)
}

/// Prints prose and tables, in lines that every terminal holds.
pub(crate) fn print_text(text: &str) -> Result<()> {
    print(&folded(text))
}

/// How long a line is at most.
const COLUMNS: usize = 100;

/// How narrow the last column of a table may be; one that does not fit goes below its row.
const NARROWEST: usize = 44;

/// Lines broken at spaces, with what follows moved to the right of what it belongs to.
fn folded(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let indent = " ".repeat(line.len() - line.trim_start_matches(' ').len() + 4);
        let options = textwrap::Options::new(COLUMNS).subsequent_indent(&indent).break_words(false);
        out.extend(textwrap::wrap(line, options).iter().flat_map(|line| [&**line, "\n"]));
    }
    out
}

/// Prints a line for people who look at errors.
pub(crate) fn say(line: &str) {
    anstream::eprint!("{}", plain(&folded(line)));
}

/// Text as it may go to a terminal: what a machine or a listing named so that it would do something there is spelled out,
/// and only our own colours are left.
pub(crate) fn plain(text: &str) -> String {
    let ours: Vec<String> = [GOOD, BAD, DOUBT, STRONG, DIM]
        .iter()
        .flat_map(|style| [style.render().to_string(), style.render_reset().to_string()])
        .collect();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let style = ours.iter().find(|style| char == '\u{1b}' && rest.starts_with(style.as_str()));
        let taken = style.map_or(char.len_utf8(), String::len);
        let (now, later) = rest.split_at(taken);
        if style.is_some() || char == '\n' || is_printable(char) {
            out.push_str(now);
        } else {
            out.extend(char.escape_default());
        }
        rest = later;
    }
    out
}

/// What went wrong, with its causes, each said once.
fn told(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            told.push_str(": ");
            told.push_str(&cause);
        }
    }
    told
}

/// Says what went wrong, after `word`: where answers go if programs read them.
pub(crate) fn complain(word: &str, error: &anyhow::Error, format: Format) {
    let told = told(error);
    match format {
        Format::Json => {
            // If nobody reads the answers, nobody reads this one.
            let _ = print_json("error", &Failure { message: &told });
        }
        Format::Text => say(&format!("{BAD}{word}:{BAD:#} {told}")),
    }
}

/// An error, as programs read it.
#[derive(Serialize)]
struct Failure<'a> {
    message: &'a str,
}

/// What is wrong with the command line; or the help that was asked for.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let rendered = error.to_string();
        // What is missing stands in lines of its own, before a blank one.
        let words: Vec<&str> = rendered.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        let message = words.join(" ");
        let _ = print_json("error", &Failure { message: message.strip_prefix("error: ").unwrap_or(&message) });
        return Outcome::Unknown.into();
    }
    error.exit()
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

    let text = plain_json(&serde_json::to_string_pretty(&Document(name, value))?) + "\n";
    Ok(anstream::stdout().write_all(text.as_bytes())?)
}

/// JSON with such characters as JSON spells them.
pub(crate) fn plain_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for char in json.chars() {
        if char == '\n' || is_printable(char) {
            out.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
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
            let mut at = indent.len();
            for ((style, text), width) in row.iter().zip(widths).take(last) {
                let padding = width.saturating_sub(text.chars().count()) + 2;
                write!(out, "{style}{text}{style:#}{:padding$}", "")?;
                at += width + 2;
            }
            let Some((style, text)) = row.get(last) else { continue };
            let mut room = COLUMNS.saturating_sub(at);
            if room < NARROWEST && text.chars().count() > room {
                at = indent.len() + 4;
                room = COLUMNS.saturating_sub(at);
                write!(out, "\n{:at$}", "")?;
            }
            for (line, text) in textwrap::wrap(text, room).iter().enumerate() {
                let begin = if line == 0 { 0 } else { at };
                writeln!(out, "{:begin$}{style}{text}{style:#}", "")?;
            }
        }
        Ok(())
    }
}

/// A driver in a column.
pub(crate) fn driver_of(driver: &Fact<impl ToString>) -> String {
    match driver {
        Fact::Is(driver) => driver.to_string(),
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
        say(&format!("{DOUBT}note:{DOUBT:#} {path}{more}: {reason}"));
    }
    let skipped = host.skipped_lines();
    if skipped > 0 {
        let lines = if skipped == 1 { "1 line was".to_owned() } else { format!("{skipped} lines were") };
        anstream::eprintln!("{DOUBT}note:{DOUBT:#} {lines} not understood and passed over");
    }
}
