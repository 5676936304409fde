//! DPDK: `dpdk-devbind.py`, and `dpdk-testpmd` on simulated virtio ports.

use std::collections::BTreeMap;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Resource, getrlimit};
use vfio_owner::iommu_core::sysfs::Snapshot;
use vfio_owner::testbed::Machine;
use vfio_owner::testbed::models::{Station, VirtioNet, Wire};
use vfio_room::Room;

use super::need::is_root;
use super::{Checks, Client, Need, limited, text};

pub(super) const CLIENT: Client = Client {
    name: "dpdk",
    shows: "ports go to vfio-pci and back, and frames cross two of them; who is in the way where a group is not viable",
    needs: &[Need::Program("dpdk-devbind.py", "dpdk"), Need::Program("dpdk-testpmd", "dpdk-dev")],
    wants: &[],
    run,
};

const PORTS: [&str; 2] = ["0000:00:03.0", "0000:00:04.0"];
/// A port that shares its group with a function of a kernel driver.
const SHARED: &str = "0000:00:05.0";
const IN_THE_WAY: &str = "0000:00:05.1";

const LAYOUT: &str = "
    00:00.0 host       -          0
    00:03.0 virtio-net virtio-pci 1 bar0=io:64 msix=3@1 bar1=4K intx
    00:04.0 virtio-net virtio-pci 2 bar0=io:64 msix=3@1 bar1=4K intx
    00:05.0 virtio-net virtio-pci 3 bar0=io:64 msix=3@1 bar1=4K intx
    00:05.1 nic        i40e       3 bar0=64:8M msix=129@3 bar3=64:32K";

/// How many frames are sent each way, and how many of them at once: fewer than a ring has places.
const FRAMES: u32 = 1_000;
const BURST: usize = 32;
/// How many frames are to go round.
const ROUND: usize = 5_000;
/// What `dpdk-testpmd` works with, in MiB: a device may access all of it.
const MEMORY: u64 = 64;
/// How long a frame may take, and the start of the program.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait until the program is looked at.
const GLANCE: Duration = Duration::from_millis(20);

fn run(checks: &mut Checks) -> Result<()> {
    devbind(checks)?;
    let locked = getrlimit(Resource::Memlock).current;
    if let Some(limit) = locked.filter(|limit| !is_root() && *limit < MEMORY << 20) {
        checks.lacks(format!("dpdk-testpmd pins {MEMORY} MiB, and at most {} may be locked (ulimit -l)", limit >> 20));
        return Ok(());
    }
    checks.check("dpdk-testpmd forwards both ways", forwards);
    checks.check("dpdk-testpmd has frames go round", goes_round);
    checks.check("dpdk-testpmd in a group that is not viable", not_viable);
    Ok(())
}

/// The machine; each of the ports is on a wire.
fn machine(wires: [&Wire; 2]) -> Result<Arc<Machine>> {
    let builder = Machine::builder(Snapshot::from_layout(LAYOUT)?);
    let builder = PORTS.iter().zip(wires).fold(builder, |builder, (port, wire)| {
        let wire = wire.clone();
        builder.model(port, move |slot| VirtioNet::new(slot, &wire))
    });
    Ok(Arc::new(builder.build()?))
}

/// The machine with these devices on vfio-pci.
fn given(wires: [&Wire; 2], devices: &[&str]) -> Result<Arc<Machine>> {
    let machine = machine(wires)?;
    for device in devices {
        machine.unbind(device)?.wait();
        machine.bind(device, "vfio-pci")?;
    }
    Ok(machine)
}

/// To vfio-pci and back, and to no driver.
fn devbind(checks: &mut Checks) -> Result<()> {
    let machine = machine([&Wire::new(), &Wire::new()])?;
    let room = Room::new(&machine)?;
    let run = |arguments: &[&str]| text(limited(&room, "dpdk-devbind.py").args(arguments));
    let [port, other] = PORTS;
    let mut step = |name: &str, arguments: &[&str], driver: Option<&str>| {
        checks.check(&format!("dpdk-devbind.py {name}"), || {
            run(arguments)?;
            let listing = run(&["--status-dev", "net"])?;
            let status = Status::parse(&listing);
            let bound = status.0.get(port).with_context(|| format!("{port} is not listed: {listing}"))?;
            ensure!(bound.driver == driver && bound.section == section(driver), "{port} is {bound:?}: {listing}");
            ensure!(
                bound.unused.contains(&"vfio-pci") == (driver != Some("vfio-pci")),
                "{port} is {bound:?}: {listing}"
            );
            ensure!(machine.driver(port).as_deref() == driver, "the machine has {:?} on {port}", machine.driver(port));
            let neighbour = status.0.get(other).and_then(|bound| bound.driver);
            ensure!(neighbour == Some("virtio-pci"), "{other} is on {neighbour:?} meanwhile: {listing}");
            Ok(())
        });
    };
    step("--bind vfio-pci", &["--bind", "vfio-pci", port], Some("vfio-pci"));
    step("--bind back", &["--bind", "virtio-pci", port], Some("virtio-pci"));
    step("--unbind", &["--unbind", port], None);
    step("--bind of what has no driver", &["--bind", "vfio-pci", port], Some("vfio-pci"));
    step("--unbind from vfio-pci", &["--unbind", port], None);
    step("--status", &["--status"], None);
    room.check_empty()?;
    Ok(())
}

