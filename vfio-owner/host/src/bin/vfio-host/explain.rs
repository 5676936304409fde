//! `vfio-host explain`

use std::fmt::{self, Write as _};

use anstyle::Style;
use anyhow::Result;
use vfio_host::{Answer, Explanation, Host, Neighbour, Purpose, Selector, Tie};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::viability::Verdict;

use crate::output::{Columns, DIM, DOUBT, Format, Outcome, STRONG, print_json, print_text, style_of};
use crate::selection::select;

#[derive(clap::Args)]
pub(crate) struct Explain {
    /// The devices: address (01:00.0), slot (01:00), ids (10de:1b80), group:N, interface, disk or class; all without one
    devices: Vec<Selector>,
}

impl Explain {
    pub(crate) fn run(&self, host: &Host, format: Format) -> Result<Outcome> {
        let all = || host.pci.devices.iter().map(|device| device.function.address).collect();
        let devices: Vec<PciAddress> = if self.devices.is_empty() { all() } else { select(host, &self.devices)? };
        let explanations = Explanation::of_each(host, &devices)?;
        if format == Format::Json {
            print_json(&explanations)?;
        } else {
            let mut out = String::new();
            for (place, explanation) in explanations.iter().enumerate() {
                out.push_str(if place > 0 { "\n" } else { "" });
                text(&mut out, explanation)?;
            }
            print_text(&out)?;
        }
        let possible = explanations.iter().map(best);
        Ok(if possible.clone().any(|verdict| verdict == Verdict::NotViable) {
            Outcome::NotPossible
        } else if possible.clone().any(|verdict| verdict == Verdict::Unknown) {
            Outcome::Unknown
        } else {
            Outcome::Possible
        })
    }
}

/// One way is enough.
fn best(explanation: &Explanation) -> Verdict {
    match (explanation.by_group.verdict(), explanation.by_device.verdict()) {
        (Verdict::Viable, _) | (_, Verdict::Viable) => Verdict::Viable,
        (Verdict::Unknown, _) | (_, Verdict::Unknown) => Verdict::Unknown,
        (Verdict::NotViable, Verdict::NotViable) => Verdict::NotViable,
    }
}

fn text(out: &mut String, explanation: &Explanation) -> fmt::Result {
    let Explanation { device, class, name, driver, group, by_group, by_device, members, ties } = explanation;
    let group = group.map_or_else(|| "no group".to_owned(), |number| format!("group {number}"));
    let driver = driver.as_deref().map_or_else(|| "no driver".to_owned(), |driver| format!("driver {driver}"));
    writeln!(out, "{STRONG}{device}{STRONG:#} {class}: {name} ({driver}, {group})")?;
    way(out, "through its group (VFIO)", by_group)?;
    for reason in &by_group.reasons {
        writeln!(out, "    {reason}")?;
    }
    way(out, "through its own file (iommufd)", by_device)?;
    if by_device.reasons.iter().any(|reason| by_group.reasons.contains(reason)) {
        writeln!(out, "    for the same reasons")?;
    }
    for reason in by_device.reasons.iter().filter(|reason| !by_group.reasons.contains(reason)) {
        writeln!(out, "    {reason}")?;
    }
    if members.len() > 1 {
        writeln!(out, "  the devices of {group}:")?;
        standings(out, members)?;
        writeln!(out, "  why they share a group:")?;
        ties_of(out, ties.as_deref())?;
    }
    Ok(())
}

fn way(out: &mut String, name: &str, answer: &Answer) -> fmt::Result {
    let verdict = answer.verdict();
    let style = style_of(verdict);
    let word = match verdict {
        Verdict::Viable => "possible now",
        Verdict::NotViable => "not possible now",
        Verdict::Unknown => "cannot be told",
    };
    writeln!(out, "  {name}: {style}{word}{style:#}")
}

fn standings(out: &mut String, members: &[Neighbour]) -> fmt::Result {
    let mut rows = Columns::new();
    for member in members {
        let style = style_of(member.standing.verdict());
        let counts = match member.standing.verdict() {
            Verdict::Viable => "does not count",
            Verdict::NotViable => "in the way",
            Verdict::Unknown => "perhaps in the way",
        };
        rows.row([
            (Style::new(), member.device.to_string()),
            (Style::new(), member.driver.clone().unwrap_or_else(|| "-".to_owned())),
            (Style::new(), member.class.clone()),
            (style, counts.to_owned()),
            (DIM, member.standing.to_string()),
            (DOUBT, member.purposes.iter().map(Purpose::to_string).collect::<Vec<_>>().join("; ")),
        ]);
    }
    rows.write(out, "    ", &rows.widths())
}

fn ties_of(out: &mut String, ties: Option<&[Tie]>) -> fmt::Result {
    let Some(ties) = ties else {
        return writeln!(out, "    what is shown of their configuration does not explain it");
    };
    for tie in ties {
        writeln!(out, "    {}", tie.cause)?;
        writeln!(out, "      {DIM}what would split them: {}{DIM:#}", tie.remedy)?;
    }
    Ok(())
}
