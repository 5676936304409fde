//! A program in C, `programs/vfio.c`, that makes the calls which user-space drivers and VMMs make, each way to a device.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use duct::cmd;
use vfio_owner::testbed::{Machine, pc};
use vfio_room::Room;

use super::tap::Totals;
use super::{Checks, Client, Need, folder, hand_over, is_empty, limited};
use crate::root;

pub(super) const CLIENT: Client = Client {
    name: "c",
    shows: "containers, iommufd and both in one, by the uAPI: regions, maps, interrupts, fork, messages, threads",
    needs: &[Need::Program("cc", "gcc"), Need::File("/usr/include/stdio.h", "libc6-dev")],
    wants: &[],
    run,
};

/// A card that is alone in its group.
const CARD: &str = "0000:00:03.0";
/// A function that shares its group with a device of a kernel driver.
const FUNCTION: &str = "0000:00:04.0";
const IN_THE_WAY: &str = "0000:00:04.1 (e1000)";

/// What else it is linked with.
const WAYS_TO_LINK: [&[&str]; 2] = [&[], &["-static"]];

fn run(checks: &mut Checks) -> Result<()> {
    for flags in WAYS_TO_LINK {
        let Some(program) = compile(flags)? else {
            checks.lacks(format!("a C library for {}", flags.join(" ")));
            continue;
        };
        checks.attempt(&format!("vfio.c {}", flags.join(" ")), |checks| {
            let machine = Arc::new(Machine::boot(&pc()));
            hand_over(&machine, CARD)?;
            hand_over(&machine, FUNCTION)?;
            let room = Room::new(&machine)?;
            let output = limited(&room, &program).args([CARD, FUNCTION]).output()?;
            let printed = String::from_utf8_lossy(&output.stdout);
            let totals = Totals::parse(&printed)?;
            checks.count(totals.passed);
            ensure!(totals.failed.is_empty(), "{printed}");
            checks.check("who is in the way is told", || {
                let refusals: Vec<String> = room.refusals().iter().map(ToString::to_string).collect();
                let claims = refusals.iter().filter(|refusal| refusal.contains(IN_THE_WAY)).count();
                // The status of the group, the container and the device file.
                ensure!(claims == 3, "{claims} of 3 refused claims name {IN_THE_WAY}: {refusals:#?}");
                Ok(())
            });
            is_empty(&room)
        });
    }
    Ok(())
}

/// Compiles the program; `None` if it cannot be linked so.
fn compile(flags: &[&str]) -> Result<Option<PathBuf>> {
    let program = folder("c")?.join(format!("vfio{}", flags.concat()));
    let source = root().join("xtask/src/clients/programs/vfio.c");
    let compile = |flags: &[&str], program: &PathBuf| {
        let arguments = ["-O1", "-w", "-pthread"].iter().chain(flags).map(PathBuf::from);
        let arguments = arguments.chain([source.clone(), "-o".into(), program.clone()]);
        cmd("cc", arguments).stderr_to_stdout().stdout_capture().unchecked().run().context("cc")
    };
    let output = compile(flags, &program)?;
    if output.status.success() {
        return Ok(Some(program));
    }
    ensure!(!flags.is_empty(), "it does not compile:\n{}", String::from_utf8_lossy(&output.stdout));
    Ok(None)
}
