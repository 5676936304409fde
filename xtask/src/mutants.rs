//! `cargo xtask mutants`: breaks the rules of ownership, binding and roll-back on purpose, one at a time, and looks that
//! the tests notice.

mod suite;
mod table;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anstream::{print, println};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::ci::shell::environment;
use crate::root;
use crate::style::{BAD, DIM, GOOD};
use suite::{Caught, Scratch, Suite};
use table::Mutant;

#[derive(clap::Args)]
pub(crate) struct Mutants {
    /// Run only this mutant (may be repeated)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Run only the mutants that the explorer must catch, with the explorer alone
    #[arg(long)]
    explore: bool,
    /// List the mutants
    #[arg(long)]
    list: bool,
    /// Print one JSON object per line: each mutant and what caught it
    #[arg(long)]
    json: bool,
}

impl Mutants {
    /// Tries the mutants; whether each was caught.
    pub(crate) fn run(&self) -> Result<bool> {
        std::env::set_current_dir(root())?;
        if let Some(unknown) = self.only.iter().find(|name| table::all().all(|mutant| mutant.name != **name)) {
            bail!("no mutant called `{unknown}`; `--list` lists them");
        }
        let chosen = |mutant: &&Mutant| self.only.is_empty() || self.only.iter().any(|name| name == mutant.name);
        let chosen = table::all().filter(chosen).filter(|mutant| !self.suites(mutant).is_empty());
        let chosen: Vec<_> = chosen.collect();
        if self.list {
            for mutant in chosen {
                println!("{:<24} {:<34} {}", mutant.name, mutant.file, mutant.rule);
            }
            return Ok(true);
        }
        // All at once: a table that no longer fits the code is told before anything is built.
        for mutant in &chosen {
            mutated(mutant)?;
        }
        let scratch = scratch()?;
        self.look_at_unbroken(&scratch, &chosen)?;
        let mut caught = 0;
        for mutant in &chosen {
            caught += usize::from(self.attempt(&scratch, mutant)?);
        }
        if !self.json {
            let style = if caught == chosen.len() { GOOD } else { BAD };
            println!("{style}mutants: {caught} of {} caught{style:#}", chosen.len());
        }
        Ok(caught == chosen.len())
    }

    /// The tests that are to notice this one.
    fn suites(&self, mutant: &Mutant) -> &'static [Suite] {
        match mutant.suites {
            suites if !self.explore => suites,
            suites if suites.contains(&Suite::Explore) => &[Suite::Explore],
            _ => &[],
        }
    }

    /// A test that fails anyway says nothing about a mutant.
    fn look_at_unbroken(&self, scratch: &Scratch, chosen: &[&Mutant]) -> Result<()> {
        if !self.json && std::io::stdout().is_terminal() {
            print!("{DIM}  ..  the tests, with nothing broken{DIM:#}\r");
            std::io::stdout().flush()?;
        }
        let mut suites: Vec<Suite> = Vec::new();
        for suite in chosen.iter().flat_map(|mutant| self.suites(mutant)) {
            if !suites.contains(suite) {
                suites.push(*suite);
            }
        }
        match scratch.notices(&suites)? {
            Some(failed) => bail!("the tests fail with nothing broken: {failed}"),
            None => Ok(()),
        }
    }

    /// Tries one; whether it was caught.
    fn attempt(&self, scratch: &Scratch, mutant: &Mutant) -> Result<bool> {
        let terminal = !self.json && std::io::stdout().is_terminal();
        if terminal {
            print!("{DIM}  ..  {:<24} {}{DIM:#}\r", mutant.name, mutant.rule);
            std::io::stdout().flush()?;
        }
        let begin = Instant::now();
        let file = scratch.root.join(mutant.file);
        let original = std::fs::read(mutant.file)?;
        std::fs::write(&file, mutated(mutant)?)?;
        let caught = scratch.notices(self.suites(mutant));
        std::fs::write(&file, original)?;
        let caught = caught.with_context(|| format!("mutant `{}`", mutant.name))?;
        let took = begin.elapsed().as_secs_f64();
        if self.json {
            let by = caught.as_ref().map(Caught::to_string);
            println!(
                "{}",
                json!({
                    "mutant": mutant.name, "file": mutant.file, "rule": mutant.rule, "caught": by.is_some(),
                    "by": by, "seconds": took,
                })
            );
        } else {
            let (mark, style, by) = match &caught {
                Some(by) => ("caught  ", GOOD, by.to_string()),
                None => ("SURVIVED", BAD, mutant.file.to_owned()),
            };
            let clear = if terminal { "\x1b[K" } else { "" };
            println!(
                "{clear}{style}{mark}{style:#} {:<24} {DIM}{took:>5.1} s{DIM:#}  {} {DIM}{by}{DIM:#}",
                mutant.name, mutant.rule
            );
        }
        Ok(caught.is_some())
    }
}

/// The file as the mutant would have it.
fn mutated(mutant: &Mutant) -> Result<String> {
    let text = std::fs::read_to_string(root().join(mutant.file)).with_context(|| mutant.file)?;
    let places = text.matches(mutant.old).count();
    ensure!(
        places == 1,
        "mutant `{}` does not fit {} any more: its text is there {places} times:\n{}",
        mutant.name,
        mutant.file,
        mutant.old
    );
    Ok(text.replacen(mutant.old, mutant.new, 1))
}

/// A copy of the files that git knows, as they are now. What is in it already stays untouched, so that little is built.
fn scratch() -> Result<Scratch> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let folder = std::path::absolute(target.join("mutants"))?;
    let root = folder.join("work");
    let tracked = environment(duct::cmd("git", ["ls-files", "-z"])).read().context("git ls-files")?;
    for file in tracked.split('\0').filter(|file| !file.is_empty() && Path::new(file).is_file()) {
        let (text, copy) = (std::fs::read(file)?, root.join(file));
        if std::fs::read(&copy).is_ok_and(|old| old == text) {
            continue;
        }
        copy.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(&copy, text).with_context(|| file.to_owned())?;
    }
    Ok(Scratch { root, target: folder.join("target") })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{mutated, table};

    #[test]
    fn every_mutant_fits_the_code() {
        let stale: Vec<_> = table::all().filter_map(|mutant| mutated(mutant).err()).collect();
        assert!(stale.is_empty(), "{stale:#?}");
    }

    #[test]
    fn every_mutant_has_a_name_of_its_own() {
        let names: BTreeSet<_> = table::all().map(|mutant| mutant.name).collect();
        assert_eq!(names.len(), table::all().count());
    }
}
