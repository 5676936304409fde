//! Calls to the kernel that may never return, made by a child process with a deadline.
//!
//! A write to `unbind` waits for everybody who has the device open, and nothing ends a process that waits so, not even
//! SIGKILL. The child may stay behind; this process goes on and says what it waits for.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use crate::deadline::within;

/// How long the kernel may take. Drivers of disks and network cards take seconds to let go.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// Why a call did not do what it should.
#[derive(Debug)]
pub(super) enum CallError {
    /// It was refused.
    Refused(String),
    /// It has not returned.
    NoAnswer {
        /// The process that waits for it.
        writer: u32,
    },
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

/// What a writer has in its environment: the device that it changes.
const DEVICE: &str = "VFIO_HOST_DEVICE";

/// Writes `contents` to a file of sysfs that is open, as one write, which changes a device.
pub(super) fn write(file: File, contents: &str, device: PciAddress, deadline: Duration) -> Result<(), CallError> {
    // Whatever it copies, it copies in one block; what fails is told on its standard error.
    let mut command = Command::new("dd");
    command.args(["bs=4096", "count=1"]).env(DEVICE, device.to_string()).stdin(Stdio::piped()).stdout(file);
    let mut child = spawn(&mut command)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(contents.as_bytes())?;
    }
    finish(child, deadline)
}

/// Returns the process that still waits for its change of a device to be made, this process's or that of one that was ended.
pub(super) fn pending(device: PciAddress) -> Option<u32> {
    let variable = format!("{DEVICE}={device}");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.find(|process| {
        let is_writer = fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.trim() == "dd");
        let environment =
            if is_writer { fs::read(format!("/proc/{process}/environ")).unwrap_or_default() } else { Vec::new() };
        environment.split(|byte| *byte == 0).any(|text| text == variable.as_bytes())
    })
}

/// Loads a module.
pub(super) fn modprobe(module: &str, deadline: Duration) -> Result<(), CallError> {
    let mut command = Command::new("modprobe");
    command.args(["--", module]).stdin(Stdio::null()).stdout(Stdio::null());
    finish(spawn(&mut command)?, deadline)
}

fn spawn(command: &mut Command) -> Result<Child, CallError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let spawned = command.env("LC_ALL", "C").stderr(Stdio::piped()).spawn();
    spawned.map_err(|error| CallError::Refused(format!("{name}: {error}")))
}

fn finish(child: Child, deadline: Duration) -> Result<(), CallError> {
    let writer = child.id();
    match within(deadline, || child.wait_with_output()) {
        Some(output) => said(&output?),
        None => Err(CallError::NoAnswer { writer }),
    }
}

fn said(output: &Output) -> Result<(), CallError> {
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| !line.trim().is_empty()).map(str::trim);
    // "dd: error writing 'standard output': Device or resource busy"
    let reason = line.map(|line| line.rsplit_once(": ").map_or(line, |(_, reason)| reason));
    Err(CallError::Refused(reason.map_or_else(|| output.status.to_string(), ToOwned::to_owned)))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn address(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    #[test]
    fn what_does_not_return_is_given_up_and_names_its_process() {
        // Its first reader never comes: the pipe is full before it is written to.
        let (mut reader, writer) = io::pipe().unwrap();
        let full = writer.try_clone().unwrap();
        rustix::fs::fcntl_setfl(&full, rustix::fs::OFlags::NONBLOCK).unwrap();
        while (&full).write(&[0; 4096]).is_ok() {}
        rustix::fs::fcntl_setfl(&full, rustix::fs::OFlags::empty()).unwrap();
        drop(full);
        let stuck = std::os::fd::OwnedFd::from(writer);
        let answer =
            write(stuck.into(), "0000:01:00.0", address("fffe:01:00.0"), Duration::from_millis(50)).unwrap_err();
        let CallError::NoAnswer { writer } = answer else { panic!("it was answered") };
        assert_eq!((pending(address("fffe:01:00.0")), pending(address("fffe:01:00.1"))), (Some(writer), None));
        // The write goes through when somebody reads, as an unbind does when the device is let go.
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert!(all.ends_with(b"0000:01:00.0"));
    }

    #[test]
    fn the_kernels_reason_is_told() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let CallError::Refused(reason) = write(full, "x", address("fffe:02:00.0"), DEADLINE).unwrap_err() else {
            panic!("it did not return")
        };
        assert_eq!(reason, "No space left on device");
    }
}
