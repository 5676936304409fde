//! Linux error numbers.

use core::fmt;

/// A Linux error number (x86 values), without the minus sign.
///
/// Errors of these crates say *who* and *why*; [`Errno`] is what Linux returns for them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Self = Self($number);)*

            /// Returns the symbolic name (`"EBUSY"`), or `None` for a number without a constant here.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "Operation not permitted.";
    ENOENT = 2, "No such object.";
    ESRCH = 3, "No such process.";
    EIO = 5, "Input or output error.";
    ENXIO = 6, "No such device or address.";
    E2BIG = 7, "Argument too long.";
    EBADF = 9, "Not an open file.";
    EAGAIN = 11, "Try again.";
    ENOMEM = 12, "Out of memory.";
    EACCES = 13, "Permission denied.";
    EFAULT = 14, "Bad address.";
    EBUSY = 16, "Device or resource busy.";
    EEXIST = 17, "It exists already.";
    ENODEV = 19, "No such device.";
    ENOTDIR = 20, "Not a directory.";
    EISDIR = 21, "A directory.";
    EINVAL = 22, "Invalid argument.";
    ENOTTY = 25, "Not a call of this object.";
    ENOSPC = 28, "No space left.";
    ESPIPE = 29, "Not a place in this file.";
    ERANGE = 34, "Out of range.";
    EDEADLK = 35, "Would deadlock.";
    ELOOP = 40, "Too many symbolic links.";
    EBADE = 52, "Another than was expected.";
    ENODATA = 61, "No data.";
    EOVERFLOW = 75, "Value too large.";
    EBADFD = 77, "A file of the wrong kind.";
    EMSGSIZE = 90, "Message too long.";
    EOPNOTSUPP = 95, "Not supported.";
    EADDRINUSE = 98, "Address in use.";
    ETIMEDOUT = 110, "Timed out.";
    EPROBE_DEFER = 517, "Ask again once a supplier is there; never seen by user space.";
}

impl Errno {
    /// Creates the error of this number (positive, as in `errno.h`).
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// Returns the number, positive.
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
