//! What passes on a connection, message by message: which statement or method is asked for, and when it is answered.
//!
//! Knows just enough of PostgreSQL's protocol 3 and of AMQP 0-9-1 to find where messages begin and to name those that
//! faults are aimed at. `wire.rs` reads with it. TLS and COPY are not understood; no service is told to use them here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Postgres,
    Amqp,
}

/// What a message means. The text is that of a statement, or the name of an AMQP method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Says {
    /// Nothing that anybody waits for.
    Other,
    /// The client asks for this.
    Asks(String),
    /// A part of the server's answer to this, but not its end: it may not be committed yet.
    Answering(String),
    /// The end of the server's answer: what it did is done.
    Answered(String),
}

/// One connection, of which both directions are read.
#[derive(Debug)]
pub(crate) struct Conversation {
    protocol: Protocol,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the client's first message, which has no type, is over.
    greeted: bool,
    /// Prepared statements by name.
    statements: HashMap<String, String>,
    /// What the client asked for last.
    last: String,
    /// What the server has yet to answer, in order.
    unanswered: VecDeque<String>,
}

impl Conversation {
    pub(crate) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            state: Mutex::default(),
        }
    }

    /// The length and the meaning of the message that `bytes` begin with; `None` if its end is still to come. To be
    /// called once for each message of a side, in order.
    pub(crate) fn read(&self, side: Side, bytes: &[u8]) -> Option<(usize, Says)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.protocol, side) {
            (Protocol::Postgres, Side::Client) if !state.greeted => {
                let length = postgres_length(bytes, 0)?;
                state.greeted = true;
                state.unanswered.push_back("startup".to_owned());
                Some((length, Says::Other))
            }
            (Protocol::Postgres, _) => {
                let length = postgres_length(bytes, 1)?;
                let (kind, body) = (bytes[0], &bytes[5..length]);
                let says = match side {
                    Side::Client => state.asked(kind, body),
                    Side::Server => state.answered(kind),
                };
                Some((length, says))
            }
            (Protocol::Amqp, Side::Client) if !state.greeted => {
                state.greeted = bytes.len() >= AMQP_HEADER_BYTES;
                state.greeted.then_some((AMQP_HEADER_BYTES, Says::Other))
            }
            (Protocol::Amqp, _) => amqp_frame(bytes, side),
        }
    }
}

/// Where a message ends whose length, which counts itself, is at `at`.
fn postgres_length(bytes: &[u8], at: usize) -> Option<usize> {
    let length = number(bytes, at)? + at;
    (bytes.len() >= length).then_some(length)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(bytes)).ok()
}

/// Texts that end with a zero byte, from the beginning of a message's body.
fn texts(body: &[u8]) -> impl Iterator<Item = String> + '_ {
    body.split(|byte| *byte == 0)
        .map(|text| String::from_utf8_lossy(text).into_owned())
}

impl State {
    fn asked(&mut self, kind: u8, body: &[u8]) -> Says {
        let mut texts = texts(body);
        let mut text = || texts.next().unwrap_or_default();
        match kind {
            b'P' => {
                let name = text();
                self.statements.insert(name, text());
                Says::Other
            }
            b'B' => {
                let (_portal, name) = (text(), text());
                self.last = self.statements.get(&name).cloned().unwrap_or_default();
                Says::Asks(self.last.clone())
            }
            b'S' => {
                self.unanswered.push_back(self.last.clone());
                Says::Other
            }
            b'Q' => {
                let asked = text();
                // A commit is known by the statement before it.
                let asked = if asked == "COMMIT" {
                    format!("COMMIT after {}", self.last)
                } else {
                    asked
                };
                self.unanswered.push_back(asked.clone());
                Says::Asks(asked)
            }
            _ => Says::Other,
        }
    }

    fn answered(&mut self, kind: u8) -> Says {
        match kind {
            // Ready for the next query.
            b'Z' => Says::Answered(self.unanswered.pop_front().unwrap_or_default()),
            // Notices, settings and notifications come at any time.
            b'N' | b'S' | b'A' => Says::Other,
            _ => self
                .unanswered
                .front()
                .map_or(Says::Other, |asked| Says::Answering(asked.clone())),
        }
    }
}

