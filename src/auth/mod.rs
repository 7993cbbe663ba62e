//! Who asks, and what they may use: tokens → [`SecurityContext`], endpoints → [`scope::Scope`].
//!
//! Knows nothing of the API's requests beyond the two header values it is handed.

pub mod jwt;
mod key_set;
mod keys;
pub mod scope;

/// The verified payload of a token, registered claims included (`http-api.md` §2.4).
#[derive(Debug, Clone, PartialEq)]
pub struct SecurityContext(pub serde_json::Value);

/// Why a request is not let in. The texts are Cube's (`http-api.md` §2.2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No token came with the request.
    #[error("Authorization header isn't set")]
    Missing,
    /// The token does not verify; why is nobody's business but the log's.
    #[error("Invalid token")]
    Invalid {
        /// For the log.
        cause: String,
    },
    /// The endpoint needs a scope that the caller does not have.
    #[error("API scope is missing: {0}")]
    Scope(scope::Scope),
}

/// The token of a request: `x-cube-authorization`, else `authorization`. Of several words the second
/// is the token, whatever the first (`http-api.md` §2.1). An empty header counts as missing.
pub fn token_of<'a>(cube_header: Option<&'a str>, header: Option<&'a str>) -> Option<&'a str> {
    let value = cube_header.or(header)?;
    let mut words = value.split(' ');
    let first = words.next().unwrap_or_default();
    let token = words.next().unwrap_or(first);
    (!token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cube_header: Option<&str>, header: Option<&str>, expected: Option<&str>) {
        assert_eq!(token_of(cube_header, header), expected, "{cube_header:?} {header:?}");
    }

    #[test]
    fn the_scheme_word_is_optional_and_never_checked() {
        check(None, Some("abc"), Some("abc"));
        check(None, Some("Bearer abc"), Some("abc"));
        check(None, Some("bearer abc def"), Some("abc"));
        check(None, Some("Anything abc"), Some("abc"));
        check(Some("abc"), Some("Bearer def"), Some("abc"));
    }

    #[test]
    fn empty_headers_are_missing_ones() {
        check(None, None, None);
        check(None, Some(""), None);
        check(None, Some("Bearer "), None);
        check(Some(""), Some("abc"), None);
    }
}
