//! Programs in a room.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{self, Child, ExitStatus, Output, Stdio};

use crate::error::RoomError;
use crate::room::Room;

/// A program to run in a room, as [`std::process::Command`] runs one outside.
///
/// What it starts is in the room as well. It is served until the last of them has ended, whether the [`Room`] is still
/// there or not.
#[derive(Debug)]
pub struct Command<'a> {
    room: &'a Room,
    command: process::Command,
}

impl<'a> Command<'a> {
    pub(crate) fn new(room: &'a Room, program: &OsStr) -> Self {
        Self { room, command: process::Command::new(program) }
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.command.current_dir(directory);
        self
    }

    /// Sets where its standard input comes from.
    pub fn stdin(&mut self, from: impl Into<Stdio>) -> &mut Self {
        self.command.stdin(from);
        self
    }

    /// Sets where its standard output goes.
    pub fn stdout(&mut self, to: impl Into<Stdio>) -> &mut Self {
        self.command.stdout(to);
        self
    }

    /// Sets where its standard error goes.
    pub fn stderr(&mut self, to: impl Into<Stdio>) -> &mut Self {
        self.command.stderr(to);
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// Fails if it cannot be put into the room, or cannot be started. Nothing was run.
    pub fn spawn(&mut self) -> Result<Child, RoomError> {
        self.inside(process::Command::spawn)
    }

    /// Runs the program and waits for its end.
    ///
    /// # Errors
    /// Fails as [`spawn`](Self::spawn) does.
    pub fn status(&mut self) -> Result<ExitStatus, RoomError> {
        self.inside(process::Command::status)
    }

    /// Runs the program, waits for its end, and collects what it prints.
    ///
    /// # Errors
    /// Fails as [`spawn`](Self::spawn) does.
    pub fn output(&mut self) -> Result<Output, RoomError> {
        self.inside(process::Command::output)
    }

    fn inside<T: Send>(
        &mut self,
        run: impl FnOnce(&mut process::Command) -> std::io::Result<T> + Send,
    ) -> Result<T, RoomError> {
        let command = &mut self.command;
        let result = self.room.enter(|| run(command))?;
        let program = self.command.get_program().to_string_lossy();
        result.map_err(|source| RoomError::Start { program: program.into(), source })
    }
}
