//! `vfio-host list`

use std::fmt::Write as _;

use anyhow::Result;
use vfio_host::{DeviceEntry, Fact, GroupEntry, Host, Possession, Purpose, Selector, overview};

use crate::output::{BAD, Columns, DIM, DOUBT, Format, GOOD, Outcome, STRONG, driver_of, print_json, print_text};
use crate::selection::select;

#[derive(clap::Args)]
pub(crate) struct List {
    /// Only groups with one of these: address, slot, ids, group:N, interface, disk, class or driver
    devices: Vec<Selector>,
}

impl List {
    pub(crate) fn run(&self, host: &Host, format: Format) -> Result<Outcome> {
        let mut groups = overview(host);
        if !self.devices.is_empty() {
            let wanted = select(host, &self.devices)?;
            groups.retain(|group| group.devices.iter().any(|entry| wanted.contains(&entry.device)));
        }
        if format == Format::Json {
            print_json("groups", &groups)?;
        } else {
            print_text(&text(&groups)?)?;
        }
        Ok(Outcome::Possible)
    }
}

fn text(groups: &[GroupEntry]) -> Result<String> {
    let mut all = Columns::new();
    groups.iter().flat_map(|group| &group.devices).for_each(|device| all.row(row(device)));
    let widths = all.widths();
    let mut out = String::new();
    for group in groups {
        let style = match group.possession {
            Possession::Free => GOOD,
            Possession::Blocked { .. } | Possession::NoIommu => BAD,
            Possession::Kernel { .. } | Possession::InUse { .. } | Possession::InUseUnseen => STRONG,
            _ => DOUBT,
        };
        let name = match group.group {
            Fact::Is(number) => format!("group {number}"),
            Fact::Absent => "no group".to_owned(),
            Fact::Unknown => "group".to_owned(),
        };
        write!(out, "{name}: {style}{}{style:#}", group.possession)?;
        match &group.domain {
            Some(domain) => writeln!(out, "  {DIM}[{domain}]{DIM:#}")?,
            None => writeln!(out)?,
        }
        let mut devices = Columns::new();
        group.devices.iter().for_each(|device| devices.row(row(device)));
        devices.write(&mut out, "  ", &widths)?;
        for member in &group.other_members {
            writeln!(out, "  {member}  {}", driver_of(&member.driver))?;
        }
    }
    Ok(out)
}

fn row(device: &DeviceEntry) -> [(anstyle::Style, String); 5] {
    let plain = anstyle::Style::new();
    let purposes: Vec<String> = device.purposes.iter().map(Purpose::to_string).collect();
    [
        (plain, device.device.to_string()),
        (plain, driver_of(&device.driver)),
        (plain, device.class.to_string()),
        (DIM, device.name.to_string()),
        (DOUBT, purposes.join("; ")),
    ]
}
