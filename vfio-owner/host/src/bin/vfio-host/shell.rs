//! `vfio-host completions` and `man`

use std::path::Path;

use anyhow::{Context as _, Result};
use clap_complete::Shell;

use crate::output::{Outcome, print};

const NAME: &str = "vfio-host";

pub(crate) fn completions(shell: Shell, command: &mut clap::Command) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, NAME, &mut script);
    let script = String::from_utf8(script)?;
    // The generator of bash takes the dash of our name for the beginning of a subcommand, in one place and not in the other.
    print(&script.replace("vfio__subcmd__host", "vfio__host"))?;
    Ok(Outcome::Possible)
}

pub(crate) fn man_pages(folder: &Path, command: clap::Command) -> Result<Outcome> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    clap_mangen::generate_to(command, folder).with_context(|| folder.display().to_string())?;
    Ok(Outcome::Possible)
}
