//! A schedule as a timeline: a column for each thread, and who has the group after each step.

use anstream::println;

use super::report::{Play, Step};
use super::{BAD, BOLD, DIM};

/// Width of the page, and of the ownership.
const PAGE: usize = 110;
const OWNERSHIP: usize = 22;

/// Prints it, below the verdict.
pub(super) fn print(play: &Play) {
    if let Some(broken) = &play.broken
        && play.steps.iter().all(|step| step.what != *broken)
    {
        println!("       {BAD}{broken}{BAD:#}");
    }
    if play.steps.is_empty() {
        return;
    }
    let width = (PAGE - OWNERSHIP - 7) / play.threads.len().max(1) - 3;
    let heading = joined(play.threads.iter().map(|thread| format!("{thread:<width$} │ ")));
    println!("       {BOLD}{heading}who has the group{BOLD:#}");
    let rule = joined(play.threads.iter().map(|_| format!("{:─<width$}─┼─", "")));
    println!("       {DIM}{rule}{:─<OWNERSHIP$}{DIM:#}", "");
    println!("       {}{}", format!("{:width$} │ ", "").repeat(play.threads.len()), play.before);
    for step in &play.steps {
        row(play.threads.len(), width, step);
    }
}

fn row(threads: usize, width: usize, step: &Step) {
    let told = wrapped(&step.what, width);
    let locks = if step.locks.is_empty() || step.wrong { Vec::new() } else { wrapped(&held(&step.locks), width) };
    let ownership = if step.wrong { Vec::new() } else { wrapped(&step.ownership, OWNERSHIP) };
    let height = (told.len() + locks.len()).max(ownership.len());
    for at in 0..height {
        let (text, style) = match told.get(at) {
            Some(text) if step.wrong => (text.as_str(), BAD),
            Some(text) => (text.as_str(), anstyle::Style::new()),
            None => (locks.get(at - told.len()).map_or("", String::as_str), DIM),
        };
        let cells = joined((0..threads).map(|thread| {
            let text = if thread == step.thread { text } else { "" };
            format!("{style}{text:<width$}{style:#} {DIM}│{DIM:#} ")
        }));
        let line = format!("       {cells}{}", ownership.get(at).map_or("", String::as_str));
        println!("{}", line.trim_end());
    }
}

fn joined(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().concat()
}

fn held(locks: &[String]) -> String {
    format!("holds {}", locks.join(", "))
}

/// The words of `text` in lines of at most `width` characters, but for longer words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
