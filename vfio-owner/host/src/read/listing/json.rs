//! JSON in listings, as `pvesh --output-format json` and `lshw -json` print it.

use serde_json::Value;

/// The value in JSON that begins here and goes on to the end of a line, and its length with that line.
pub(super) fn value(text: &str) -> Option<(Value, usize)> {
    if !text.trim_start_matches([' ', '\t']).starts_with(['{', '[']) {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    let end = values.byte_offset();
    let (line, _) = text.get(end..)?.split_once('\n').unwrap_or((text.get(end..)?, ""));
    line.trim().is_empty().then(|| (value, (end + line.len() + 1).min(text.len())))
}
