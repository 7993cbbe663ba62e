//! Who may enter: secrets, key sets, and what tokens must say.

use super::Config;
use super::reader::Reader;
use crate::auth::jwt::{JwtOptions, KeySetOptions};

impl Reader {
    pub(super) fn jwt(&mut self) -> JwtOptions {
        JwtOptions {
            algorithms: self.list("CUBEJS_JWT_ALGS").unwrap_or_default(),
            issuers: self.list("CUBEJS_JWT_ISSUER").unwrap_or_default(),
            audience: self.text("CUBEJS_JWT_AUDIENCE"),
            subject: self.text("CUBEJS_JWT_SUBJECT"),
            claims_namespace: self.text("CUBEJS_JWT_CLAIMS_NAMESPACE"),
            key_set: self.key_set(),
            playground_secret: self.text("CUBEJS_PLAYGROUND_AUTH_SECRET"),
        }
    }

    /// The first of these that is set (`http-api.md` §2.2).
    pub(super) fn secrets(&self) -> Vec<String> {
        if let Some(key) = self.text("CUBEJS_JWT_KEY") {
            return vec![key];
        }
        let mut several = self.list("CUBEJS_API_SECRETS").unwrap_or_default();
        let mut seen = std::collections::BTreeSet::new();
        several.retain(|secret| seen.insert(secret.clone()));
        if several.is_empty() { self.text("CUBEJS_API_SECRET").into_iter().collect() } else { several }
    }

    pub(super) fn key_set(&mut self) -> Option<KeySetOptions> {
        let defaults = KeySetOptions::new(self.text("CUBEJS_JWK_URL")?);
        let refetch_window = self.duration("QUARRY_JWK_REFETCH_WINDOW", defaults.refetch_window);
        Some(KeySetOptions { refetch_window, ..defaults })
    }

    /// Refuses to start where that would let everybody in.
    pub(super) fn check_safe(&mut self, config: &Config) {
        let checks = config.cube.as_ref().is_some_and(|cube| cube.options().has("checkAuth"));
        if !config.dev_mode && config.secrets.is_empty() && config.jwt.key_set.is_none() && !checks {
            let secret = uuid::Uuid::new_v4().simple();
            let (file, more) = (config.project.join(".env"), uuid::Uuid::new_v4().simple());
            self.faults.push(format!(
                "CUBEJS_API_SECRET is not set, so nobody could be told from anybody: add a line such as\n    \
                 CUBEJS_API_SECRET={secret}{more}\n  to {}, or use `quarry dev` on your own machine",
                file.display()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;

    #[test]
    fn a_key_set_stands_for_a_secret() {
        let config = load(&[("CUBEJS_JWK_URL", "http://keys"), ("QUARRY_JWK_REFETCH_WINDOW", "2")]).expect("valid");
        let key_set = config.jwt.key_set.expect("a key set");
        assert_eq!((key_set.url.as_str(), key_set.refetch_window.as_secs(), key_set.attempts), ("http://keys", 2, 3));
    }

    #[test]
    fn secrets_rotate() {
        let secrets = |values: &[(&str, &str)]| load(values).expect("valid").secrets;
        assert_eq!(secrets(&[("CUBEJS_API_SECRETS", "a, b,,a"), ("CUBEJS_API_SECRET", "c")]), ["a", "b"]);
        assert_eq!(secrets(&[("CUBEJS_JWT_KEY", "k"), ("CUBEJS_API_SECRET", "c")]), ["k"]);
    }
}
