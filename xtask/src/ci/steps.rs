//! The steps of `cargo xtask ci`, cheapest first; the guests of `live` take turns with what comes after them.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::shell::{Shell, has_target, has_toolchain, succeeds};
use super::{PACKAGES, Place, Step, Verdict};
use crate::{api, clients, kernel, live, replay};

/// What runs without std.
const LIBRARIES: [&str; 4] = ["device-model", "iommu-core", "iommufd-owner", "vfio-owner"];

const BARE_TARGETS: [&str; 5] = [
    "x86_64-unknown-none",
    "aarch64-unknown-none",
    "riscv64gc-unknown-none-elf",
    "thumbv7m-none-eabi",
    "riscv32imac-unknown-none-elf",
];

/// Target folders of their own for other flags, or each change of flags would build the world anew.
const LOCK_ORDER: &str = "target/lock-order";
const SHUTTLE: &str = "target/shuttle";

pub(super) const STEPS: &[Step] = &[
    alone("format", "rustfmt", format),
    alone("clippy", "lints of all targets, with and without std", clippy),
    alone("docs", "rustdoc without warnings", docs),
    alone("bare", "the libraries on machines without an operating system", bare),
    alone("kernel", "the example kernel boots, and refuses what it must", boot_kernel),
    alone("test", "unit, property and documentation tests, all features", test),
    alone("defaults", "unit and integration tests, default features", defaults),
    alone("no-std", "unit and integration tests without std", no_std),
    alone("lock-order", "all tests with every lock checked against the lock order", lock_order),
    alone("model", "interleavings under the model checker", model),
    alone("demo", "the demo and the examples play to their end", demo),
    alone("replay", "what our stack answers is what Linux answered", replay_all),
    alone("rooms", "a program in a room gets the answers of Linux as well", rooms),
    alone("clients", "programs that others wrote do in a room what they are to do", run_clients),
    beside("live", "what vfio-host says and does is what a kernel in QEMU does", boot_live),
    alone("bench", "benchmarks compile and run once, unoptimized", bench),
    alone("package", "each crate packages on its own and passes its tests", package),
    alone("api", "the public API is that of the snapshots", public_api),
    alone("msrv", "the libraries with the oldest Rust that they promise", msrv),
    alone("deny", "licences, sources, layers", deny),
    alone("miri", "the locks and the core under miri", miri),
];

const fn alone(name: &'static str, what: &'static str, run: fn(&Shell) -> Result<Verdict>) -> Step {
    Step { name, what, place: Place::Alone, run }
}

const fn beside(name: &'static str, what: &'static str, run: fn(&Shell) -> Result<Verdict>) -> Step {
    Step { name, what, place: Place::Beside, run }
}

fn format(shell: &Shell) -> Result<Verdict> {
    shell.cargo("fmt --all --check", &[])?;
    shell.cargo(&format!("fmt --check --manifest-path {}/Cargo.toml", kernel::FOLDER), &[])?;
    Ok(Verdict::Passed)
}

fn clippy(shell: &Shell) -> Result<Verdict> {
    shell.cargo("clippy --workspace --all-targets --all-features -- -D warnings", &[])?;
    for package in LIBRARIES.into_iter().chain(["vfio-host", "vfio-room"]) {
        shell.cargo(&format!("clippy -p {package} --no-default-features -- -D warnings"), &[])?;
    }
    shell.cargo("clippy -p iommu-core --no-default-features --features software -- -D warnings", &[])?;
    Ok(Verdict::Passed)
}

fn docs(shell: &Shell) -> Result<Verdict> {
    shell.cargo("doc --workspace --no-deps --all-features", &[("RUSTDOCFLAGS", "-D warnings")])?;
    Ok(Verdict::Passed)
}

fn bare(shell: &Shell) -> Result<Verdict> {
    let packages = packages(&LIBRARIES);
    let (targets, lacking): (Vec<_>, Vec<_>) = BARE_TARGETS.into_iter().partition(|target| has_target(target));
    for target in targets {
        shell.cargo(&format!("build {packages} --no-default-features --target {target}"), &[])?;
    }
    Ok(if lacking.is_empty() {
        Verdict::Passed
    } else if lacking.len() < BARE_TARGETS.len() {
        Verdict::Partly(format!("without {}, which cannot be had", lacking.join(", ")))
    } else {
        shell.cargo(&format!("build {packages} --no-default-features"), &[])?;
        Verdict::Partly("built for this machine: no bare target can be had".to_owned())
    })
}

fn boot_kernel(shell: &Shell) -> Result<Verdict> {
    Ok(match kernel::boot(shell)? {
        kernel::Outcome::Booted(_) => Verdict::Passed,
        kernel::Outcome::Lacking(what) => Verdict::Skipped(format!("no {what} here")),
    })
}

