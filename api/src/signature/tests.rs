//! Signatures made by others (python's hmac and openssl agree on each): RFC 4231, generic and GitHub here, Stripe in
//! `tests/stripe.rs`, any input in `tests/properties.rs`.

mod properties;
mod stripe;

use actix_web::http::header::{HeaderName, HeaderValue};

use super::*;

const ORDER: &[u8] = br#"{"event":"order.created","data":{"id":1}}"#;
const ORDER_SECRET: &str = "generic-demo-secret";
const ORDER_HEX: &str = "efaa50cc7d3fe892c45d62b5230abb01db0db298674b99b0ef9d83f474de77b3";

const PUSH: &[u8] = include_bytes!("../../../perf/fixtures/push.json");
const PUSH_SECRET: &str = "push-secret";
const PUSH_HEX: &str = "4bee17c4bd0758379fe8df51526b0514ad031f7facdb6577a0221a78ac0cb703";
const ZERO_HEX: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn keys(secrets: &[&str]) -> Vec<VerifyingKey> {
    secrets
        .iter()
        .map(|secret| VerifyingKey::new(secret.as_bytes()).unwrap())
        .collect()
}

fn header(name: &'static str, value: impl AsRef<[u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.append(
        name.parse().unwrap(),
        HeaderValue::from_bytes(value.as_ref()).unwrap(),
    );
    headers
}

fn generic(value: impl AsRef<[u8]>, secrets: &[&str]) -> Result<Verified, SignatureError> {
    verify(
        SourceKind::Generic,
        &keys(secrets),
        &header(X_SIGNATURE, value),
        ORDER,
        0,
        0,
    )
}

fn github(value: impl AsRef<[u8]>, body: &[u8]) -> Result<Verified, SignatureError> {
    verify(
        SourceKind::Github,
        &keys(&[PUSH_SECRET]),
        &header(X_HUB_SIGNATURE_256, value),
        body,
        0,
        0,
    )
}

fn why(result: Result<Verified, SignatureError>) -> &'static str {
    match result {
        Err(SignatureError::Malformed { why, .. }) => why,
        other => panic!("not malformed: {other:?}"),
    }
}

const FIRST: Result<Verified, SignatureError> = Ok(Verified {
    key_index: 0,
    signed_at: None,
});

#[test]
fn generic_is_hex_of_either_case_with_or_without_prefix() {
    for value in [
        ORDER_HEX.to_owned(),
        ORDER_HEX.to_uppercase(),
        format!("sha256={ORDER_HEX}"),
    ] {
        assert_eq!(generic(&value, &[ORDER_SECRET]), FIRST, "{value}");
    }
    assert_eq!(generic(ORDER_HEX, &["other"]), Err(SignatureError::Mismatch));
    assert_eq!(generic(ZERO_HEX, &[ORDER_SECRET]), Err(SignatureError::Mismatch));
    let longer = format!("{ORDER_HEX}00");
    for value in [
        "",
        "sha256=",
        "sha1=00",
        &ORDER_HEX[2..],
        &longer,
        &ORDER_HEX.replace('e', "g"),
        "é",
    ] {
        assert_eq!(
            why(generic(value, &[ORDER_SECRET])),
            "is not 64 hex digits",
            "{value}"
        );
    }
    let error = generic("x", &[ORDER_SECRET]).unwrap_err();
    assert_eq!(error.to_string(), "header X-Signature is not 64 hex digits");
}

#[test]
fn each_digit_counts() {
    for place in 0..ORDER_HEX.len() {
        let mut value = ORDER_HEX.as_bytes().to_vec();
        value[place] = if value[place] == b'0' { b'1' } else { b'0' };
        let answer = generic(value, &[ORDER_SECRET]);
        assert_eq!(answer, Err(SignatureError::Mismatch), "digit {place}");
    }
}

#[test]
fn github_needs_its_prefix_and_the_raw_body() {
    assert_eq!(github(format!("sha256={PUSH_HEX}"), PUSH), FIRST);
    assert_eq!(github(format!("sha256={}", PUSH_HEX.to_uppercase()), PUSH), FIRST);
    let reformatted = [PUSH, b"\n"].concat();
    assert_eq!(
        github(format!("sha256={PUSH_HEX}"), &reformatted),
        Err(SignatureError::Mismatch)
    );
    for value in [
        PUSH_HEX.to_owned(),
        format!("SHA256={PUSH_HEX}"),
        format!("sha1={PUSH_HEX}"),
    ] {
        assert_eq!(
            why(github(&value, PUSH)),
            "does not start with sha256=",
            "{value}"
        );
    }
    assert_eq!(why(github("sha256=", PUSH)), "is not 64 hex digits");
    // The example that GitHub documents.
    let documented = header(
        X_HUB_SIGNATURE_256,
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
    );
    let keys = keys(&["It's a Secret to Everybody"]);
    assert_eq!(
        verify(SourceKind::Github, &keys, &documented, b"Hello, World!", 0, 0),
        FIRST
    );
}

#[test]
fn headers_are_wanted_exactly_once_and_of_the_kind() {
    let all = [X_SIGNATURE, X_HUB_SIGNATURE_256, STRIPE_SIGNATURE];
    for (kind, name) in SourceKind::ALL.into_iter().zip(all) {
        let missing = Err(SignatureError::Missing(name));
        assert_eq!(verify(kind, &keys(&["k"]), &HeaderMap::new(), b"", 0, 0), missing);
        let mut headers = HeaderMap::new();
        for other in all.into_iter().filter(|other| *other != name) {
            headers.append(
                other.parse::<HeaderName>().unwrap(),
                HeaderValue::from_static(ORDER_HEX),
            );
        }
        assert_eq!(
            verify(kind, &keys(&["k"]), &headers, b"", 0, 0),
            missing,
            "another kind's header is none"
        );
        headers.append(
            name.parse::<HeaderName>().unwrap(),
            HeaderValue::from_static(ORDER_HEX),
        );
        headers.append(
            name.parse::<HeaderName>().unwrap(),
            HeaderValue::from_static(ORDER_HEX),
        );
        assert_eq!(
            why(verify(kind, &keys(&["k"]), &headers, b"", 0, 0)),
            "was sent more than once"
        );
    }
}

#[test]
fn secrets_are_neither_empty_nor_shown() {
    assert_eq!(VerifyingKey::new(b"").unwrap_err(), EmptySecret);
    assert_eq!(format!("{:?}", keys(&["shown?"])), "[VerifyingKey(***)]");
    // The digest of an empty body under a real secret is fine.
    let digest = header(
        X_SIGNATURE,
        "8bb990c40a7d61cb97597a942125025be50ac8beb74436e3735b98893a7f6620",
    );
    assert_eq!(
        verify(SourceKind::Generic, &keys(&["k"]), &digest, b"", 0, 0),
        FIRST
    );
}

/// RFC 4231, HMAC-SHA-256: test cases 1 to 4, 6 and 7 (5 is about truncation).
#[test]
fn rfc_4231() {
    let counting: Vec<u8> = (1..=25).collect();
    let cases: [(&[u8], &[u8], &str); 6] = [
        (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (&counting, &[0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
        (
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (
            &[0xaa; 131],
            b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm.",
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        ),
    ];
    for (secret, data, expected) in cases {
        let keys = [VerifyingKey::new(secret).unwrap()];
        assert_eq!(
            verify(
                SourceKind::Generic,
                &keys,
                &header(X_SIGNATURE, expected),
                data,
                0,
                0
            ),
            FIRST
        );
    }
}
