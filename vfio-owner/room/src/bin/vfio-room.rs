//! `vfio-room`: runs a program on a simulated machine with VFIO and iommufd.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use vfio_room::Room;
use vfio_room::vfio_owner::iommu_core::sysfs::{Archive, DirTree, Snapshot};
use vfio_room::vfio_owner::testbed::models::nvme::{FileDisk, Nvme};
use vfio_room::vfio_owner::testbed::models::{VirtioNet, Wire};
use vfio_room::vfio_owner::testbed::{self, Machine, MachineBuilder};

/// Runs unmodified programs on a simulated machine with VFIO and iommufd: no root, no hardware, no preloading.
#[derive(Parser)]
#[command(name = "vfio-room", version)]
enum Arguments {
    /// Run a program whose /sys and /dev show the machine
    Run(Run),
}

#[derive(clap::Args)]
struct Run {
    /// The machine: `pc`, `workstation`, `sriov`, a snapshot (`vfio-host snapshot`), a folder with a copy of /sys, or a layout
    #[arg(long, default_value = "pc")]
    machine: String,
    /// Bind this device to vfio-pci first
    #[arg(long, value_name = "BDF")]
    bind: Vec<String>,
    /// Put a model behind a device: `nvme:FILE` is an NVMe controller, whose disk is the file; `virtio-net:WIRE` is a network
    /// device, on a wire with all others that have the same name for it
    #[arg(long, value_name = "BDF=MODEL")]
    model: Vec<Model>,
    /// Have the test calls of a kernel that was built to test itself on /dev/iommu, and mock devices
    #[arg(long)]
    iommufd_test: bool,
    /// Say on standard error, at the end, which calls were refused and who was in the way
    #[arg(long)]
    log: bool,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// A device, and the model behind it.
#[derive(Clone)]
struct Model {
    device: String,
    kind: ModelKind,
}

#[derive(Clone)]
enum ModelKind {
    /// An NVMe controller with this file as its disk.
    Nvme(PathBuf),
    /// A network device on the wire of this name.
    VirtioNet(String),
}

impl FromStr for Model {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (device, model) = text.split_once('=').context("not `BDF=MODEL`, as `0000:00:05.0=nvme:FILE`")?;
        let kind = match model.split_once(':') {
            Some(("nvme", file)) if !file.is_empty() => ModelKind::Nvme(file.into()),
            Some(("virtio-net", wire)) if !wire.is_empty() => ModelKind::VirtioNet(wire.to_owned()),
            _ => bail!("`{model}` is not a model; there are `nvme:FILE` and `virtio-net:WIRE`"),
        };
        Ok(Self { device: device.to_owned(), kind })
    }
}

impl Model {
    fn put(&self, builder: MachineBuilder, wires: &mut BTreeMap<String, Wire>) -> Result<MachineBuilder> {
        match &self.kind {
            ModelKind::Nvme(file) => {
                let disk = FileDisk::open(file).with_context(|| format!("cannot open {}", file.display()))?;
                Ok(builder.model(&self.device, |slot| Nvme::new(slot, disk)))
            }
            ModelKind::VirtioNet(wire) => {
                let wire = wires.entry(wire.clone()).or_default().clone();
                Ok(builder.model(&self.device, move |slot| VirtioNet::new(slot, &wire)))
            }
        }
    }
}

fn main() -> Result<ExitCode> {
    let Arguments::Run(run) = Arguments::parse();
    let builder = Machine::builder(snapshot(&run.machine)?);
    let mut wires = BTreeMap::new();
    let builder = run.model.iter().try_fold(builder, |builder, model| model.put(builder, &mut wires))?;
    let builder = if run.iommufd_test { builder.iommufd_test() } else { builder };
    let machine = Arc::new(builder.build()?);
    for device in &run.bind {
        bind(&machine, device).with_context(|| format!("cannot bind {device} to vfio-pci"))?;
    }
    let room = Room::new(&machine).context("cannot make a room")?;
    let (program, arguments) = run.program.split_first().context("no program")?;
    let status = room.command(program).args(arguments).status()?;
    if run.log {
        for refusal in room.refusals() {
            eprintln!("vfio-room: {refusal}");
        }
        if let Err(left) = room.check_empty() {
            eprintln!("vfio-room: {left}");
        }
    }
    // As a shell says it.
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn bind(machine: &Machine, device: &str) -> Result<()> {
    if machine.driver(device).is_some() {
        machine.unbind(device)?.wait();
    }
    Ok(machine.bind(device, "vfio-pci")?)
}

fn snapshot(name: &str) -> Result<Snapshot> {
    match name {
        "pc" => return Ok(testbed::pc()),
        "workstation" => return Ok(testbed::workstation()),
        "sriov" => return Ok(testbed::sriov()),
        _ => {}
    }
    let path = Path::new(name);
    let cannot_read = || format!("cannot read {name}");
    if path.is_dir() {
        return Snapshot::load(&DirTree::new(path)).with_context(cannot_read);
    }
    let text = std::fs::read_to_string(path).with_context(cannot_read)?;
    if !Archive::is_archive(&text) {
        return Snapshot::from_layout(&text).with_context(cannot_read);
    }
    let tree = Archive::parse(&text).with_context(cannot_read)?;
    Snapshot::load(&tree).with_context(cannot_read)
}
