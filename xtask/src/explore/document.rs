//! What `docs/argument.md` takes from the explorer: the table of verdicts, and the pictures that it shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anstream::println;
use anyhow::{Context as _, Result, ensure};

use super::report::{Answer, Memory, Play};
use super::{BAD, GOOD, grouped, sequence};

const ARGUMENT: &str = "docs/argument.md";
const PICTURES: &str = "docs/pictures";
/// The table of verdicts stands between these lines.
const BEGIN: &str = "<!-- verdicts: cargo xtask explore --argument update -->\n";
const END: &str = "<!-- end of the verdicts -->\n";

/// Draws every schedule that goes wrong, and what counting does in it, as files in `folder`.
pub(super) fn draw(answers: &[Answer], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for (name, picture) in pictures(answers) {
        std::fs::write(folder.join(&name), picture).with_context(|| name)?;
    }
    Ok(())
}

/// Writes the table and the pictures anew.
pub(super) fn update(answers: &[Answer]) -> Result<()> {
    let text = std::fs::read_to_string(ARGUMENT).context(ARGUMENT)?;
    let (before, after) = around_table(&text)?;
    std::fs::write(ARGUMENT, format!("{before}{}{after}", table(answers)))?;
    let drawn = pictures(answers);
    for name in shown(&text) {
        let picture = drawn.get(name).with_context(|| format!("{ARGUMENT} shows {name}, which nothing draws"))?;
        std::fs::write(Path::new(PICTURES).join(name), picture).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// Whether the table and the pictures are what came out; says what is not.
pub(super) fn check(answers: &[Answer]) -> Result<bool> {
    let text = std::fs::read_to_string(ARGUMENT).context(ARGUMENT)?;
    let (before, after) = around_table(&text)?;
    let mut stale = Vec::new();
    if text != format!("{before}{}{after}", table(answers)) {
        stale.push(format!("the table of {ARGUMENT}"));
    }
    let drawn = pictures(answers);
    for name in shown(&text) {
        let kept = std::fs::read_to_string(Path::new(PICTURES).join(name)).ok();
        if kept.is_none() || kept.as_ref() != drawn.get(name) {
            stale.push(format!("{PICTURES}/{name}"));
        }
    }
    for stale in &stale {
        println!("{BAD}{stale} is not what came out; `cargo xtask explore --argument update` writes it anew{BAD:#}");
    }
    if stale.is_empty() {
        println!("{GOOD}{ARGUMENT} and its pictures are what came out{GOOD:#}");
    }
    Ok(stale.is_empty())
}

fn around_table(text: &str) -> Result<(&str, &str)> {
    let begin = text.find(BEGIN).map(|at| at + BEGIN.len()).context("no place for the table of verdicts")?;
    let end = text.find(END).context("the table of verdicts has no end")?;
    ensure!(begin <= end, "the table of verdicts ends before it begins");
    let halves = text.split_at_checked(begin).zip(text.split_at_checked(end));
    halves.map(|((before, _), (_, after))| (before, after)).context("a table in the middle of a letter")
}

/// The files that a text shows as pictures.
pub(super) fn shown(text: &str) -> impl Iterator<Item = &str> {
    text.split("](pictures/").skip(1).filter_map(|rest| rest.split(')').next())
}

/// Every picture by the name of its file.
fn pictures(answers: &[Answer]) -> BTreeMap<String, String> {
    let mut pictures = BTreeMap::new();
    for answer in answers {
        let mut draw = |name: String, design: &str, play: &Option<Play>| {
            if let Some(play) = play {
                pictures.insert(format!("{name}.svg"), sequence::svg(&format!("{}: {design}", answer.question), play));
            }
        };
        draw(answer.picture(), &answer.design, &answer.counterexample);
        draw(format!("{}.counted", answer.picture()), "counted, in the same order", &answer.counted);
    }
    pictures
}

/// A row for each question that two designs answer.
fn table(answers: &[Answer]) -> String {
    let mut text = "| question | asks | counting | the others |\n|---|---|---|---|\n".to_owned();
    let mut questions: Vec<&str> = Vec::new();
    for answer in answers.iter().filter(|answer| answer.judges_a_design() && answer.family() != "counted (ships)") {
        if !questions.contains(&answer.question.as_str()) {
            questions.push(&answer.question);
        }
    }
    for question in questions {
        let of_question = || answers.iter().filter(|answer| answer.question == question);
        let asks = of_question().next().map_or("", |answer| answer.asks.as_str());
        let (counting, others): (Vec<_>, Vec<_>) =
            of_question().partition(|answer| answer.family() == "counted (ships)");
        let counting = counting.into_iter().map(verdict).collect::<Vec<_>>().join("; ");
        let others = others.into_iter().map(|answer| format!("{}: {}", answer.design, verdict(answer)));
        let others = others.collect::<Vec<_>>().join("<br>");
        let _ = writeln!(text, "| `{question}` | {asks} | {counting} | {others} |");
    }
    text
}

fn verdict(answer: &Answer) -> String {
    let all = grouped(answer.schedules);
    match (answer.violations, answer.memory) {
        (0, Memory::Weak) => format!("never ({all})"),
        (0, Memory::Sequential) => format!("never, if memory is sequential ({all})"),
        (wrong, Memory::Sequential) => format!("**can happen** ({} of {all})", grouped(wrong)),
        (wrong, Memory::Weak) => format!("**can happen**, if memory is weak ({} of {all})", grouped(wrong)),
    }
}
