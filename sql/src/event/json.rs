//! Reading a few members of a JSON object in one pass, without building the rest.
//!
//! It owns syntax, nesting and repeated members. serde_json's `RawValue` and `IgnoredAny` check the grammar of what
//! they skip, keep its bytes and don't recurse, so a hostile body costs no memory and no stack. It does not know what
//! the members mean (`event.rs`).

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{EventError, escaped};

/// Deepest nesting taken. serde_json's readers end at 127 levels, and the message around the data takes some.
pub(super) const MAX_DEPTH: usize = 100;

/// What becomes of members that nobody asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strangers {
    /// They are part of the provider's schema: skipped.
    Allowed,
    /// The first one is named and refused.
    Refused,
}

/// The document in `bytes`: UTF-8, without byte order mark and white space around it.
pub(super) fn text<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, EventError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| EventError::new(field, format!("is not UTF-8 at byte {}", error.valid_up_to())))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Ok(text.trim_matches([' ', '\t', '\r', '\n']))
}

/// The members called `names` of the object in `document`, in that order, as they are written.
pub(super) fn members<'a, const N: usize>(
    field: &'static str,
    document: &'a str,
    names: &[&'static str; N],
    strangers: Strangers,
) -> Result<[Option<&'a RawValue>; N], EventError> {
    if document.is_empty() {
        return Err(EventError::new(field, "is empty"));
    }
    let syntax = |error| EventError::syntax(field, &error);
    // Only an object reaches the visitor, so that serde_json's own words for a wrong type, which quote the value,
    // are never used.
    if !document.starts_with('{') {
        serde_json::from_str::<IgnoredAny>(document).map_err(syntax)?;
        return Err(EventError::new(
            field,
            format!("must be a JSON object, is {}", kind_of(document)),
        ));
    }
    let mut reader = serde_json::Deserializer::from_str(document);
    let members = reader
        .deserialize_map(Pick { names, strangers })
        .map_err(syntax)?;
    reader.end().map_err(syntax)?;
    if let Some(name) = members.repeated {
        return Err(EventError::new(name, "is there more than once"));
    }
    if let Some(name) = members.stranger {
        return Err(EventError::new(
            name,
            format!("is not a member of the schema; {} are", names.join(" and ")),
        ));
    }
    if is_too_deep(document) {
        return Err(EventError::new(
            field,
            format!("is nested deeper than {MAX_DEPTH} levels"),
        ));
    }
    Ok(members.found)
}

struct Members<'a, const N: usize> {
    found: [Option<&'a RawValue>; N],
    repeated: Option<&'static str>,
    stranger: Option<String>,
}

struct Pick<'n, const N: usize> {
    names: &'n [&'static str; N],
    strangers: Strangers,
}

impl<'de, const N: usize> Visitor<'de> for Pick<'_, N> {
    type Value = Members<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members {
            found: [None; N],
            repeated: None,
            stranger: None,
        };
        // Faults are noted and not raised, so that a body which is no JSON at all is called that.
        while let Some(name) = map.next_key_seed(NameOf(&self))? {
            match name {
                Name::Known(at) => {
                    if members.found[at].replace(map.next_value()?).is_some() {
                        members.repeated.get_or_insert(self.names[at]);
                    }
                }
                Name::Stranger(name) => {
                    map.next_value::<IgnoredAny>()?;
                    members.stranger = members.stranger.or(name);
                }
            }
        }
        Ok(members)
    }
}

enum Name {
    /// Index into the names asked for.
    Known(usize),
    /// Some other name, kept only if it is going to be refused.
    Stranger(Option<String>),
}

struct NameOf<'p, 'n, const N: usize>(&'p Pick<'n, N>);

impl<'de, const N: usize> DeserializeSeed<'de> for NameOf<'_, '_, N> {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<const N: usize> Visitor<'_> for NameOf<'_, '_, N> {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        let known = self.0.names.iter().position(|known| *known == name);
        let kept = || (self.0.strangers == Strangers::Refused).then(|| escaped(name));
        Ok(known.map_or_else(|| Name::Stranger(kept()), Name::Known))
    }
}

/// The text of a JSON string: borrowed unless something in it was escaped.
pub(super) fn string<'a>(field: &'static str, value: &'a RawValue) -> Result<Cow<'a, str>, EventError> {
    let written = value.get();
    let Some(inner) = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Err(EventError::new(
            field,
            format!("must be a string, is {}", kind_of(written)),
        ));
    };
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    // The grammar has been checked, so what fails here is half of a surrogate pair, which is no character.
    let unescaped = serde_json::from_str(written);
    unescaped
        .map(Cow::Owned)
        .map_err(|_| EventError::new(field, "holds an escape that is no character"))
}

pub(super) fn is_string(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

pub(super) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// What JSON text is, by its first character, with its article.
pub(super) fn kind_of(written: &str) -> &'static str {
    match written.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Whether well-formed JSON nests deeper than [`MAX_DEPTH`].
fn is_too_deep(document: &str) -> bool {
    // The first count is one vectorised pass and settles it for nearly every real payload. Or-ing 0x20 makes `[` a `{`.
    let opening = document.bytes().filter(|byte| byte | 0x20 == b'{').count();
    if opening <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in document.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}
