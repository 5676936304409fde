//! `vfio-host explain`

use std::fmt::{self, Write as _};

use anstyle::Style;
use anyhow::Result;
use vfio_host::{Answer, Explanation, Fact, Host, Neighbour, OtherMember, Part, Purpose, Selector, Tie};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::viability::{Standing, Verdict};

use crate::output::{Columns, DIM, DOUBT, Format, Outcome, STRONG, driver_of, print_json, print_text, style_of};
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
            print_json("devices", &explanations)?;
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
    let Explanation { device, class, name, by_group, by_device, viable, members, other_members, .. } = explanation;
    let group = match explanation.group {
        Fact::Is(number) => format!("group {number}"),
        Fact::Absent => "no group".to_owned(),
        Fact::Unknown => "group not shown".to_owned(),
    };
    let driver = match &explanation.driver {
        Fact::Is(driver) => format!("driver {driver}"),
        Fact::Absent => "no driver".to_owned(),
        Fact::Unknown => "driver not shown".to_owned(),
    };
    let name = if name.is_empty() { String::new() } else { format!(": {name}") };
    writeln!(out, "{STRONG}{device}{STRONG:#} {class}{name} ({driver}, {group})")?;
    let verdict = viable.verdict();
    let style = style_of(verdict);
    if explanation.group != Fact::Absent && !members.is_empty() {
        writeln!(out, "  its group: {style}{}{style:#}", viability(verdict))?;
    }
    way(out, "through its group (VFIO)", by_group)?;
    for reason in &*by_group.reasons {
        writeln!(out, "    {reason}")?;
    }
    way(out, "as a VFIO device (cdev, iommufd)", by_device)?;
    if by_device.reasons.iter().any(|reason| by_group.reasons.contains(reason)) {
        writeln!(out, "    for the same reasons")?;
    }
    for reason in by_device.reasons.iter().filter(|reason| !by_group.reasons.contains(reason)) {
        writeln!(out, "    {reason}")?;
    }
    if members.len() + other_members.len() > 1 {
        match explanation.group {
            Fact::Is(number) => writeln!(out, "  the devices of group {number}:")?,
            Fact::Absent | Fact::Unknown => writeln!(out, "  the devices of its group:")?,
        }
        standings(out, members, other_members)?;
        together(out, members)?;
    }
    if members.len() > 1 {
        writeln!(out, "  why they share a group:")?;
        ties_of(out, explanation.ties.as_deref())?;
    }
    if !explanation.same_card.is_empty() {
        writeln!(out, "  functions of the same card, which share its group unless ACS isolates them:")?;
        standings(out, &explanation.same_card, &[])?;
    }
    devices(out, "a reset of its whole bus would also reset", &explanation.reset_partners)?;
    if verdict != Verdict::Viable {
        devices(out, "of the same kind and in a group of its own", &explanation.alternatives)?;
    }
    for advice in &explanation.next {
        writeln!(out, "  next: {advice}")?;
    }
    Ok(())
}

const fn viability(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Viable => "viable: no kernel driver is in the way",
        Verdict::NotViable => "not viable",
        Verdict::Unknown => "cannot be told whether it is viable",
    }
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

/// Who must leave together, if it is more than one.
fn together(out: &mut String, members: &[Neighbour]) -> fmt::Result {
    let of = |part| members.iter().filter(move |member| member.part == part).map(|member| member.device);
    let leaving: Vec<PciAddress> = of(Part::Leaves).collect();
    let perhaps: Vec<PciAddress> = of(Part::Perhaps).collect();
    let is_shown = |member: &Neighbour| member.part != Part::Leaves || member.driver != Fact::Unknown;
    if leaving.len() > 1 {
        let drivers = if members.iter().all(is_shown) { "their kernel drivers" } else { "any kernel drivers" };
        devices(out, &format!("all of these must leave {drivers}"), &leaving)?;
    }
    let too = if leaving.len() > 1 { ", too" } else { "" };
    devices(out, &format!("perhaps these must leave{too}, unless they are bridges"), &perhaps)?;
    devices(out, "a bridge, stays as it is", &of(Part::Stays).collect::<Vec<_>>())
}

fn devices(out: &mut String, what: &str, devices: &[PciAddress]) -> fmt::Result {
    let names: Vec<String> = devices.iter().map(ToString::to_string).collect();
    if names.is_empty() { Ok(()) } else { writeln!(out, "  {what}: {}", names.join(", ")) }
}

fn standings(out: &mut String, members: &[Neighbour], others: &[OtherMember]) -> fmt::Result {
    let mut rows = Columns::new();
    let counts = |standing: &Standing, part: Part| match standing.verdict() {
        Verdict::Viable => "does not count",
        Verdict::NotViable => "in the way",
        Verdict::Unknown if part == Part::Stays => "stays",
        Verdict::Unknown => "perhaps in the way",
    };
    for member in members {
        let purposes: Vec<String> = member.purposes.iter().map(Purpose::to_string).collect();
        rows.row([
            (Style::new(), member.device.to_string()),
            (Style::new(), driver_of(&member.driver)),
            (Style::new(), member.class.to_string()),
            (style_of(member.standing.verdict()), counts(&member.standing, member.part).to_owned()),
            (DIM, member.standing.to_string()),
            (DOUBT, purposes.join("; ")),
        ]);
    }
    for member in others {
        let standing = member.standing();
        rows.row([
            (Style::new(), member.name.clone()),
            (Style::new(), driver_of(&member.driver)),
            (Style::new(), member.kind().to_owned()),
            (style_of(standing.verdict()), counts(&standing, Part::Leaves).to_owned()),
            (DIM, standing.to_string()),
        ]);
    }
    rows.write(out, "    ", &rows.widths())
}

fn ties_of(out: &mut String, ties: Option<&[Tie]>) -> fmt::Result {
    let Some(ties) = ties else {
        return writeln!(
            out,
            "    what is shown of their configuration does not tell (`lspci -vvv` as root shows ACS)"
        );
    };
    for tie in ties {
        writeln!(out, "    {}", tie.cause)?;
        writeln!(out, "      {DIM}what would split them: {}{DIM:#}", tie.remedy)?;
    }
    Ok(())
}
