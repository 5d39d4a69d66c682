//! What holds for any secret, body and header.

use proptest::prelude::*;

use super::super::*;
use super::stripe::stripe;
use super::{ORDER_SECRET, PUSH, generic, github, header};

fn sign(secret: &[u8], parts: &[&[u8]]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    parts.iter().for_each(|part| context.update(part));
    hex::encode(context.sign())
}

/// Each letter in the case that its bit asks for.
fn mixed_case(text: &str, upper: u64) -> String {
    let mixed = text.chars().enumerate().map(|(at, letter)| {
        if upper >> (at % 64) & 1 == 1 {
            letter.to_ascii_uppercase()
        } else {
            letter
        }
    });
    mixed.collect()
}

proptest! {
    #[test]
    fn what_was_signed_verifies_in_any_case(
        secret in prop::collection::vec(any::<u8>(), 1..100),
        body in prop::collection::vec(any::<u8>(), 0..300),
        upper in any::<u64>(),
        now in 0_i64..99_999_999_999,
    ) {
        let keys = [VerifyingKey::new(b"another").unwrap(), VerifyingKey::new(&secret).unwrap()];
        let value = mixed_case(&sign(&secret, &[&body]), upper);
        let verified = verify(SourceKind::Generic, &keys, &header(X_SIGNATURE, value), &body, 0, 0);
        prop_assert_eq!(verified, Ok(Verified { key_index: 1, signed_at: None }));

        let value = mixed_case(&sign(&secret, &[now.to_string().as_bytes(), b".", &body]), upper);
        let headers = header(STRIPE_SIGNATURE, format!("t={now},v1={value}"));
        let verified = verify(SourceKind::Stripe, &keys, &headers, &body, now, 0);
        prop_assert_eq!(verified, Ok(Verified { key_index: 1, signed_at: Some(now) }));
    }

    #[test]
    fn one_flipped_bit_verifies_nothing(
        secret in prop::collection::vec(any::<u8>(), 1..60),
        body in prop::collection::vec(any::<u8>(), 1..300),
        bit in any::<prop::sample::Index>(),
        target in 0..3,
    ) {
        let flip = |bytes: &mut [u8]| {
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        };
        let mut digest = hex::decode(sign(&secret, &[&body])).unwrap();
        let (mut used, mut received) = (secret.clone(), body);
        match target {
            0 => flip(&mut digest),
            1 => flip(&mut received),
            _ => flip(&mut used),
        }
        // HMAC pads short keys with zeros: only that makes two keys one.
        let padded = |key: &[u8]| [key, &vec![0; 64 - key.len()]].concat();
        prop_assume!(target != 2 || padded(&used) != padded(&secret));
        let value = format!("sha256={}", hex::encode(digest));
        let keys = [VerifyingKey::new(&used).unwrap()];
        let verified = verify(SourceKind::Github, &keys, &header(X_HUB_SIGNATURE_256, value), &received, 0, 0);
        prop_assert_eq!(verified, Err(SignatureError::Mismatch));
    }

    #[test]
    fn no_header_panics_or_verifies(value in prop::collection::vec(32_u8..127, 0..200), shape in 0..2) {
        let value = if shape == 0 { value } else { [b"t=1747735265,v1=", &value[..]].concat() };
        prop_assert!(stripe(&value).is_err());
        prop_assert!(generic(&value, &[ORDER_SECRET]).is_err());
        prop_assert!(github(&value, PUSH).is_err());
    }
}
