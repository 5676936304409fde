//! Calls about `RLIMIT_MEMLOCK`.

use rustix::io::Errno;
use vfio_owner::iommufd_owner::uapi::Caller as _;
use vfio_owner::uapi::Capability;

use super::{Answer, Trapped};
use crate::calls::Call;
use crate::limits::Locked;
use crate::supervisor::Supervisor;

impl Supervisor {
    pub(super) fn limit(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let process = trapped.task.process()?;
        let (of, new, old) = match trapped.call {
            Call::Prlimit64 => (trapped.bits(0), trapped.arg(2), trapped.arg(3)),
            Call::Setrlimit => (0, trapped.arg(1), 0),
            _ => (0, 0, trapped.arg(1)),
        };
        // Of other processes, the host's.
        if of != 0 && of != process {
            return Ok(Answer::Continue);
        }
        let before = self.processes.limits().of(process);
        if new != 0 {
            let [soft, hard] = trapped.task.numbers(new)?;
            if soft > hard {
                return Err(Errno::INVAL);
            }
            if hard > before.hard && !self.caller(trapped).has(Capability::SysResource) {
                return Err(Errno::PERM);
            }
            trapped.check()?;
            self.processes.limits().set(process, Locked { soft, hard });
        }
        if old != 0 || trapped.call == Call::Getrlimit {
            let bytes = [before.soft.to_le_bytes(), before.hard.to_le_bytes()].concat();
            trapped.task.write(old, &bytes)?;
        }
        Ok(Answer::Value(0))
    }
}
