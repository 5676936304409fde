//! What a room adds to the start of a program.

use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use vfio_owner::testbed::{Machine, pc};
use vfio_room::Room;

use super::{Checks, Client, Need};

pub(super) const CLIENT: Client = Client {
    name: "start-up",
    shows: "how long a machine, a room and a program take to its first open, which fails without a room",
    needs: &[Need::Program("sh", "dash")],
    wants: &[],
    run,
};

const OPEN: [&str; 2] = ["-c", "exec 3<> /dev/vfio/vfio"];
const RUNS: usize = 11;

fn run(checks: &mut Checks) -> Result<()> {
    let natively = median(|| {
        let mut command = process::Command::new("sh");
        // It fails, unless this machine has VFIO.
        command.args(OPEN).stderr(process::Stdio::null()).status()?;
        Ok(())
    })?;
    let in_a_room = median(|| {
        let machine = Arc::new(Machine::boot(&pc()));
        let status = Room::new(&machine)?.command("sh").args(OPEN).status()?;
        anyhow::ensure!(status.success(), "the file is not there: {status}");
        Ok(())
    })?;
    checks.count(1);
    let more = in_a_room.saturating_sub(natively).as_secs_f64() * 1e3;
    checks.note(format!("{more:.1} ms more than without a room (aim: 50 ms on a quiet machine)"));
    Ok(())
}

/// The median of some runs.
fn median(mut run: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let begin = Instant::now();
        run()?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    times.get(RUNS / 2).copied().context("nothing was run")
}
