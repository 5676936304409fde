//! Names of drivers, which listings, plans and journals bring from elsewhere.

/// Whether a folder of sysfs can have this name, and a shell script may carry it.
pub(crate) fn is_driver_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.+: ".contains(&byte);
    !name.is_empty() && !name.starts_with(['.', '-']) && name.len() <= 255 && name.bytes().all(plain)
}
