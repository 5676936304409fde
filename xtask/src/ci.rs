//! `cargo xtask ci`: everything that a change must pass, cheapest first; names every step that failed.

pub(crate) mod shell;

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anstream::{print, println};
use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail, ensure};

use shell::{Shell, succeeds};

const LIBRARIES: [&str; 4] = ["device-model", "iommu-core", "iommufd-owner", "vfio-owner"];
const BARE_TARGET: &str = "x86_64-unknown-none";

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

#[derive(clap::Args)]
pub(crate) struct Ci {
    /// Run only this step (may be given again)
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// List the steps
    #[arg(long)]
    list: bool,
    /// Show the output of every step, not only of those that fail
    #[arg(long, short)]
    verbose: bool,
}

/// A step: what it is called, and what runs it.
struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&Shell) -> Result<Verdict>,
}

enum Verdict {
    Passed,
    /// Passed as far as it could be run here, and what is lacking.
    Partly(&'static str),
    /// What it needs cannot be had here.
    Skipped(&'static str),
}

const STEPS: &[Step] = &[
    Step { name: "format", what: "rustfmt", run: format },
    Step { name: "clippy", what: "lints of all targets, with and without std", run: clippy },
    Step { name: "docs", what: "rustdoc without warnings", run: docs },
    Step { name: "no-std", what: "the libraries on a machine without an operating system", run: no_std },
    Step { name: "test", what: "unit, property and documentation tests", run: test },
    Step { name: "model", what: "interleavings under the model checker", run: model },
    Step { name: "demo", what: "the demo plays to its end", run: demo },
    Step { name: "replay", what: "what our stack answers is what Linux answered", run: replay },
    Step { name: "bench", what: "benchmarks compile and run once, unoptimized", run: bench },
    Step { name: "package", what: "each crate packages on its own", run: package },
    Step { name: "deny", what: "licences, sources, layers", run: deny },
    Step { name: "miri", what: "the core under miri", run: miri },
];

impl Ci {
    /// Runs the steps; whether all passed.
    pub(crate) fn run(&self) -> Result<bool> {
        if self.list {
            for step in STEPS {
                println!("{:<9} {}", step.name, step.what);
            }
            return Ok(true);
        }
        if let Some(unknown) = self.only.iter().find(|name| STEPS.iter().all(|step| step.name != **name)) {
            bail!("no step called `{unknown}`; `--list` lists them");
        }
        std::env::set_current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))?;
        let terminal = std::io::stdout().is_terminal();
        let chosen = STEPS.iter().filter(|step| self.only.is_empty() || self.only.iter().any(|name| name == step.name));
        let mut failed = Vec::new();
        for step in chosen {
            if terminal {
                print!("{DIM}  ..  {:<9} {}{DIM:#}\r", step.name, step.what);
                std::io::stdout().flush()?;
            }
            let shell = Shell::new(self.verbose, terminal);
            let begin = Instant::now();
            let verdict = (step.run)(&shell);
            report(step, &verdict, shell.tests_passed(), begin.elapsed());
            if verdict.is_err() {
                failed.push(step.name);
            }
        }
        if !failed.is_empty() {
            println!("{BAD}failed: {}{BAD:#}", failed.join(", "));
        }
        Ok(failed.is_empty())
    }
}

fn report(step: &Step, verdict: &Result<Verdict>, tests: usize, took: Duration) {
    let (mark, style, remark) = match verdict {
        Ok(Verdict::Passed) if tests > 0 => (" ok ", GOOD, format!("{}: {tests} passed", step.what)),
        Ok(Verdict::Passed) => (" ok ", GOOD, step.what.to_owned()),
        Ok(Verdict::Partly(lacking)) => (" ok ", GOOD, format!("{} ({lacking})", step.what)),
        Ok(Verdict::Skipped(why)) => ("skip", DIM, format!("{} ({why})", step.what)),
        Err(error) => ("FAIL", BAD, format!("{error:#}")),
    };
    // What the terminal shows of a step while it runs gives way to its verdict.
    let clear = if std::io::stdout().is_terminal() { "\x1b[K" } else { "" };
    println!("{clear}{style} {mark} {style:#} {:<9} {DIM}{:>6.1} s{DIM:#}  {remark}", step.name, took.as_secs_f64());
}

fn format(shell: &Shell) -> Result<Verdict> {
    shell.cargo("fmt --all --check", &[])?;
    Ok(Verdict::Passed)
}

fn clippy(shell: &Shell) -> Result<Verdict> {
    shell.cargo("clippy --workspace --all-targets --all-features -- -D warnings", &[])?;
    for library in LIBRARIES {
        shell.cargo(&format!("clippy -p {library} --no-default-features -- -D warnings"), &[])?;
    }
    Ok(Verdict::Passed)
}

fn docs(shell: &Shell) -> Result<Verdict> {
    shell.cargo("doc --workspace --no-deps --all-features", &[("RUSTDOCFLAGS", "-D warnings")])?;
    Ok(Verdict::Passed)
}

