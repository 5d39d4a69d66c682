//! Stripe's header: several signatures and keys, the tolerance, and everything malformed.

use super::super::*;
use super::{ZERO_HEX, header, keys, why};

const INVOICE: &[u8] = include_bytes!("../../../../perf/fixtures/invoice.paid.json");
const INVOICE_T: i64 = 1_747_735_265;
const OLD_SECRET: &str = "whsec_old_secret";
const OLD_HEX: &str = "b0b2d5069c825428a30abd4c20ae70fd0f2635eeac428a03c3def2abaa730f2d";
const NEW_SECRET: &str = "whsec_new_secret";
const NEW_HEX: &str = "56f013f59af4d4f76a565c0eba0ce552813633143426f777552aa87d22826e78";

fn stripe_at(now: i64, value: impl AsRef<[u8]>, secrets: &[&str]) -> Result<Verified, SignatureError> {
    verify(
        SourceKind::Stripe,
        &keys(secrets),
        &header(STRIPE_SIGNATURE, value),
        INVOICE,
        now,
        300,
    )
}

pub(super) fn stripe(value: impl AsRef<[u8]>) -> Result<Verified, SignatureError> {
    stripe_at(INVOICE_T, value, &[OLD_SECRET])
}

#[test]
fn stripe_takes_any_v1_and_any_key() {
    let signed = |key_index| {
        Ok(Verified {
            key_index,
            signed_at: Some(INVOICE_T),
        })
    };
    assert_eq!(stripe(format!("t={INVOICE_T},v1={OLD_HEX}")), signed(0));
    assert_eq!(
        stripe(format!("v1={}, t={INVOICE_T}", OLD_HEX.to_uppercase())),
        signed(0),
        "order, case, blanks"
    );
    assert_eq!(
        stripe(format!("t={INVOICE_T},v1={ZERO_HEX},v1={OLD_HEX},v0={NEW_HEX}")),
        signed(0)
    );
    assert_eq!(
        stripe(format!("t={INVOICE_T},v0=,v2=zz,x=a=b,v1={OLD_HEX}")),
        signed(0),
        "unknown schemes"
    );
    let both = format!("t={INVOICE_T},v1={OLD_HEX},v1={NEW_HEX}");
    assert_eq!(
        stripe_at(INVOICE_T, &both, &["unrelated", NEW_SECRET, OLD_SECRET]),
        signed(1),
        "first key wins"
    );
    assert_eq!(
        stripe_at(
            INVOICE_T,
            format!("t={INVOICE_T},v1={NEW_HEX}"),
            &[OLD_SECRET, NEW_SECRET]
        ),
        signed(1)
    );
    let sixteen = format!(
        "t={INVOICE_T}{},v1={OLD_HEX}",
        format!(",v1={ZERO_HEX}").repeat(15)
    );
    assert_eq!(stripe(sixteen), signed(0));
}

#[test]
fn stripe_mismatches() {
    for value in [
        format!("t={INVOICE_T},v1={NEW_HEX}"),
        format!("t={},v1={OLD_HEX}", INVOICE_T + 1),
        format!("t=0{INVOICE_T},v1={OLD_HEX}"),
        format!("t={INVOICE_T},v0={OLD_HEX},v1={ZERO_HEX}"),
    ] {
        assert_eq!(stripe(&value), Err(SignatureError::Mismatch), "{value}");
    }
    assert_eq!(
        stripe_at(INVOICE_T, format!("t={INVOICE_T},v1={OLD_HEX}"), &[]),
        Err(SignatureError::Mismatch)
    );
    // Stale too, but only who holds a secret is told so.
    assert_eq!(
        stripe_at(0, format!("t={INVOICE_T},v1={ZERO_HEX}"), &[OLD_SECRET]),
        Err(SignatureError::Mismatch)
    );
}

#[test]
fn stripe_tolerance_holds_in_both_directions() {
    let value = format!("t={INVOICE_T},v1={OLD_HEX}");
    for now in [INVOICE_T - 300, INVOICE_T, INVOICE_T + 300] {
        assert!(stripe_at(now, &value, &[OLD_SECRET]).is_ok());
    }
    for now in [INVOICE_T - 301, INVOICE_T + 301, 0, i64::MIN, i64::MAX] {
        let stale = SignatureError::Stale {
            signed_at: INVOICE_T,
            now,
            tolerance: 300,
        };
        assert_eq!(stripe_at(now, &value, &[OLD_SECRET]), Err(stale));
    }
}

#[test]
fn stripe_malformed() {
    let v1 = format!("v1={OLD_HEX}");
    let cases = [
        (String::new(), "has a part without ="),
        (format!("t={INVOICE_T},{v1},"), "has a part without ="),
        (format!("t={INVOICE_T};{v1}"), "has a t that is not unix seconds"),
        (v1.clone(), "has no t"),
        (format!("T={INVOICE_T},{v1}"), "has no t"),
        (format!("t={INVOICE_T}"), "has no v1"),
        (format!("t={INVOICE_T},v0={OLD_HEX}"), "has no v1"),
        (format!("t={INVOICE_T},t={INVOICE_T},{v1}"), "has t twice"),
        (format!("t=,{v1}"), "has a t that is not unix seconds"),
        (format!("t=+1747735265,{v1}"), "has a t that is not unix seconds"),
        (format!("t=-1747735265,{v1}"), "has a t that is not unix seconds"),
        (format!("t=1747735265.0,{v1}"), "has a t that is not unix seconds"),
        (format!("t=0x682c4a61,{v1}"), "has a t that is not unix seconds"),
        (
            format!("t={},{v1}", "9".repeat(13)),
            "has a t that is not unix seconds",
        ),
        (format!("t=١٢٣,{v1}"), "has a t that is not unix seconds"),
        (format!("t={INVOICE_T},v1="), "has a v1 that is not 64 hex digits"),
        (
            format!("t={INVOICE_T},{v1},v1=abcd"),
            "has a v1 that is not 64 hex digits",
        ),
        (
            format!("t={INVOICE_T}{}", format!(",{v1}").repeat(17)),
            "has too many v1",
        ),
        (
            format!("t={INVOICE_T},{v1},v0={}", "0".repeat(MAX_STRIPE_HEADER_BYTES)),
            "is too long",
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(why(stripe(&value)), expected, "{value}");
    }
}
