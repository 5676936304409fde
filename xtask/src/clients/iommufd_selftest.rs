//! The kernel's own tests of iommufd, `tools/testing/selftests/iommu`: compiled untouched from the distribution's source.
// Facts 4.9.4, 4.9.5.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use duct::cmd;
use vfio_owner::testbed::{Machine, pc};
use vfio_room::Room;

use super::need::is_root;
use super::tap::Totals;
use super::{Checks, Client, Need, folder, is_empty, limited};

pub(super) const CLIENT: Client = Client {
    name: "iommufd-selftest",
    shows: "the kernel's own tests of iommufd, with mock devices",
    needs: &[
        Need::Program("cc", "gcc"),
        Need::File("/usr/include/stdio.h", "libc6-dev"),
        Need::File(ARCHIVE, "linux-source-6.12"),
        Need::Program("xz", "xz-utils"),
    ],
    wants: &[Need::HugePages(POOL_SIZE)],
    run,
};

const ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";
const TESTS: &str = "tools/testing/selftests/iommu";

/// What the tests include, beside the C library's headers.
const FILES: [&str; 6] = [
    TESTS,
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/kselftest_harness.h",
    "include/uapi/linux/iommufd.h",
    "include/uapi/linux/vfio.h",
    "drivers/iommu/iommufd/iommufd_test.h",
];

/// Names that the tests use, and the headers of the same source do not have: with them, they compile. The values are
/// those of newer kernels.
// Ft23.
const DEFINITIONS: [&str; 7] = [
    "-DIOMMU_HW_INFO_TYPE_DEFAULT=0",
    "-DIOMMU_HW_INFO_FLAG_INPUT_TYPE=1",
    "-Din_data_type=out_data_type",
    "-DMOCK_FLAGS_DEVICE_PASID=4",
    "-DMOCK_PASID_WIDTH=20",
    "-D__user=",
    "-D_GNU_SOURCE=",
];

/// How many tests there are.
const ALL: usize = 190;
/// How many there are with injected faults.
const ALL_FAILING: usize = 7;

/// What a test needs of the host, if it is not here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lacking {
    HugePages,
    /// More memory locked than users may, limits that only root sets, files that only root opens.
    Root,
}

fn run(checks: &mut Checks) -> Result<()> {
    let directory = folder("iommufd-selftest")?;
    unpack(&directory)?;
    let tests = compile(&directory, "iommufd")?;
    let failing = compile(&directory, "iommufd_fail_nth")?;
    let pool = HugePages::reserve(POOL_SIZE);
    checks.attempt("iommufd", |checks| all_tests(checks, &tests, pool.is_some()));
    checks.attempt("iommufd_fail_nth", |checks| {
        let result = run_in_room(&failing)?;
        checks.count(result.passed);
        checks.note(format!("with injected faults, {} of {ALL_FAILING}", result.passed));
        ensure!(result.failed.is_empty(), "failed: {}", result.failed.join(", "));
        ensure!(result.passed == ALL_FAILING && result.skipped == 0, "{} were skipped", result.skipped);
        Ok(())
    });
    Ok(())
}

fn all_tests(checks: &mut Checks, program: &Path, with_pool: bool) -> Result<()> {
    let result = run_in_room(program)?;
    checks.count(result.passed);
    checks.note(format!("{} of {ALL} tests", result.passed));
    let mut wrong: Vec<&str> = result.failed.iter().map(String::as_str).collect();
    for (what, lacking, is_here) in [("huge pages", Lacking::HugePages, with_pool), ("root", Lacking::Root, is_root())]
    {
        let (names, others): (Vec<_>, _) = wrong.into_iter().partition(|name| !is_here && needs(name) == Some(lacking));
        if !names.is_empty() {
            checks.lacks(format!("{what} for {}", names.join(", ")));
        }
        wrong = others;
    }
    ensure!(wrong.is_empty(), "failed: {}", wrong.join(", "));
    ensure!(result.passed + result.failed.len() == ALL && result.skipped == 0, "{} were skipped", result.skipped);
    Ok(())
}

/// Unpacks the files that are needed, if they are not there.
fn unpack(directory: &Path) -> Result<()> {
    if FILES.iter().all(|file| directory.join(file).exists()) {
        return Ok(());
    }
    let members = FILES.map(|file| format!("linux-source-6.12/{file}"));
    let arguments = ["-xJf", ARCHIVE, "--strip-components=1", "-C"].map(PathBuf::from).into_iter();
    let arguments = arguments.chain([directory.into()]).chain(members.map(PathBuf::from));
    cmd("tar", arguments).run().context("cannot unpack the source of the kernel")?;
    Ok(())
}

fn compile(directory: &Path, name: &str) -> Result<PathBuf> {
    let program = directory.join(name);
    let tests = directory.join(TESTS);
    let includes = [directory.join("include/uapi"), tests.join("..")].map(|path| format!("-I{}", path.display()));
    let arguments = ["-O1", "-w"].into_iter().chain(DEFINITIONS).map(PathBuf::from);
    let arguments = arguments.chain(includes.map(PathBuf::from));
    let source = tests.join(format!("{name}.c"));
    let arguments = arguments.chain([source, "-o".into(), program.clone()]);
    let output = cmd("cc", arguments).stderr_to_stdout().stdout_capture().unchecked().run()?;
    ensure!(output.status.success(), "{name} does not compile:\n{}", String::from_utf8_lossy(&output.stdout));
    Ok(program)
}

fn needs(test: &str) -> Option<Lacking> {
    let (fixture, name) = test.rsplit_once('.')?;
    match name {
        _ if test.contains("huge") => Some(Lacking::HugePages),
        "access_domain_destory" => Some(Lacking::HugePages),
        "global_options" | "fork_gone" => Some(Lacking::Root),
        _ if fixture.contains("domain_dirty") && name.starts_with("get_dirty_bitmap") => Some(Lacking::Root),
        _ => None,
    }
}

/// Runs a test program in a room of its own.
fn run_in_room(program: &Path) -> Result<Totals> {
    let machine = Arc::new(Machine::builder(pc()).iommufd_test().build()?);
    let room = Room::new(&machine)?;
    let output = limited(&room, program).output()?;
    let totals = Totals::parse(&String::from_utf8_lossy(&output.stdout))?;
    is_empty(&room)?;
    Ok(totals)
}

/// A pool of large pages of the host, which is given back when this is dropped.
struct HugePages {
    before: String,
}

/// How many of them the tests need.
const POOL_SIZE: u32 = 64;
const POOL: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    /// Makes the pool so large, if the host lets us.
    fn reserve(pages: u32) -> Option<Self> {
        let before = fs::read_to_string(POOL).ok()?;
        let pool = Self { before };
        let pages = pool.before.trim().parse().unwrap_or(0).max(pages);
        fs::write(POOL, pages.to_string()).ok()?;
        let reserved: u32 = fs::read_to_string(POOL).ok()?.trim().parse().ok()?;
        (reserved >= pages).then_some(pool)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Where it could not be changed, it has not.
        let _ = fs::write(POOL, self.before.trim());
    }
}