/// The heading under which devices of a driver are listed.
fn section(driver: Option<&str>) -> &'static str {
    match driver {
        Some("vfio-pci") => "Network devices using DPDK-compatible driver",
        Some(_) => "Network devices using kernel driver",
        None => "Other Network devices",
    }
}

/// What `dpdk-devbind.py` says of each device.
struct Status<'a>(BTreeMap<&'a str, Listed<'a>>);

#[derive(Debug, PartialEq, Eq)]
struct Listed<'a> {
    section: &'a str,
    driver: Option<&'a str>,
    unused: Vec<&'a str>,
}

impl<'a> Status<'a> {
    fn parse(listing: &'a str) -> Self {
        let (mut devices, mut section, mut before) = (BTreeMap::new(), "", "");
        for line in listing.lines() {
            if line.starts_with("==") {
                section = before;
            }
            before = line;
            // `ADDRESS 'DESCRIPTION' WORDS`; that there are none of a kind stands in quotes as well.
            let quoted = line.split_once(" '").filter(|(address, _)| address.contains(':'));
            let Some((address, (_, words))) =
                quoted.and_then(|(address, rest)| Some((address, rest.rsplit_once('\'')?)))
            else {
                continue;
            };
            let word =
                |name: &str| words.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let unused = word("unused").unwrap_or_default().split(',').filter(|driver| !driver.is_empty()).collect();
            devices.insert(address, Listed { section, driver: word("drv"), unused });
        }
        Self(devices)
    }
}

/// What comes into one port comes out of the other, unchanged and in order; and the other way.
fn forwards() -> Result<()> {
    let wires = [Wire::new(), Wire::new()];
    let ends = [End::on(&wires[0]), End::on(&wires[1])];
    let machine = given([&wires[0], &wires[1]], &PORTS)?;
    let room = Room::new(&machine)?;
    let run = testpmd(&room, &PORTS, &[], |program| {
        for (from, to) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
            from.reach(to, program)?;
            from.send_all(to, program)?;
        }
        Ok(())
    })?;
    let totals = run.totals()?;
    ensure!(totals.received == totals.sent, "it says that it lost some: {}", run.output);
    ensure!(totals.sent >= u64::from(2 * FRAMES), "it says that it sent {}", totals.sent);
    room.check_empty()?;
    Ok(())
}

/// Both ports are on one wire, and send first: what each sends goes round.
fn goes_round() -> Result<()> {
    let wire = Wire::new();
    let end = End::on(&wire);
    let machine = given([&wire, &wire], &PORTS)?;
    let room = Room::new(&machine)?;
    let mut crossed = 0;
    let run = testpmd(&room, &PORTS, &["--tx-first"], |program| {
        while crossed < ROUND {
            end.hear(program).with_context(|| format!("{crossed} frames came"))?;
            crossed += 1;
        }
        Ok(())
    })?;
    crossed += end.heard.try_iter().count();
    let totals = run.totals()?;
    ensure!(totals.sent == crossed as u64, "it says that it sent {}, and {crossed} crossed the wire", totals.sent);
    let in_flight = 2 * BURST as u64;
    ensure!(
        (totals.sent - in_flight..=totals.sent).contains(&totals.received),
        "it says that it lost some: {}",
        run.output
    );
    room.check_empty()?;
    Ok(())
}

fn not_viable() -> Result<()> {
    let machine = given([&Wire::new(), &Wire::new()], &[SHARED])?;
    let room = Room::new(&machine)?;
    let run = testpmd(&room, &[SHARED], &[], |_| Ok(()))?;
    ensure!(run.errors.contains("not viable"), "DPDK says nothing of it: {}", run.errors);
    let reason = format!("{IN_THE_WAY} (i40e)");
    let said = room.refusals().iter().any(|refusal| refusal.to_string().contains(&reason));
    ensure!(said, "nobody says that {reason} is in the way: {:?}", room.refusals());
    room.check_empty()?;
    Ok(())
}

/// One who is on a wire.
struct End {
    station: Station,
    heard: Receiver<Vec<u8>>,
}

