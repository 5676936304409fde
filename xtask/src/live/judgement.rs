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
        Report::Holder { device, way, process, is_held, held, after } => {
            let mut faults = Vec::new();
            faults.extend((!is_held).then(|| "it could not be had".to_owned()));
            faults.extend(exit(held, 1));
            let named = held.out.split_whitespace().collect::<Vec<_>>().join(" ");
            faults.extend(
                (!named.contains(&format!("process {process} "))).then(|| format!("not named: {}", what(held))),
            );
            faults.extend(exit(after, 0).into_iter().map(|fault| format!("given back: {fault}")));
            (format!("{device}: a process has {way}"), faults)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn run(code: i32) -> Run {
        Run { code: Some(code), out: String::new(), err: String::new() }
    }

    fn is_right(report: &Report) -> bool {
        matches!(judge(report), Judgement::Right(_))
    }

    #[test]
    fn a_verdict_is_right_only_if_it_is_the_kernels() {
        let refused = Claim::Refused { reason: "group is not viable".to_owned() };
        for (code, kernel, right) in [
            (0, Claim::Granted, true),
            (1, refused.clone(), true),
            (0, refused.clone(), false),
            (1, Claim::Granted, false),
            (2, Claim::Granted, false),
            (2, refused, false),
        ] {
            let verdict =
                Report::Verdict { device: "0000:00:05.0".to_owned(), driver: None, explain: run(code), kernel };
            assert_eq!(is_right(&verdict), right, "{verdict:?}");
        }
    }

    #[test]
    fn a_cycle_is_right_only_if_nothing_is_left_of_it() {
        let cycle = |apply, kernel, undo, left: &[&str]| Report::Cycle {
            device: "0000:00:05.0".to_owned(),
            driver: Some("nvme".to_owned()),
            allowed: Vec::new(),
            apply: run(apply),
            kernel,
            explain: run(0),
            undo: run(undo),
            left: left.iter().map(ToString::to_string).collect(),
        };
        let refused = Claim::Refused { reason: "busy".to_owned() };
        assert!(is_right(&cycle(0, Claim::Granted, 0, &[])));
        assert!(!is_right(&cycle(1, Claim::Granted, 0, &[])));
        assert!(!is_right(&cycle(0, refused, 0, &[])));
        assert!(!is_right(&cycle(0, Claim::Granted, 1, &[])));
        assert!(!is_right(&cycle(0, Claim::Granted, 0, &["gone: block nvme0n1"])));
    }

    #[test]
    fn a_lifeline_is_refused_and_its_neighbour_is_not() {
        let plan = |refused, code, guarded: &[&str]| Report::Lifeline {
            form: "swap".to_owned(),
            device: "0000:00:05.0".to_owned(),
            refused,
            set_up: run(0),
            guarded: guarded.iter().map(ToString::to_string).collect(),
            plan: run(code),
        };
        assert!(is_right(&plan(true, 1, &["0000:00:05.0"])) && is_right(&plan(false, 0, &[])));
        // Refused for another reason, or not at all.
        assert!(!is_right(&plan(true, 1, &[])) && !is_right(&plan(true, 0, &[])));
        assert!(!is_right(&plan(false, 1, &["0000:00:05.0"])));
    }
}
