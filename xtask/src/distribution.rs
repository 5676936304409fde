//! Programs and packages of the distribution.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
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

/// Unpacks packages of the distribution's backports into a folder that is not there yet, without installing them; whether
/// they could be had. That needs no root.
pub(crate) fn unpack_backports(packages: &[&str], folder: &Path) -> Result<bool> {
    let Some(release) = backports() else { return Ok(false) };
    // Unpacked beside it first: what was interrupted is not taken for whole.
    let partly = folder.with_extension("partly");
    if partly.exists() {
        fs::remove_dir_all(&partly)?;
    }
    let [root, lists, cache] = ["root", "lists/partial", "cache/archives/partial"].map(|name| partly.join(name));
    for made in [&root, &lists, &cache] {
        fs::create_dir_all(made)?;
    }
    let partly = fs::canonicalize(partly)?;
    fs::write(partly.join("sources.list"), format!("deb http://deb.debian.org/debian {release} main\n"))?;
    let apt_get = |verb: &[&str]| {
        let option = |name: &str, file: &str| format!("{name}={}", partly.join(file).display());
        let options = [
            option("Dir::Etc::SourceList", "sources.list"),
            "Dir::Etc::SourceParts=-".to_owned(),
            option("Dir::State::Lists", "lists"),
            option("Dir::Cache", "cache"),
        ];
        let options = options.iter().flat_map(|option| ["-o", option]).chain(["-qq"]);
        let command = cmd("apt-get", options.chain(verb.iter().copied())).dir(&partly).stdin_null();
        command.stdout_null().stderr_null().unchecked().run().is_ok_and(|output| output.status.success())
    };
    if !apt_get(&["update"]) || !apt_get(&[&["download"], packages].concat()) {
        return Ok(false);
    }
    for entry in fs::read_dir(&partly)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "deb") {
            cmd!("dpkg-deb", "-x", &path, &root).run().context("dpkg-deb")?;
        }
    }
    fs::rename(&root, folder)?;
    Ok(fs::remove_dir_all(&partly).is_ok())
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
