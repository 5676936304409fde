//! QEMU (`qemu-system-x86_64`, without KVM): firmware and guests drive devices that were passed to them.

pub(super) mod block;
mod guest;
pub(super) mod linux;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vfio_owner::testbed::models::nvme::{Disk, MemoryDisk, Nvme};
use vfio_owner::testbed::{Machine, workstation};
use vfio_room::Room;

use self::guest::{BOOTED, EJECTS, EXITS, LEFT};
use super::{Checks, Client, Need, limited, text};
use crate::root;

pub(super) const CLIENT: Client = Client {
    name: "qemu",
    shows: "a guest boots from an NVMe drive that it was passed; a group that is not viable; two devices; unplugging",
    needs: &[Need::Program(QEMU, "qemu-system-x86")],
    wants: &[],
    run,
};

const QEMU: &str = "qemu-system-x86_64";

/// An NVMe drive that is alone in its group.
const DRIVE: &str = "0000:00:05.0";
/// An NVMe drive and a network card that share a group, for want of ACS.
const SHARING: [&str; 2] = ["0000:02:00.0", "0000:03:00.0"];

/// A machine without devices that were not asked for, whose serial line is the standard output.
const MACHINE: &[&str] = &[
    "-accel",
    "tcg",
    "-machine",
    "pc",
    "-m",
    "64",
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    // A guest ends it by a write to this port.
    "-device",
    "isa-debug-exit,iobase=0xf4,iosize=1",
];

fn run(checks: &mut Checks) -> Result<()> {
    checks.check("group that is not viable", not_viable);
    checks.check("two devices of one group", two_devices);
    checks.check("unplug", unplug);
    checks.check("its own seccomp filter", || {
        let (machine, room) = room(&[DRIVE], EXITS)?;
        let sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
        let passed = passed(DRIVE);
        boots(&room, &["-sandbox", sandbox, "-device", &passed]).map(drop)?;
        is_free(&room, &machine, DRIVE)
    });
    boot(checks)
}

/// Boots a guest from the drive, and the same from QEMU's own drive.
fn boot(checks: &mut Checks) -> Result<()> {
    let (machine, room) = room(&[DRIVE], EXITS)?;
    let passed = boots(&room, &["-device", &passed(DRIVE)])?;
    is_free(&room, &machine, DRIVE)?;
    checks.count(1);

    let image = root().join("target/clients/qemu");
    fs::create_dir_all(&image)?;
    let image = image.join("disk.img");
    fs::write(&image, guest::disk(EXITS))?;
    let drive = format!("if=none,id=drive,format=raw,file={}", image.display());
    let mut own = std::process::Command::new(QEMU);
    own.args(MACHINE).args(["-serial", "stdio", "-drive", &drive, "-device", "nvme,drive=drive,serial=1,bootindex=0"]);
    let own = prints(own.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)?;
    let milliseconds = |time: Duration| time.as_millis();
    checks.note(format!(
        "first line after {} ms; {} ms from QEMU's own drive",
        milliseconds(passed),
        milliseconds(own)
    ));

    let objects = text(limited(&room, QEMU).args(["-object", "help"]))?;
    if objects.lines().any(|line| line.trim() == "iommufd") {
        checks.check("boot through iommufd", || {
            let device = format!("{},iommufd=iommufd", self::passed(DRIVE));
            boots(&room, &["-object", "iommufd,id=iommufd", "-device", &device]).map(drop)?;
            is_free(&room, &machine, DRIVE)
        });
    } else {
        let version = text(limited(&room, QEMU).arg("--version"))?;
        let version = version.split_whitespace().nth(3).unwrap_or_default();
        checks.lacks(format!("QEMU {version} does not know iommufd (8.2 does)"));
    }
    Ok(())
}

/// A machine with these devices on vfio-pci, the first an NVMe drive with a boot sector that ends so.
fn room(devices: &[&str], end: &[u8]) -> Result<(Arc<Machine>, Room)> {
    room_with(devices, MemoryDisk::new(guest::disk(end)))
}

/// A machine with these devices on vfio-pci, the first an NVMe drive with this disk.
fn room_with(devices: &[&str], disk: impl Disk + 'static) -> Result<(Arc<Machine>, Room)> {
    let drive = devices.first().context("no devices")?;
    let machine = Machine::builder(workstation()).model(drive, |slot| Nvme::new(slot, disk)).build()?;
    let machine = Arc::new(machine);
    for device in devices {
        machine.unbind(device)?.wait();
        machine.bind(device, "vfio-pci")?;
    }
    let room = Room::new(&machine)?;
    Ok((machine, room))
}

