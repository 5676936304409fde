//! A Linux guest, whose own driver reads and writes the drive that it was passed.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use vfio_owner::testbed::models::nvme::MemoryDisk;

use super::{DRIVE, QEMU, is_free, room_with};
use crate::clients::{Checks, Client, Need, limited, text};
use crate::live::packages::{Kernel, Tools};
use crate::live::{FOLDER, initramfs};
use crate::root;

pub(in super::super) const CLIENT: Client = Client {
    name: "qemu-linux",
    shows: "a Linux guest reads and writes an NVMe drive that it was passed, by MSI-X and by INTx",
    needs: &[
        Need::Program(QEMU, "qemu-system-x86"),
        Need::Program("busybox", "busybox-static"),
        Need::Program("apt-get", "apt"),
        Need::Program("xz", "xz-utils"),
    ],
    wants: &[],
    run,
};

/// The driver, and what it asks for by other names than its dependencies'.
const MODULES: &[&str] = &["nvme", "crc64_rocksoft_generic", "crct10dif_generic"];

/// What is on the drive, and what the guest writes to it: a block each.
const BEFORE: &str = "read by the guest";
const AFTER: &str = "written by the guest";
const BLOCK: usize = 512;
const BEFORE_AT: usize = 2000;
const AFTER_AT: usize = 3;
const DISK: usize = 4 << 20;

/// What the guest runs.
fn script() -> String {
    format!(
        "#!/bin/busybox sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
modprobe nvme
disk=/dev/nvme0n1
for _ in $(seq 100); do test -b $disk && break; sleep 0.1; done
echo \"guest: $(dd if=$disk bs={BLOCK} skip={BEFORE_AT} count=1 2> /dev/null | tr -d '\\0')\"
echo '{AFTER}' | dd of=$disk bs={BLOCK} seek={AFTER_AT} conv=sync,fsync 2> /dev/null
echo \"guest: whole $(dd if=$disk bs=1M 2> /dev/null | wc -c)\"
grep nvme0q /proc/interrupts | sed 's/^/guest: /'
dmesg | grep -e 'nvme.*timeout' -e 'nobody cared' | sed 's/^/guest: /'
poweroff -f
"
    )
}

fn run(checks: &mut Checks) -> Result<()> {
    let (tools, kernel) = match kernel() {
        Ok(found) => found,
        Err(error) => {
            checks.lacks(format!("no kernel for the guest: {error:#}"));
            return Ok(());
        }
    };
    let folder = root().join(FOLDER);
    let image = initramfs::build_script(&kernel, &tools, &folder, MODULES, &script())?;
    for told_by in [ToldBy::Messages, ToldBy::Line] {
        let name = format!("by {told_by}");
        checks.attempt(&name, |checks| boot(checks, &kernel, &image, told_by));
    }
    checks.note(format!("Linux {}", kernel.version));
    Ok(())
}

/// How the drive interrupts the guest.
#[derive(Clone, Copy)]
enum ToldBy {
    Messages,
    Line,
}

impl ToldBy {
    const fn option(self) -> &'static str {
        match self {
            Self::Messages => "",
            Self::Line => "pci=nomsi",
        }
    }
}

impl fmt::Display for ToldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Messages => "MSI-X",
            Self::Line => "INTx",
        })
    }
}

fn boot(checks: &mut Checks, kernel: &Kernel, image: &Path, told_by: ToldBy) -> Result<()> {
    let mut contents = vec![0; DISK];
    let place = contents.iter_mut().skip(BEFORE_AT * BLOCK);
    place.zip(BEFORE.bytes()).for_each(|(byte, letter)| *byte = letter);
    let disk = Arc::new(MemoryDisk::new(contents));
    let (machine, room) = room_with(&[DRIVE], disk.clone())?;
    let mut qemu = limited(&room, QEMU);
    qemu.args(["-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults", "-no-user-config", "-no-reboot"]);
    qemu.args(["-display", "none", "-serial", "stdio", "-append"]);
    qemu.arg(format!("console=ttyS0 quiet panic=-1 {}", told_by.option()));
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(image);
    let printed = text(qemu.args(["-device", &format!("vfio-pci,host={DRIVE}")]))?;
    let told: Vec<&str> = printed.lines().filter_map(|line| line.trim().strip_prefix("guest: ")).collect();
    let tells = |what: &str| {
        ensure!(told.contains(&what), "the guest did not print {what:?}, but {printed}");
        Ok(())
    };
    checks.check("reads", || tells(BEFORE));
    checks.check("reads all", || tells(&format!("whole {DISK}")));
    checks.check("writes", || {
        let contents = disk.contents();
        let written = contents.get(AFTER_AT * BLOCK..).context("the disk is longer")?;
        ensure!(written.starts_with(AFTER.as_bytes()), "the disk does not have what the guest wrote");
        Ok(())
    });
    checks.check("interrupts", || interrupts(&told, told_by));
    checks.check("ends", || is_free(&room, &machine, DRIVE));
    Ok(())
}

/// The kernel of the guest, which is fetched if it is not there.
fn kernel() -> Result<(Tools, Kernel)> {
    let tools = match Tools::find(Path::new(&root().join(FOLDER)))? {
        Ok(tools) => tools,
        Err(missing) => bail!("{missing}"),
    };
    let kernel = tools.kernels(false)?.into_iter().next().context("there is none")?;
    Ok((tools, kernel))
}

/// Interrupts came for the admin queue and for the data, which the guest had a use for, and no command had to wait for its
/// timeout.
fn interrupts(told: &[&str], told_by: ToldBy) -> Result<()> {
    let kind = match told_by {
        ToldBy::Messages => "MSI",
        ToldBy::Line => "IO-APIC",
    };
    for queue in ["nvme0q0", "nvme0q1"] {
        let line = told.iter().find(|line| line.contains(queue));
        let line = line.with_context(|| format!("no interrupt of {queue}: {told:?}"))?;
        let count: u64 = line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
        ensure!(line.contains(kind) && count > 0, "{line}");
    }
    let complains = |line: &&str| line.contains("timeout") || line.contains("nobody cared");
    ensure!(!told.iter().any(complains), "{told:?}");
    Ok(())
}
