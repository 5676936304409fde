//! `cargo xtask explore`: plays both designs of DMA ownership in every interleaving, and shows what goes wrong.

pub(crate) mod report;
mod timeline;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anstream::{print, println};
use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result, ensure};

use crate::ci::shell::environment;
use report::{Answer, Expected, Line, Method};

const GOOD: Style = AnsiColor::Green.on_default();
const KNOWN: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

#[derive(clap::Args)]
pub(crate) struct Explore {
    /// Ask only this question (may be given again)
    #[arg(long, value_name = "NAME")]
    question: Vec<String>,
    /// List the questions
    #[arg(long)]
    list: bool,
    /// One JSON object a line: what came out for each question and design
    #[arg(long)]
    json: bool,
}

impl Explore {
    /// Asks the questions; whether every design answered as expected.
    pub(crate) fn run(&self) -> Result<bool> {
        std::env::set_current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))?;
        let explorer = build(self.json)?;
        let arguments = if self.list { vec!["--list".to_owned()] } else { self.question.clone() };
        let command = environment(duct::cmd(explorer, arguments)).stderr_to_stdout().unchecked();
        let running = command.reader().context("the explorer")?;
        let mut seen = Seen::new(self.json);
        for line in BufReader::new(&running).lines() {
            seen.line(&line?)?;
        }
        let status = running.try_wait()?.map(|output| output.status);
        // It fails as well when it has found what it should not.
        let finished = status.is_some_and(|status| status.success()) || seen.unexpected > 0;
        ensure!(finished, "the explorer did not come to its end:\n{}", seen.noise.join("\n"));
        if !self.list && !self.json {
            seen.sum_up();
        }
        Ok(seen.unexpected == 0)
    }
}

/// Builds the explorer with the model checker, in a target folder of its own; its path.
fn build(silent: bool) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let target = target.join("shuttle");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let line = "build --release -p iommu-core --example explore --target-dir";
    let words = line.split(' ').map(Into::into).chain([target.clone().into_os_string()]);
    let command = environment(duct::cmd(cargo, words)).env("RUSTFLAGS", "--cfg shuttle");
    if !silent && std::io::stderr().is_terminal() {
        command.run().context("the explorer does not build")?;
    } else {
        let output = command.stderr_to_stdout().stdout_capture().unchecked().run()?;
        ensure!(output.status.success(), "the explorer does not build:\n{}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(target.join("release/examples/explore").with_extension(std::env::consts::EXE_EXTENSION))
}

/// What all questions together came to, by design.
#[derive(Default)]
struct Total {
    searches: usize,
    schedules: u64,
    sampled: u64,
    wrong: usize,
}

/// What has been heard of the explorer.
struct Seen {
    json: bool,
    terminal: bool,
    /// The question whose heading stands above.
    question: String,
    /// What is being searched now.
    now: String,
    totals: BTreeMap<String, Total>,
    unexpected: usize,
    /// What it printed besides.
    noise: Vec<String>,
}

impl Seen {
    fn new(json: bool) -> Self {
        Self {
            json,
            terminal: !json && std::io::stdout().is_terminal(),
            question: String::new(),
            now: String::new(),
            totals: BTreeMap::new(),
            unexpected: 0,
            noise: Vec::new(),
        }
    }

    fn line(&mut self, text: &str) -> Result<()> {
        match serde_json::from_str(text) {
            Ok(Line::Question { question, asks, facts, designs }) if !self.json => {
                println!("{BOLD}{question:<16}{BOLD:#}{asks} {DIM}{facts}{DIM:#}");
                println!("{:16}{DIM}{}{DIM:#}", "", designs.join("; "));
            }
            Ok(Line::Begin { question, design }) => {
                self.now = format!("{question}: {design}");
                self.progress(0)?;
            }
            Ok(Line::Progress { schedules }) => self.progress(schedules)?,
            Ok(Line::End(answer)) => {
                self.count(&answer);
                if self.json {
                    println!("{text}");
                } else {
                    self.show(&answer);
                }
            }
            Ok(Line::Question { .. }) => println!("{text}"),
            Err(_) => self.noise.push(text.to_owned()),
        }
        Ok(())
    }

    /// For who watches.
    fn progress(&self, schedules: u64) -> Result<()> {
        if self.terminal {
            print!("\x1b[K{DIM}  ..  {}, {} schedules{DIM:#}\r", self.now, grouped(schedules));
            std::io::stdout().flush()?;
        }
        Ok(())
    }

    fn count(&mut self, answer: &Answer) {
        self.unexpected += usize::from(!answer.is_expected());
        if answer.method != Method::Compared {
            let design = answer.design.split(',').next().unwrap_or_default();
            let total = self.totals.entry(design.to_owned()).or_default();
            total.searches += 1;
            total.schedules += answer.schedules;
            total.sampled += if answer.method == Method::Sampled { answer.schedules } else { 0 };
            total.wrong += usize::from(answer.violations > 0);
        }
    }

    fn show(&mut self, answer: &Answer) {
        if self.terminal {
            print!("\x1b[K");
        }
        if self.question != answer.question {
            answer.question.clone_into(&mut self.question);
            println!("\n{BOLD}{}{BOLD:#}  {} {DIM}{}{DIM:#}", answer.question, answer.asks, answer.facts);
        }
        let (mark, style) = match (answer.is_expected(), answer.expected) {
            (true, Expected::Holds) => ("no", GOOD),
            (true, Expected::Fails) => ("YES", KNOWN),
            (false, Expected::Holds) => ("YES, unexpectedly", BAD),
            (false, Expected::Fails) => ("no, unexpectedly", BAD),
        };
        println!(
            "  {style}{mark:<3}{style:#}  {:<29}{}  {DIM}{:.1} s{DIM:#}",
            answer.design,
            answer.extent(),
            answer.seconds
        );
        if answer.expected == Expected::Holds && answer.method != Method::Compared {
            println!("       {DIM}{}{DIM:#}", answer.endings());
        }
        if let Some(play) = &answer.counterexample {
            timeline::print(play);
        }
    }

    fn sum_up(&self) {
        println!();
        for (design, total) in &self.totals {
            let all = total.schedules - total.sampled;
            println!(
                "{BOLD}{design}{BOLD:#}: wrong in {} of {} searches; {} schedules, every one there is{}",
                total.wrong,
                total.searches,
                grouped(all),
                if total.sampled > 0 { format!("; {} more at random", grouped(total.sampled)) } else { String::new() }
            );
        }
        println!(
            "{DIM}A schedule stands for all that differ only in the order of steps that touch nothing in common.{DIM:#}"
        );
        if self.unexpected > 0 {
            println!("{BAD}{} answers are not the expected ones{BAD:#}", self.unexpected);
        }
    }
}

/// A number that can be read at a glance.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
