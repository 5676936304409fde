//! `cargo xtask kernel`: builds the example kernel, boots it, and checks what it says on its serial line.

use std::path::Path;
use std::time::Duration;

use anstream::println;
use anyhow::{Result, bail, ensure};
use duct::cmd;

use crate::ci::shell::{Shell, has_target, succeeds};
use crate::root;

pub(crate) const FOLDER: &str = "iommu-core/examples/kernel";
const TARGET: &str = "x86_64-unknown-none";
const QEMU: &str = "qemu-system-x86_64";
/// It takes a second; a machine that is busy with other things gets more.
const PATIENCE: Duration = Duration::from_secs(120);
/// The status of QEMU when the kernel ends it with its code for success.
const SUCCESS: i32 = 33;

/// What the kernel must say, in this order.
const SAYS: &[&str] = &[
    "nic.0: its DMA passes",
    "refused with EPERM: group 0 is used by kernel drivers: disk.0 (sata), nic.0 (ether)",
    "nic.0: ether waits until nobody has it open",
    "nic.0: is closed",
    "refused with EPERM: group 0 is used by kernel drivers: disk.0 (sata)",
    "claimed: User { owner: Owner(vmm), claims: 1 }",
    "disk.0: its DMA is blocked",
    "refused with EBUSY: cannot bind ether to nic.0",
    "    group 0 belongs to vmm",
    "released: Idle",
    "nic.0: ether is its driver",
    "done",
];

/// What came of the kernel.
pub(crate) enum Outcome {
    /// It did what it must, and said this.
    Booted(String),
    /// It was built at most, for lack of what is named.
    Lacking(&'static str),
}

pub(crate) fn run() -> Result<()> {
    std::env::set_current_dir(root())?;
    match boot(&Shell::new(false, false))? {
        Outcome::Booted(said) => println!("{}", said.trim_end()),
        Outcome::Lacking(what) => println!("not booted: there is no {what} here"),
    }
    Ok(())
}

/// Builds the kernel and boots it.
pub(crate) fn boot(shell: &Shell) -> Result<Outcome> {
    if !has_target(TARGET) {
        return Ok(Outcome::Lacking(TARGET));
    }
    let built = std::path::absolute("target/kernel")?;
    // In its own folder, whose flags those of the environment would replace.
    let line = format!("build --target-dir {}", built.display());
    shell.cargo_in(FOLDER, &line)?;
    if !succeeds(QEMU, &["--version"]) {
        return Ok(Outcome::Lacking(QEMU));
    }
    let image = built.join(TARGET).join("debug/dma-kernel");
    let said = play(&image)?;
    let mut lines = said.lines();
    for expected in SAYS {
        if !lines.any(|line| line.trim_end() == *expected) {
            println!("{}", said.trim_end());
            bail!("the kernel did not say, or not in its place: {expected}");
        }
    }
    Ok(Outcome::Booted(said))
}

/// Runs a machine with the kernel to its end; what it said.
fn play(image: &Path) -> Result<String> {
    let line = "-display none -serial stdio -no-reboot -nodefaults -m 128M -device isa-debug-exit,iobase=0xf4,iosize=4";
    let words = ["-kernel".as_ref(), image.as_os_str()].into_iter().chain(line.split(' ').map(AsRef::as_ref));
    let machine = cmd(QEMU, words).stdin_null().stdout_capture().unchecked().start()?;
    let ended = machine.wait_timeout(PATIENCE)?.is_some();
    if !ended {
        machine.kill()?;
    }
    let output = machine.into_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code() != Some(SUCCESS) {
        println!("{}", said.trim_end());
        ensure!(ended, "the kernel did not end within {} s", PATIENCE.as_secs());
        bail!("the kernel failed");
    }
    Ok(said)
}
