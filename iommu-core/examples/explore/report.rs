//! What is told, as one JSON object a line.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::questions::{Expected, Question, Run};
use crate::search::{Found, Memory, Method};
use crate::stage::Play;

fn tell(line: &Value) {
    // Whoever listens may have gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A question that could be asked.
pub(crate) fn listed(question: &Question) {
    let designs: Vec<_> = question.runs.iter().map(|run| run.design.name).collect();
    tell(&json!({
        "kind": "question", "question": question.name, "asks": question.asks, "facts": question.facts,
        "designs": designs,
    }));
}

/// A search begins.
pub(crate) fn begins(question: &Question, run: &Run) {
    tell(&json!({ "kind": "begin", "question": question.name, "design": run.design.name }));
}

/// So many schedules have been tried.
pub(crate) fn progress(schedules: usize) {
    tell(&json!({ "kind": "progress", "schedules": schedules }));
}

/// A search has ended; `counted` is what the design that ships does in the schedule that went wrong. Whether the answer
/// is the expected one.
pub(crate) fn ends(question: &Question, run: &Run, found: &Found, counted: Option<&Play>, took: Duration) -> bool {
    let method = match run.method {
        Method::Every => "every",
        Method::Compared => "compared",
        Method::Sampled(_) => "sampled",
    };
    tell(&json!({
        "kind": "end",
        "question": question.name,
        "asks": question.asks,
        "facts": question.facts,
        "design": run.design.name,
        "meaning": run.design.meaning,
        "memory": match run.memory { Memory::Sequential => "sequential", Memory::Weak => "weak" },
        "expected": match run.expected { Expected::Holds => "holds", Expected::Fails => "fails" },
        "method": method,
        "schedules": found.schedules,
        "redundant": found.redundant,
        "reduced": found.reduced,
        "violations": found.wrong,
        "seconds": took.as_secs_f64(),
        "outcomes": found.outcomes,
        "counterexample": found.counterexample.as_ref().map(schedule),
        "counted": counted.map(schedule),
    }));
    (found.wrong > 0) == (run.expected == Expected::Fails)
}

fn schedule(play: &Play) -> Value {
    let steps: Vec<_> = play
        .lines
        .iter()
        .map(|line| {
            json!({
                "thread": line.thread, "what": line.what, "wrong": line.wrong, "ownership": line.ownership,
                "locks": line.locks.iter().map(|(lock, by)| json!({ "lock": lock, "thread": by })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "broken": play.broken, "threads": play.threads, "before": play.before, "steps": steps })
}
