//! Numbers and bytes, as they are written.

use anyhow::{Context as _, Result};

pub(super) fn hex(text: &str) -> Result<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2));
    let digits = digits.with_context(|| format!("not bytes in hexadecimal: `{text}`"))?;
    Ok(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

/// A number of 32 bits.
pub(super) fn word(text: &str) -> Result<u32> {
    u32::try_from(number(text)?).ok().with_context(|| format!("more than 32 bits: `{text}`"))
}

/// The number of a call.
pub(super) fn small(text: &str) -> Result<u8> {
    u8::try_from(number(text)?).ok().with_context(|| format!("more than 8 bits: `{text}`"))
}

/// Decimal or `0x…`, with `K`, `M` or `G` behind.
pub(super) fn number(word: &str) -> Result<u64> {
    let units = [('K', 10), ('M', 20), ('G', 30)];
    let (digits, shift) =
        units.iter().find_map(|(unit, shift)| Some((word.strip_suffix(*unit)?, *shift))).unwrap_or((word, 0));
    let (digits, radix) = digits.strip_prefix("0x").map_or((digits, 10), |hex| (hex, 16));
    // `from_str_radix` takes a sign, the language does not.
    let plain = digits.chars().all(|digit| digit.is_digit(radix)) && !digits.is_empty();
    let value = if plain { u128::from_str_radix(digits, radix).ok() } else { None };
    let value = value.with_context(|| format!("not a number: `{word}`"))?;
    let scaled = value.checked_mul(1 << shift).and_then(|bytes| u64::try_from(bytes).ok());
    scaled.with_context(|| format!("more than 64 bits: `{word}`"))
}
