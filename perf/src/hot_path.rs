//! What each webhook costs the API's processor before the database is asked, as calls a second of one core: the signature,
//! beside what ring's HMAC alone makes of the same bytes, and a SHA-256 of the payload.
//!
//! The candidates take turns in short slices, so that a busy machine slows all of them and the ratio stays sound.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use anyhow::Context as _;
use api::signature::{VerifyingKey, X_SIGNATURE, verify};
use ring::{digest, hmac};
use serde::{Deserialize, Serialize};
use sql::event::{EventHeaders, SourceKind, inspect, stored_headers};
use sql::ingest::Fingerprint;
use uuid::Uuid;

use crate::config::HotPathArgs;
use crate::load::{Event, Events};
use crate::report::{Align, Table};

/// Bytes of the bodies.
const BODY_BYTES: [usize; 3] = [256, 1024, 4096];

/// Slices of each candidate, for each body.
const SLICES: u32 = 40;

/// Length of a slice: many times longer than reading the clock takes.
const SLICE: Duration = Duration::from_millis(25);

/// Calls between two looks at the clock.
const CALLS: u32 = 64;

/// The least that verifying a body of 256 bytes may be, as a share of the bare HMAC.
pub(crate) const GOAL: f64 = 0.8;

/// A line for each body.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Shortest first.
    pub bodies: Vec<Speeds>,
}

/// Calls a second.
#[derive(Debug, Serialize, Deserialize)]
pub struct Speeds {
    /// Bytes of the body.
    pub body_bytes: usize,
    /// `ring::hmac::sign` over the body, with a key that was made before.
    pub bare_hmac: f64,
    /// `api::signature::verify` with one key, the header's lookup included.
    pub verify: f64,
    /// `verify` over `bare_hmac`.
    pub ratio: f64,
    /// SHA-256 of the body, as ring makes it: the one that is stored.
    pub payload_hash: f64,
}

/// A signed request.
struct Request {
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Measures, or does `--count` webhooks and nothing else.
///
/// # Errors
/// None but defects: a signature of ours that does not verify.
pub fn run(arguments: &HotPathArgs) -> anyhow::Result<Report> {
    if let Some(count) = arguments.count {
        work(count, arguments.payload_bytes)?;
        return Ok(Report { bodies: Vec::new() });
    }
    let bodies = BODY_BYTES.map(measure).into_iter().collect::<Result<_, _>>()?;
    Ok(Report { bodies })
}

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn request(body_bytes: usize) -> anyhow::Result<Request> {
    let mut event = Event::default();
    Events::new(SourceKind::Generic, SECRET, body_bytes).make(1, 0, &mut event)?;
    let mut headers = HeaderMap::new();
    for (name, value) in event.headers() {
        headers.insert(HeaderName::try_from(name)?, HeaderValue::from_str(value)?);
    }
    // What a sender's client adds.
    for (name, value) in [
        ("host", "hooks.example.com"),
        ("content-type", "application/json"),
        ("user-agent", "provider-hooks/1.0"),
        ("accept", "*/*"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Ok(Request {
        headers,
        body: event.body,
    })
}

fn measure(body_bytes: usize) -> anyhow::Result<Speeds> {
    let Request { headers, body } = request(body_bytes)?;
    let keys = [VerifyingKey::new(SECRET.as_bytes())?];
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    anyhow::ensure!(headers.contains_key(X_SIGNATURE), "the request is not signed");
    verify(SourceKind::Generic, &keys, &headers, &body, 0, 0).context("our own signature")?;
    let mut candidates: [(&mut dyn FnMut(), f64); 3] = [
        (
            &mut || {
                black_box(hmac::sign(&key, black_box(&body)));
            },
            0.0,
        ),
        (
            &mut || {
                let verified = verify(
                    SourceKind::Generic,
                    &keys,
                    black_box(&headers),
                    black_box(&body),
                    0,
                    0,
                );
                let _ = black_box(verified);
            },
            0.0,
        ),
        (
            &mut || {
                black_box(digest::digest(&digest::SHA256, black_box(&body)));
            },
            0.0,
        ),
    ];
    let mut seconds = [0.0; 3];
    for _ in 0..SLICES {
        for ((call, calls), seconds) in candidates.iter_mut().zip(&mut seconds) {
            let began = Instant::now();
            while began.elapsed() < SLICE {
                for _ in 0..CALLS {
                    call();
                }
                *calls += f64::from(CALLS);
            }
            *seconds += began.elapsed().as_secs_f64();
        }
    }
    let [bare_hmac, verify, payload_hash] =
        [0, 1, 2].map(|candidate: usize| candidates[candidate].1 / seconds[candidate]);
    Ok(Speeds {
        body_bytes: body.len(),
        bare_hmac,
        verify,
        ratio: verify / bare_hmac,
        payload_hash,
    })
}

/// All that a webhook asks of the processor between its bytes and its row, `count` times: for a profiler, or for a tool that
/// counts instructions.
fn work(count: u32, body_bytes: u32) -> anyhow::Result<()> {
    let Request { headers, body } = request(usize::try_from(body_bytes)?)?;
    let keys = [VerifyingKey::new(SECRET.as_bytes())?];
    // Once: what the signature's check is compared with.
    black_box(hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()),
        &body,
    ));
    for _ in 0..count {
        let lookup = |name: &'static str| headers.get(name).map(HeaderValue::as_bytes);
        verify(SourceKind::Generic, &keys, &headers, &body, 0, 0)?;
        let event_headers = EventHeaders::from_lookup(lookup);
        black_box(inspect(SourceKind::Generic, &event_headers, &body)?);
        black_box(stored_headers(lookup));
        black_box(Fingerprint::of(
            Uuid::nil(),
            SourceKind::Generic.as_str(),
            None,
            &body,
        ));
    }
    Ok(())
}

impl Report {
    /// Whether the goal was reached, where it was measured.
    pub fn is_right(&self) -> bool {
        self.bodies.first().is_none_or(|shortest| shortest.ratio >= GOAL)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bodies.is_empty() {
            return Ok(());
        }
        let columns = ["body bytes", "verify/s", "bare HMAC/s", "ratio", "payload hash/s"];
        let mut table = Table::new(&columns.map(|name| (name, Align::Right)));
        for speeds in &self.bodies {
            table.row([
                speeds.body_bytes.to_string(),
                format!("{:.0}", speeds.verify),
                format!("{:.0}", speeds.bare_hmac),
                format!("{:.2}", speeds.ratio),
                format!("{:.0}", speeds.payload_hash),
            ]);
        }
        writeln!(f, "{}", table.markdown())?;
        let verdict = if self.is_right() { "met" } else { "MISSED" };
        writeln!(
            f,
            "{verdict}: verifying a short body, at least {GOAL} of the bare HMAC"
        )
    }
}