/// The option that passes a device to the guest, which boots from it.
fn passed(device: &str) -> String {
    format!("vfio-pci,host={device},id=passed,bootindex=0")
}

/// Starts QEMU in the room with these options, and waits until the guest has printed its line and ended; how long the line
/// took.
fn boots(room: &Room, options: &[&str]) -> Result<Duration> {
    let mut command = limited(room, QEMU);
    command.args(MACHINE).args(["-serial", "stdio"]).args(options);
    prints(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Waits until a guest has printed its line and ended.
fn prints(mut qemu: Child) -> Result<Duration> {
    let begin = Instant::now();
    let stdout = qemu.stdout.take().context("its output is a pipe")?;
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let booted = lines.any(|line| line.trim() == BOOTED);
    let time = begin.elapsed();
    let output = qemu.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(booted, "the guest did not print its line: {}: {}", output.status, errors.trim_end());
    ensure!(output.status.code() == Some(LEFT), "{}: {}", output.status, errors.trim_end());
    Ok(time)
}

/// Nothing of the room is held, and the device can have another driver.
fn is_free(room: &Room, machine: &Machine, device: &str) -> Result<()> {
    room.check_empty()?;
    machine.unbind(device)?.wait();
    machine.bind(device, "nvme")?;
    machine.unbind(device)?.wait();
    Ok(machine.bind(device, "vfio-pci")?)
}

/// QEMU says that the group is not viable, and the room who is in the way.
fn not_viable() -> Result<()> {
    let [drive, _] = SHARING;
    let (machine, room) = room(&[drive], EXITS)?;
    let output = limited(&room, QEMU).args(MACHINE).args(["-device", &passed(drive)]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && errors.contains("not viable"), "{}: {errors}", output.status);
    names_the_card(&room, &machine)
}

/// The room says which device keeps the drive from being opened, and nothing of it is held.
fn names_the_card(room: &Room, machine: &Machine) -> Result<()> {
    let [drive, card] = SHARING;
    let refusals = room.refusals();
    let last = refusals.last().context("nothing was refused")?;
    let group = machine.group(drive)?.id();
    let reason = format!("group {group} is used by kernel drivers: {card} (e1000e)");
    ensure!(last.reason.contains(&reason), "the room says: {last}");
    Ok(room.check_empty()?)
}

fn two_devices() -> Result<()> {
    let (machine, room) = room(&SHARING, EXITS)?;
    let [drive, card] = SHARING;
    boots(&room, &["-device", &passed(drive), "-device", &format!("vfio-pci,host={card}")])?;
    is_free(&room, &machine, drive)
}

/// Takes the device from a guest that runs, by the monitor: it is free again, and QEMU goes on.
fn unplug() -> Result<()> {
    let (machine, room) = room(&[DRIVE], EJECTS)?;
    let folder = root().join("target/clients/qemu");
    fs::create_dir_all(&folder)?;
    let serial = folder.join("serial");
    let mut command = limited(&room, QEMU);
    command.args(MACHINE).args(["-qmp", "stdio", "-device", &passed(DRIVE), "-serial"]);
    command.arg(format!("file:{}", serial.display())).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut qemu = command.spawn()?;
    let mut monitor = qemu.stdin.take().context("its input is a pipe")?;
    let replies = qemu.stdout.take().context("its output is a pipe")?;
    let mut replies = BufReader::new(replies).lines().map_while(Result::ok);
    writeln!(monitor, r#"{{"execute": "qmp_capabilities"}}"#)?;
    writeln!(monitor, r#"{{"execute": "device_del", "arguments": {{"id": "passed"}}}}"#)?;
    let is_gone = |reply: &String| reply.contains("DEVICE_DELETED") && reply.contains(r#""passed""#);
    replies.find(is_gone).context("the device was not deleted")?;
    is_free(&room, &machine, DRIVE)?;
    writeln!(monitor, r#"{{"execute": "quit"}}"#)?;
    // What it still prints has a reader until it ends.
    let _ = replies.count();
    let status = qemu.wait()?;
    ensure!(status.success(), "{status}");
    let printed = fs::read_to_string(serial)?;
    ensure!(printed.trim() == BOOTED, "the guest printed {printed:?}");
    Ok(())
}
