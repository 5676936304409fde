//! What the documents take from the explorer: `docs/argument.md` the table of verdicts and its pictures, the README how
//! all searches ended.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anstream::println;
use anyhow::{Context as _, Result};

use super::report::{Answer, Memory, Play};
use super::{grouped, sequence, summary};
use crate::style::{BAD, GOOD};

const ARGUMENT: &str = "docs/argument.md";
const README: &str = "README.md";
/// The README shows how all searches ended below this line, up to the end of the block.
const SUMMARY: &str = "$ cargo xtask explore\n";
const FENCE: &str = "```\n";
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

/// Writes the table, the pictures and the README's summary anew.
pub(super) fn update(answers: &[Answer]) -> Result<()> {
    for (name, text) in documents(answers)? {
        std::fs::write(&name, text).with_context(|| name)?;
    }
    Ok(())
}

/// Whether they are what came out; says which are not.
pub(super) fn check(answers: &[Answer]) -> Result<bool> {
    let documents = documents(answers)?;
    let stale = |(name, text): &(&String, &String)| std::fs::read_to_string(name).ok().as_ref() != Some(*text);
    let stale: Vec<_> = documents.iter().filter(stale).map(|(name, _)| name).collect();
    for name in &stale {
        println!("{BAD}{name} is not what came out; `cargo xtask explore --argument update` writes it anew{BAD:#}");
    }
    if stale.is_empty() {
        println!("{GOOD}{ARGUMENT}, its pictures and {README} are what came out{GOOD:#}");
    }
    Ok(stale.is_empty())
}

/// Every file that takes something from the explorer, as it should be.
fn documents(answers: &[Answer]) -> Result<BTreeMap<String, String>> {
    let read = |name: &str| std::fs::read_to_string(name).with_context(|| name.to_owned());
    let (argument, readme) = (read(ARGUMENT)?, read(README)?);
    let drawn = pictures(answers);
    let mut documents = BTreeMap::new();
    for name in shown(&argument) {
        let picture = drawn.get(name).with_context(|| format!("{ARGUMENT} shows {name}, which nothing draws"))?;
        documents.insert(format!("{PICTURES}/{name}"), picture.clone());
    }
    documents.insert(ARGUMENT.to_owned(), between(&argument, BEGIN, END, &table(answers))?);
    documents.insert(README.to_owned(), between(&readme, SUMMARY, FENCE, &summary(answers))?);
    Ok(documents)
}

/// `text` with `new` for what stands between the first `begin` and the `end` that follows.
fn between(text: &str, begin: &str, end: &str, new: &str) -> Result<String> {
    let (before, rest) = text.split_once(begin).with_context(|| format!("there is no `{}`", begin.trim()))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("there is no `{}`", end.trim()))?;
    Ok([before, begin, new, end, after].concat())
}

/// The files that a text shows as pictures.
fn shown(text: &str) -> impl Iterator<Item = &str> {
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
