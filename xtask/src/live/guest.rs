//! One machine in QEMU, from its start to its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anstream::println;
use anyhow::{Context as _, Result};
use live_guest::{HOLD, JOBS, KILL, Report};

use super::packages::{Kernel, Tools};
use super::topology::Topology;

/// How long a machine may run without reporting anything.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How often a machine is started at most, when it ends before it is up.
const STARTS: usize = 3;
/// How much of what the kernel said last is shown.
const LAST_LINES: usize = 30;
/// btrfs over several disks needs so much of each.
const DISK_BYTES: u64 = 160 << 20;

/// A machine that can be run.
pub(crate) struct Guest<'a> {
    pub(crate) tools: &'a Tools,
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: &'a Path,
    pub(crate) topology: &'a Topology,
    pub(crate) folder: &'a Path,
}

/// What a machine is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Job {
    /// Ask about every device, as found and bound by hand, and compare with the kernel
    Verdicts,
    /// Plan, apply, use and undo every device
    Cycles,
    /// Refuse to unbind devices in use by the host, each kind of use
    Lifelines,
    /// Name the processes that hold a device, whatever they hold of it
    Holders,
    /// Kill apply and undo at every change
    Kills,
}

impl Guest<'_> {
    /// Where what the kernel says is kept.
    pub(crate) fn console(&self) -> PathBuf {
        self.file("console")
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}-{}.{kind}", self.topology.name, self.kernel.version))
    }

    /// Runs it to its end; what it reported.
    ///
    /// Starts it again when it ends before it is up: an emulated kernel that cannot boot says nothing about what is to run on it.
    pub(crate) fn run(&self, jobs: &[Job]) -> Result<Vec<Report>> {
        let mut starts = 1;
        loop {
            let ended = self.start(jobs)?;
            let reports = self.reports()?;
            if reports.last() == Some(&Report::Done) {
                return Ok(reports);
            }
            println!("  QEMU ended early: {ended}; it and the kernel said last:\n{}", self.last_words());
            if !reports.is_empty() || starts == STARTS {
                return Ok(reports);
            }
            starts += 1;
        }
    }

    /// Runs it to its end, once.
    fn start(&self, jobs: &[Job]) -> Result<String> {
        let reports = self.file("reports");
        // Those of another run are not taken for those of a machine that QEMU could not start.
        fs::write(&reports, "")?;
        let mut machine = Running(self.command(jobs, &reports)?.spawn().context("QEMU")?);
        let (mut heard, mut length) = (Instant::now(), 0);
        while heard.elapsed() < PATIENCE {
            if let Some(status) = machine.0.try_wait()? {
                return Ok(status.to_string());
            }
            std::thread::sleep(Duration::from_millis(200));
            let now = fs::metadata(&reports).map_or(0, |file| file.len());
            if now != length {
                (heard, length) = (Instant::now(), now);
            }
        }
        Ok(format!("nothing was reported for {} s", PATIENCE.as_secs()))
    }

    fn reports(&self) -> Result<Vec<Report>> {
        let file = self.file("reports");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// The ends of what QEMU and the kernel said.
    fn last_words(&self) -> String {
        let said = [self.file("qemu"), self.console()].map(|file| fs::read(file).unwrap_or_default());
        let said = said.map(|bytes| String::from_utf8_lossy(&bytes).replace('\r', ""));
        let last = said.iter().flat_map(|text| text.lines().skip(text.lines().count().saturating_sub(LAST_LINES)));
        last.map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
    }

    fn command(&self, jobs: &[Job], reports: &Path) -> Result<Command> {
        let mut qemu = Command::new(&self.tools.qemu);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024", "-no-reboot"]);
        qemu.args(["-machine", "q35,kernel-irqchip=split", "-display", "none", "-monitor", "none"]);
        qemu.arg("-device").arg("intel-iommu,intremap=on,snoop-control=on,caching-mode=on,device-iotlb=on");
        for disk in self.topology.disks {
            let path = self.folder.join(format!("{disk}.disk"));
            fs::File::create(&path)?.set_len(DISK_BYTES)?;
            qemu.arg("-drive").arg(format!("if=none,id={disk},format=raw,file={}", path.display()));
        }
        qemu.args(self.topology.options());
        qemu.arg("-serial").arg(format!("file:{}", self.console().display()));
        qemu.arg("-serial").arg(format!("file:{}", reports.display()));
        qemu.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs);
        // On a busy machine the emulated timer fails the kernel's test of it.
        let options = "console=ttyS0 earlyprintk=ttyS0 intel_iommu=on panic=-1 quiet no_timer_check nokaslr";
        let named = |(job, name)| jobs.contains(&job).then_some(name);
        let listed: Vec<&str> = [(Job::Verdicts, "verdicts"), (Job::Cycles, "cycles"), (Job::Lifelines, "lifelines")]
            .into_iter()
            .filter_map(named)
            .collect();
        let held = if jobs.contains(&Job::Holders) { format!("{HOLD}{}", self.topology.killed) } else { String::new() };
        let killed = if jobs.contains(&Job::Kills) { format!("{KILL}{}", self.topology.killed) } else { String::new() };
        qemu.arg("-append").arg(format!("{options} {JOBS}{} {held} {killed}", listed.join(",")));
        let log = fs::File::create(self.file("qemu"))?;
        qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(qemu)
    }
}

/// A machine that does not outlive us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless patience has.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
