//! Keys, and what each may be used for: an algorithm belongs to the key, never to the token that names it.
//!
//! A token's header chooses among the algorithms of one key and among nothing else, so a public key can never
//! serve as a shared secret.

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation};
use serde_json::Value;

/// Shortest modulus of an RSA key that is taken, in bits, as in the library that Cube uses.
const MIN_RSA_BITS: usize = 2048;
/// What every PEM text holds.
const PEM_MARK: &str = "-----BEGIN ";

/// The settings of keys contradict each other, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The settings name an algorithm that is not known.
    #[error(
        "'{0}' in CUBEJS_JWT_ALGS is not supported: use HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, \
         ES256, ES384 or EdDSA"
    )]
    UnsupportedAlgorithm(String),
    /// The key is a PEM text that is none of the kinds that verify tokens.
    #[error("the key of tokens is a PEM text that cannot be used ({0}): give a public RSA, EC or Ed25519 key")]
    Unreadable(String),
    /// The key is the one that signs.
    #[error("the key of tokens is a private one, which only their issuer should have: give its public key")]
    Private,
    /// No allowed algorithm goes with the key.
    #[error("none of CUBEJS_JWT_ALGS ({0}) goes with the key of tokens, so no token could be taken")]
    NoAlgorithm(String),
    /// The address of the key set is none.
    #[error("CUBEJS_JWK_URL is '{0}', but a URL that begins with https:// or http:// is expected")]
    Url(String),
}

/// A key with everything that a token must satisfy to be taken by it.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) decoding: DecodingKey,
    /// Holds the algorithms of this key alone.
    pub(super) validation: Validation,
}

/// What all keys have in common.
#[derive(Clone)]
pub(super) struct Rules {
    /// Names of the allowed algorithms; none means all.
    allowed: Vec<Algorithm>,
    /// The claims that are asked for.
    claims: Validation,
}

impl Rules {
    /// # Errors
    /// An algorithm's name is not known.
    pub(super) fn new(allowed: &[String], claims: Validation) -> Result<Self, KeyError> {
        let known = |name: &String| name.parse().map_err(|_unknown| KeyError::UnsupportedAlgorithm(name.clone()));
        Ok(Self { allowed: allowed.iter().map(known).collect::<Result<_, _>>()?, claims })
    }

    /// A key of the settings: a public key where it is a PEM text, a shared secret otherwise.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) fn key_of_text(&self, text: &str) -> Result<Key, KeyError> {
        let (decoding, fitting) = if is_pem(text) {
            public_key(&text.replace("\\n", "\n"))?
        } else {
            (DecodingKey::from_secret(text.as_bytes()), AlgorithmFamily::Hmac.algorithms().to_vec())
        };
        self.key(decoding, &fitting).ok_or_else(|| {
            let names: Vec<String> = self.allowed.iter().map(|algorithm| format!("{algorithm:?}")).collect();
            KeyError::NoAlgorithm(names.join(", "))
        })
    }

    /// A key of a key set, with its id; the reason why not otherwise. Shared secrets are never taken from there.
    pub(super) fn key_of_set(&self, value: &Value) -> Result<(String, Key), String> {
        let jwk: Jwk = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
        let id = jwk.common.key_id.clone().ok_or("it has no kid")?;
        if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return Err("it is not for signatures".to_owned());
        }
        if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
            return Err("it is a shared secret".to_owned());
        }
        let decoding = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
        let mut fitting = algorithms_of(&decoding)?;
        if let Some(named) = jwk.common.key_algorithm {
            fitting.retain(|algorithm| format!("{algorithm:?}") == named.to_string());
        }
        let key = self.key(decoding, &fitting).ok_or("none of the allowed algorithms goes with it")?;
        Ok((id, key))
    }

    fn key(&self, decoding: DecodingKey, fitting: &[Algorithm]) -> Option<Key> {
        let allowed = |algorithm: &&Algorithm| self.allowed.is_empty() || self.allowed.contains(algorithm);
        let algorithms: Vec<Algorithm> = fitting.iter().filter(allowed).copied().collect();
        if algorithms.is_empty() {
            return None;
        }
        let mut validation = self.claims.clone();
        validation.algorithms = algorithms;
        Some(Key { decoding, validation })
    }
}

/// Whether a key of the settings is not a shared secret.
pub(super) fn is_pem(text: &str) -> bool {
    text.contains(PEM_MARK)
}

fn public_key(pem: &str) -> Result<(DecodingKey, Vec<Algorithm>), KeyError> {
    if pem.contains("PRIVATE KEY-----") {
        return Err(KeyError::Private);
    }
    let bytes = pem.as_bytes();
    let read = DecodingKey::from_rsa_pem(bytes)
        .or_else(|_| DecodingKey::from_ec_pem(bytes))
        .or_else(|_| DecodingKey::from_ed_pem(bytes))
        .map_err(|error| KeyError::Unreadable(error.to_string()))?;
    let fitting = algorithms_of(&read).map_err(KeyError::Unreadable)?;
    Ok((read, fitting))
}

/// The algorithms that a public key is made for.
fn algorithms_of(key: &DecodingKey) -> Result<Vec<Algorithm>, String> {
    // Taken apart and put together, so that a key which is none is noticed now and not with each token.
    let jwk = Jwk::from_decoding_key(key, None).map_err(|error| error.to_string())?;
    match (&jwk.algorithm, key.family()) {
        (AlgorithmParameters::RSA(parts), AlgorithmFamily::Rsa) => {
            // Base64 without padding: six bits a character.
            let bits = parts.n.len() * 6;
            if bits < MIN_RSA_BITS {
                return Err(format!("it has fewer than {MIN_RSA_BITS} bits"));
            }
            Ok(AlgorithmFamily::Rsa.algorithms().to_vec())
        }
        (AlgorithmParameters::EllipticCurve(_), AlgorithmFamily::Ec) => {
            // An uncompressed point: a mark and two coordinates.
            match key.try_get_as_bytes().map_or(0, <[u8]>::len) {
                65 => Ok(vec![Algorithm::ES256]),
                97 => Ok(vec![Algorithm::ES384]),
                _ => Err("it is on a curve other than P-256 and P-384".to_owned()),
            }
        }
        (AlgorithmParameters::OctetKeyPair(_), AlgorithmFamily::Ed) => Ok(vec![Algorithm::EdDSA]),
        _ => Err("it is of another kind".to_owned()),
    }
}
