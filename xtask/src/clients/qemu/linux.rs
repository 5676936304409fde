//! A Linux guest, whose own driver reads and writes the drive that it was passed.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use vfio_owner::testbed::models::nvme::{MemoryDisk, Nvme};
use vfio_owner::testbed::{Machine, workstation};
use vfio_room::Room;

use super::{DRIVE, QEMU, is_free};
use crate::clients::{Checks, Client, Need, limited, text};
use crate::live::packages::{Kernel, Tools};
use crate::live::{FOLDER, initramfs};
use crate::root;

pub(in super::super) const CLIENT: Client = Client {
    name: "qemu-linux",
    shows: "a Linux guest reads and writes an NVMe drive that it was passed, with MSI-X",
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
dmesg | grep 'nvme.*timeout' | sed 's/^/guest: /'
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
    let mut contents = vec![0; DISK];
    let place = contents.iter_mut().skip(BEFORE_AT * BLOCK);
    place.zip(BEFORE.bytes()).for_each(|(byte, letter)| *byte = letter);
    let disk = Arc::new(MemoryDisk::new(contents));
    let behind = disk.clone();
    let machine = Machine::builder(workstation()).model(DRIVE, |slot| Nvme::new(slot, behind)).build()?;
    let machine = Arc::new(machine);
    machine.unbind(DRIVE)?.wait();
    machine.bind(DRIVE, "vfio-pci")?;
    let room = Room::new(&machine)?;
    let mut qemu = limited(&room, QEMU);
    qemu.args(["-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults", "-no-user-config", "-no-reboot"]);
    qemu.args(["-display", "none", "-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1"]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&image);
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
    checks.check("interrupts", || interrupts(&told));
    checks.check("ends", || is_free(&room, &machine, DRIVE));
    checks.note(format!("Linux {}", kernel.version));
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

/// Messages came for the admin queue and for the data, and no command had to wait for its timeout.
fn interrupts(told: &[&str]) -> Result<()> {
    let queue = |name: &str| told.iter().find(|line| line.ends_with(name)).copied();
    for name in ["nvme0q0", "nvme0q1"] {
        let line = queue(name).with_context(|| format!("no interrupt of {name}: {told:?}"))?;
        let count: u64 = line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
        ensure!(line.contains("MSI") && count > 0, "{line}");
    }
    ensure!(!told.iter().any(|line| line.contains("timeout")), "{told:?}");
    Ok(())
}
