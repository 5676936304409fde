//! Programs and packages of the distribution.

use std::path::PathBuf;

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

fn apt_get<'a>(arguments: impl Iterator<Item = &'a &'a str>) -> bool {
    let command = cmd("apt-get", arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin_null();
    command.stdout_null().stderr_null().unchecked().run().is_ok_and(|output| output.status.success())
}
