//! The program under test.

use std::process::Command;

use anyhow::{Context as _, Result};
use live_guest::Run;

pub(crate) const PROGRAM: &str = "/usr/bin/vfio-host";

/// Runs vfio-host.
pub(crate) fn vfio_host(arguments: &[&str]) -> Result<Run> {
    let output = Command::new(PROGRAM).args(arguments).output().context(PROGRAM)?;
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Run { code: output.status.code(), out, err })
}
