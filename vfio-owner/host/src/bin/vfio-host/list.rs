//! `vfio-host list`

use std::fmt::Write as _;

use anyhow::Result;
use vfio_host::{DeviceEntry, GroupEntry, Host, Possession, Purpose, overview};

use crate::output::{BAD, Columns, DIM, DOUBT, Format, GOOD, Outcome, STRONG, print, print_json};

pub(crate) fn run(host: &Host, format: Format) -> Result<Outcome> {
    let groups = overview(host);
    if format == Format::Json {
        print_json(&groups)?;
    } else {
        print(&text(&groups)?)?;
    }
    Ok(Outcome::Possible)
}

fn text(groups: &[GroupEntry]) -> Result<String> {
    let mut all = Columns::new();
    groups.iter().flat_map(|group| &group.devices).for_each(|device| all.row(row(device)));
    let widths = all.widths();
    let mut out = String::new();
    for group in groups {
        let style = match group.possession {
            Possession::Free => GOOD,
            Possession::PerhapsUserSpace | Possession::Unknown { .. } => DOUBT,
            Possession::Blocked { .. } | Possession::NoIommu => BAD,
            Possession::Kernel { .. } | Possession::UserSpace { .. } | Possession::UserSpaceUnseen => STRONG,
        };
        let name = group.group.map_or_else(|| "no group".to_owned(), |number| format!("group {number}"));
        write!(out, "{name}: {style}{}{style:#}", group.possession)?;
        match &group.domain {
            Some(domain) => writeln!(out, "  {DIM}[{domain}]{DIM:#}")?,
            None => writeln!(out)?,
        }
        let mut devices = Columns::new();
        group.devices.iter().for_each(|device| devices.row(row(device)));
        devices.write(&mut out, "  ", &widths)?;
    }
    Ok(out)
}

fn row(device: &DeviceEntry) -> [(anstyle::Style, String); 5] {
    let plain = anstyle::Style::new();
    let purposes: Vec<String> = device.purposes.iter().map(Purpose::to_string).collect();
    [
        (plain, device.device.to_string()),
        (plain, device.driver.clone().unwrap_or_else(|| "-".to_owned())),
        (plain, device.class.clone()),
        (DIM, device.name.clone()),
        (DOUBT, purposes.join("; ")),
    ]
}
