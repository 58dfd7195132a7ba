//! Which web pages of other origins may call the API from a browser. None, unless configuration says so.

use std::str::FromStr;

use actix_web::HttpResponse;
use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap,
    HeaderValue, ORIGIN, VARY,
};
use domain::Invalid;

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
/// What a page may send.
const REQUEST_HEADERS: &str =
    "authorization, content-type, idempotency-key, if-match, if-none-match, x-api-key, x-request-id";
/// What a page may read, besides what every page may.
const EXPOSED_HEADERS: &str = "allow, deprecation, etag, link, ratelimit, ratelimit-policy, retry-after, sunset, www-authenticate, x-request-id";
/// For how long a browser need not ask again, in seconds. None of them remembers longer than two hours.
const MAX_AGE: &str = "7200";

/// The origins whose pages may call the API. Cookies play no part, so none are allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Allowed);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Allowed {
    #[default]
    None,
    These(Vec<String>),
    All,
}

impl Origins {
    /// What `Access-Control-Allow-Origin` says to a page, if it is allowed.
    fn answer(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match &self.0 {
            Allowed::None => None,
            Allowed::These(origins) => {
                origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
            }
            Allowed::All => Some(HeaderValue::from_static("*")),
        }
    }
}

impl FromStr for Origins {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let origins: Vec<&str> = text.split(',').map(str::trim).filter(|origin| !origin.is_empty()).collect();
        match origins.as_slice() {
            [] => Ok(Self(Allowed::None)),
            ["*"] => Ok(Self(Allowed::All)),
            _ => Ok(Self(Allowed::These(origins.into_iter().map(parse_origin).collect::<Result<_, _>>()?))),
        }
    }
}

/// An origin just as browsers write it, since it is compared byte by byte.
fn parse_origin(text: &str) -> Result<String, Invalid> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let is_origin = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-:[]".contains(&byte));
    is_origin.then(|| text.to_owned()).ok_or_else(|| {
        Invalid::new(format!("{text:?} is not an origin like https://app.example.com, in small letters"))
    })
}

/// What a request asks of it.
pub(crate) struct Sharing {
    /// What the answer tells the page, if it may read it.
    allowed: Option<HeaderValue>,
    is_preflight: bool,
}

impl Sharing {
    /// Nothing where no page of another origin may call.
    pub(crate) fn of(request: &ServiceRequest, origins: &Origins) -> Option<Self> {
        if origins.0 == Allowed::None {
            return None;
        }
        let headers = request.headers();
        let allowed = headers.get(ORIGIN).and_then(|origin| origins.answer(origin));
        let is_preflight = request.method() == Method::OPTIONS
            && allowed.is_some()
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        Some(Self { allowed, is_preflight })
    }

    /// The answer to a browser that asks before its page's request.
    pub(crate) fn preflight(&self) -> Option<HttpResponse> {
        self.is_preflight.then(|| {
            HttpResponse::NoContent()
                .insert_header((ACCESS_CONTROL_ALLOW_METHODS, METHODS))
                .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS))
                .insert_header((ACCESS_CONTROL_MAX_AGE, MAX_AGE))
                .finish()
        })
    }

    pub(crate) fn end(self, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            if !self.is_preflight {
                headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_write_them() {
        assert_eq!("".parse::<Origins>().unwrap(), Origins::default());
        assert_eq!("*".parse::<Origins>().unwrap(), Origins(Allowed::All));
        let both = "https://app.example.com, http://localhost:3000".parse::<Origins>().unwrap();
        let answer = |origin| both.answer(&HeaderValue::from_static(origin)).is_some();
        assert!(answer("https://app.example.com") && answer("http://localhost:3000"));
        for other in
            ["null", "https://example.com", "https://app.example.com.evil.test", "http://app.example.com"]
        {
            assert!(!answer(other), "{other}");
        }
        for wrong in [
            "app.example.com",
            "https://App.example.com",
            "https://a.test/",
            "https://*.a.test",
            "*, https://a.test",
        ] {
            assert!(wrong.parse::<Origins>().is_err(), "{wrong}");
        }
    }
}
