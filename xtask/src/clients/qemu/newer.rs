//! A QEMU that knows iommufd.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use duct::cmd;

use super::QEMU;
use crate::{distribution, root};

/// The emulator and what it reads; its libraries are those of the distribution's own.
const PACKAGES: [&str; 4] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];

/// Finds one: the distribution's, or that of its backports, which is unpacked and not installed.
pub(super) fn with_iommufd() -> Result<PathBuf> {
    let installed = distribution::program(QEMU).context(QEMU)?;
    if knows_iommufd(&installed) {
        return Ok(installed);
    }
    let folder = root().join("target/clients/backports");
    let unpacked = folder.join("usr/bin").join(QEMU);
    if !unpacked.is_file() {
        distribution::unpack_backports(&PACKAGES, &folder)?;
    }
    ensure!(knows_iommufd(&unpacked), "that of the backports does not");
    Ok(unpacked)
}

fn knows_iommufd(program: &Path) -> bool {
    let objects = cmd!(program, "-object", "help").stderr_null().unchecked().read();
    objects.is_ok_and(|objects| objects.lines().any(|line| line.trim() == "iommufd"))
}