impl End {
    fn on(wire: &Wire) -> Self {
        let (sender, heard) = mpsc::channel();
        // Who has gone hears nothing.
        let station = wire.connect(move |frame| sender.send(frame.to_vec()).unwrap_or_default());
        Self { station, heard }
    }

    /// The next frame, which the program sends.
    fn hear(&self, program: &mut Child) -> Result<Vec<u8>> {
        for _ in 0..PATIENCE.as_millis() / GLANCE.as_millis() {
            if let Ok(frame) = self.heard.recv_timeout(GLANCE) {
                return Ok(frame);
            }
            ensure!(program.try_wait()?.is_none(), "the program has ended");
        }
        bail!("no frame came");
    }

    /// Sends frames until one comes through to `other`: those that come before the program is ready are lost.
    fn reach(&self, other: &Self, program: &mut Child) -> Result<()> {
        for _ in 0..PATIENCE.as_millis() / GLANCE.as_millis() {
            self.station.send(&frame(u32::MAX));
            if other.heard.recv_timeout(GLANCE).is_ok() {
                return Ok(());
            }
            ensure!(program.try_wait()?.is_none(), "the program has ended");
        }
        bail!("no frame came through");
    }

    /// Sends frames, as many at once as there is room for, and compares those that reach `other`.
    fn send_all(&self, other: &Self, program: &mut Child) -> Result<()> {
        let all: Vec<Vec<u8>> = (0..FRAMES).map(frame).collect();
        for burst in all.chunks(BURST) {
            for frame in burst {
                self.station.send(frame);
            }
            let mut expected = burst.iter();
            let mut next = expected.next();
            while let Some(frame) = next {
                let heard = other.hear(program)?;
                if heard == *frame {
                    next = expected.next();
                } else {
                    // Some that were to find out whether any came through may be late.
                    ensure!(
                        heard == self::frame(u32::MAX),
                        "a frame of {} bytes was changed, or is early",
                        heard.len()
                    );
                }
            }
        }
        Ok(())
    }
}

/// A frame of the type for experiments, of any length.
fn frame(number: u32) -> Vec<u8> {
    let mut frame = [[0xff; 6], [0x02, 0, 0, 0, 0, 0xaa]].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend(number.to_be_bytes());
    let [.., low] = number.to_be_bytes();
    frame.resize(60 + usize::try_from(number % 1455).unwrap_or(0), low);
    frame
}

/// A run of `dpdk-testpmd` that ended well.
struct Run {
    output: String,
    errors: String,
}

struct Totals {
    received: u64,
    sent: u64,
}

/// Runs `dpdk-testpmd`, which forwards meanwhile, and ends when its standard input does.
fn testpmd(
    room: &Room,
    ports: &[&str],
    arguments: &[&str],
    meanwhile: impl FnOnce(&mut Child) -> Result<()>,
) -> Result<Run> {
    const ENVIRONMENT: [&str; 6] =
        ["--lcores=0,1", "--no-huge", "--no-shconf", "--iova-mode=va", "--no-telemetry", "-m"];
    let mut command = limited(room, "dpdk-testpmd");
    command.args(ENVIRONMENT).arg(MEMORY.to_string()).args(ports.iter().flat_map(|port| ["-a", port]));
    command.args(["--", "--total-num-mbufs=2048", "--forward-mode=io"]).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let done = meanwhile(&mut child);
    drop(child.stdin.take());
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    let [output, errors] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let last = || errors.lines().rev().find(|line| !line.is_empty()).unwrap_or("it says nothing");
    done.with_context(|| format!("{status}: {}", last()))?;
    ensure!(status.success(), "{status}: {}", last());
    Ok(Run { output, errors })
}

impl Run {
    /// What it counted.
    fn totals(&self) -> Result<Totals> {
        let all =
            self.output.split_once("Accumulated forward statistics for all ports").context("it counted nothing")?.1;
        let number = |name: &str| {
            let value = all.split_once(name)?.1.split_whitespace().next()?;
            value.parse().ok()
        };
        let (received, sent) = (number("RX-packets:"), number("TX-packets:"));
        let context = || format!("it counted nothing: {all}");
        Ok(Totals { received: received.with_context(context)?, sent: sent.with_context(context)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_taken_apart() {
        let listing = "\nNetwork devices using kernel driver\n===\n0000:00:03.0 'A 'B' 1000' if= drv=c unused=d,e \n
Other Network devices\n===\n0000:00:04.0 'F' unused=\n\nNo 'Crypto' devices detected\n===\n";
        let Status(status) = Status::parse(listing);
        let kernel = Listed { section: section(Some("c")), driver: Some("c"), unused: vec!["d", "e"] };
        let other = Listed { section: section(None), driver: None, unused: Vec::new() };
        assert_eq!(status, BTreeMap::from([("0000:00:03.0", kernel), ("0000:00:04.0", other)]));
    }
}
