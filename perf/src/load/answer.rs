//! An answer, found in the bytes that a connection has read: a head, and a body as long as the head says.
//!
//! Only what our API sends is understood. Anything else is an error that says what it is: a sender that guesses where an
//! answer ends would credit one request with another's answer.

use std::ops::Range;

use httparse::{EMPTY_HEADER, Response, Status};

/// Most headers of an answer; the API sends about ten.
const MOST_HEADERS: usize = 32;

/// A whole answer, and where its body is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// In the bytes that it was found in. What lies behind is not this answer's.
    pub(super) body: Range<usize>,
    /// Whether the server is about to close the connection.
    pub(super) is_last: bool,
}

impl Answer {
    /// The answer that `bytes` begin with; none as long as it is not whole.
    ///
    /// # Errors
    /// If they are no HTTP, or do not say how long the answer is in the one way that is understood.
    pub(super) fn find(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        let mut headers = [EMPTY_HEADER; MOST_HEADERS];
        let mut head = Response::new(&mut headers);
        let body_at = match head.parse(bytes) {
            Ok(Status::Complete(body_at)) => body_at,
            Ok(Status::Partial) => return Ok(None),
            Err(error) => anyhow::bail!("not HTTP: {error}"),
        };
        let mut length = None;
        let mut is_last = head.version == Some(0);
        for header in &*head.headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                anyhow::ensure!(length.is_none(), "two content-lengths");
                length = Some(parse_length(header.value)?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                let encoding = String::from_utf8_lossy(header.value);
                anyhow::bail!("transfer-encoding {encoding}, which is not understood here");
            } else if header.name.eq_ignore_ascii_case("connection") {
                is_last |= header.value.eq_ignore_ascii_case(b"close");
            }
        }
        let Some(length) = length else {
            anyhow::bail!("no content-length");
        };
        let body = body_at..body_at.saturating_add(length);
        Ok((body.end <= bytes.len()).then_some(Self {
            status: head.code.unwrap_or_default(),
            body,
            is_last,
        }))
    }
}

fn parse_length(value: &[u8]) -> anyhow::Result<usize> {
    let text = String::from_utf8_lossy(value);
    let length = text.parse();
    length.map_err(|_| anyhow::anyhow!("content-length {text}, which is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\ndate: today\r\n\r\n{}";

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_not_before() {
        for bytes in 0..WHOLE.len() {
            assert_eq!(Answer::find(&WHOLE[..bytes]).unwrap(), None, "{bytes} bytes");
        }
        let answer = Answer::find(WHOLE).unwrap().unwrap();
        assert_eq!((answer.status, &WHOLE[answer.body.clone()]), (202, &b"{}"[..]));
        assert!(!answer.is_last);
        let two = WHOLE.repeat(2);
        assert_eq!(
            Answer::find(&two).unwrap(),
            Some(answer),
            "the second is not looked at"
        );
    }

    #[test]
    fn a_server_that_closes_says_so() {
        for head in [
            "HTTP/1.1 413 Too Large\r\nconnection: Close",
            "HTTP/1.0 202 Accepted",
        ] {
            let text = format!("{head}\r\ncontent-length: 0\r\n\r\n");
            let answer = Answer::find(text.as_bytes()).unwrap().unwrap();
            assert!(answer.is_last && answer.body.is_empty(), "{answer:?}");
        }
    }

    #[test]
    fn what_our_api_does_not_send_is_an_error_that_names_it() {
        for (text, error) in [
            ("HTTP/1.1 202 Accepted\r\n\r\n", "no content-length"),
            (
                "HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n",
                "transfer-encoding chunked, which is not understood here",
            ),
            (
                "HTTP/1.1 202 Accepted\r\ncontent-length: -1\r\n\r\n",
                "content-length -1, which is no number",
            ),
            (
                "HTTP/1.1 202 Accepted\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
                "two content-lengths",
            ),
            ("SSH-2.0-OpenSSH_9.2\r\n", "not HTTP: invalid HTTP version"),
        ] {
            let found = Answer::find(text.as_bytes()).unwrap_err().to_string();
            assert_eq!(found, error);
        }
    }
}
