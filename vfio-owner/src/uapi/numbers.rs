//! The numbers of the calls.

use alloc::boxed::Box;

use iommu_core::device_model::Errno;

use super::argument::Argument;
use super::caller::Reply;
use super::{container, device, device_file, group};

/// Type and base of VFIO's numbers: `_IO(';', 100 + n)`. The kernel compares all 32 bits.
const BASE: u32 = (b';' as u32) * 0x100 + 100;

/// A kind of file that serves calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// `/dev/vfio/vfio`.
    Container,
    /// `/dev/vfio/N`.
    Group,
    /// A device that was opened through its group.
    Device,
    /// `/dev/vfio/devices/vfioN`.
    DeviceFile,
}

/// A call: its name in `linux/vfio.h` and its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// The name, `VFIO_GROUP_GET_STATUS`.
    pub name: &'static str,
    /// The number, without size and direction.
    pub number: u32,
}

/// Returns the calls that files of this kind serve.
pub fn calls(kind: Kind) -> impl Iterator<Item = Call> {
    fn of<F>(served: &'static [Served<F>]) -> Box<dyn Iterator<Item = Call>> {
        Box::new(served.iter().map(|served| served.call))
    }
    match kind {
        Kind::Container => of(container::CALLS),
        Kind::Group => of(group::CALLS),
        Kind::Device => Box::new(of(device::CALLS_THROUGH_GROUP).chain(of(device::CALLS))),
        Kind::DeviceFile => {
            Box::new(of(device_file::CALLS_TO_BIND).chain(of(device_file::CALLS)).chain(of(device::CALLS)))
        }
    }
}

/// A call, and what serves it on a file `F`.
pub(super) struct Served<F: 'static> {
    pub(super) call: Call,
    serve: fn(&F, Argument<'_>) -> Result<Reply, Errno>,
}

/// The call `VFIO_BASE + offset`.
pub(super) const fn served<F>(
    name: &'static str,
    offset: u32,
    serve: fn(&F, Argument<'_>) -> Result<Reply, Errno>,
) -> Served<F> {
    Served { call: Call { name, number: BASE + offset }, serve }
}

/// Serves the call of this number; `None` if the file has no such call.
pub(super) fn serve<F>(
    calls: &[Served<F>],
    file: &F,
    number: u32,
    argument: Argument<'_>,
) -> Option<Result<Reply, Errno>> {
    let served = calls.iter().find(|served| served.call.number == number)?;
    Some((served.serve)(file, argument))
}
