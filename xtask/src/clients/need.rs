//! What clients need that is not here for certain.

use std::fmt;
use std::path::Path;

use super::Client;
use crate::distribution;

/// Something that a client needs, and, but for the last, the package of Debian that it comes with.
pub(super) enum Need {
    Program(&'static str, &'static str),
    File(&'static str, &'static str),
    /// So many large pages of the host, of 2 MiB, which root can have.
    HugePages(u32),
}

impl Need {
    pub(super) fn is_met(&self) -> bool {
        match self {
            Self::Program(name, _) => distribution::program(name).is_some(),
            Self::File(path, _) => Path::new(path).exists(),
            Self::HugePages(_) => is_root(),
        }
    }

    fn package(&self) -> Option<&'static str> {
        match self {
            Self::Program(_, package) | Self::File(_, package) => Some(package),
            Self::HugePages(_) => None,
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(what, package) | Self::File(what, package) if what == package => f.write_str(what),
            Self::Program(what, package) | Self::File(what, package) => write!(f, "{what} (package {package})"),
            Self::HugePages(pages) => write!(f, "{pages} huge pages (root)"),
        }
    }
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the packages that clients need or want and are not here, each once.
pub(super) fn packages(clients: &[&Client]) -> Vec<&'static str> {
    let needs = clients.iter().flat_map(|client| client.needs.iter().chain(client.wants));
    let mut packages: Vec<_> = needs.filter(|need| !need.is_met()).filter_map(Need::package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Installs the packages that clients need or want; which could not be.
pub(super) fn install(clients: &[&Client]) -> Vec<&'static str> {
    let mut packages = packages(clients);
    if packages.is_empty() || distribution::install(&packages) {
        return Vec::new();
    }
    distribution::update();
    if distribution::install(&packages) {
        return Vec::new();
    }
    packages.retain(|package| !distribution::install(&[package]));
    packages
}

#[cfg(test)]
mod tests {
    use super::super::CLIENTS;
    use super::*;

    #[test]
    fn what_is_not_here_is_named_with_its_package() {
        const NEED: Need = Need::Program("no-such-program", "no-such-package");
        assert!(!NEED.is_met());
        assert_eq!(NEED.to_string(), "no-such-program (package no-such-package)");
        assert!(Need::Program("sh", "dash").is_met());
        let client = Client { name: "c", shows: "s", needs: &[NEED], wants: &[], run: |_| Ok(()) };
        assert_eq!(packages(&[&client, &client]), ["no-such-package"]);
    }

    #[test]
    fn clients_have_names_of_their_own() {
        let mut names: Vec<&str> = CLIENTS.iter().map(|client| client.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CLIENTS.len());
    }
}
