//! `driverctl`: its verbs, and what they do to the machine.
//!
//! Always with `--nosave`, or it would write to the host's `/etc`.

use std::sync::Arc;

use anyhow::{Result, ensure};
use vfio_owner::testbed::{Machine, pc};
use vfio_room::Room;

use super::{Checks, Client, Need, is_driven_by, limited, text};

pub(super) const CLIENT: Client = Client {
    name: "driverctl",
    shows: "list-devices, list-overrides, set-override and unset-override, with --noprobe too",
    needs: &[Need::Program("driverctl", "driverctl")],
    wants: &[],
    run,
};

const CARD: &str = "0000:00:03.0";

fn run(checks: &mut Checks) -> Result<()> {
    let machine = Arc::new(Machine::boot(&pc()));
    let room = Room::new(&machine)?;
    let driverctl = |arguments: &[&str]| text(limited(&room, "driverctl").arg("--nosave").args(arguments));
    checks.check("list-devices", || {
        let lines = pc().devices.into_iter().map(|device| device.function.address.to_string());
        let lines = lines.map(|name| format!("{name} {}\n", machine.driver(&name).as_deref().unwrap_or("(none)")));
        let (expected, listed) = (lines.collect::<String>(), driverctl(&["list-devices"])?);
        ensure!(listed == expected, "{listed}");
        Ok(())
    });
    checks.check("set-override", || {
        driverctl(&["set-override", CARD, "vfio-pci"])?;
        is_driven_by(&machine, CARD, Some("vfio-pci"))?;
        let listed = driverctl(&["list-devices"])?;
        ensure!(listed.contains(&format!("{CARD} vfio-pci [*]\n")), "{listed}");
        Ok(())
    });
    checks.check("list-overrides", || {
        let listed = driverctl(&["list-overrides"])?;
        ensure!(listed == format!("{CARD} vfio-pci\n"), "{listed}");
        Ok(())
    });
    checks.check("unset-override", || {
        driverctl(&["unset-override", CARD])?;
        is_driven_by(&machine, CARD, Some("e1000e"))?;
        let listed = driverctl(&["list-devices", "network"])?;
        ensure!(listed.contains(&format!("{CARD} e1000e\n")), "{listed}");
        Ok(())
    });
    checks.check("set-override --noprobe", || {
        driverctl(&["--noprobe", "set-override", CARD, "vfio-pci"])?;
        is_driven_by(&machine, CARD, None)?;
        machine.probe(CARD)?;
        is_driven_by(&machine, CARD, Some("vfio-pci"))
    });
    checks.check("unset-override --noprobe", || {
        driverctl(&["--noprobe", "unset-override", CARD])?;
        is_driven_by(&machine, CARD, None)?;
        machine.probe(CARD)?;
        is_driven_by(&machine, CARD, Some("e1000e"))
    });
    checks.check("set-override none", || {
        driverctl(&["set-override", CARD, "none"])?;
        is_driven_by(&machine, CARD, None)
    });
    checks.check("a driver that refuses the device", || {
        let refused = limited(&room, "driverctl").args(["--nosave", "set-override", CARD, "e1000"]).output()?;
        ensure!(!refused.status.success(), "it succeeded");
        is_driven_by(&machine, CARD, None)
    });
    checks.check("no device", || {
        let refused =
            limited(&room, "driverctl").args(["--nosave", "set-override", "0000:00:1e.7", "vfio-pci"]).output()?;
        ensure!(!refused.status.success(), "it succeeded");
        Ok(())
    });
    Ok(())
}
