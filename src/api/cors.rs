//! Cross-origin requests: the headers of Express `cors` with Cube's defaults (`http-api.md` §1.3).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, Any, CorsLayer};

use super::error::unknown_route;

/// Which origins may read answers.
#[derive(Clone)]
pub enum CorsOrigin {
    /// All: `*`.
    Any,
    /// All, each by its name, as credentials need it.
    Mirrored,
    /// One, whoever asks.
    One(String),
    /// Those named.
    Among(Vec<String>),
    /// Those that pass a test (a pattern of a configuration file).
    Tested(Arc<dyn Fn(&str) -> bool + Send + Sync>),
    /// None: no header is sent, and `OPTIONS` is a method like others.
    Off,
}

impl fmt::Debug for CorsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("Any"),
            Self::Mirrored => f.write_str("Mirrored"),
            Self::One(origin) => f.debug_tuple("One").field(origin).finish(),
            Self::Among(origins) => f.debug_tuple("Among").field(origins).finish(),
            Self::Tested(_) => f.write_str("Tested"),
            Self::Off => f.write_str("Off"),
        }
    }
}

/// The options of Express `cors`, by Cube's defaults.
#[derive(Debug, Clone)]
pub struct CorsOptions {
    /// Who may read answers.
    pub origin: CorsOrigin,
    /// Methods that a preflight allows.
    pub methods: Vec<String>,
    /// Headers that a preflight allows; those that it asks for when none are given.
    pub allowed_headers: Option<Vec<String>>,
    /// Headers of answers that scripts may read.
    pub exposed_headers: Vec<String>,
    /// Whether browsers may send cookies along.
    pub credentials: bool,
    /// How long a browser may remember a preflight.
    pub max_age: Option<Duration>,
    /// `OPTIONS` goes on to the routes.
    pub preflight_continue: bool,
    /// Status of a preflight.
    pub preflight_status: u16,
}

impl Default for CorsOptions {
    fn default() -> Self {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Self {
            origin: CorsOrigin::Any,
            methods: words(&["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"]),
            allowed_headers: Some(words(&["authorization", "content-type", "x-request-id"])),
            exposed_headers: Vec::new(),
            credentials: false,
            max_age: None,
            preflight_continue: false,
            preflight_status: 204,
        }
    }
}

/// The options cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CorsError {
    /// A word that cannot stand in a header.
    #[error("'{0}' in the settings of cross-origin requests cannot stand in a header")]
    Word(String),
    /// Browsers refuse it.
    #[error("cross-origin requests with credentials need named origins: browsers refuse them together with '*'")]
    CredentialsOfAll,
    /// No status of success.
    #[error("{0} is not the status of a successful preflight")]
    Status(u16),
}

/// The options, checked.
#[derive(Debug, Clone)]
pub struct Cors {
    layer: Option<CorsLayer>,
    preflight: Option<StatusCode>,
}

