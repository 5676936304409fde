//! `vfio-host diff`

use std::path::Path;

use anyhow::Result;
use vfio_host::{Host, changes};

use crate::output::{Format, Outcome, print_json, print_text};

pub(crate) fn run(before: &Path, after: &Path, format: Format) -> Result<Outcome> {
    let changes = changes(&Host::open(before)?, &Host::open(after)?);
    if format == Format::Json {
        print_json("changes", &changes)?;
    } else {
        for change in &changes {
            print_text(&format!("{change}\n"))?;
        }
    }
    Ok(if changes.is_empty() { Outcome::Possible } else { Outcome::NotPossible })
}
