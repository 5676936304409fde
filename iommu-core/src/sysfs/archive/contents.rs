//! The contents of a file as an archive spells them.

use std::borrow::Cow;
use std::vec::Vec;

use super::ArchiveErrorReason;
use crate::sysfs::tree::MAX_FILE;

/// Contents as the archive spells them, checked, and decoded when they are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contents<'a> {
    /// The bytes of the text themselves.
    Plain(&'a str),
    /// A text with escapes.
    Escaped(&'a str),
    /// Pairs of hex digits, and so many zero bytes behind.
    Hex { digits: &'a str, zeros: usize },
}

impl<'a> Contents<'a> {
    /// Checks a text that may have escapes.
    pub(super) fn text(text: &'a str) -> Result<Self, ArchiveErrorReason> {
        if !text.contains('\\') {
            return Ok(Self::Plain(text));
        }
        let mut rest = text;
        while let Some((_, escape)) = rest.split_once('\\') {
            (_, rest) = escaped(escape).ok_or(ArchiveErrorReason::BadEscape)?;
        }
        Ok(Self::Escaped(text))
    }

    /// Checks bytes in hex; there may be as many counted zeros as are left.
    pub(super) fn hex(value: &'a str, zeros_left: &mut usize) -> Result<Self, ArchiveErrorReason> {
        let (digits, zeros) = value.split_once('+').unwrap_or((value, "0"));
        let zeros: usize = zeros.parse().map_err(|_| ArchiveErrorReason::BadBytes)?;
        let all_digits = digits.bytes().all(|digit| digit.is_ascii_hexdigit()) && digits.len().is_multiple_of(2);
        let length = (digits.len() / 2).checked_add(zeros).filter(|length| *length <= MAX_FILE);
        if !all_digits || length.is_none() {
            return Err(ArchiveErrorReason::BadBytes);
        }
        *zeros_left = zeros_left.checked_sub(zeros).ok_or(ArchiveErrorReason::TooManyZeros)?;
        Ok(Self::Hex { digits, zeros })
    }

    /// Returns the bytes.
    pub(super) fn decode(&self) -> Cow<'a, [u8]> {
        match *self {
            Self::Plain(text) => Cow::Borrowed(text.as_bytes()),
            Self::Escaped(text) => Cow::Owned(unescape(text)),
            Self::Hex { digits, zeros } => {
                let mut bytes = Vec::with_capacity(digits.len() / 2 + zeros);
                bytes.extend(digits.as_bytes().chunks_exact(2).map(|pair| match pair {
                    [high, low] => digit(*high) << 4 | digit(*low),
                    _ => 0,
                }));
                bytes.resize(bytes.len() + zeros, 0);
                Cow::Owned(bytes)
            }
        }
    }
}

/// The bytes that a checked text stands for.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let Some((byte, after)) = escaped(escape) else { break };
        bytes.push(byte);
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// The byte that an escape stands for, whose backslash is left out, and what follows.
fn escaped(escape: &str) -> Option<(u8, &str)> {
    let mut rest = escape.chars();
    let byte = match rest.next()? {
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        '\\' => b'\\',
        '\'' => b'\'',
        '"' => b'"',
        'x' => {
            let [high, low] = [rest.next()?, rest.next()?].map(|c| c.to_digit(16).and_then(|c| u8::try_from(c).ok()));
            high? << 4 | low?
        }
        _ => return None,
    };
    Some((byte, rest.as_str()))
}

/// The value of a hex digit.
const fn digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        // Upper and lower case differ in one bit.
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10) & 0xf,
    }
}
