//! A schedule as a sequence diagram: a lifeline for each thread with the locks that it holds as bars, and who has the
//! group.

use std::fmt::Write as _;

use super::report::{Play, Step};
use super::timeline::wrapped;

const LANE: usize = 250;
const MARGIN: usize = 20;
const HEAD: usize = 52;
const ROW: usize = 15;
const GAP: usize = 9;
/// Characters in a lane, and in the column of the owners.
const TEXT: usize = 31;
const OWNERS: usize = 24;
/// Where the text of a step begins, right of the bars of the locks.
const INDENT: usize = 26;

const STYLE: &str = "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1f2328}.b{font-weight:bold}\
.w{fill:#b00020;font-weight:bold}.s{fill:#59636e}.l{stroke:#afb8c1}.g{fill:#8250df}.d{fill:#9a6700}\
.n{fill:#eaeef2}.k{fill:#b6d7ff}.u{fill:#e6c8ff}.x{fill:#ffc9c9}.p{fill:#fff}";

/// Draws it.
pub(super) fn svg(title: &str, play: &Play) -> String {
    let lanes = play.threads.len();
    let owners = MARGIN + lanes * LANE;
    let width = owners + OWNERS * 8 + MARGIN;
    let rows = rows(play);
    let bottom = rows.last().map_or(HEAD, |(_, end)| *end);
    let verdict = play.broken.as_ref().filter(|broken| play.steps.iter().all(|step| step.what != **broken));
    let height = bottom + if verdict.is_some() { 56 } else { 34 };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"p\" width=\"{width}\" height=\"{height}\"/>\n",
        escaped(title)
    );
    text(&mut svg, MARGIN, 18, "b", title);
    for (lane, thread) in play.threads.iter().enumerate() {
        let x = MARGIN + lane * LANE;
        text(&mut svg, x, 40, "b", thread);
        line(&mut svg, x + 4, HEAD - 4, bottom);
    }
    text(&mut svg, owners, 40, "b", "who has the group");
    bars(&mut svg, play, &rows);
    holders(&mut svg, play, &rows, owners);
    for (step, (begin, _)) in play.steps.iter().zip(&rows) {
        let x = MARGIN + step.thread * LANE;
        let class = if step.wrong { "w" } else { "" };
        for (at, told) in wrapped(&step.what, TEXT - 3).iter().enumerate() {
            text(&mut svg, x + INDENT, begin + 11 + at * ROW, class, told);
        }
        let _ = writeln!(svg, "<circle class=\"{class}\" cx=\"{}\" cy=\"{}\" r=\"3\"/>", x + 4, begin + 7);
    }
    if let Some(verdict) = verdict {
        text(&mut svg, MARGIN, bottom + 20, "w", verdict);
    }
    legend(&mut svg, height - 10);
    svg.push_str("</svg>\n");
    svg
}

/// Where each step begins and ends.
fn rows(play: &Play) -> Vec<(usize, usize)> {
    let mut y = HEAD;
    let height = |step: &Step| wrapped(&step.what, TEXT - 3).len().max(wrapped(&step.ownership, OWNERS).len());
    let mut row = |step| {
        let begin = y;
        y += height(step) * ROW + GAP;
        (begin, y)
    };
    play.steps.iter().map(&mut row).collect()
}

/// The locks that each thread holds: the device lock left, the group lock right.
fn bars(svg: &mut String, play: &Play, rows: &[(usize, usize)]) {
    for (step, (begin, end)) in play.steps.iter().zip(rows) {
        for held in &step.locks {
            let (class, place) = if held.lock == "group lock" { ("g", 18) } else { ("d", 11) };
            let x = MARGIN + held.thread * LANE + place;
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{begin}\" width=\"5\" height=\"{}\"/>",
                end - begin
            );
        }
    }
}

/// Who has the group after each step; the colour says what kind it is.
fn holders(svg: &mut String, play: &Play, rows: &[(usize, usize)], x: usize) {
    let mut told = String::new();
    for (step, (begin, end)) in play.steps.iter().zip(rows) {
        let kernel = step.ownership.contains(" on ");
        let user = step.ownership.split(" + ").any(|holder| !holder.contains(" on ") && !holder.starts_with("nobody"));
        let class = match (kernel, user) {
            (true, true) => "x",
            (true, false) => "k",
            (false, true) => "u",
            (false, false) => "n",
        };
        let (width, height) = (OWNERS * 8, end - begin);
        let _ =
            writeln!(svg, "<rect class=\"{class}\" x=\"{x}\" y=\"{begin}\" width=\"{width}\" height=\"{height}\"/>");
        if told != step.ownership {
            for (at, part) in wrapped(&step.ownership, OWNERS - 1).iter().enumerate() {
                text(svg, x + 5, begin + 11 + at * ROW, "", part);
            }
            told.clone_from(&step.ownership);
        }
    }
}

fn legend(svg: &mut String, y: usize) {
    let _ = writeln!(svg, "<rect class=\"d\" x=\"{MARGIN}\" y=\"{}\" width=\"5\" height=\"12\"/>", y - 10);
    text(svg, MARGIN + 10, y, "s", "a device lock");
    let group = MARGIN + 125;
    let _ = writeln!(svg, "<rect class=\"g\" x=\"{group}\" y=\"{}\" width=\"5\" height=\"12\"/>", y - 10);
    text(svg, group + 10, y, "s", "the group lock");
}

fn line(svg: &mut String, x: usize, from: usize, to: usize) {
    let _ = writeln!(svg, "<line class=\"l\" x1=\"{x}\" y1=\"{from}\" x2=\"{x}\" y2=\"{to}\"/>");
}

fn text(svg: &mut String, x: usize, y: usize, class: &str, text: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let _ = writeln!(svg, "<text{class} x=\"{x}\" y=\"{y}\">{}</text>", escaped(text));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