/// `AMQP`, zero, and the version.
const AMQP_HEADER_BYTES: usize = 8;

/// Type, channel and size before a frame's content; one byte after it.
const FRAME_HEADER_BYTES: usize = 7;

/// The methods that faults are aimed at, by class and number.
pub(crate) const PUBLISH: &str = "basic.publish";
pub(crate) const DELIVER: &str = "basic.deliver";
pub(crate) const ACK: &str = "basic.ack";

fn amqp_frame(bytes: &[u8], side: Side) -> Option<(usize, Says)> {
    let length = FRAME_HEADER_BYTES + number(bytes, 3)? + 1;
    let content = bytes.get(..length)?.get(FRAME_HEADER_BYTES..length - 1)?;
    assert_eq!(bytes[length - 1], 0xCE, "the end of an AMQP frame");
    let method = match (bytes[0], content) {
        (1, [0, 60, 0, 40, ..]) => PUBLISH,
        (1, [0, 60, 0, 60, ..]) => DELIVER,
        (1, [0, 60, 0, 80, ..]) => ACK,
        _ => return Some((length, Says::Other)),
    };
    let says = match side {
        Side::Client => Says::Asks(method.to_owned()),
        Side::Server => Says::Answered(method.to_owned()),
    };
    Some((length, says))
}

#[test]
fn statements_are_known_by_their_text_and_a_commit_by_what_it_ends() {
    let message = |kind: &[u8], body: &[u8]| {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [kind, &length, body].concat()
    };
    let conversation = Conversation::new(Protocol::Postgres);
    let client = [
        message(b"", b"\0\x03\0\0user\0relay\0\0"),
        message(b"P", b"s1\0select settle()\0\0\0"),
        message(b"S", b""),
        message(b"B", b"\0s1\0\0\0\0\0\0\0"),
        message(b"S", b""),
        message(b"Q", b"COMMIT\0"),
    ]
    .concat();
    let mut asked = Vec::new();
    let mut rest = &client[..];
    while let Some((length, says)) = conversation.read(Side::Client, rest) {
        // One that is cut short is no message yet, and changes nothing.
        assert_eq!(
            Conversation::new(Protocol::Postgres).read(Side::Client, &rest[..3]),
            None
        );
        rest = &rest[length..];
        if says != Says::Other {
            asked.push(says);
        }
    }
    assert!(rest.is_empty());
    let (settle, commit) = ("select settle()", "COMMIT after select settle()");
    assert_eq!(
        asked,
        [Says::Asks(settle.to_owned()), Says::Asks(commit.to_owned())]
    );
    for (kind, says) in [
        (b"Z", Says::Answered("startup".to_owned())),
        (b"Z", Says::Answered(String::new())),
        (b"2", Says::Answering(settle.to_owned())),
        (b"N", Says::Other),
        (b"Z", Says::Answered(settle.to_owned())),
        (b"C", Says::Answering(commit.to_owned())),
        (b"Z", Says::Answered(commit.to_owned())),
        (b"C", Says::Other),
    ] {
        let bytes = message(kind, b"");
        assert_eq!(conversation.read(Side::Server, &bytes), Some((5, says)));
    }
}

#[test]
fn methods_are_known_by_their_numbers() {
    let conversation = Conversation::new(Protocol::Amqp);
    let frame = b"\x01\0\x01\0\0\0\x05\0\x3c\0\x50\x09\xce";
    let bytes = [b"AMQP\0\0\x09\x01".as_slice(), frame].concat();
    assert_eq!(conversation.read(Side::Client, &bytes), Some((8, Says::Other)));
    assert_eq!(conversation.read(Side::Client, &bytes[8..bytes.len() - 1]), None);
    let (ask, answer) = (Says::Asks(ACK.to_owned()), Says::Answered(ACK.to_owned()));
    assert_eq!(
        conversation.read(Side::Client, &bytes[8..]),
        Some((frame.len(), ask))
    );
    assert_eq!(
        conversation.read(Side::Server, frame),
        Some((frame.len(), answer))
    );
    let body = b"\x03\0\x01\0\0\0\x04\0\x3c\0\x50\xce";
    assert_eq!(
        conversation.read(Side::Server, body),
        Some((body.len(), Says::Other))
    );
}
