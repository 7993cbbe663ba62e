//! Token ↔ claims, with shared secrets (`http-api.md` §2.2).

use std::fmt;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};

use super::{AuthError, SecurityContext};

/// Longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// The algorithms that go with a shared secret.
const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

/// What a token must say.
#[derive(Debug, Clone, Default)]
pub struct JwtOptions {
    /// Names of the accepted algorithms, of `HS256`, `HS384`, `HS512`; all of them when empty.
    pub algorithms: Vec<String>,
    /// Accepted `iss`; any, and none, when empty.
    pub issuers: Vec<String>,
    /// The `aud` it must have.
    pub audience: Option<String>,
    /// The `sub` it must have.
    pub subject: Option<String>,
}

/// The settings name an algorithm that does not go with a shared secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not supported: use HS256, HS384 or HS512")]
pub struct UnsupportedAlgorithm(pub String);

/// Verifies tokens.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<DecodingKey>,
    validation: Validation,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Over secrets that are tried in order (several during a key rotation).
    ///
    /// # Errors
    /// An algorithm that does not go with shared secrets.
    pub fn new(secrets: &[String], options: &JwtOptions) -> Result<Self, UnsupportedAlgorithm> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.validate_aud = options.audience.is_some();
        validation.algorithms = algorithms(&options.algorithms)?;
        // A claim is required once its value is configured; `exp` and `nbf` are honoured when present.
        let mut required: Vec<&str> = Vec::new();
        if !options.issuers.is_empty() {
            validation.set_issuer(&options.issuers);
            required.push("iss");
        }
        if let Some(audience) = &options.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(subject) = &options.subject {
            validation.sub = Some(subject.clone());
            required.push("sub");
        }
        validation.set_required_spec_claims(&required);
        let keys = secrets.iter().map(|secret| DecodingKey::from_secret(secret.as_bytes())).collect();
        Ok(Self { keys, validation })
    }

    /// Checks a token. Times are checked against the machine's clock, to the second.
    ///
    /// # Errors
    /// [`AuthError::Invalid`], whatever the cause.
    pub fn verify(&self, token: &str) -> Result<SecurityContext, AuthError> {
        let mut cause = "no secret is configured".to_owned();
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid { cause: "the token is too long".to_owned() });
        }
        for key in &self.keys {
            match jsonwebtoken::decode::<serde_json::Value>(token, key, &self.validation) {
                Ok(data) => return Ok(SecurityContext(data.claims)),
                Err(error) => {
                    cause = error.to_string();
                    // These would recur with every key.
                    if matches!(error.kind(), ErrorKind::ExpiredSignature | ErrorKind::ImmatureSignature) {
                        break;
                    }
                }
            }
        }
        Err(AuthError::Invalid { cause })
    }
}

fn algorithms(names: &[String]) -> Result<Vec<Algorithm>, UnsupportedAlgorithm> {
    if names.is_empty() {
        return Ok(HMAC.to_vec());
    }
    let find = |name: &String| {
        let known = name.parse::<Algorithm>().ok().filter(|algorithm| HMAC.contains(algorithm));
        known.ok_or_else(|| UnsupportedAlgorithm(name.clone()))
    };
    names.iter().map(find).collect()
}

/// The claims cannot be signed.
#[derive(Debug, thiserror::Error)]
#[error("the token cannot be signed: {0}")]
pub struct SignError(String);

/// Signs claims (HS256).
///
/// # Errors
/// The claims cannot be written as JSON.
pub fn sign(claims: &serde_json::Value, secret: &str) -> Result<String, SignError> {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).map_err(|error| SignError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const FUTURE: u64 = 4_000_000_000;
    const PAST: u64 = 1_000_000_000;

    fn verifier(secrets: &[&str]) -> Verifier {
        let secrets: Vec<String> = secrets.iter().map(|s| (*s).to_owned()).collect();
        Verifier::new(&secrets, &JwtOptions::default()).expect("valid options")
    }

    #[track_caller]
    fn check(verifier: &Verifier, claims: &Value, valid: bool) {
        let token = sign(claims, "secret").expect("signed");
        let result = verifier.verify(&token);
        assert_eq!(result.is_ok(), valid, "{claims}: {result:?}");
        match result {
            Ok(SecurityContext(payload)) => assert_eq!(&payload, claims),
            Err(error) => assert_eq!(error.to_string(), "Invalid token"),
        }
    }

    #[test]
    fn expiry_is_honoured_and_not_required() {
        let verifier = verifier(&["secret"]);
        check(&verifier, &json!({}), true);
        check(&verifier, &json!({"tenant": 7, "exp": FUTURE}), true);
        check(&verifier, &json!({"exp": PAST}), false);
        check(&verifier, &json!({"exp": "soon"}), false);
        check(&verifier, &json!({"nbf": FUTURE}), false);
        check(&verifier, &json!({"nbf": PAST}), true);
        check(&verifier, &json!({"aud": "anyone", "iss": "anyone"}), true);
    }

    #[test]
    fn every_secret_of_a_rotation_is_tried() {
        check(&verifier(&["newer", "secret"]), &json!({"a": 1}), true);
        check(&verifier(&["newer", "other"]), &json!({"a": 1}), false);
        check(&verifier(&[]), &json!({"a": 1}), false);
    }

    #[test]
    fn configured_claims_are_required() {
        let options = JwtOptions {
            issuers: vec!["a".to_owned(), "b".to_owned()],
            audience: Some("me".to_owned()),
            subject: Some("s".to_owned()),
            ..JwtOptions::default()
        };
        let verifier = Verifier::new(&["secret".to_owned()], &options).expect("valid options");
        check(&verifier, &json!({"iss": "b", "aud": "me", "sub": "s"}), true);
        check(&verifier, &json!({"iss": "c", "aud": "me", "sub": "s"}), false);
        check(&verifier, &json!({"iss": "b", "aud": "you", "sub": "s"}), false);
        check(&verifier, &json!({"iss": "b", "aud": "me"}), false);
        check(&verifier, &json!({"aud": "me", "sub": "s"}), false);
        check(&verifier, &json!({"iss": "b", "sub": "s"}), false);
    }

    #[test]
    fn foreign_algorithms_are_refused() {
        let verifier = verifier(&["secret"]);
        // {"alg":"none","typ":"JWT"} . {} . no signature
        assert!(verifier.verify("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.e30.").is_err());
        assert!(verifier.verify("garbage").is_err());
        assert!(verifier.verify("").is_err());
        let only512 = JwtOptions { algorithms: vec!["HS512".to_owned()], ..JwtOptions::default() };
        check(&Verifier::new(&["secret".to_owned()], &only512).expect("valid options"), &json!({}), false);
        let rsa = JwtOptions { algorithms: vec!["RS256".to_owned()], ..JwtOptions::default() };
        assert!(Verifier::new(&[], &rsa).is_err());
    }

    #[test]
    fn debugging_shows_no_keys() {
        assert_eq!(format!("{:?}", verifier(&["secret"])), "Verifier { keys: 1, .. }");
    }
}
