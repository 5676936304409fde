//! Processes that hold a device in odd ways, and whether vfio-host finds them.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use live_guest::Report;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use vfio_ioctls::{VfioContainer, VfioDevice};

use crate::Reporter;
use crate::machine;
use crate::program::vfio_host;

/// In the environment of a process that is to hold a device: in which way, and which.
const WAY: &str = "LIVE_HOLDS";
const DEVICE: &str = "LIVE_DEVICE";

const WAYS: [&str; 3] = ["its group", "its group by another node", "only its file"];

/// Has a device held in each way, and asks about it, and again when it is let go.
pub(crate) fn holders(device: &str, reporter: &mut Reporter) -> Result<()> {
    for way in WAYS {
        let report = machine::by_hand(&machine::group_of(device), || {
            let mut child =
                Held(Command::new("/proc/self/exe").env(WAY, way).env(DEVICE, device).stdout(Stdio::piped()).spawn()?);
            let mut line = String::new();
            BufReader::new(child.0.stdout.take().context("it has a pipe")?).read_line(&mut line)?;
            let process = child.0.id();
            let held = vfio_host(&["explain", device])?;
            drop(child);
            let after = vfio_host(&["explain", device])?;
            let (device, way) = (device.to_owned(), way.to_owned());
            Ok(Report::Holder { device, way, process, is_held: line.trim() == "held", held, after })
        })?;
        reporter.tell(&report)?;
        machine::settle()?;
    }
    Ok(())
}

/// A process that ends with this.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // It waits for nothing else.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Holds a device for ever, if this process was started for it.
pub(crate) fn hold_if_asked() -> Result<()> {
    let (Ok(way), Ok(device)) = (std::env::var(WAY), std::env::var(DEVICE)) else { return Ok(()) };
    let folder = format!("/sys/bus/pci/devices/{device}");
    let group = fs::read_link(format!("{folder}/iommu_group"))?;
    let group = group.file_name().context("it has a group")?.to_string_lossy().into_owned();
    let open = |path: &str| OpenOptions::new().read(true).write(true).open(path).map(OwnedFd::from);
    let held = match way.as_str() {
        "its group" => open(&format!("/dev/vfio/{group}"))?,
        "its group by another node" => {
            let number = fs::read_to_string(format!("/sys/class/vfio/{group}/dev"))?;
            let (major, minor) = number.trim().split_once(':').context("a device number")?;
            let node = "/tmp/other";
            let _ = fs::remove_file(node);
            mknod(node, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(major.parse()?, minor.parse()?))?;
            let held = open(node)?;
            fs::remove_file(node)?;
            held
        }
        "only its file" => {
            let container = Arc::new(VfioContainer::new(None)?);
            let file = VfioDevice::new(Path::new(&folder), container, false)?;
            let own =
                pidfd_open(Pid::from_raw(std::process::id().try_into()?).context("a process")?, PidfdFlags::empty())?;
            // Group and container are closed with the rest.
            pidfd_getfd(&own, file.as_raw_fd(), PidfdGetfdFlags::empty())?
        }
        _ => bail!("no way called `{way}`"),
    };
    println!("held");
    std::io::stdout().flush()?;
    loop {
        std::thread::sleep(Duration::from_secs(3600));
        // It is held as long as this runs.
        let _ = &held;
    }
}
