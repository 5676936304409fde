//! Whether what a guest reports is as it should be.

use live_guest::{Claim, Report, Run};

/// What a report comes to.
pub(crate) enum Judgement {
    /// What vfio-host said or did is right.
    Right(String),
    /// It is not.
    Wrong(String),
    /// Worth telling.
    Note(String),
}

/// Judges a report.
pub(crate) fn judge(report: &Report) -> Judgement {
    let (told, faults) = match report {
        Report::Booted { kernel, seconds, devices } => {
            return Judgement::Note(format!("Linux {kernel}, {devices} devices, up after {seconds:.0} s"));
        }
        Report::Failed { reason } => return Judgement::Wrong(format!("the guest gave up: {reason}")),
        Report::Done => return Judgement::Note("done".to_owned()),
        Report::Listed { run, missing } => {
            let mut faults = exit(run, 0);
            faults.extend(missing.iter().map(|device| format!("does not name {device}")));
            ("list".to_owned(), faults)
        }
        Report::Verdict { device, driver, explain, kernel } => {
            (format!("{device} on {}: explain", name(driver.as_ref())), verdict(explain, kernel))
        }
        Report::Refused { device, driver, plan, kernel } => {
            (format!("{device} on {}: no plan", name(driver.as_ref())), verdict(plan, kernel))
        }
        Report::Cycle { device, driver, allowed, apply, kernel, explain, undo, left } => {
            let mut faults: Vec<String> = [("apply", apply), ("explain", explain), ("undo", undo)]
                .iter()
                .flat_map(|(verb, run)| exit(run, 0).into_iter().map(move |fault| format!("{verb}: {fault}")))
                .collect();
            if let Claim::Refused { reason } = kernel {
                faults.push(format!("the kernel: {reason}"));
            }
            faults.extend(left.iter().cloned());
            let allowed = if allowed.is_empty() { String::new() } else { format!(", allowed {}", allowed.join(" ")) };
            (format!("{device} on {}: given and taken back{allowed}", name(driver.as_ref())), faults)
        }
        Report::Killed { device, verb, change, before, undo: _, left } => {
            (format!("{device}: {verb:?} killed before change {change}, {before}"), left.clone())
        }
        Report::Lifeline { form, device, refused, set_up, guarded, plan } => {
            let as_meant = if *refused { !guarded.is_empty() } else { plan.code == Some(0) };
            let mut faults = exit(set_up, 0);
            faults.extend((!as_meant).then(|| what(plan)));
            let meant = if *refused { "refused" } else { "not refused" };
            (format!("{device} with {form}: {meant}"), faults)
        }
    };
    if faults.is_empty() { Judgement::Right(told) } else { Judgement::Wrong(format!("{told}: {}", faults.join("; "))) }
}

/// Whether an exit code says what the kernel does.
fn verdict(said: &Run, kernel: &Claim) -> Vec<String> {
    match (said.code, kernel) {
        (Some(0), Claim::Granted) | (Some(1), Claim::Refused { .. }) => Vec::new(),
        (Some(0), Claim::Refused { reason }) => vec![format!("said yes, the kernel: {reason}")],
        (_, Claim::Granted) => vec![format!("said {}, the kernel grants it", what(said))],
        (_, Claim::Refused { reason }) => vec![format!("said {}, the kernel: {reason}", what(said))],
    }
}

fn exit(run: &Run, wanted: i32) -> Vec<String> {
    if run.code == Some(wanted) { Vec::new() } else { vec![what(run)] }
}

fn what(run: &Run) -> String {
    let code = run.code.map_or_else(|| "killed".to_owned(), |code| code.to_string());
    let printed = [&run.err, &run.out].map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    format!("({code}) {}", printed.join(" ").trim())
}

fn name(driver: Option<&String>) -> &str {
    driver.map_or("no driver", String::as_str)
}
