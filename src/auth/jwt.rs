//! Token ↔ claims (`http-api.md` §2.2–2.4, §2.6): with shared secrets, public keys, or the keys of a key set.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation};
use serde_json::{Map, Value};

use super::key_set::KeySet;
use super::keys::{Key, Rules, is_pem};
use super::{AuthError, SecurityContext};
use crate::tasks::Tasks;

pub use super::key_set::KeySetOptions;
pub use super::keys::KeyError;

/// Longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// What a token must say, and where the keys are that verify it.
#[derive(Debug, Clone, Default)]
pub struct JwtOptions {
    /// Names of the accepted algorithms; all that go with the key when empty.
    pub algorithms: Vec<String>,
    /// Accepted `iss`; any, and none, when empty.
    pub issuers: Vec<String>,
    /// The `aud` it must have.
    pub audience: Option<String>,
    /// The `sub` it must have.
    pub subject: Option<String>,
    /// The claim that holds what models see as `SECURITY_CONTEXT`.
    pub claims_namespace: Option<String>,
    /// Where the keys are; secrets verify nothing then.
    pub key_set: Option<KeySetOptions>,
    /// `CUBEJS_PLAYGROUND_AUTH_SECRET`: a second secret, for tools of operators.
    pub playground_secret: Option<String>,
}

/// Verifies tokens. Clones share the keys.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    /// Tried in order.
    keys: Vec<Key>,
    key_set: Option<Arc<KeySet>>,
    playground: Option<Key>,
    claims_namespace: Option<String>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.0.keys.len()).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Over keys that are tried in order (several during a key rotation): shared secrets, or public keys as PEM texts.
    ///
    /// # Errors
    /// The keys, or the algorithms that go with them, cannot be used.
    pub fn new(keys: &[String], options: &JwtOptions) -> Result<Self, KeyError> {
        let rules = Rules::new(&options.algorithms, required_claims(options))?;
        let key_set = options.key_set.clone().map(|options| KeySet::new(options, rules.clone())).transpose()?;
        // One way in at a time.
        let keys = if key_set.is_some() { &[] } else { keys };
        let keys = keys.iter().map(|text| rules.key_of_text(text)).collect::<Result<_, _>>()?;
        let playground = options.playground_secret.as_ref().map(|secret| {
            let only = Rules::new(&["HS256".to_owned()], required_claims(&JwtOptions::default()))?;
            only.key_of_text(secret)
        });
        let claims_namespace = options.claims_namespace.clone();
        Ok(Self(Arc::new(Inner { keys, key_set, playground: playground.transpose()?, claims_namespace })))
    }

    /// Fetches the key set, if there is one, and keeps it up to date until the group stops.
    pub fn keep_fresh(&self, tasks: &Tasks) {
        if let Some(set) = &self.0.key_set {
            set.keep_fresh(tasks);
        }
    }

    /// Checks a token. Times are checked against the machine's clock, to the second. Waits only for a key set that
    /// lacks the token's key.
    ///
    /// # Errors
    /// [`AuthError::Invalid`], whatever the cause.
    pub async fn verify(&self, token: &str) -> Result<SecurityContext, AuthError> {
        let refused = |cause: String| AuthError::Invalid { cause };
        let header = header_of(token).map_err(refused)?;
        let Some(set) = &self.0.key_set else { return try_keys(token, &self.0.keys).map_err(refused) };
        let id = header.kid.ok_or_else(|| refused("the token names no key".to_owned()))?;
        let keys = set.find(&id).await.map_err(refused)?;
        try_keys(token, &keys).map_err(refused)
    }

    /// Checks a token against the operators' secret, and against nothing else.
    ///
    /// # Errors
    /// [`AuthError::Invalid`]; also when there is no such secret.
    pub fn verify_playground(&self, token: &str) -> Result<SecurityContext, AuthError> {
        let refused = |cause: String| AuthError::Invalid { cause };
        header_of(token).map_err(refused)?;
        try_keys(token, self.0.playground.as_slice()).map_err(refused)
    }

    /// Whether operators have a secret of their own.
    pub fn has_playground(&self) -> bool {
        self.0.playground.is_some()
    }

    /// What models see as `SECURITY_CONTEXT` (§2.4): the claim of the namespace; else the payload, with the contents of
    /// an old token's `u`.
    pub fn model_context(&self, context: &SecurityContext) -> Value {
        let empty = || Value::Object(Map::new());
        let Value::Object(payload) = &context.0 else { return empty() };
        if let Some(namespace) = &self.0.claims_namespace {
            return payload.get(namespace).cloned().unwrap_or_else(empty);
        }
        let mut merged = payload.clone();
        if let Some(Value::Object(inner)) = payload.get("u") {
            merged.shift_remove("u");
            merged.extend(inner.clone());
        }
        Value::Object(merged)
    }
}

/// Claims are required once their value is configured; `exp` and `nbf` are honoured when present.
fn required_claims(options: &JwtOptions) -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = 0;
    // A token is over in the second that its `exp` names.
    validation.reject_tokens_expiring_in_less_than = 1;
    validation.validate_nbf = true;
    validation.validate_aud = options.audience.is_some();
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
    validation
}

