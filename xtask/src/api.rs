//! `cargo xtask api`: the public API of each library, against its snapshot in `testdata/api`.

use anstream::println;
use anyhow::{Context as _, Result, bail};
use public_api::{Builder, PublicApi};

use crate::ci::PACKAGES;
use crate::ci::shell::Shell;
use crate::root;

#[derive(clap::Args)]
pub(crate) struct Api {
    /// Update the snapshots
    #[arg(long)]
    update: bool,
}

/// What came of a comparison.
pub(crate) enum Outcome {
    Same,
    /// The toolchain writes a format that is not known here.
    Unreadable,
}

impl Api {
    pub(crate) fn run(&self) -> Result<()> {
        std::env::set_current_dir(root())?;
        let shell = Shell::new(false, false);
        if self.update {
            for package in PACKAGES {
                let api = read(&shell, package)?.context("the format of this toolchain is not known here")?;
                std::fs::write(snapshot(package), listing(&api))?;
            }
        } else if let Outcome::Unreadable = compare(&shell)? {
            println!("not compared: the format of this toolchain is not known here");
        }
        Ok(())
    }
}

/// Compares the libraries in the current folder's workspace.
pub(crate) fn compare(shell: &Shell) -> Result<Outcome> {
    let mut changed = Vec::new();
    for package in PACKAGES {
        let Some(api) = read(shell, package)? else { return Ok(Outcome::Unreadable) };
        let (is, was) = (listing(&api), std::fs::read_to_string(snapshot(package)).unwrap_or_default());
        if is != was {
            changed.push(package);
            show_difference(&was, &is);
        }
    }
    if !changed.is_empty() {
        bail!("the public API of {} is another; if that is meant: cargo xtask api --update", changed.join(", "));
    }
    Ok(Outcome::Same)
}

/// Reads the API as rustdoc has it, with all features; `None` if the toolchain writes a format that is not known here.
fn read(shell: &Shell, package: &str) -> Result<Option<PublicApi>> {
    // The stable compiler writes the format if it is told so: no nightly to install, and no drift.
    let words = "-Z unstable-options --output-format json --cap-lints allow";
    let line = format!("rustdoc -p {package} --lib --all-features --target-dir target/api -- {words}");
    shell.cargo(&line, &[("RUSTC_BOOTSTRAP", "1")])?;
    let api = Builder::from_rustdoc_json(format!("target/api/doc/{}.json", package.replace('-', "_")))
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build();
    Ok(api.ok())
}

fn listing(api: &PublicApi) -> String {
    let mut lines: Vec<String> = api.items().map(ToString::to_string).collect();
    lines.push(String::new());
    lines.join("\n")
}

fn snapshot(package: &str) -> String {
    format!("testdata/api/{package}.txt")
}

fn show_difference(was: &str, is: &str) {
    let lacks = |text: &str, line: &str| !text.lines().any(|other| other == line);
    was.lines().filter(|line| lacks(is, line)).for_each(|line| println!("- {line}"));
    is.lines().filter(|line| lacks(was, line)).for_each(|line| println!("+ {line}"));
}