fn test(shell: &Shell) -> Result<Verdict> {
    shell.cargo("test --workspace --all-features", &[("UAPI_CALLS", "200000"), ("VFIO_UAPI_CALLS", "200000")])?;
    Ok(Verdict::Passed)
}

/// One library at a time: what several ask for in one command, all get.
fn defaults(shell: &Shell) -> Result<Verdict> {
    for library in LIBRARIES {
        let hardware = if library == "iommu-core" { " --features software" } else { "" };
        shell.cargo(&format!("test -p {library} --tests{hardware}"), &[])?;
    }
    Ok(Verdict::Passed)
}

/// The consumers' tests need the testbed, and with it std.
fn no_std(shell: &Shell) -> Result<Verdict> {
    shell.cargo("test -p device-model --no-default-features --tests", &[])?;
    shell.cargo("test -p iommu-core --no-default-features --features software --tests", &[])?;
    Ok(Verdict::Passed)
}

fn lock_order(shell: &Shell) -> Result<Verdict> {
    let flags: &[(&str, &str)] = &[("RUSTFLAGS", "--cfg lock_order"), ("RUSTDOCFLAGS", "--cfg lock_order")];
    shell.cargo(&format!("test {} --all-features --target-dir {LOCK_ORDER}", packages(&LIBRARIES)), flags)?;
    Ok(Verdict::Passed)
}

fn model(shell: &Shell) -> Result<Verdict> {
    let modelled: Vec<&str> =
        LIBRARIES.into_iter().filter(|library| Path::new(library).join("tests/model.rs").is_file()).collect();
    if modelled.is_empty() {
        return Ok(Verdict::Skipped("no crate has a tests/model.rs".to_owned()));
    }
    let packages = packages(&modelled);
    let scenes = format!("--features iommu-core/software,vfio-owner/iommufd --test model --target-dir {SHUTTLE}");
    let flags: &[(&str, &str)] = &[("RUSTFLAGS", "--cfg shuttle")];
    shell.cargo(&format!("clippy {packages} --lib {scenes} -- -D warnings"), flags)?;
    shell.cargo(&format!("test {packages} --release {scenes}"), flags)?;
    shell.cargo("run --quiet --package xtask -- explore --argument check", &[])?;
    Ok(Verdict::Passed)
}

fn demo(shell: &Shell) -> Result<Verdict> {
    shell.cargo("run --quiet --package xtask -- demo", &[])?;
    for library in LIBRARIES {
        for entry in Path::new(library).join("examples").read_dir()? {
            let path = entry?.path();
            match path.file_stem().and_then(OsStr::to_str) {
                // They have steps of their own.
                Some("explore" | "kernel") | None => {}
                Some(example) => {
                    shell.cargo(&format!("run --quiet -p {library} --all-features --example {example}"), &[])?;
                }
            }
        }
    }
    Ok(Verdict::Passed)
}

fn replay_all(shell: &Shell) -> Result<Verdict> {
    // uapi/n-errors-0229 maps a page that was not there in any other recording.
    shell.cargo("run --quiet --package xtask -- replay --check --unexplained 3 testdata/scenarios", &[])?;
    Ok(Verdict::Passed)
}

fn rooms(shell: &Shell) -> Result<Verdict> {
    if let Some(missing) = replay::rooms_missing()? {
        return Ok(Verdict::Skipped(missing));
    }
    // The same.
    let folders = ["basics", "minimal", "uapi"].map(|folder| format!("testdata/scenarios/{folder}")).join(" ");
    shell.cargo(&format!("run --quiet --package xtask -- replay --check --room --unexplained 3 {folders}"), &[])?;
    Ok(Verdict::Passed)
}

fn run_clients(_: &Shell) -> Result<Verdict> {
    let lacking = clients::all()?;
    Ok(if lacking.is_empty() { Verdict::Passed } else { Verdict::Partly(lacking.join("; ")) })
}

fn boot_live(_: &Shell) -> Result<Verdict> {
    match live::quick()? {
        live::Outcome::Right => Ok(Verdict::Passed),
        live::Outcome::Wrong => bail!("`cargo xtask live --verbose` shows all of it"),
        live::Outcome::Missing(missing) => Ok(Verdict::Skipped(missing.to_string())),
    }
}

/// As tests, so that they share what the tests built: criterion runs each once unless it is told to measure.
fn bench(shell: &Shell) -> Result<Verdict> {
    shell.cargo("test --workspace --all-features --exclude xtask --benches", &[])?;
    Ok(Verdict::Passed)
}

