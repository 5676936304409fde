//! The kernel's own tests of iommufd, `tools/testing/selftests/iommu`: compiled untouched from the distribution's source.
// Facts 4.9.4, 4.9.5.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use duct::cmd;
use vfio_owner::testbed::{Machine, pc};
use vfio_room::Room;

use super::{Checks, Client, Need, limited};
use crate::root;

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
/// How many of them need large pages of the host.
const WITH_HUGE_PAGES: usize = 22;
/// How many there are with injected faults.
const ALL_FAILING: usize = 7;

fn run(checks: &mut Checks) -> Result<()> {
    let directory = root().join("target/clients/iommufd-selftest");
    fs::create_dir_all(&directory)?;
    unpack(&directory)?;
    let tests = compile(&directory, "iommufd")?;
    let failing = compile(&directory, "iommufd_fail_nth")?;
    let pool = HugePages::reserve(POOL_SIZE);
    checks.attempt("iommufd", |checks| all_tests(checks, &tests, pool.is_some()));
    checks.attempt("iommufd_fail_nth", |checks| {
        let result = Totals::of(&failing)?;
        checks.count(result.passed);
        checks.note(format!("with injected faults, {} of {ALL_FAILING}", result.passed));
        ensure!(result.failed.is_empty(), "failed: {}", result.failed.join(", "));
        ensure!(result.passed == ALL_FAILING && result.skipped == 0, "{} were skipped", result.skipped);
        Ok(())
    });
    Ok(())
}

fn all_tests(checks: &mut Checks, program: &Path, with_pool: bool) -> Result<()> {
    let result = Totals::of(program)?;
    checks.count(result.passed);
    checks.note(format!("{} of {ALL} tests", result.passed));
    let (without_pool, wrong): (Vec<_>, Vec<_>) =
        result.failed.iter().map(String::as_str).partition(|name| !with_pool && needs_huge_pages(name));
    ensure!(wrong.is_empty(), "failed: {}", wrong.join(", "));
    if !without_pool.is_empty() {
        checks.lacks(format!("huge pages for {}", without_pool.join(", ")));
    }
    let expected = if with_pool { ALL } else { ALL - WITH_HUGE_PAGES };
    ensure!(result.passed >= expected && result.skipped == 0, "{expected} are to pass");
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

/// Whether a test maps large pages of the host.
fn needs_huge_pages(test: &str) -> bool {
    test.contains("huge")
}

/// What a test program says of its tests.
#[derive(Debug, PartialEq, Eq)]
struct Totals {
    passed: usize,
    skipped: usize,
    failed: Vec<String>,
}

impl Totals {
    /// Runs a test program in a room of its own.
    fn of(program: &Path) -> Result<Self> {
        let machine = Arc::new(Machine::builder(pc()).iommufd_test().build()?);
        let room = Room::new(&machine)?;
        let output = limited(&room, program).output()?;
        let totals = Self::parse(&String::from_utf8_lossy(&output.stdout))?;
        if let Err(left) = room.check_empty() {
            bail!("the tests left something behind: {left}");
        }
        Ok(totals)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut totals = Self { passed: 0, skipped: 0, failed: Vec::new() };
        let planned = text.lines().find_map(|line| line.strip_prefix("1..")?.parse::<usize>().ok());
        for line in text.lines() {
            let (verdict, rest) = match line.split_once("ok ") {
                Some(("", rest)) => (true, rest),
                Some(("not ", rest)) => (false, rest),
                _ => continue,
            };
            let (_, name) = rest.split_once(' ').unwrap_or_default();
            match (verdict, name.split_once(" # SKIP")) {
                (true, None) => totals.passed += 1,
                (true, Some(_)) => totals.skipped += 1,
                (false, _) => totals.failed.push(name.to_owned()),
            }
        }
        let seen = totals.passed + totals.skipped + totals.failed.len();
        let planned = planned.context("the test program did not begin")?;
        ensure!(seen == planned, "the test program ended after {seen} of {planned} tests");
        Ok(totals)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planned_test_counts() {
        let text =
            "TAP version 13\n1..3\n# RUN a\nok 1 f.a\nnot ok 2 f.huge\nok 3 f.c # SKIP no reason\n# Totals: pass:1\n";
        let totals = Totals::parse(text).unwrap();
        assert_eq!(totals, Totals { passed: 1, skipped: 1, failed: vec!["f.huge".into()] });
        assert!(Totals::parse(&text.replace("1..3", "1..4")).is_err(), "one did not run");
        assert!(Totals::parse("").is_err());
    }
}
