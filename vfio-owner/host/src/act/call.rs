//! Calls to the kernel that may never return, made by a child process with a deadline.
//!
//! A write to `unbind` waits for everybody who has the device open, and nothing ends a process that waits so, not even
//! SIGKILL. The child may stay behind; this process goes on and says what it waits for.

use std::fs::File;
use std::io::{self, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

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

/// Writes `contents` to a file of sysfs that is open, as one write.
pub(super) fn write(file: File, contents: &str, deadline: Duration) -> Result<(), CallError> {
    // Whatever it copies, it copies in one block; what fails is told on its standard error.
    let mut command = Command::new("dd");
    command.args(["bs=4096", "count=1"]).stdin(Stdio::piped()).stdout(file);
    let mut child = spawn(&mut command)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(contents.as_bytes())?;
    }
    finish(child, deadline)
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
    let (sender, receiver) = mpsc::channel();
    // Nothing waits for this thread: it ends with the child or with the process.
    thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(deadline) {
        Ok(output) => said(&output?),
        Err(_) => Err(CallError::NoAnswer { writer }),
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
        let CallError::NoAnswer { writer } =
            write(stuck.into(), "0000:01:00.0", Duration::from_millis(50)).unwrap_err()
        else {
            panic!("it was answered")
        };
        assert_ne!(writer, 0);
        // The write goes through when somebody reads, as an unbind does when the device is let go.
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert!(all.ends_with(b"0000:01:00.0"));
    }

    #[test]
    fn the_kernels_reason_is_told() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let CallError::Refused(reason) = write(full, "x", DEADLINE).unwrap_err() else { panic!("it did not return") };
        assert_eq!(reason, "No space left on device");
    }
}
