//! What a guest does.

use std::fs;

use anyhow::Result;
use live_guest::{Report, Run, Verb};
use serde_json::Value;

use crate::Reporter;
use crate::claim::claim;
use crate::machine;
use crate::program::vfio_host;
use crate::trace::{Ended, kill_before};

const PLAN: &str = "/tmp/plan.json";

/// Compares what `explain` says of every device with what the kernel does: as it was found, and bound to vfio-pci alone.
pub(crate) fn verdicts(reporter: &mut Reporter) -> Result<()> {
    let devices = machine::devices()?;
    let run = vfio_host(&["list"])?;
    let missing = devices.iter().filter(|device| !run.out.contains(*device)).cloned().collect();
    reporter.tell(&Report::Listed { run, missing })?;
    for device in &devices {
        verdict(device, reporter)?;
        machine::by_hand(std::slice::from_ref(device), || verdict(device, reporter))?;
    }
    machine::settle()
}

fn verdict(device: &str, reporter: &mut Reporter) -> Result<()> {
    let explain = vfio_host(&["explain", device])?;
    let (device, driver, kernel) = (device.to_owned(), machine::driver(device), claim(device));
    reporter.tell(&Report::Verdict { device, driver, explain, kernel })
}

/// Has every device planned, applied, claimed and undone.
pub(crate) fn cycles(reporter: &mut Reporter) -> Result<()> {
    for device in machine::devices()? {
        let driver = machine::driver(&device);
        let report = match plan(&device)? {
            Planned::Refused(plan) => {
                let before = machine::state()?;
                let kernel = machine::by_hand(&machine::group_of(&device), || Ok(claim(&device)))?;
                machine::wait_for(&before)?;
                Report::Refused { device, driver, plan, kernel }
            }
            Planned::Ready { allowed } => {
                let before = machine::state()?;
                let apply = vfio_host(&["apply", PLAN])?;
                let kernel = claim(&device);
                let explain = vfio_host(&["explain", &device])?;
                let undo = vfio_host(&["undo"])?;
                let left = machine::wait_for(&before)?;
                Report::Cycle { device, driver, allowed, apply, kernel, explain, undo, left }
            }
        };
        reporter.tell(&report)?;
    }
    Ok(())
}

enum Planned {
    Refused(Run),
    Ready { allowed: Vec<String> },
}

/// Plans for a device, allowing what the machine lives on: a guest can do without.
fn plan(device: &str) -> Result<Planned> {
    let mut run = vfio_host(&["plan", device, "--json"])?;
    let allowed = if run.code == Some(0) { Vec::new() } else { guarded(&run.out) };
    if !allowed.is_empty() {
        let allow = allowed.iter().flat_map(|device| ["--allow", device]);
        run = vfio_host(&["plan", device, "--json"].into_iter().chain(allow).collect::<Vec<_>>())?;
    }
    if run.code != Some(0) {
        return Ok(Planned::Refused(run));
    }
    fs::write(PLAN, &run.out)?;
    Ok(Planned::Ready { allowed })
}

/// The devices that a refusal in JSON says the machine lives on.
pub(crate) fn guarded(refusal: &str) -> Vec<String> {
    let refusal: Value = serde_json::from_str(refusal).unwrap_or_default();
    let guarded = refusal.pointer("/error/guarded").and_then(Value::as_array).into_iter().flatten();
    guarded.filter_map(|device| Some(device.get("device")?.as_str()?.to_owned())).collect()
}

/// Kills `apply`, and then `undo`, before each change that it makes, and undoes what is left.
pub(crate) fn kills(device: &str, reporter: &mut Reporter) -> Result<()> {
    let Planned::Ready { .. } = plan(device)? else { anyhow::bail!("no plan for {device}") };
    let before = machine::state()?;
    for verb in [Verb::Apply, Verb::Undo] {
        for change in 1.. {
            let ended = match verb {
                Verb::Apply => kill_before(change, &["apply", PLAN])?,
                Verb::Undo => {
                    vfio_host(&["apply", PLAN])?;
                    kill_before(change, &["undo"])?
                }
            };
            let undo = vfio_host(&["undo"])?;
            let left = machine::wait_for(&before)?;
            let Ended::Killed { before } = ended else { break };
            reporter.tell(&Report::Killed { device: device.to_owned(), verb, change, before, undo, left })?;
        }
    }
    Ok(())
}
