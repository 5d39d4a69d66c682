//! Why a request is no event: the field and what was wrong with it, safe to answer and to log.
//!
//! It owns the wording's bounds: of what the sender wrote, only a short, escaped piece is repeated, never the payload.
//! It does not know of HTTP statuses. `event/text.rs` comes next.

use std::borrow::Cow;

/// Characters of a sender's value that are repeated to it.
const QUOTED_CHARACTERS: usize = 40;

/// A request that its source's shape does not allow. Becomes a 400 that names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct EventError {
    /// A header (`X-GitHub-Event`), a member (`data.object`), `payload` of a form, or `body` for all of it. A member
    /// that nobody asked for is named as it was sent, escaped and cut.
    pub field: Cow<'static, str>,
    /// What was wrong, as the rest of a sentence: `is missing`.
    pub detail: String,
}

impl EventError {
    pub(super) fn new(field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            detail: detail.into(),
        }
    }

    /// JSON that cannot be read. serde_json's words for syntax hold a position and no content.
    pub(super) fn syntax(field: &'static str, error: &serde_json::Error) -> Self {
        Self::new(field, format!("is not JSON: {error}"))
    }

    /// The same error, seen from one level up: `object` beneath `data` is `data.object`.
    pub(super) fn beneath(self, parent: &str) -> Self {
        let field = if self.field == parent {
            self.field
        } else {
            format!("{parent}.{}", self.field).into()
        };
        Self { field, ..self }
    }
}

/// The start of a value with everything unprintable escaped.
pub(super) fn escaped(value: &str) -> String {
    let mut characters = value.chars();
    let start: String = characters
        .by_ref()
        .take(QUOTED_CHARACTERS)
        .flat_map(char::escape_debug)
        .collect();
    if characters.next().is_some() {
        format!("{start}…")
    } else {
        start
    }
}

/// [`escaped`], between quotation marks.
pub(super) fn quoted(value: &str) -> String {
    format!("\"{}\"", escaped(value))
}
