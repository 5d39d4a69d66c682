//! Secrets: a text that does not print itself, and the sealing of tenants' signing secrets at rest.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use uuid::Uuid;

/// A text that must not be logged: it prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself. The call site is where a leak would start: keep it close to the use.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a key could not be used or a secret could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The text is not the base64 of 32 bytes.
    #[error("a master key is the base64 of 32 bytes")]
    BadKey,
    /// The secret was sealed under a master key that is not configured.
    #[error("sealed under master key {0}, which is neither the current nor a previous one")]
    UnknownKey(String),
    /// The ciphertext is not what was sealed for this tenant, source and id.
    #[error("the sealed secret does not open: altered, or moved from another row")]
    NotAuthentic,
    /// The system's random source failed.
    #[error("no random bytes from the system")]
    NoRandom,
}

/// Whose secret a ciphertext is; it opens for nobody else.
#[derive(Debug, Clone, Copy)]
pub struct SecretOwner<'a> {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The source.
    pub source: &'a str,
    /// The id of the secret's version.
    pub id: Uuid,
}

impl SecretOwner<'_> {
    fn associated_data(&self) -> Vec<u8> {
        let mut data = Vec::with_capacity(32 + self.source.len());
        data.extend_from_slice(self.tenant_id.as_bytes());
        data.extend_from_slice(self.id.as_bytes());
        data.extend_from_slice(self.source.as_bytes());
        data
    }
}

/// A sealed secret and the key it was sealed under.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// 12 bytes nonce, then ciphertext and tag.
    pub ciphertext: Vec<u8>,
    /// First 8 bytes of the master key's SHA-256, in hex.
    pub master_key_id: String,
}

/// The current master key, which seals, and previous ones, which only open. AES-256-GCM.
pub struct MasterKeys(Vec<MasterKey>);

struct MasterKey {
    id: String,
    key: LessSafeKey,
}

impl MasterKeys {
    /// Reads the current key and the previous ones, each the base64 of 32 bytes.
    ///
    /// # Errors
    /// [`SealError::BadKey`] if one of them is something else.
    pub fn new<'a>(
        current: &'a Secret,
        previous: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, SealError> {
        std::iter::once(current.expose())
            .chain(previous)
            .map(|text| {
                let bytes = BASE64.decode(text.trim()).map_err(|_| SealError::BadKey)?;
                let unbound = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SealError::BadKey)?;
                let id = hex::encode(&digest::digest(&digest::SHA256, &bytes).as_ref()[..8]);
                Ok(MasterKey {
                    id,
                    key: LessSafeKey::new(unbound),
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Seals a secret for its owner under the current key.
    ///
    /// # Errors
    /// [`SealError::NoRandom`] if the system gives no nonce.
    pub fn seal(&self, owner: SecretOwner<'_>, secret: &Secret) -> Result<Sealed, SealError> {
        let current = self.0.first().ok_or(SealError::BadKey)?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| SealError::NoRandom)?;
        let mut text = secret.expose().as_bytes().to_vec();
        current
            .key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(owner.associated_data()),
                &mut text,
            )
            .map_err(|_| SealError::NotAuthentic)?;
        let mut ciphertext = nonce.to_vec();
        ciphertext.append(&mut text);
        Ok(Sealed {
            ciphertext,
            master_key_id: current.id.clone(),
        })
    }

    /// Opens what was sealed for this owner.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`], or [`SealError::NotAuthentic`] if it was altered or belongs to another row.
    pub fn open(&self, owner: SecretOwner<'_>, sealed: &Sealed) -> Result<Secret, SealError> {
        let master = self
            .0
            .iter()
            .find(|key| key.id == sealed.master_key_id)
            .ok_or_else(|| SealError::UnknownKey(sealed.master_key_id.clone()))?;
        let (nonce, rest) = sealed
            .ciphertext
            .split_at_checked(NONCE_LEN)
            .ok_or(SealError::NotAuthentic)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::NotAuthentic)?;
        let mut buffer = rest.to_vec();
        let text = master
            .key
            .open_in_place(nonce, Aad::from(owner.associated_data()), &mut buffer)
            .map_err(|_| SealError::NotAuthentic)?;
        String::from_utf8(text.to_vec())
            .map(Secret)
            .map_err(|_| SealError::NotAuthentic)
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Secret {
        Secret(BASE64.encode([byte; 32]))
    }

    #[test]
    fn opens_only_for_its_owner_and_under_its_key() {
        let keys = MasterKeys::new(&key(1), []).unwrap();
        let owner = SecretOwner {
            tenant_id: Uuid::from_u128(1),
            source: "github",
            id: Uuid::from_u128(2),
        };
        let sealed = keys.seal(owner, &Secret("s3cret".to_owned())).unwrap();
        assert_eq!(keys.open(owner, &sealed).unwrap().expose(), "s3cret");

        for stranger in [
            SecretOwner {
                tenant_id: Uuid::from_u128(9),
                ..owner
            },
            SecretOwner {
                source: "stripe",
                ..owner
            },
            SecretOwner {
                id: Uuid::from_u128(9),
                ..owner
            },
        ] {
            assert!(matches!(
                keys.open(stranger, &sealed),
                Err(SealError::NotAuthentic)
            ));
        }
        let mut altered = sealed.clone();
        altered.ciphertext[NONCE_LEN] ^= 1;
        assert!(matches!(keys.open(owner, &altered), Err(SealError::NotAuthentic)));
        let cut = Sealed {
            ciphertext: vec![0; 5],
            ..sealed.clone()
        };
        assert!(matches!(keys.open(owner, &cut), Err(SealError::NotAuthentic)));

        let rotated = MasterKeys::new(&key(2), [key(1).expose()]).unwrap();
        assert_eq!(rotated.open(owner, &sealed).unwrap().expose(), "s3cret");
        let strange = MasterKeys::new(&key(3), []).unwrap();
        assert!(matches!(
            strange.open(owner, &sealed),
            Err(SealError::UnknownKey(_))
        ));
    }

    #[test]
    fn a_bad_master_key_is_refused_and_nothing_prints_a_secret() {
        for text in ["", "short", "c2hvcnQ=", "%%%"] {
            assert!(
                matches!(
                    MasterKeys::new(&Secret(text.to_owned()), []),
                    Err(SealError::BadKey)
                ),
                "{text}"
            );
        }
        let secret = Secret("hunter2".to_owned());
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert!(!format!("{:?}", MasterKeys::new(&key(1), []).unwrap()).contains(key(1).expose()));
    }
}
