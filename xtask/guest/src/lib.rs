//! What a guest of `cargo xtask live` reports: facts, each as a line of JSON. What they mean is judged outside.

use serde::{Deserialize, Serialize};

/// The option on the kernel's command line that says what the guest does.
pub const JOBS: &str = "live.jobs=";

/// The option on the kernel's command line that names a device at whose every change the program is killed.
pub const KILL: &str = "live.kill=";

/// The option on the kernel's command line that names a device which processes hold in odd ways.
pub const HOLD: &str = "live.hold=";

/// Where the guest writes its reports: the second serial port.
pub const REPORTS: &str = "/dev/ttyS1";

/// One fact.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
    /// The guest is up, and its drivers are loaded.
    Booted {
        /// The release of its kernel.
        kernel: String,
        /// Seconds since it was started.
        seconds: f64,
        /// How many PCI functions it has.
        devices: usize,
    },
    /// What `list` printed.
    Listed {
        /// The run.
        run: Run,
        /// The devices that the kernel has and `list` does not name.
        missing: Vec<String>,
    },
    /// What `explain` said of a device, and what the kernel did then.
    Verdict {
        /// The device.
        device: String,
        /// The driver that it was on.
        driver: Option<String>,
        /// What `explain` said.
        explain: Run,
        /// What the kernel did.
        kernel: Claim,
    },
    /// A plan that was made, carried out, used and undone.
    Cycle {
        /// The device.
        device: String,
        /// The driver that it was on.
        driver: Option<String>,
        /// The devices that had to be allowed, for the machine lives on them.
        allowed: Vec<String>,
        /// What `apply` said.
        apply: Run,
        /// What the kernel did then.
        kernel: Claim,
        /// What `explain` said then.
        explain: Run,
        /// What `undo` said.
        undo: Run,
        /// What was different afterwards.
        left: Vec<String>,
    },
    /// A plan that was refused, and what the kernel did when the whole group was bound to vfio-pci by hand.
    Refused {
        /// The device.
        device: String,
        /// The driver that it was on.
        driver: Option<String>,
        /// What `plan` said.
        plan: Run,
        /// What the kernel did.
        kernel: Claim,
    },
    /// A verb that was killed as it was about to change something, and `undo` after it.
    Killed {
        /// The device.
        device: String,
        /// What was killed.
        verb: Verb,
        /// Before its how many-th change, counted from 1.
        change: usize,
        /// The change.
        before: String,
        /// What `undo` said then.
        undo: Run,
        /// What was different afterwards.
        left: Vec<String>,
    },
    /// A plan for a device while the machine lives on it, or on another.
    Lifeline {
        /// How the machine lives on it.
        form: String,
        /// The device.
        device: String,
        /// Whether it must be refused.
        refused: bool,
        /// What setting it up came to.
        set_up: Run,
        /// The devices that the refusal names as those that the machine lives on.
        guarded: Vec<String>,
        /// What `plan` said.
        plan: Run,
    },
    /// A device that a process holds, and what `explain` says of it.
    Holder {
        /// The device.
        device: String,
        /// What the process has of it.
        way: String,
        /// The process.
        process: u32,
        /// Whether it could be had.
        is_held: bool,
        /// What `explain` said.
        held: Run,
        /// What `explain` said when it was given back.
        after: Run,
    },
    /// The guest could not go on.
    Failed {
        /// Why.
        reason: String,
    },
    /// All jobs are done.
    Done,
}

/// What changes a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// `vfio-host apply`
    Apply,
    /// `vfio-host undo`
    Undo,
}

/// A run of a program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Its exit code; `None` if it was killed.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it complained of.
    pub err: String,
}

/// What the kernel said to someone who wanted a device as a VMM does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "claim", rename_all = "kebab-case")]
pub enum Claim {
    /// It was had, and given back.
    Granted,
    /// It was not.
    Refused {
        /// What was refused.
        reason: String,
    },
}
