//! `cargo xtask explore`: plays the designs of DMA ownership in every interleaving, and shows what goes wrong.

mod document;
pub(crate) mod report;
mod sequence;
mod timeline;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::path::PathBuf;

use anstream::{print, println};
use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result, ensure};

use crate::ci::shell::environment;
use crate::root;
use crate::style::{BAD, BOLD, DIM, GOOD};
use report::{Answer, Expected, Line, Method};

const KNOWN: Style = AnsiColor::Yellow.on_default();

#[derive(clap::Args)]
pub(crate) struct Explore {
    /// Run only this question (may be repeated)
    #[arg(long, value_name = "NAME")]
    question: Vec<String>,
    /// List the questions
    #[arg(long)]
    list: bool,
    /// Print one JSON document: the result for each question and design
    #[arg(long)]
    json: bool,
    /// Draw the schedule of each violation as a sequence diagram, as a file in this folder
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
    /// Compare the verdicts and pictures of docs/argument.md with the results, or update them
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["question", "list"])]
    argument: Option<Argument>,
}

/// What to do with the verdicts and pictures of docs/argument.md.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Argument {
    Check,
    Update,
}

impl Explore {
    /// Asks the questions; whether every design answered as expected.
    pub(crate) fn run(&self) -> Result<bool> {
        std::env::set_current_dir(root())?;
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
        let finished = status.is_some_and(|status| status.success()) || seen.unexpected() > 0;
        ensure!(finished, "the explorer did not come to its end:\n{}", seen.noise.join("\n"));
        if let Some(folder) = &self.svg {
            document::draw(&seen.answers, folder)?;
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&seen.document)?);
        } else if !self.list {
            seen.sum_up();
        }
        let documented = match self.argument {
            Some(Argument::Check) => document::check(&seen.answers)?,
            Some(Argument::Update) => document::update(&seen.answers).map(|()| true)?,
            None => true,
        };
        Ok(seen.unexpected() == 0 && documented)
    }
}

/// Builds the explorer with the model checker, in a target folder of its own; its path.
fn build(silent: bool) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let target = target.join("shuttle");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let line = "build --release -p iommu-core --features software --example explore --target-dir";
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
    /// Of the searches that leave out nothing.
    schedules: u64,
    /// Chosen at random.
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
    answers: Vec<Answer>,
    /// The same as it was told, for programs.
    document: serde_json::Value,
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
            answers: Vec::new(),
            document: serde_json::json!([]),
            noise: Vec::new(),
        }
    }

    fn unexpected(&self) -> usize {
        self.answers.iter().filter(|answer| !answer.is_expected()).count()
    }

    fn line(&mut self, text: &str) -> Result<()> {
        match serde_json::from_str(text) {
            Ok(Line::Question { question, asks, designs }) if !self.json => {
                println!("{BOLD}{question:<16}{BOLD:#}{asks}");
                println!("{:16}{DIM}{}{DIM:#}", "", designs.join("; "));
            }
            Ok(Line::Begin { question, design }) => {
                self.now = format!("{question}: {design}");
                self.progress(0)?;
            }
            Ok(Line::Progress { schedules }) => self.progress(schedules)?,
            Ok(Line::End(answer)) => {
                if !self.json {
                    self.show(&answer);
                }
                self.keep(text)?;
                self.answers.push(*answer);
            }
            Ok(Line::Question { .. }) => self.keep(text)?,
            Err(_) => self.noise.push(text.to_owned()),
        }
        Ok(())
    }

    fn keep(&mut self, text: &str) -> Result<()> {
        let mut told: serde_json::Value = serde_json::from_str(text)?;
        if let Some(told) = told.as_object_mut() {
            told.remove("kind");
        }
        self.document.as_array_mut().context("the document is a list")?.push(told);
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

    fn show(&mut self, answer: &Answer) {
        if self.terminal {
            print!("\x1b[K");
        }
        if self.question != answer.question {
            answer.question.clone_into(&mut self.question);
            println!("\n{BOLD}{}{BOLD:#}  {}", answer.question, answer.asks);
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
        if answer.expected == Expected::Holds && answer.method != Method::Compared && !answer.endings().is_empty() {
            println!("       {DIM}{}{DIM:#}", answer.endings());
        }
        if let Some(play) = &answer.counterexample {
            timeline::print(play);
        }
        if let Some(play) = &answer.counted {
            println!("       {BOLD}counting, in the schedule that is most like it{BOLD:#}");
            timeline::print(play);
        }
    }

    fn sum_up(&self) {
        println!("\n{BOLD}what the labels stand for{BOLD:#}");
        let mut labels: Vec<(&str, &str)> = Vec::new();
        for answer in &self.answers {
            if !labels.contains(&(&answer.design, &answer.meaning)) {
                labels.push((&answer.design, &answer.meaning));
            }
        }
        for (label, meaning) in labels.into_iter().chain(LEGEND) {
            for (line, text) in timeline::wrapped(meaning, 78).iter().enumerate() {
                println!("  {:<29}{text}", if line == 0 { label } else { "" });
            }
        }
        println!();
        print!("{}", summary(&self.answers));
        println!(
            "{DIM}A schedule stands for all that differ only in the order of steps that touch nothing in common.{DIM:#}"
        );
        if self.unexpected() > 0 {
            println!("{BAD}{} answers are not the expected ones{BAD:#}", self.unexpected());
        }
    }
}

/// What stands in every timeline.
const LEGEND: [(&str, &str); 8] = [
    ("A, B, C", "devices of one group"),
    ("A.driver", "the driver of A as the driver core knows it, set before the bind asks for the group"),
    ("nic", "a kernel driver that does DMA through the DMA API"),
    ("early-nic, broken-nic", "as that; its bind fails before it asks for the group, or in its probe"),
    ("vfio-pci, mlx5-vfio", "drivers that manage their own DMA: user space may claim their devices"),
    ("X, Y", "owners in user space"),
    ("group:1, A:2", "the group lock is held by the first thread, the device lock of A by the second"),
    ("weak memory", "a load may return an older value where the memory order of C11 allows it"),
];

/// How all searches ended, a line for each design.
fn summary(answers: &[Answer]) -> String {
    let line = |(design, total): (&String, &Total)| {
        let sampled =
            if total.sampled > 0 { format!("; {} more at random", grouped(total.sampled)) } else { String::new() };
        let schedules = grouped(total.schedules);
        format!(
            "{design}: wrong in {} of {} searches; {schedules} schedules, every one there is{sampled}\n",
            total.wrong, total.searches
        )
    };
    totals(answers).iter().map(line).collect()
}

/// What the questions came to, by design.
fn totals(answers: &[Answer]) -> BTreeMap<String, Total> {
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.judges_a_design()) {
        let total = totals.entry(answer.family().to_owned()).or_default();
        total.searches += 1;
        match answer.method {
            Method::Sampled => total.sampled += answer.schedules,
            Method::Every | Method::Compared => total.schedules += answer.schedules,
        }
        total.wrong += usize::from(answer.violations > 0);
    }
    totals
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