fn no_std(shell: &Shell) -> Result<Verdict> {
    let libraries = duct::cmd("rustc", ["--print", "target-libdir", "--target", BARE_TARGET]).stderr_null().read();
    let bare = libraries.is_ok_and(|folder| Path::new(folder.trim()).is_dir())
        || succeeds("rustup", &["target", "add", BARE_TARGET]);
    let target: &[&str] = if bare { &["--target", BARE_TARGET] } else { &[] };
    for library in LIBRARIES {
        shell.cargo(&format!("build -p {library} --no-default-features {}", target.join(" ")), &[])?;
    }
    Ok(if bare { Verdict::Passed } else { Verdict::Partly("built for this machine: no bare target can be had") })
}

fn test(shell: &Shell) -> Result<Verdict> {
    shell.cargo("test --workspace --all-features", &[])?;
    Ok(Verdict::Passed)
}

fn model(shell: &Shell) -> Result<Verdict> {
    let modelled: Vec<&str> =
        LIBRARIES.into_iter().filter(|library| Path::new(library).join("tests/model.rs").is_file()).collect();
    if modelled.is_empty() {
        return Ok(Verdict::Skipped("no crate has a tests/model.rs"));
    }
    // A target folder of its own, or each change of RUSTFLAGS builds the world anew.
    let packages = format!("-p {}", modelled.join(" -p "));
    let scenes = "--features vfio-owner/iommufd --test model --target-dir target/shuttle";
    let flags: &[(&str, &str)] = &[("RUSTFLAGS", "--cfg shuttle")];
    shell.cargo(&format!("clippy {packages} --lib {scenes} -- -D warnings"), flags)?;
    shell.cargo(&format!("test {packages} --release {scenes}"), flags)?;
    shell.cargo("run --quiet --package xtask -- explore --argument check", &[])?;
    Ok(Verdict::Passed)
}

fn demo(shell: &Shell) -> Result<Verdict> {
    shell.cargo("run --quiet --package xtask -- demo", &[])?;
    Ok(Verdict::Passed)
}

fn replay(shell: &Shell) -> Result<Verdict> {
    let folders = "testdata/scenarios/basics testdata/scenarios/random";
    shell.cargo(&format!("run --quiet --package xtask -- replay --check {folders}"), &[])?;
    Ok(Verdict::Passed)
}

/// As tests, so that they share what the tests built: criterion runs each once unless it is told to measure.
fn bench(shell: &Shell) -> Result<Verdict> {
    shell.cargo("test --workspace --all-features --exclude xtask --benches", &[])?;
    Ok(Verdict::Passed)
}

/// Builds every crate from its archive, and looks that the archive has what its reader needs.
fn package(shell: &Shell) -> Result<Verdict> {
    for library in LIBRARIES {
        let packed = shell.cargo(&format!("package -p {library} --allow-dirty --list"), &[])?;
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            ensure!(packed.lines().any(|line| line == file), "{library}: no {file} in the package");
        }
    }
    // A version of a crate never changes, cargo holds: in a folder where it has verified this one before, it would build
    // the dependents with what our crates were then. So each run has a folder of its own.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    let folder = format!("target/package-{now}");
    let verified =
        shell.cargo(&format!("package --workspace --exclude xtask --allow-dirty --target-dir {folder}"), &[]);
    // What cannot be cleared away is no fault of the crates.
    let _ = std::fs::remove_dir_all(&folder);
    verified.map(|_| Verdict::Passed)
}

fn deny(shell: &Shell) -> Result<Verdict> {
    const OWN: &str = "target/tools/bin/cargo-deny";
    // Unoptimized, it is built in half the time and runs in a second.
    let install = ["install", "cargo-deny", "--locked", "--debug", "--root", "target/tools"];
    let program = if succeeds("cargo-deny", &["--version"]) {
        "cargo-deny"
    } else if Path::new(OWN).is_file() || succeeds("cargo", &install) {
        OWN
    } else {
        return Ok(Verdict::Skipped("cargo-deny cannot be had"));
    };
    shell.run(program, &["check", "bans", "licenses", "sources"], &[])?;
    if !succeeds(program, &["fetch", "db"]) {
        return Ok(Verdict::Partly("without advisories: their database cannot be reached"));
    }
    shell.run(program, &["check", "advisories"], &[])?;
    Ok(Verdict::Passed)
}

fn miri(shell: &Shell) -> Result<Verdict> {
    let nightly = ["run", "nightly", "cargo", "miri"];
    if !succeeds("rustup", &[&nightly[..], &["--version"]].concat()) {
        return Ok(Verdict::Skipped("no nightly with miri here"));
    }
    shell.run("rustup", &[&nightly[..], &["test", "-p", "device-model", "--lib"]].concat(), &[])?;
    Ok(Verdict::Passed)
}
