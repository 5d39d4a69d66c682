//! GitHub's other content type: the JSON document as `payload` in an `application/x-www-form-urlencoded` body.
//!
//! It owns the decoding, to bytes and not to text: form_urlencoded's parser puts U+FFFD in the place of what is no
//! UTF-8, which would change an event without a word. `event/json.rs` reads the document.

use super::error::EventError;

/// The form's one field that matters.
pub(super) const PAYLOAD: &str = "payload";

/// The decoded bytes of `payload`. Other fields are passed over.
pub(super) fn payload(body: &[u8]) -> Result<Vec<u8>, EventError> {
    let mut values = body.split(|byte| *byte == b'&').filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        decoded(&pair[..at])
            .eq(PAYLOAD.bytes())
            .then_some(&pair[at + 1..])
    });
    let value = values
        .next()
        .ok_or_else(|| EventError::new(PAYLOAD, "is missing in the form"))?;
    if values.next().is_some() {
        return Err(EventError::new(PAYLOAD, "is there more than once"));
    }
    let mut bytes = Vec::with_capacity(value.len());
    bytes.extend(decoded(value));
    Ok(bytes)
}

/// `+` is a space, `%41` is `A`; a `%` without two hex digits stands for itself, as browsers read it.
fn decoded(mut rest: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (&first, tail) = rest.split_first()?;
        rest = tail;
        match (first, tail) {
            (b'+', _) => Some(b' '),
            (b'%', [high, low, after @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    Some(high << 4 | low)
                }
                _ => Some(b'%'),
            },
            _ => Some(first),
        }
    })
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}
