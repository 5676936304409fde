//! Scripts of the kind that people post, in `scripts/`: what they print, and what they do to the machine.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use vfio_owner::testbed::{Machine, pc, workstation};
use vfio_room::Room;

use super::{Checks, Client, Need, is_driven_by, limited, text};
use crate::{distribution, root};

pub(super) const SHELL: Client = Client {
    name: "shell",
    shows: "scripts that bind by override, by ID and by group, give back, remove, rescan and walk the groups",
    needs: &[Need::Program("bash", "bash"), Need::Program("dash", "dash"), Need::Program("lspci", "pciutils")],
    wants: &[Need::Program("busybox", "busybox-static")],
    run: shell,
};

pub(super) const PYTHON: Client = Client {
    name: "python",
    shows: "scripts that read the groups, bind, look for holders, and take a device: ioctl, mmap, maps for DMA",
    needs: &[Need::Program("python3", "python3")],
    wants: &[],
    run: python,
};

/// A card that is alone in its group.
const CARD: &str = "0000:00:03.0";
/// Functions of a card without ACS, in one group.
const FUNCTIONS: [&str; 3] = ["0000:00:04.0", "0000:00:04.1", "0000:00:04.2"];

/// A run of a script on a machine of its own, in a room of its own.
struct Run {
    machine: Arc<Machine>,
    printed: String,
}

impl Run {
    fn new(machine: Machine, command: &[&str], script: &str, arguments: &[&str]) -> Result<Self> {
        let machine = Arc::new(machine);
        let room = Room::new(&machine)?;
        let (program, first) = command.split_first().context("no program")?;
        let mut command = limited(&room, program);
        command.args(first).arg(root().join("xtask/src/clients/scripts").join(script)).args(arguments);
        let printed = text(&mut command)?;
        if let Err(left) = room.check_empty() {
            anyhow::bail!("left behind: {left}");
        }
        Ok(Self { machine, printed })
    }

    fn on_pc(command: &[&str], script: &str, arguments: &[&str]) -> Result<Self> {
        Self::new(Machine::boot(&pc()), command, script, arguments)
    }

    fn prints(&self, expected: &str) -> Result<()> {
        ensure!(self.printed.trim_end() == expected, "it printed {}", self.printed);
        Ok(())
    }

    fn is_driven_by(&self, device: &str, driver: Option<&str>) -> Result<()> {
        is_driven_by(&self.machine, device, driver)
    }
}

fn shell(checks: &mut Checks) -> Result<()> {
    let shells: [&[&str]; 4] = [&["sh"], &["dash"], &["bash"], &["busybox", "sh"]];
    for shell in shells {
        if shell.first().is_some_and(|program| distribution::program(program).is_none()) {
            checks.lacks("busybox (package busybox-static)");
            continue;
        }
        let name = shell.join(" ");
        checks.check(&format!("{name} bind-by-override.sh"), || {
            let run = Run::on_pc(shell, "bind-by-override.sh", &[CARD])?;
            run.is_driven_by(CARD, Some("vfio-pci"))?;
            run.prints(&format!("{CARD} is now on vfio-pci"))
        });
        checks.check(&format!("{name} bind-by-id.sh"), || {
            let run = Run::on_pc(shell, "bind-by-id.sh", &[CARD])?;
            let alike = [CARD, "0000:01:00.0", "0000:01:00.1"];
            alike.iter().try_for_each(|device| run.is_driven_by(device, Some("vfio-pci")))?;
            run.prints(&alike.join("\n"))
        });
        checks.check(&format!("{name} bind-group.sh"), || {
            let [first, ..] = FUNCTIONS;
            let run = Run::on_pc(shell, "bind-group.sh", &[first])?;
            FUNCTIONS.iter().try_for_each(|device| run.is_driven_by(device, Some("vfio-pci")))?;
            run.machine.open_group(first)?;
            run.prints(&format!("{}: vfio-pci\nc", FUNCTIONS.join(": vfio-pci\n")))
        });
        checks.check(&format!("{name} give-back.sh"), || {
            let run = Run::on_pc(shell, "give-back.sh", &[CARD])?;
            run.is_driven_by(CARD, Some("e1000e"))?;
            run.prints(&format!("{CARD} is on e1000e again"))
        });
        checks.check(&format!("{name} remove-rescan.sh"), || {
            let run = Run::on_pc(shell, "remove-rescan.sh", &[CARD])?;
            run.is_driven_by(CARD, Some("e1000e"))?;
            run.prints("gone\nback, 0x8086, enabled 1")
        });
    }
    checks.check("bash groups.bash", || {
        let printed = Run::on_pc(&["bash"], "groups.bash", &[])?.printed;
        let machine = Machine::boot(&pc());
        let mut group = String::new();
        let mut listed = 0;
        for line in printed.lines() {
            if let Some(number) = line.strip_prefix("IOMMU Group ") {
                number.trim_end_matches(':').clone_into(&mut group);
            } else {
                let (device, _) = line.trim().split_once(' ').with_context(|| format!("no device: {line}"))?;
                ensure!(machine.group(device)?.id().to_string() == group, "{device} is not in group {group}");
                listed += 1;
            }
        }
        ensure!(listed == pc().devices.len(), "{listed} are listed");
        Ok(())
    });
    checks.check("bash my-gpu.bash", || {
        let run = Run::new(Machine::boot(&workstation()), &["bash"], "my-gpu.bash", &[])?;
        run.prints("0000:01:00.0 is in group 6 with:\n  0000:01:00.0 (none)\n  0000:01:00.1 (none)")
    });
    Ok(())
}

