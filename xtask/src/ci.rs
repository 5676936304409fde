//! `cargo xtask ci`: everything that a change must pass, cheapest first; names every step that failed.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anstream::{print, println};
use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result, ensure};

use crate::replay;

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
    Step { name: "replay", what: "what our stack answers is what Linux answered", run: replay_recordings },
    Step { name: "bench", what: "benchmarks compile and run once", run: bench },
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
            anyhow::bail!("no step called `{unknown}`; `--list` lists them");
        }
        std::env::set_current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))?;
        let shell = Shell { verbose: self.verbose };
        let chosen = STEPS.iter().filter(|step| self.only.is_empty() || self.only.iter().any(|name| name == step.name));
        let mut failed = Vec::new();
        for step in chosen {
            if std::io::stdout().is_terminal() {
                print!("{DIM}  ..  {:<9} {}{DIM:#}\r", step.name, step.what);
                std::io::stdout().flush()?;
            }
            let begin = Instant::now();
            let verdict = (step.run)(&shell);
            report(step, &verdict, begin.elapsed());
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

fn report(step: &Step, verdict: &Result<Verdict>, took: Duration) {
    let (mark, style, remark) = match verdict {
        Ok(Verdict::Passed) => (" ok ", GOOD, step.what.to_owned()),
        Ok(Verdict::Skipped(why)) => ("skip", DIM, format!("{} ({why})", step.what)),
        Err(error) => ("FAIL", BAD, format!("{error:#}")),
    };
    println!("{style} {mark} {style:#} {:<9} {DIM}{:>6.1} s{DIM:#}  {remark}", step.name, took.as_secs_f64());
}

/// Runs commands.
struct Shell {
    verbose: bool,
}

impl Shell {
    /// Runs `cargo` with the words of `line`. Test results are always shown, all output only if it fails.
    fn cargo(&self, line: &str, env: &[(&str, &str)]) -> Result<()> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut command = duct::cmd(cargo, line.split_whitespace()).stderr_to_stdout().unchecked();
        // What cargo tells the tasks that it runs would make every other build differ from this one.
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR")
        {
            command = command.env_remove(name);
        }
        command = env.iter().fold(command, |command, (name, value)| command.env(name, value));
        if self.verbose {
            let output = command.run()?;
            ensure!(output.status.success(), "cargo {line}");
            return Ok(());
        }
        let output = command.stdout_capture().run().with_context(|| format!("cargo {line}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            for line in text.lines().filter(|line| line.starts_with("test result:")) {
                println!("{line}");
            }
        } else {
            println!("{text}");
        }
        ensure!(output.status.success(), "cargo {line}");
        Ok(())
    }

    /// Whether a command can be run at all.
    fn has(&self, program: &str, arguments: &[&str]) -> bool {
        let _ = self.verbose;
        duct::cmd(program, arguments)
            .stdout_null()
            .stderr_null()
            .unchecked()
            .run()
            .is_ok_and(|out| out.status.success())
    }
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
    let installed = duct::cmd("rustc", ["--print", "target-libdir", "--target", BARE_TARGET]).read();
    let there = installed.is_ok_and(|folder| Path::new(folder.trim()).is_dir());
    let bare = there || shell.has("rustup", &["target", "add", BARE_TARGET]);
    for library in LIBRARIES {
        let target = if bare { format!("--target {BARE_TARGET}") } else { String::new() };
        shell.cargo(&format!("build -p {library} --no-default-features {target}"), &[])?;
    }
    Ok(if bare { Verdict::Passed } else { Verdict::Skipped("built for this machine: no bare target can be had") })
}

fn test(shell: &Shell) -> Result<Verdict> {
    shell.cargo("test --workspace --all-features", &[])?;
    Ok(Verdict::Passed)
}

fn model(shell: &Shell) -> Result<Verdict> {
    for library in LIBRARIES.iter().filter(|library| Path::new(library).join("tests/model.rs").is_file()) {
        shell.cargo(
            &format!("test -p {library} --release --test model --target-dir target/shuttle"),
            &[("RUSTFLAGS", "--cfg shuttle")],
        )?;
    }
    Ok(Verdict::Passed)
}

fn demo(shell: &Shell) -> Result<Verdict> {
    shell.cargo("run --quiet --package xtask -- demo", &[])?;
    Ok(Verdict::Passed)
}

fn replay_recordings(shell: &Shell) -> Result<Verdict> {
    let files: Vec<String> = replay::recordings().iter().map(|path| path.display().to_string()).collect();
    ensure!(!files.is_empty(), "no recordings in testdata/scenarios");
    let line = format!("run --quiet --package xtask -- replay --check --allow-unknown {}", files.join(" "));
    shell.cargo(&line, &[])?;
    Ok(Verdict::Passed)
}

fn bench(shell: &Shell) -> Result<Verdict> {
    shell.cargo("bench --workspace --benches -- --test", &[])?;
    Ok(Verdict::Passed)
}

fn package(shell: &Shell) -> Result<Verdict> {
    forget_packages()?;
    shell.cargo("package --workspace --exclude xtask --allow-dirty --quiet --target-dir target/packaged", &[])?;
    Ok(Verdict::Passed)
}

/// What an earlier run packaged has the same version, so cargo would take it for what is packaged now: the builds, and
/// the sources that it unpacks beside those of real registries. A registry in a folder has no host: its name begins with
/// a dash.
fn forget_packages() -> Result<()> {
    if Path::new("target/packaged").is_dir() {
        std::fs::remove_dir_all("target/packaged")?;
    }
    let Some(home) =
        std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cargo")))
    else {
        return Ok(());
    };
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let registries = ["src", "cache"].map(|part| entries(home.join("registry").join(part)));
    for registry in
        registries.into_iter().flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with('-'))
    {
        for unpacked in entries(registry.path()) {
            let name = unpacked.file_name().to_string_lossy().into_owned();
            if !LIBRARIES.iter().any(|library| name.starts_with(&format!("{library}-{}", env!("CARGO_PKG_VERSION")))) {
                continue;
            }
            let path = unpacked.path();
            if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
        }
    }
    Ok(())
}

fn deny(shell: &Shell) -> Result<Verdict> {
    let own = Path::new("target/tools/bin/cargo-deny");
    if !shell.has("cargo-deny", &["--version"]) && !own.is_file() {
        let installed = shell.has("cargo", &["install", "cargo-deny", "--locked", "--root", "target/tools"]);
        if !installed {
            return Ok(Verdict::Skipped("cargo-deny cannot be had"));
        }
    }
    let program = if own.is_file() { own.to_owned() } else { "cargo-deny".into() };
    let output = duct::cmd(program, ["check", "bans", "licenses", "sources"])
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()?;
    if !output.status.success() {
        println!("{}", String::from_utf8_lossy(&output.stdout));
    }
    ensure!(output.status.success(), "cargo deny check");
    Ok(Verdict::Passed)
}

fn miri(shell: &Shell) -> Result<Verdict> {
    if !shell.has("cargo", &["+nightly", "miri", "--version"]) {
        return Ok(Verdict::Skipped("no nightly with miri here"));
    }
    let output = duct::cmd!("rustup", "run", "nightly", "cargo", "miri", "test", "-p", "device-model", "--lib")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()?;
    if !output.status.success() {
        println!("{}", String::from_utf8_lossy(&output.stdout));
    }
    ensure!(output.status.success(), "cargo miri test");
    Ok(Verdict::Passed)
}
