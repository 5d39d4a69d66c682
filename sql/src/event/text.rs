//! What a text must be to become an event type or an event id.
//!
//! It owns the checks that text columns, AMQP short strings and log lines need: length in bytes, no control
//! characters, not blank. It does not read JSON (`event/json.rs`). `event/headers.rs` comes next.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::error::{EventError, escaped, quoted};
use super::json;

/// Checks that `value` can be stored, routed and logged.
///
/// Control characters (C0, DEL, C1) are refused: PostgreSQL text cannot hold NUL, and line feeds or escape sequences
/// would forge log lines and terminal output. Letters of any script are fine.
pub(super) fn check(field: &'static str, value: &str, max_bytes: usize) -> Result<(), EventError> {
    if value.trim().is_empty() {
        return Err(EventError::new(field, "is empty"));
    }
    if let Some((at, control)) = value.char_indices().find(|(_, character)| character.is_control()) {
        let code = u32::from(control);
        let found = quoted(value);
        return Err(EventError::new(
            field,
            format!("holds the control character U+{code:04X} at byte {at}: {found}"),
        ));
    }
    if value.len() > max_bytes {
        let (length, start) = (value.len(), escaped(value));
        return Err(EventError::new(
            field,
            format!("is {length} bytes long, at most {max_bytes}: \"{start}\""),
        ));
    }
    Ok(())
}

/// A header's text, if the header is there.
pub(super) fn of_header<'a>(
    name: &'static str,
    value: Option<&'a [u8]>,
    max_bytes: usize,
) -> Result<Option<&'a str>, EventError> {
    let Some(value) = value else { return Ok(None) };
    let text = std::str::from_utf8(value).map_err(|_| EventError::new(name, "is not UTF-8"))?;
    check(name, text, max_bytes)?;
    Ok(Some(text))
}

/// The text of a member that must be there.
pub(super) fn of_member<'a>(
    name: &'static str,
    value: Option<&'a RawValue>,
    max_bytes: usize,
) -> Result<Cow<'a, str>, EventError> {
    let value = value.ok_or_else(|| EventError::new(name, "is missing"))?;
    let text = json::string(name, value)?;
    check(name, &text, max_bytes)?;
    Ok(text)
}
