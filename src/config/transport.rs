//! Settings of the listener and of browsers.

use std::time::Duration;

use super::reader::Reader;
use crate::api::{BASE_PATH, ConnectionLimits, CorsOptions, CorsOrigin};
use crate::hooks::CubeJs;

impl Reader {
    /// `/` at the end does not count: `/` alone stands for no base at all.
    pub(super) fn base_path(&mut self) -> String {
        self.path("CUBEJS_BASE_PATH").unwrap_or_else(|| BASE_PATH.to_owned())
    }

    /// Without `/` at the end, as above.
    pub(super) fn web_sockets_path(&mut self) -> Option<String> {
        self.path("QUARRY_WEB_SOCKETS_BASE_PATH")
    }

    fn path(&mut self, name: &'static str) -> Option<String> {
        let text = self.text(name)?;
        let is_path = text.starts_with('/') && !text.contains(['?', '#', ' ', '{', '%']) && !text.contains("//");
        if !is_path {
            self.fault(name, &text, "a path such as /api");
        }
        Some(text.trim_end_matches('/').to_owned())
    }

    /// What `cube.js` says is stronger, key by key.
    pub(super) fn cors(&mut self, cube: Option<&CubeJs>) -> CorsOptions {
        let credentials = self.boolean("QUARRY_CORS_CREDENTIALS", false);
        let origin = match self.list("QUARRY_CORS_ORIGINS") {
            None => CorsOrigin::Any,
            Some(list) if list == ["*"] => CorsOrigin::Any,
            Some(list) => {
                for origin in list.iter().filter(|origin| !is_origin(origin)) {
                    self.fault(
                        "QUARRY_CORS_ORIGINS",
                        origin,
                        "a list of origins such as https://app.example.com, or *",
                    );
                }
                CorsOrigin::Among(list)
            }
        };
        self.cors_of(cube, CorsOptions { origin, credentials, ..CorsOptions::default() })
    }

    pub(super) fn connections(&mut self) -> ConnectionLimits {
        ConnectionLimits {
            head: self.milliseconds("CUBEJS_SERVER_HEADERS_TIMEOUT", Duration::from_secs(60)),
            // Longer than that of usual proxies, which would otherwise meet connections that are just being closed.
            idle: self.milliseconds("CUBEJS_SERVER_KEEP_ALIVE_TIMEOUT", Duration::from_secs(75)),
            stalled: self.duration("QUARRY_WRITE_TIMEOUT", Duration::from_secs(60)),
            most: self.number("QUARRY_MAX_CONNECTIONS", 10_000, 1..=1_000_000),
        }
    }

    fn milliseconds(&mut self, name: &str, default: Duration) -> Duration {
        // The default is a number of seconds.
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.number(name, default, 1..=86_400_000))
    }
}

/// Scheme and host, and nothing behind.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', ' ', '?', '#', '@']))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::super::{Config, Overrides};
    use super::*;

    fn load(values: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let all = [("CUBEJS_API_SECRET", "s")].into_iter().chain(values.iter().copied());
        let values: BTreeMap<_, _> = all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Config::from_values(Path::new("project"), values, &Overrides::default(), Vec::new()).map_err(|error| error.0)
    }

    #[test]
    fn the_base_path_is_a_path() {
        let base = |text: &str| load(&[("CUBEJS_BASE_PATH", text)]).map(|config| config.base_path);
        assert_eq!(load(&[]).expect("valid").base_path, "/cubejs-api");
        for (text, expected) in [("/api", "/api"), ("/api/", "/api"), ("/", ""), ("/a/b", "/a/b")] {
            assert_eq!(base(text).expect("valid"), expected);
        }
        for text in ["api", "/a?b", "//", "https://x/api", "/a b"] {
            assert!(base(text).is_err(), "{text}");
        }
    }

    #[test]
    fn origins_are_origins() {
        let origins = |text: &str| load(&[("QUARRY_CORS_ORIGINS", text)]).map(|config| config.cors.origin);
        assert!(matches!(origins("*"), Ok(CorsOrigin::Any)));
        let two = origins("https://a.example, http://localhost:3000").expect("valid");
        assert!(matches!(two, CorsOrigin::Among(list) if list == ["https://a.example", "http://localhost:3000"]));
        for text in ["a.example", "https://a.example/", "https://*.example", "*, https://a.example"] {
            assert!(origins(text).is_err(), "{text}");
        }
    }

    #[test]
    fn timeouts_of_cube_are_milliseconds() {
        let limits = |values: &[(&str, &str)]| load(values).expect("valid").connections;
        let set = [("CUBEJS_SERVER_HEADERS_TIMEOUT", "1500"), ("CUBEJS_SERVER_KEEP_ALIVE_TIMEOUT", "250")];
        assert_eq!(limits(&set).head, Duration::from_millis(1500));
        assert_eq!(limits(&set).idle, Duration::from_millis(250));
        assert_eq!(limits(&[("QUARRY_WRITE_TIMEOUT", "2m")]).stalled, Duration::from_secs(120));
        assert!(load(&[("CUBEJS_SERVER_HEADERS_TIMEOUT", "1s")]).is_err());
    }
}
