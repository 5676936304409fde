//! Which design of DMA ownership holds, in which interleavings: `cargo xtask explore` runs this and shows what it says.
//!
//! It needs the model checker: `RUSTFLAGS="--cfg shuttle" cargo run --release -p iommu-core --example explore`. It prints
//! one JSON object a line: how far it has come, then what came out. Arguments are the names of questions; without any,
//! all are asked. It fails if an answer is not the expected one.
#![forbid(unsafe_code)]

#[cfg(shuttle)]
mod counted;
#[cfg(shuttle)]
mod design;
#[cfg(shuttle)]
mod designs;
#[cfg(shuttle)]
mod machine;
#[cfg(shuttle)]
mod pointer;
#[cfg(shuttle)]
mod probing;
#[cfg(shuttle)]
mod proposed;
#[cfg(shuttle)]
mod questions;
#[cfg(shuttle)]
mod reduced;
#[cfg(shuttle)]
mod report;
#[cfg(shuttle)]
mod search;
#[cfg(shuttle)]
mod stage;
#[cfg(shuttle)]
mod user;
#[cfg(shuttle)]
mod walk;

#[cfg(not(shuttle))]
fn main() {
    println!("built without the model checker; `cargo xtask explore` builds it with it");
}

#[cfg(shuttle)]
fn main() -> std::process::ExitCode {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let questions = questions::all();
    if chosen == ["--list"] {
        questions.iter().for_each(report::listed);
        return std::process::ExitCode::SUCCESS;
    }
    if let Some(unknown) = chosen.iter().find(|name| questions.iter().all(|question| question.name != **name)) {
        eprintln!("no question called `{unknown}`; `--list` lists them");
        return std::process::ExitCode::FAILURE;
    }
    search::quiet();
    let asked =
        questions.iter().filter(|question| chosen.is_empty() || chosen.iter().any(|name| name == question.name));
    let mut expected = true;
    for question in asked {
        expected &= ask(question);
    }
    if expected { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

/// Asks one question; whether every answer is the expected one.
#[cfg(shuttle)]
fn ask(question: &questions::Question) -> bool {
    let search = |run: &questions::Run, alike| {
        report::begins(question, run);
        let begin = std::time::Instant::now();
        let found = search::search(&run.scene, run.method, run.memory, alike, report::progress);
        (found, begin.elapsed())
    };
    // The design that ships comes first to be read and last to be asked: it is to play what went wrong with the others.
    let (ships, others): (Vec<_>, Vec<_>) =
        question.runs.iter().partition(|run| run.design.name == designs::COUNTED.name);
    let others: Vec<_> = others.into_iter().map(|run| (run, search(run, Vec::new()))).collect();
    let mut expected = true;
    let mut alike = Vec::new();
    for run in ships {
        let wrong = others.iter().filter_map(|(_, (found, _))| found.counterexample.clone());
        let (found, took) = search(run, wrong.map(search::Alike::to).collect());
        expected &= report::ends(question, run, &found, None, took);
        alike = found.alike;
    }
    let mut alike = alike.into_iter();
    for (run, (found, took)) in others {
        let counted = if found.counterexample.is_some() { alike.next().and_then(|alike| alike.play) } else { None };
        expected &= report::ends(question, run, &found, counted.as_ref(), took);
    }
    expected
}
