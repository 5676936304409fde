//! Runs the commands of a step and keeps what they print, in case that they fail.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anstream::println;
use anyhow::{Context as _, Result, bail};

/// Runs the commands of one step.
pub(crate) struct Shell {
    /// Everything is shown as it comes, not only on failure.
    verbose: bool,
    /// Somebody watches: colours are worth keeping, and a count of tests says more than a line for each binary.
    terminal: bool,
    tests_passed: Cell<usize>,
}

impl Shell {
    pub(crate) fn new(verbose: bool, terminal: bool) -> Self {
        Self { verbose, terminal, tests_passed: Cell::new(0) }
    }

    /// How many tests have passed in the commands up to now.
    pub(super) fn tests_passed(&self) -> usize {
        self.tests_passed.get()
    }

    /// Runs `cargo` with the words of `line`, as [`run`](Self::run).
    pub(crate) fn cargo(&self, line: &str, env: &[(&str, &str)]) -> Result<String> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let words: Vec<&str> = line.split_whitespace().collect();
        self.run(&cargo, &words, env)
    }

    /// Runs `cargo` in a package of its own, with the flags that its folder has.
    pub(crate) fn cargo_in(&self, folder: &str, line: &str) -> Result<String> {
        let words = line.split_whitespace();
        let command = duct::cmd("cargo", words.clone()).dir(folder).env_remove("RUSTFLAGS");
        self.follow(command, &format!("cargo {line}"))
    }

    /// Runs a command; what it printed. Lines with test results are shown at once, the rest only if it fails.
    pub(super) fn run(&self, program: &str, arguments: &[&str], env: &[(&str, &str)]) -> Result<String> {
        let command = env.iter().fold(duct::cmd(program, arguments), |command, (name, value)| command.env(name, value));
        let name = Path::new(program).file_name().unwrap_or_default();
        self.follow(command, &format!("{} {}", name.display(), arguments.join(" ")))
    }

    fn follow(&self, command: duct::Expression, name: &str) -> Result<String> {
        let mut command = environment(command);
        if self.terminal {
            command = command.env("CARGO_TERM_COLOR", "always");
        }
        let running = command.stderr_to_stdout().unchecked().reader().with_context(|| name.to_owned())?;
        let mut printed = String::new();
        let mut lines = BufReader::new(&running);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            let result = passed(&text);
            self.tests_passed.set(self.tests_passed.get() + result.unwrap_or(0));
            if self.verbose || (result.is_some() && !self.terminal) {
                println!("{}", text.trim_end());
            }
            printed.push_str(&text);
            line.clear();
        }
        let status = running.try_wait()?.map(|output| output.status);
        if status.is_some_and(|status| status.success()) {
            return Ok(printed);
        }
        if !self.verbose {
            println!("{}", printed.trim_end());
        }
        bail!("{name}")
    }
}

/// Runs a command in silence: whether it is there and succeeds.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let command = environment(duct::cmd(program, arguments)).stdout_null().stderr_null().unchecked();
    command.run().is_ok_and(|output| output.status.success())
}

/// Returns whether the toolchain can build for `target`; asks rustup for it if need be.
pub(crate) fn has_target(target: &str) -> bool {
    let libraries = environment(duct::cmd!("rustc", "--print", "target-libdir", "--target", target));
    libraries.stderr_null().read().is_ok_and(|folder| Path::new(folder.trim()).is_dir())
        || succeeds("rustup", &["target", "add", target])
}

/// Returns whether `toolchain` is there; asks rustup for it if need be.
pub(super) fn has_toolchain(toolchain: &str) -> bool {
    succeeds("rustup", &["run", toolchain, "cargo", "--version"])
        || succeeds("rustup", &["toolchain", "install", toolchain, "--profile", "minimal"])
}

/// Without what cargo tells the tasks that it runs: it would make every build in them differ from one by hand.
pub(crate) fn environment(command: duct::Expression) -> duct::Expression {
    let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(told))
        .fold(command, |command, (name, _)| command.env_remove(name))
}

/// The count of a line `test result: ok. N passed; …`.
fn passed(line: &str) -> Option<usize> {
    let (_, counts) = line.strip_prefix("test result:")?.split_once(". ")?;
    counts.split(' ').next()?.parse().ok()
}
