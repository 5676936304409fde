//! Runs the benchmarks, and reads what they measured.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use duct::cmd;
use serde::Deserialize;

use super::table::{Prints, Program};
use crate::ci::shell::environment;
use crate::root;

/// How much time is spent on each number.
#[derive(Clone, Copy)]
pub(super) enum Effort {
    Full,
    Short,
}

impl Effort {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Full => &["--warm-up-time", "1", "--measurement-time", "3", "--sample-size", "50"],
            Self::Short => &["--warm-up-time", "0.2", "--measurement-time", "0.5", "--sample-size", "10"],
        }
    }
}

/// What was measured in this run, by the full id of the benchmark: nanoseconds of an iteration, or bytes.
pub(super) struct Measurements {
    /// Where criterion puts its estimates: a folder of our own, so that no older run is in it.
    folder: PathBuf,
    values: BTreeMap<String, f64>,
}

/// What criterion writes about a benchmark.
#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

impl Measurements {
    pub(super) fn begin() -> Result<Self> {
        let folder = root().join("target/xtask-bench");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).context("cannot remove what an older run measured")?;
        }
        std::fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        Ok(Self { folder, values: BTreeMap::new() })
    }

    /// Runs the benchmarks of these ids; `progress` is told what is being done.
    pub(super) fn run(
        &mut self,
        program: &Program,
        ids: &[&str],
        effort: Effort,
        mut progress: impl FnMut(&str),
    ) -> Result<()> {
        let Program { package, features, bench, prints } = program;
        let filter = format!("^({})$", ids.iter().map(|id| escaped(id)).collect::<Vec<_>>().join("|"));
        let mut arguments = vec!["bench", "--package", package, "--bench", bench];
        if !features.is_empty() {
            arguments.extend(["--features", features]);
        }
        arguments.push("--");
        if *prints == Prints::Estimates {
            arguments.extend_from_slice(effort.arguments());
            arguments.push(&filter);
        }
        progress(&format!("build {package}, {bench}"));
        let command = environment(cmd("cargo", &arguments)).dir(root()).env("CRITERION_HOME", &self.folder);
        let running = command.stderr_to_stdout().unchecked().reader().context("cargo bench")?;
        let mut printed = String::new();
        for line in BufReader::new(&running).lines() {
            let line = line?;
            if line.starts_with("Benchmarking ") {
                progress(&line);
            }
            printed.push_str(&line);
            printed.push('\n');
        }
        if !running.try_wait()?.is_some_and(|output| output.status.success()) {
            bail!("cargo {} failed:\n{}", arguments.join(" "), printed.trim_end());
        }
        match prints {
            Prints::Estimates => self.read_below(&self.folder.clone())?,
            Prints::Values => self.values.extend(printed.lines().filter_map(printed_value)),
        }
        Ok(())
    }

    fn read_below(&mut self, folder: &Path) -> Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if !path.is_dir() {
                continue;
            }
            if path.ends_with("new") {
                let Benchmark { full_id } = read(&path.join("benchmark.json"))?;
                let Estimates { median } = read(&path.join("estimates.json"))?;
                self.values.insert(full_id, median.point_estimate);
            } else {
                self.read_below(&path)?;
            }
        }
        Ok(())
    }

    /// What the benchmark of this id measured.
    pub(super) fn get(&self, id: &str) -> Result<f64> {
        self.values.get(id).copied().with_context(|| format!("no benchmark measured `{id}`"))
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", path.display()))
}

/// A line `id: value`.
fn printed_value(line: &str) -> Option<(String, f64)> {
    let (id, value) = line.rsplit_once(": ")?;
    Some((id.to_owned(), value.parse().ok()?))
}

/// A regular expression for this text alone.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        if char.is_ascii_punctuation() && !matches!(char, '<' | '>' | '/') {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_escaped_and_values_read() {
        assert_eq!(escaped("map+unmap/one place/1"), "map\\+unmap/one place/1");
        assert_eq!(printed_value("type1: bytes/1000: 61.25"), Some(("type1: bytes/1000".to_owned(), 61.25)));
        assert_eq!(printed_value("running: 1 test"), None);
    }
}