fn python(checks: &mut Checks) -> Result<()> {
    let command: &[&str] = &["python3"];
    checks.check("groups.py", || {
        let printed = Run::on_pc(command, "groups.py", &[])?.printed;
        let groups: serde_json::Value = serde_json::from_str(&printed)?;
        let machine = Machine::boot(&pc());
        for device in pc().devices {
            let name = device.function.address.to_string();
            let group = groups.get(machine.group(&name)?.id().to_string()).context("a group is not there")?;
            let mut members = group["devices"].as_array().into_iter().flatten();
            let member = members.find(|member| member["address"] == name.as_str()).context("a device is not there")?;
            ensure!(member["driver"].as_str() == machine.driver(&name).as_deref(), "{member}");
            let config = &device.function.config;
            ensure!(member["vendor"].as_u64() == config.vendor().map(u64::from), "{member}");
            ensure!(member["device"].as_u64() == config.device().map(u64::from), "{member}");
            ensure!(group["type"] == "DMA", "{group}");
        }
        Ok(())
    });
    checks.check("bind.py", || {
        let [_, function, _] = FUNCTIONS;
        let run = Run::on_pc(command, "bind.py", &["vfio-pci", CARD, function])?;
        run.is_driven_by(CARD, Some("vfio-pci"))?;
        run.is_driven_by(function, Some("vfio-pci"))?;
        run.prints(&format!("{CARD} vfio-pci EBUSY\n{function} vfio-pci EBUSY"))
    });
    checks.check("who_has.py", || {
        let file = format!("/dev/vfio/{}", given()?.group(CARD)?.id());
        let run = Run::new(given()?, command, "who_has.py", &[&file])?;
        ensure!(run.printed.starts_with("EBUSY\n") && run.printed.contains("me True\n"), "{}", run.printed);
        Ok(())
    });
    checks.check("dma.py", || {
        let run = Run::new(given()?, command, "dma.py", &[CARD])?;
        run.prints("regions 9 irqs 5 pci True\nconfig 4096 8680d310\nbar 131072\nmapped already\nunmapped 1048576")
    });
    checks.check("dma.py, of a group that is not viable", || {
        let machine = Arc::new(Machine::boot(&pc()));
        let [first, second, _] = FUNCTIONS;
        machine.unbind(first)?.wait();
        machine.bind(first, "vfio-pci")?;
        let room = Room::new(&machine)?;
        let script = root().join("xtask/src/clients/scripts/dma.py");
        let output = limited(&room, "python3").arg(script).arg(first).output()?;
        ensure!(!output.status.success(), "it was not refused");
        let refusals = room.refusals();
        let refusal = refusals.last().context("no refusal is told")?.to_string();
        ensure!(refusal.contains(second) && refusal.contains("e1000"), "{refusal}");
        Ok(())
    });
    Ok(())
}

/// A machine whose [`CARD`] is given to user space.
fn given() -> Result<Machine> {
    let machine = Machine::boot(&pc());
    machine.unbind(CARD)?.wait();
    machine.bind(CARD, "vfio-pci")?;
    Ok(machine)
}
