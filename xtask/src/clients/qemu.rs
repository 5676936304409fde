//! QEMU (`qemu-system-x86_64`, without KVM): firmware and guests drive devices that were passed to them.

pub(super) mod block;
mod guest;
pub(super) mod linux;
mod newer;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vfio_owner::testbed::models::nvme::{Disk, MemoryDisk, Nvme};
use vfio_owner::testbed::{Machine, workstation};
use vfio_room::{Command, Room};

use self::guest::{BOOTED, EJECTS, EXITS, LEFT};
use super::{Checks, Client, Need, folder, limited};
use crate::distribution;

/// By VFIO groups, as every version does.
pub(super) const CLIENT: Client = Client {
    name: "qemu",
    shows: "a guest boots from an NVMe drive that it was passed; a group that is not viable; two devices; unplugging",
    needs: NEEDS,
    wants: &[],
    run: |checks| {
        let program = distribution::program(QEMU).context(QEMU)?;
        Qemu { program, way: Way::Group }.check(checks);
        Ok(())
    },
};

/// By iommufd, with the distribution's QEMU or the one of its backports.
pub(super) const IOMMUFD: Client = Client {
    name: "qemu-iommufd",
    shows: "the same by device files and iommufd",
    needs: NEEDS,
    wants: &[],
    run: |checks| {
        match newer::with_iommufd() {
            Ok(program) => Qemu { program, way: Way::Iommufd }.check(checks),
            Err(error) => checks.lacks(format!("no QEMU here knows iommufd (8.2 does): {error:#}")),
        }
        Ok(())
    },
};

const NEEDS: &[Need] = &[Need::Program(QEMU, "qemu-system-x86")];

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

/// A QEMU, and how it is passed devices.
struct Qemu {
    program: PathBuf,
    way: Way,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Group,
    Iommufd,
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

impl Qemu {
    fn check(&self, checks: &mut Checks) {
        checks.check("group that is not viable", || self.not_viable());
        checks.check("two devices of one group", || self.two_devices());
        checks.check("unplug", || self.unplug());
        checks.check("its own seccomp filter", || {
            let (machine, room) = room(&[DRIVE], EXITS)?;
            let sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
            self.boots(&room, &["-sandbox", sandbox], &[DRIVE])?;
            is_free(&room, &machine, DRIVE)
        });
        checks.attempt("boot", |checks| self.boot(checks));
    }

    /// A QEMU in the room, with a guest that boots from the first of the devices that it is passed.
    fn command<'a>(&self, room: &'a Room, devices: &[&str]) -> Command<'a> {
        let mut command = limited(room, &self.program);
        command.args(MACHINE);
        let by = match self.way {
            Way::Group => "",
            Way::Iommufd => {
                command.args(["-object", "iommufd,id=iommufd0"]);
                ",iommufd=iommufd0"
            }
        };
        for (number, device) in devices.iter().enumerate() {
            command.arg("-device").arg(format!("vfio-pci,host={device},id=passed{number},bootindex={number}{by}"));
        }
        command
    }

    /// Waits until a guest with these options and devices has printed its line and ended; how long the line took.
    fn boots(&self, room: &Room, options: &[&str], devices: &[&str]) -> Result<Duration> {
        let mut command = self.command(room, devices);
        command.args(["-serial", "stdio"]).args(options);
        prints(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    /// Boots a guest from the drive, and the same from QEMU's own drive.
    fn boot(&self, checks: &mut Checks) -> Result<()> {
        let (machine, room) = room(&[DRIVE], EXITS)?;
        let passed = self.boots(&room, &[], &[DRIVE])?;
        is_free(&room, &machine, DRIVE)?;
        checks.count(1);

        let image = folder("qemu")?.join("disk.img");
        fs::write(&image, guest::disk(EXITS))?;
        let drive = format!("if=none,id=drive,format=raw,file={}", image.display());
        let mut own = std::process::Command::new(&self.program);
        own.args(MACHINE).args(["-serial", "stdio", "-drive", &drive]);
        own.args(["-device", "nvme,drive=drive,serial=1,bootindex=0"]);
        let own = prints(own.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)?;
        let [passed, own] = [passed, own].map(|time| time.as_millis());
        checks.note(format!("first line after {passed} ms; {own} ms from QEMU's own drive"));
        Ok(())
    }

    /// QEMU says that it cannot have the device, and the room who is in the way.
    fn not_viable(&self) -> Result<()> {
        let [drive, _] = SHARING;
        let (machine, room) = room(&[drive], EXITS)?;
        let output = self.command(&room, &[drive]).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let told = match self.way {
            Way::Group => "not viable",
            Way::Iommufd => "Operation not permitted",
        };
        ensure!(!output.status.success() && errors.contains(told), "{}: {errors}", output.status);
        names_the_card(&room, &machine)
    }

    fn two_devices(&self) -> Result<()> {
        let (machine, room) = room(&SHARING, EXITS)?;
        let [drive, _] = SHARING;
        self.boots(&room, &[], &SHARING)?;
        is_free(&room, &machine, drive)
    }

    /// Takes the device from a guest that runs, by the monitor: it is free again, and QEMU goes on.
    fn unplug(&self) -> Result<()> {
        let (machine, room) = room(&[DRIVE], EJECTS)?;
        let serial = folder("qemu")?.join("serial");
        let mut command = self.command(&room, &[DRIVE]);
        command.args(["-qmp", "stdio", "-serial"]).arg(format!("file:{}", serial.display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut qemu = command.spawn()?;
        let mut monitor = qemu.stdin.take().context("its input is a pipe")?;
        let replies = qemu.stdout.take().context("its output is a pipe")?;
        let mut replies = BufReader::new(replies).lines().map_while(Result::ok);
        writeln!(monitor, r#"{{"execute": "qmp_capabilities"}}"#)?;
        writeln!(monitor, r#"{{"execute": "device_del", "arguments": {{"id": "passed0"}}}}"#)?;
        let is_gone = |reply: &String| reply.contains("DEVICE_DELETED") && reply.contains(r#""passed0""#);
        replies.find(is_gone).context("the device was not deleted")?;
        is_free(&room, &machine, DRIVE)?;
        writeln!(monitor, r#"{{"execute": "quit"}}"#)?;
        // What it still prints has a reader until it ends.
        let _ = replies.count();
        let output = qemu.wait_with_output()?;
        ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
        let printed = fs::read_to_string(serial)?;
        ensure!(printed.trim() == BOOTED, "the guest printed {printed:?}");
        Ok(())
    }
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
