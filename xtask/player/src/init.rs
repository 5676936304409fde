//! As the first process of a guest: the kernel gives it what stands behind `--` on its command line.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

/// What a kernel may have as modules.
const MODULES: [&str; 6] = ["e1000", "e1000e", "nvme", "pci_stub", "vfio_iommu_type1", "vfio_pci"];

pub(crate) fn is_first_process() -> bool {
    std::process::id() == 1
}

/// Sets the guest up, plays, says what went wrong, and switches the guest off.
pub(crate) fn play_and_power_off(play: impl FnOnce() -> Result<ExitCode>) -> Result<ExitCode> {
    if let Err(error) = set_up().and_then(|()| play()) {
        eprintln!("{error:#}");
    }
    reboot(RebootMode::RB_POWER_OFF)?;
    Ok(ExitCode::FAILURE)
}

fn set_up() -> Result<()> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")] {
        std::fs::create_dir_all(at)?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>).context(at)?;
    }
    // Where they are built in there is nothing to load, and perhaps nothing to load it with.
    for module in MODULES {
        let _ = Command::new("modprobe").arg(module).status();
    }
    Ok(())
}
