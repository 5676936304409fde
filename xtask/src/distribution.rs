//! Programs and packages of the distribution.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use duct::cmd;

/// Finds a program on the path, or among those of the administrator, which are not on everybody's.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Installs packages, all or none; whether they could be. That needs root.
pub(crate) fn install(packages: &[&str]) -> bool {
    let options = ["install", "--yes", "-qq", "--no-install-recommends"];
    apt_get(options.iter().chain(packages))
}

/// Fetches the lists of packages, which a fresh machine does not have.
pub(crate) fn update() {
    // Without network, there may be lists of before.
    apt_get(["update", "-qq"].iter());
}

/// Unpacks packages into a folder that is not there yet, without installing them. That needs no root.
pub(crate) fn unpack(packages: &[&str], folder: &Path) -> Result<()> {
    unpack_with(&[], packages, folder)
}

/// As [`unpack`], from the distribution's backports, whether the machine is set up for them or not.
pub(crate) fn unpack_backports(packages: &[&str], folder: &Path) -> Result<()> {
    let release = backports().context("no Debian has backports to this release")?;
    let own = beside(folder, "apt");
    for made in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(own.join(made))?;
    }
    let own = fs::canonicalize(own)?;
    fs::write(own.join("sources.list"), format!("deb http://deb.debian.org/debian {release} main\n"))?;
    let option = |name: &str, file: &str| format!("{name}={}", own.join(file).display());
    let options = [
        option("Dir::Etc::SourceList", "sources.list"),
        "Dir::Etc::SourceParts=-".to_owned(),
        option("Dir::State::Lists", "lists"),
        option("Dir::Cache", "cache"),
    ];
    let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).collect();
    ensure!(apt_get(options.iter().chain(&["update", "-qq"])), "apt-get update of {release}");
    unpack_with(&options, packages, folder)?;
    Ok(fs::remove_dir_all(own)?)
}

/// Beside the folder first: what was interrupted is not taken for whole.
fn unpack_with(options: &[&str], packages: &[&str], folder: &Path) -> Result<()> {
    let partly = beside(folder, "partly");
    if partly.exists() {
        fs::remove_dir_all(&partly)?;
    }
    fs::create_dir_all(&partly)?;
    let words = options.iter().chain(&["download", "-qq"]).chain(packages);
    cmd("apt-get", words).dir(&partly).stderr_null().run().context("apt-get download")?;
    // Before there is anything else in it.
    let archives: Vec<_> = fs::read_dir(&partly)?.collect::<Result<_, _>>()?;
    for archive in archives.iter().map(fs::DirEntry::path) {
        cmd!("dpkg-deb", "-x", &archive, &partly).run().context("dpkg-deb")?;
        fs::remove_file(archive)?;
    }
    Ok(fs::rename(partly, folder)?)
}

/// A name beside that of a folder.
fn beside(folder: &Path, kind: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".");
    name.push(kind);
    name.into()
}

/// The name of Debian's backports to the release that runs here.
fn backports() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let field = |name: &str| release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let name = field("VERSION_CODENAME").filter(|_| field("ID") == Some("debian"))?;
    Some(format!("{name}-backports"))
}

fn apt_get<'a>(arguments: impl Iterator<Item = &'a &'a str>) -> bool {
    let command = cmd("apt-get", arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin_null();
    command.stdout_null().stderr_null().unchecked().run().is_ok_and(|output| output.status.success())
}