impl Cors {
    /// Checks options.
    ///
    /// # Errors
    /// See [`CorsError`].
    pub fn new(options: &CorsOptions) -> Result<Self, CorsError> {
        let status = StatusCode::from_u16(options.preflight_status).ok().filter(StatusCode::is_success);
        let status = status.ok_or(CorsError::Status(options.preflight_status))?;
        let origin = match &options.origin {
            CorsOrigin::Off => return Ok(Self { layer: None, preflight: None }),
            CorsOrigin::Any if options.credentials => return Err(CorsError::CredentialsOfAll),
            CorsOrigin::Any => AllowOrigin::from(Any),
            CorsOrigin::Mirrored => AllowOrigin::mirror_request(),
            CorsOrigin::One(origin) => AllowOrigin::exact(value(origin)?),
            CorsOrigin::Among(origins) => {
                let origins: Vec<HeaderValue> = origins.iter().map(|origin| value(origin)).collect::<Result<_, _>>()?;
                AllowOrigin::predicate(move |origin, _| origins.contains(origin))
            }
            CorsOrigin::Tested(test) => {
                let test = Arc::clone(test);
                AllowOrigin::predicate(move |origin, _| origin.to_str().is_ok_and(|origin| test(origin)))
            }
        };
        // Caches must know that the answer is one origin's, and nothing where it is everybody's.
        let vary = if matches!(options.origin, CorsOrigin::Any) { Vec::new() } else { vec![header::ORIGIN] };
        let methods =
            options.methods.iter().map(|word| word.parse::<Method>().map_err(|_bad| CorsError::Word(word.clone())));
        let allowed = match &options.allowed_headers {
            None => AllowHeaders::mirror_request(),
            Some(names) => AllowHeaders::list(names.iter().map(|word| name(word)).collect::<Result<Vec<_>, _>>()?),
        };
        let exposed = options.exposed_headers.iter().map(|word| name(word)).collect::<Result<Vec<_>, _>>()?;
        let mut layer = CorsLayer::new()
            .allow_origin(origin)
            .vary(vary)
            .allow_methods(AllowMethods::list(methods.collect::<Result<Vec<_>, _>>()?))
            .allow_headers(allowed)
            .allow_credentials(options.credentials);
        if !exposed.is_empty() {
            layer = layer.expose_headers(exposed);
        }
        if let Some(age) = options.max_age {
            layer = layer.max_age(age);
        }
        Ok(Self { layer: Some(layer), preflight: (!options.preflight_continue).then_some(status) })
    }

    /// Puts the headers on every answer, and answers preflights.
    pub(super) fn wrap(&self, router: axum::Router) -> axum::Router {
        let Some(layer) = &self.layer else { return router };
        let preflight = self.preflight;
        // The layer answers every `OPTIONS` by itself, with 200.
        let finish = move |request: Request, next: Next| async move {
            if request.method() != Method::OPTIONS {
                return next.run(request).await;
            }
            let path = request.uri().path().to_owned();
            let answered = next.run(request).await;
            let mut finished = match preflight {
                Some(status) => {
                    let mut empty = Response::new(Body::empty());
                    *empty.status_mut() = status;
                    empty
                }
                // It goes on to the routes, and there is none for it.
                None => unknown_route(Method::OPTIONS.as_str(), &path),
            };
            let headers = answered.headers().iter().filter(|(name, _)| *name != header::CONTENT_LENGTH);
            finished.headers_mut().extend(headers.map(|(name, value)| (name.clone(), value.clone())));
            finished
        };
        router.layer(layer.clone()).layer(axum::middleware::from_fn(finish))
    }
}

fn value(text: &str) -> Result<HeaderValue, CorsError> {
    text.parse().map_err(|_bad| CorsError::Word(text.to_owned()))
}

fn name(text: &str) -> Result<HeaderName, CorsError> {
    text.parse().map_err(|_bad| CorsError::Word(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_no_browser_takes_are_refused() {
        let check = |change: &dyn Fn(&mut CorsOptions)| {
            let mut options = CorsOptions::default();
            change(&mut options);
            Cors::new(&options).map(|_| ())
        };
        assert_eq!(check(&|_| ()), Ok(()));
        assert_eq!(check(&|options| options.credentials = true), Err(CorsError::CredentialsOfAll));
        assert_eq!(check(&|options| options.preflight_status = 404), Err(CorsError::Status(404)));
        let bad = "https://a\nb".to_owned();
        let word = || Err(CorsError::Word(bad.clone()));
        assert_eq!(check(&|options| options.origin = CorsOrigin::One(bad.clone())), word());
        assert_eq!(check(&|options| options.origin = CorsOrigin::Among(vec![bad.clone()])), word());
        assert_eq!(check(&|options| options.allowed_headers = Some(vec![bad.clone()])), word());
        assert_eq!(check(&|options| options.methods = vec![bad.clone()]), word());
        let named = |options: &mut CorsOptions| {
            options.origin = CorsOrigin::Mirrored;
            options.credentials = true;
        };
        assert_eq!(check(&named), Ok(()));
    }
}
