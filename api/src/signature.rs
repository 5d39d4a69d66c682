//! Whether a request was signed with one of its source's secrets.
//!
//! It owns the three schemes' headers and the comparison. It does not find secrets, know tenants or parse bodies, and
//! reads no clock; `sql::event` says what a signed body means.
//!
//! | kind | header | signed |
//! |---|---|---|
//! | generic | `X-Signature: <hex>` or `X-Signature: sha256=<hex>` | body |
//! | github | `X-Hub-Signature-256: sha256=<hex>` | body |
//! | stripe | `Stripe-Signature: t=<unix seconds>,v1=<hex>[,v1=<hex>…]` | `t`, a full stop, body |
//!
//! All are HMAC-SHA256 in hex of either case. The generic scheme takes the prefix as well, because most signing
//! libraries write GitHub's form; it names the only algorithm there is, so nothing is negotiated by it.
//!
//! What a sender can learn from timing is whether its header was well-formed, which it knew. Digests are compared in
//! constant time over all bytes, and every secret is tried even after one has matched.

#[cfg(test)]
mod tests;

use std::fmt;

use actix_web::http::header::{HeaderMap, HeaderName};
use ring::hmac;
use sql::event::SourceKind;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// Signature header of generic sources.
pub const X_SIGNATURE: &str = "X-Signature";
/// Signature header of GitHub.
pub const X_HUB_SIGNATURE_256: &str = "X-Hub-Signature-256";
/// Signature header of Stripe.
pub const STRIPE_SIGNATURE: &str = "Stripe-Signature";

// The same as keys of a header map, which would parse a text each time.
const IN_X_SIGNATURE: HeaderName = HeaderName::from_static("x-signature");
const IN_X_HUB_SIGNATURE_256: HeaderName = HeaderName::from_static("x-hub-signature-256");
const IN_STRIPE_SIGNATURE: HeaderName = HeaderName::from_static("stripe-signature");

/// Most `v1` signatures read from one header. Stripe sends one for each endpoint secret that is valid: two in practice.
pub const MAX_V1_SIGNATURES: usize = 16;

/// Longest `Stripe-Signature` that is read, in bytes: twice what 16 signatures need, for schemes that we skip.
pub const MAX_STRIPE_HEADER_BYTES: usize = 2_560;

/// Most digits of a timestamp in unix seconds: enough for 30,000 years.
const MAX_TIMESTAMP_DIGITS: usize = 12;

const DIGEST_BYTES: usize = 32;
type Digest = [u8; DIGEST_BYTES];
// Compared in words, with nothing left over.
const _: () = assert!(DIGEST_BYTES.is_multiple_of(size_of::<u64>()));

/// A secret made ready for verification: make it once for each secret version and keep it. `Debug` shows nothing.
#[derive(Clone)]
pub struct VerifyingKey(hmac::Key);

/// A secret of no bytes: anyone could sign with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an empty secret verifies nothing")]
pub struct EmptySecret;

impl VerifyingKey {
    /// Takes the secret as the provider knows it: all its bytes, for Stripe with `whsec_`.
    ///
    /// # Errors
    /// [`EmptySecret`] if there are none.
    pub fn new(secret: &[u8]) -> Result<Self, EmptySecret> {
        if secret.is_empty() {
            return Err(EmptySecret);
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyingKey(***)")
    }
}

/// A request that one of the keys signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Index of the first key that matched.
    pub key_index: usize,
    /// When it was signed, in unix seconds, where the scheme says so (Stripe).
    pub signed_at: Option<i64>,
}

/// Why a request does not count as signed. Becomes a 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no such header.
    #[error("header {0} is missing")]
    Missing(&'static str),
    /// The header is not of its scheme's form.
    #[error("header {header} {why}")]
    Malformed {
        /// Name of the header.
        header: &'static str,
        /// What is wrong with it, as the rest of a sentence; nothing of its value.
        why: &'static str,
    },
    /// Well-formed, but made with none of the keys, or for another body.
    #[error("the signature matches no secret")]
    Mismatch,
    /// Signed with one of the keys, but too long ago or too far in the future.
    #[error("signed at {signed_at}, now is {now}: more than {tolerance} s apart (unix seconds)")]
    Stale {
        /// When it was signed, in unix seconds.
        signed_at: i64,
        /// The clock it was compared with, in unix seconds.
        now: i64,
        /// Distance allowed in both directions, in seconds.
        tolerance: u64,
    },
}

/// Verifies a request of a source of that kind.
///
/// `body` is what came over the wire, before any decoding. `now` (unix seconds) and `tolerance` (seconds, both
/// directions, both ends included) matter to Stripe only; freshness is judged after the signature, so that
/// [`SignatureError::Stale`] tells nothing to whom holds no secret. The cost is one pass over the body for each key,
/// however many signatures the header holds.
///
/// # Errors
/// [`SignatureError`], of which all but `Stale` mean that nobody knows who sent it.
pub fn verify(
    kind: SourceKind,
    keys: &[VerifyingKey],
    headers: &HeaderMap,
    body: &[u8],
    now: i64,
    tolerance: u64,
) -> Result<Verified, SignatureError> {
    match kind {
        SourceKind::Generic => {
            let value = only(headers, &IN_X_SIGNATURE, X_SIGNATURE)?;
            let digest = hex_digest(X_SIGNATURE, value.strip_prefix(b"sha256=").unwrap_or(value))?;
            let key_index = matching_key(keys, &[body], &[digest])?;
            Ok(Verified {
                key_index,
                signed_at: None,
            })
        }
        SourceKind::Github => {
            let value = only(headers, &IN_X_HUB_SIGNATURE_256, X_HUB_SIGNATURE_256)?;
            let malformed = malformed(X_HUB_SIGNATURE_256, "does not start with sha256=");
            let digest = hex_digest(
                X_HUB_SIGNATURE_256,
                value.strip_prefix(b"sha256=").ok_or(malformed)?,
            )?;
            let key_index = matching_key(keys, &[body], &[digest])?;
            Ok(Verified {
                key_index,
                signed_at: None,
            })
        }
        SourceKind::Stripe => {
            let signature = StripeSignature::parse(only(headers, &IN_STRIPE_SIGNATURE, STRIPE_SIGNATURE)?)?;
            let signed = [signature.timestamp, b".", body];
            let key_index = matching_key(keys, &signed, &signature.digests[..signature.count])?;
            let signed_at = signature.signed_at;
            if now.abs_diff(signed_at) > tolerance {
                return Err(SignatureError::Stale {
                    signed_at,
                    now,
                    tolerance,
                });
            }
            Ok(Verified {
                key_index,
                signed_at: Some(signed_at),
            })
        }
    }
}

