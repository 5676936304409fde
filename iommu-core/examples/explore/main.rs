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
        for run in &question.runs {
            report::begins(question, run);
            let begin = std::time::Instant::now();
            let found = search::search(&run.scene, run.method, run.memory, report::progress);
            report::ends(question, run, &found, begin.elapsed());
            expected &= (found.wrong > 0) == (run.expected == questions::Expected::Fails);
        }
    }
    if expected { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
