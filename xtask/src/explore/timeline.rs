//! A schedule as a timeline: a column for each thread, the locks that are held, and who has the group after each step.

use anstream::println;

use super::report::{Held, Play, Step};
use crate::style::{BAD, BOLD, DIM};

/// Width of the page, of its margin, of the locks and of the ownership.
const PAGE: usize = 110;
const MARGIN: usize = 7;
const LOCKS: usize = 15;
const OWNERSHIP: usize = 20;

/// Prints it, below the verdict.
pub(super) fn print(play: &Play) {
    if let Some(broken) = &play.broken
        && play.steps.iter().all(|step| step.what != *broken)
    {
        println!("{:MARGIN$}{BAD}{broken}{BAD:#}", "");
    }
    if play.steps.is_empty() {
        return;
    }
    let width = (PAGE - MARGIN - LOCKS - 3 - OWNERSHIP) / play.threads.len().max(1) - 3;
    let threads = play.threads.iter().enumerate().map(|(number, name)| format!("{}: {name}", number + 1));
    let heading = joined(threads.map(|thread| format!("{thread:<width$} │ ")));
    println!("{:MARGIN$}{BOLD}{heading}{:<LOCKS$} │ who has the group{BOLD:#}", "", "locks held by");
    let rule = joined(play.threads.iter().map(|_| format!("{:─<width$}─┼─", "")));
    println!("{:MARGIN$}{DIM}{rule}{:─<LOCKS$}─┼─{:─<OWNERSHIP$}{DIM:#}", "", "", "");
    let empty = format!("{:width$} │ ", "").repeat(play.threads.len());
    println!("{:MARGIN$}{empty}{:LOCKS$} │ {}", "", "", play.before);
    for step in &play.steps {
        row(play.threads.len(), width, step);
    }
}

fn row(threads: usize, width: usize, step: &Step) {
    let told = wrapped(&step.what, width);
    let locks = wrapped(&held(&step.locks), LOCKS);
    let ownership = if step.wrong { Vec::new() } else { wrapped(&step.ownership, OWNERSHIP) };
    let height = told.len().max(locks.len()).max(ownership.len());
    let style = if step.wrong { BAD } else { anstyle::Style::new() };
    let at = |lines: &[String], line: usize| lines.get(line).cloned().unwrap_or_default();
    for line in 0..height {
        let cells = joined((0..threads).map(|thread| {
            let text = if thread == step.thread { at(&told, line) } else { String::new() };
            format!("{style}{text:<width$}{style:#} {DIM}│{DIM:#} ")
        }));
        let locks = format!("{DIM}{:<LOCKS$} │{DIM:#} ", at(&locks, line));
        let line = format!("{:MARGIN$}{cells}{locks}{}", "", at(&ownership, line));
        println!("{}", line.trim_end());
    }
}

fn joined(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().concat()
}

/// Each lock with the number of the thread that holds it.
fn held(locks: &[Held]) -> String {
    let short = |lock: &Held| {
        let name = lock.lock.strip_prefix("lock of ").or(lock.lock.strip_suffix(" lock")).unwrap_or(&lock.lock);
        format!("{name}:{}", lock.thread + 1)
    };
    locks.iter().map(short).collect::<Vec<_>>().join(" ")
}

/// The words of `text` in lines of at most `width` characters, but for longer words.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
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