/// Builds every crate from its archive, looks that the archive has what its reader needs, and runs its tests there.
fn package(shell: &Shell) -> Result<Verdict> {
    for package in PACKAGES {
        let packed = shell.cargo(&format!("package -p {package} --allow-dirty --list"), &[])?;
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            ensure!(packed.lines().any(|line| line == file), "{package}: no {file} in the package");
        }
    }
    // What verifies an archive is its tests.
    shell.cargo(&format!("package {} --allow-dirty --no-verify", packages(&PACKAGES)), &[])?;
    test_packed(shell)?;
    Ok(Verdict::Passed)
}

/// Runs the tests of the archives, unpacked, with nothing of the workspace around them but how it builds.
fn test_packed(shell: &Shell) -> Result<()> {
    const UNPACKED: &str = "target/packaged";
    let _ = std::fs::remove_dir_all(UNPACKED);
    std::fs::create_dir_all(UNPACKED)?;
    let mut workspace = "[workspace]\nresolver = \"3\"\nmembers = [\"*-*\"]\n[patch.crates-io]\n".to_owned();
    for package in PACKAGES {
        let name = format!("{package}-{}", env!("CARGO_PKG_VERSION"));
        let archive = format!("target/package/{name}.crate");
        // With the time of now: cargo takes what is older than its last build for unchanged.
        shell.run("tar", &["--extract", "--touch", "--file", &archive, "--directory", UNPACKED], &[])?;
        writeln!(workspace, "{package} = {{ path = \"{name}\" }}")?;
    }
    // With the profiles, which are at the end, so that the dependencies are those that are built already.
    let own = std::fs::read_to_string("Cargo.toml")?;
    workspace += own.find("[profile.").and_then(|at| own.get(at..)).unwrap_or_default();
    std::fs::write(Path::new(UNPACKED).join("Cargo.toml"), workspace)?;
    std::fs::copy("Cargo.lock", Path::new(UNPACKED).join("Cargo.lock"))?;
    let manifest = format!("--manifest-path {UNPACKED}/Cargo.toml --target-dir target");
    // What the tests find by chance, they find in the workspace; here they need the files that they read.
    shell.cargo(&format!("test --workspace --all-features --tests {manifest}"), &[("PROPTEST_CASES", "32")])?;
    Ok(())
}

fn public_api(shell: &Shell) -> Result<Verdict> {
    Ok(match api::compare(shell)? {
        api::Outcome::Same => Verdict::Passed,
        api::Outcome::Unreadable => Verdict::Skipped("the format of this toolchain's rustdoc is not known".to_owned()),
    })
}

fn msrv(shell: &Shell) -> Result<Verdict> {
    const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");
    if !has_toolchain(OLDEST) {
        return Ok(Verdict::Skipped(format!("Rust {OLDEST} cannot be had")));
    }
    let line = format!("check {} --all-features --target-dir target/msrv", packages(&PACKAGES));
    let words = ["run", OLDEST, "cargo"].into_iter().chain(line.split(' ')).collect::<Vec<_>>();
    shell.run("rustup", &words, &[])?;
    Ok(Verdict::Passed)
}

fn deny(shell: &Shell) -> Result<Verdict> {
    const OWN: &str = "target/tools/bin/cargo-deny";
    // Unoptimized, it is built in half the time and runs in a second.
    let install = ["install", "cargo-deny", "--locked", "--debug", "--root", "target/tools"];
    let program = if succeeds("cargo-deny", &["--version"]) {
        "cargo-deny"
    } else if Path::new(OWN).is_file() || succeeds("cargo", &install) {
        OWN
    } else {
        return Ok(Verdict::Skipped("cargo-deny cannot be had".to_owned()));
    };
    shell.run(program, &["check", "bans", "licenses", "sources"], &[])?;
    if !succeeds(program, &["fetch", "db"]) {
        return Ok(Verdict::Partly("without advisories: their database cannot be reached".to_owned()));
    }
    shell.run(program, &["check", "advisories"], &[])?;
    Ok(Verdict::Passed)
}

fn miri(shell: &Shell) -> Result<Verdict> {
    let nightly = ["run", "nightly", "cargo", "miri"];
    let component = ["component", "add", "miri", "rust-src", "--toolchain", "nightly"];
    if !succeeds("rustup", &[&nightly[..], &["--version"]].concat()) && !succeeds("rustup", &component) {
        return Ok(Verdict::Skipped("no nightly with miri here".to_owned()));
    }
    // Property tests ask where they are, and miri is slow.
    let settings = [("MIRIFLAGS", "-Zmiri-disable-isolation"), ("PROPTEST_CASES", "4")];
    for tests in ["-p dma-locks --all-features --tests", "-p device-model --lib"] {
        let words = ["test", "--target-dir", "target/miri"].into_iter().chain(tests.split(' '));
        shell.run("rustup", &nightly.into_iter().chain(words).collect::<Vec<_>>(), &settings)?;
    }
    Ok(Verdict::Passed)
}

fn packages(names: &[&str]) -> String {
    format!("-p {}", names.join(" -p "))
}