fn header_of(token: &str) -> Result<Header, String> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err("the token is too long".to_owned());
    }
    let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
    // What the header declares critical must be understood, and nothing is.
    if header.crit.is_some() { Err("the token needs an extension".to_owned()) } else { Ok(header) }
}

fn try_keys(token: &str, keys: &[Key]) -> Result<SecurityContext, String> {
    let mut cause = "no key is configured".to_owned();
    for key in keys {
        match jsonwebtoken::decode::<Value>(token, &key.decoding, &key.validation) {
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
    Err(cause)
}

/// The claims cannot be signed.
#[derive(Debug, thiserror::Error)]
#[error("the token cannot be signed: {0}")]
pub struct SignError(String);

/// Signs claims (HS256).
///
/// # Errors
/// The claims cannot be written as JSON, or the key is one that verifies only.
pub fn sign(claims: &serde_json::Value, secret: &str) -> Result<String, SignError> {
    if is_pem(secret) {
        let cause = "the project verifies tokens with a public key; only the owner of the private one signs them";
        return Err(SignError(cause.to_owned()));
    }
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).map_err(|error| SignError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use serde_json::json;

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
        let result = block_on(verifier.verify(&token));
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
        for token in ["eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.e30.", "garbage", "", "a.b.c"] {
            assert!(block_on(verifier.verify(token)).is_err(), "{token}");
        }
        let only512 = JwtOptions { algorithms: vec!["HS512".to_owned()], ..JwtOptions::default() };
        check(&Verifier::new(&["secret".to_owned()], &only512).expect("valid options"), &json!({}), false);
    }

    #[test]
    fn settings_that_let_nobody_in_or_everybody_are_refused() {
        let with = |keys: &[&str], algorithms: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let algorithms = algorithms.iter().map(|name| (*name).to_owned()).collect();
            Verifier::new(&keys, &JwtOptions { algorithms, ..JwtOptions::default() }).map(|_| ())
        };
        let unsupported = |name: &str| Err(KeyError::UnsupportedAlgorithm(name.to_owned()));
        assert_eq!(with(&["secret"], &["HS256", "none"]), unsupported("none"));
        assert_eq!(with(&["secret"], &["ES512"]), unsupported("ES512"));
        assert_eq!(with(&["secret"], &["RS256", "ES256"]), Err(KeyError::NoAlgorithm("RS256, ES256".to_owned())));
        assert_eq!(with(&["secret"], &["RS256", "HS256"]), Ok(()));
        let private = "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----";
        assert_eq!(with(&[private], &[]), Err(KeyError::Private));
        let broken = "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----";
        assert!(matches!(with(&[broken], &[]), Err(KeyError::Unreadable(_))));
        let set = |url: &str| {
            let key_set = Some(KeySetOptions::new(url));
            Verifier::new(&[], &JwtOptions { key_set, ..JwtOptions::default() }).map(|_| ())
        };
        assert_eq!(set("ftp://keys"), Err(KeyError::Url("ftp://keys".to_owned())));
        assert_eq!(set("keys.json"), Err(KeyError::Url("keys.json".to_owned())));
        assert_eq!(set("https://idp.example/keys.json"), Ok(()));
    }

    #[test]
    fn operators_have_a_secret_of_their_own() {
        let options = JwtOptions { playground_secret: Some("secret".to_owned()), ..JwtOptions::default() };
        let verifier = Verifier::new(&["other".to_owned()], &options).expect("valid options");
        let token = sign(&json!({"scope": ["dev-token"]}), "secret").expect("signed");
        assert!(verifier.verify_playground(&token).is_ok() && block_on(verifier.verify(&token)).is_err());
        let other = sign(&json!({}), "other").expect("signed");
        assert!(verifier.verify_playground(&other).is_err() && block_on(verifier.verify(&other)).is_ok());
        let without = Verifier::new(&["secret".to_owned()], &JwtOptions::default()).expect("valid options");
        assert!(without.verify_playground(&token).is_err() && !without.has_playground());
    }

    #[test]
    fn models_see_the_namespace_or_the_payload() {
        let seen = |namespace: Option<&str>, payload: Value| {
            let options = JwtOptions { claims_namespace: namespace.map(str::to_owned), ..JwtOptions::default() };
            Verifier::new(&[], &options).expect("valid options").model_context(&SecurityContext(payload))
        };
        let payload = json!({"iat": 1, "u": {"id": 7}, "https://x/claims": {"id": 8}});
        assert_eq!(seen(None, payload.clone()), json!({"iat": 1, "https://x/claims": {"id": 8}, "id": 7}));
        assert_eq!(seen(Some("https://x/claims"), payload.clone()), json!({"id": 8}));
        assert_eq!(seen(Some("absent"), payload), json!({}));
        assert_eq!(seen(None, json!({"u": "text"})), json!({"u": "text"}));
        assert_eq!(seen(None, json!("text")), json!({}));
    }

    #[test]
    fn debugging_shows_no_keys() {
        assert_eq!(format!("{:?}", verifier(&["secret"])), "Verifier { keys: 1, .. }");
    }
}