/// Index of the first key with which the signed parts, one after the other, give one of the digests.
fn matching_key(
    keys: &[VerifyingKey],
    signed: &[&[u8]],
    digests: &[Digest],
) -> Result<usize, SignatureError> {
    let mut first = u64::MAX;
    for (index, key) in (0_u64..).zip(keys) {
        let mut context = hmac::Context::with_key(&key.0);
        signed.iter().for_each(|part| context.update(part));
        let mut tag = [0; DIGEST_BYTES];
        tag.copy_from_slice(context.sign().as_ref());
        let matches = digests
            .iter()
            .fold(Choice::from(0), |any, digest| any | equal(digest, &tag));
        first.conditional_assign(&index, matches & first.ct_eq(&u64::MAX));
    }
    usize::try_from(first)
        .ok()
        .filter(|index| *index < keys.len())
        .ok_or(SignatureError::Mismatch)
}

/// Whether they are the same, in constant time. By words: byte by byte takes as long as the rest of a verification without
/// its hash.
fn equal(one: &Digest, other: &Digest) -> Choice {
    let (words, of_other) = (one.as_chunks().0, other.as_chunks().0);
    words
        .iter()
        .zip(of_other)
        .fold(Choice::from(1), |all, (one, other)| {
            all & u64::from_ne_bytes(*one).ct_eq(&u64::from_ne_bytes(*other))
        })
}

/// The header's value, if it was sent exactly once: of two, a proxy and we might read different ones.
fn only<'a>(
    headers: &'a HeaderMap,
    key: &HeaderName,
    name: &'static str,
) -> Result<&'a [u8], SignatureError> {
    let mut values = headers.get_all(key);
    let value = values.next().ok_or(SignatureError::Missing(name))?;
    if values.next().is_some() {
        return Err(malformed(name, "was sent more than once"));
    }
    Ok(value.as_bytes())
}

const fn malformed(header: &'static str, why: &'static str) -> SignatureError {
    SignatureError::Malformed { header, why }
}

fn hex_digest(header: &'static str, value: &[u8]) -> Result<Digest, SignatureError> {
    decode(value).ok_or(malformed(header, "is not 64 hex digits"))
}

/// 64 hex digits of either case. Decoded with vector instructions: digit by digit it took a quarter of the time that the
/// hash over a short body takes.
fn decode(digits: &[u8]) -> Option<Digest> {
    let mut digest = [0; DIGEST_BYTES];
    let fits = digits.len() == 2 * DIGEST_BYTES;
    (fits && faster_hex::hex_decode(digits, &mut digest).is_ok()).then_some(digest)
}

struct StripeSignature<'a> {
    /// `t` as written: these very bytes were signed.
    timestamp: &'a [u8],
    signed_at: i64,
    digests: [Digest; MAX_V1_SIGNATURES],
    count: usize,
}

impl<'a> StripeSignature<'a> {
    /// Reads `t` and every `v1`; other schemes (`v0`, and what is yet to come) are skipped.
    fn parse(value: &'a [u8]) -> Result<Self, SignatureError> {
        let wrong = |why| malformed(STRIPE_SIGNATURE, why);
        if value.len() > MAX_STRIPE_HEADER_BYTES {
            return Err(wrong("is too long"));
        }
        let (mut timestamp, mut digests, mut count) = (None, [[0; DIGEST_BYTES]; MAX_V1_SIGNATURES], 0);
        for item in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let at = item
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or(wrong("has a part without ="))?;
            let (scheme, signature) = (&item[..at], &item[at + 1..]);
            match scheme {
                b"t" if timestamp.is_some() => return Err(wrong("has t twice")),
                b"t" => timestamp = Some(signature),
                b"v1" => {
                    let slot = digests.get_mut(count).ok_or(wrong("has too many v1"))?;
                    *slot = decode(signature).ok_or(wrong("has a v1 that is not 64 hex digits"))?;
                    count += 1;
                }
                _ => {}
            }
        }
        let timestamp = timestamp.ok_or(wrong("has no t"))?;
        let signed_at = unix_seconds(timestamp).ok_or(wrong("has a t that is not unix seconds"))?;
        if count == 0 {
            return Err(wrong("has no v1"));
        }
        Ok(Self {
            timestamp,
            signed_at,
            digests,
            count,
        })
    }
}

/// Digits only: `parse` alone would take a sign.
fn unix_seconds(digits: &[u8]) -> Option<i64> {
    let plain = digits.len() <= MAX_TIMESTAMP_DIGITS && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}
