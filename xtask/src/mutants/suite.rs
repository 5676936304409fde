//! The tests that a mutant has to get past.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use duct::Expression;

use crate::ci::shell::environment;
use crate::explore::report::Line;

/// How long one binary of tests may take; a mutant that hangs is caught.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long all questions of the explorer may take, and one binary of scenes under the model checker.
const EXPLORER_PATIENCE: Duration = Duration::from_secs(300);

/// Tests of one kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Suite {
    /// Unit and integration tests of this crate.
    Tests(&'static str),
    /// Scenes of this crate under the model checker.
    Model(&'static str),
    /// Every interleaving of the explorer's questions.
    Explore,
}

/// What noticed a mutant.
pub(super) enum Caught {
    /// The first test that failed.
    Test(String),
    /// These tests did not end.
    Hangs(String),
    /// An interleaving.
    Interleaving(String),
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test(test) => f.write_str(test),
            Self::Hangs(tests) => write!(f, "{tests} hangs"),
            Self::Interleaving(question) => write!(f, "explore: {question}"),
        }
    }
}

/// The folder of a crate.
fn folder(package: &str) -> &str {
    if package == "vfio-host" { "vfio-owner/host" } else { package }
}

/// A copy of the workspace to break things in.
pub(super) struct Scratch {
    pub(super) root: PathBuf,
    pub(super) target: PathBuf,
}

impl Scratch {
    /// What of `suites` fails first.
    pub(super) fn notices(&self, suites: &[Suite]) -> Result<Option<Caught>> {
        for suite in suites {
            let caught = match suite {
                Suite::Tests(package) => self.tests(package)?,
                Suite::Model(package) => self.model(package)?,
                Suite::Explore => self.explore()?,
            };
            if caught.is_some() {
                return Ok(caught);
            }
        }
        Ok(None)
    }

    fn tests(&self, package: &str) -> Result<Option<Caught>> {
        // Tests that need a feature which is off are left out silently.
        let line =
            ["test", "--no-run", "--lib", "--tests", "--all-features", "--message-format", "json", "-p", package];
        self.run_all(package, &executables(&self.build(&line, &self.target)?), PATIENCE)
    }

    fn model(&self, package: &str) -> Result<Option<Caught>> {
        let features = match package {
            "device-model" => "std",
            "iommu-core" => "software",
            "vfio-owner" => "iommu-core/software,iommufd",
            _ => "iommu-core/software",
        };
        let line = [
            "test",
            "--no-run",
            "--release",
            "--lib",
            "--test",
            "model",
            "--features",
            features,
            "--message-format",
            "json",
            "-p",
            package,
        ];
        let built = self.build(&line, &self.target.join("shuttle"))?;
        self.run_all(package, &executables(&built), EXPLORER_PATIENCE)
    }

    /// What of these binaries fails first.
    fn run_all(&self, package: &str, binaries: &[PathBuf], patience: Duration) -> Result<Option<Caught>> {
        for binary in binaries {
            let name = binary.file_stem().unwrap_or_default().display().to_string();
            let name = name.rsplit_once('-').map_or(name.as_str(), |(name, _)| name).to_owned();
            let command = duct::cmd!(binary, "--format", "terse").dir(self.root.join(folder(package)));
            match patiently(&command, patience)? {
                Ended::Hangs => return Ok(Some(Caught::Hangs(name))),
                Ended::Well => {}
                Ended::Badly(printed) => return Ok(Some(Caught::Test(format!("{name}: {}", first_failure(&printed))))),
            }
        }
        Ok(None)
    }

    fn explore(&self) -> Result<Option<Caught>> {
        let line = [
            "build",
            "--release",
            "-p",
            "iommu-core",
            "--features",
            "software",
            "--example",
            "explore",
            "--message-format",
            "json",
        ];
        let built = self.build(&line, &self.target.join("shuttle"))?;
        let explorer = executables(&built).pop().context("no explorer was built")?;
        match patiently(&duct::cmd!(explorer), EXPLORER_PATIENCE)? {
            Ended::Hangs => Ok(Some(Caught::Hangs("explore".to_owned()))),
            Ended::Well => Ok(None),
            Ended::Badly(printed) => {
                let lines = printed.lines().filter_map(|line| serde_json::from_str(line).ok());
                let names: Vec<_> = lines.filter_map(unexpected).collect();
                Ok(Some(Caught::Interleaving(if names.is_empty() { "a panic".to_owned() } else { names.join(", ") })))
            }
        }
    }

    /// Runs cargo; a mutant that does not compile is a fault of the table.
    fn build(&self, arguments: &[&str], target: &Path) -> Result<String> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let flags = if target.ends_with("shuttle") { "--cfg shuttle" } else { "" };
        let command = environment(duct::cmd(cargo, arguments)).dir(&self.root).env("CARGO_TARGET_DIR", target);
        let command = command.env("RUSTFLAGS", flags).stdout_capture().stderr_capture().unchecked();
        let output = command.run()?;
        if !output.status.success() {
            bail!("it does not compile:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// What cargo says that it has built, the quickest to run first: unit tests are named after their crate.
fn executables(messages: &str) -> Vec<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages.filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from)).collect()
}

/// The question, if it was not answered as expected.
fn unexpected(line: Line) -> Option<String> {
    match line {
        Line::End(answer) if !answer.is_expected() => Some(answer.question.clone()),
        _ => None,
    }
}

enum Ended {
    Well,
    Badly(String),
    Hangs,
}

fn patiently(command: &Expression, patience: Duration) -> Result<Ended> {
    // The same cases for every mutant and in every run; none is kept.
    let command = environment(command.clone()).env("RUST_BACKTRACE", "0");
    let command = command.env("PROPTEST_RNG_SEED", "1").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true");
    let running = command.stderr_to_stdout().stdout_capture().unchecked().start()?;
    let Some(output) = running.wait_timeout(patience)? else {
        running.kill()?;
        return Ok(Ended::Hangs);
    };
    let printed = || String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(if output.status.success() { Ended::Well } else { Ended::Badly(printed()) })
}

/// The first test that the printed text says to have failed.
fn first_failure(printed: &str) -> String {
    let named = printed.lines().find_map(|line| line.strip_prefix("---- ")?.strip_suffix(" stdout ----"));
    named.unwrap_or("ended badly").to_owned()
}
