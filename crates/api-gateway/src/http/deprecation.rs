//! Tells clients, in every answer of a route that will go, since when that is known, when it goes, and what to use instead:
//! `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link`.

use actix_web::body::MessageBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue, LINK};
use chrono::{DateTime, Utc};

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// A route that will go.
#[derive(Debug, Clone)]
pub(crate) struct Deprecated {
    /// `GET`, `POST` …
    pub(crate) method: &'static str,
    /// The pattern of its path.
    pub(crate) path: &'static str,
    /// When it was said.
    pub(crate) since: DateTime<Utc>,
    /// Until when it is served.
    pub(crate) until: DateTime<Utc>,
    /// The path to use instead.
    pub(crate) instead: &'static str,
}

/// The routes that will go. Each stays for at least six months after it is entered here, and is `deprecated` in the OpenAPI
/// document from then on.
pub(crate) fn routes() -> Vec<Deprecated> {
    Vec::new()
}

/// Says it in the answer, where its route is one of them.
pub(crate) fn announce(routes: &[Deprecated], response: &mut ServiceResponse<impl MessageBody>) {
    if routes.is_empty() {
        return;
    }
    let request = response.request();
    let Some(pattern) = request.match_pattern() else { return };
    let method = request.method().as_str();
    if let Some(route) = routes.iter().find(|route| route.path == pattern && route.method == method) {
        add_headers(response.headers_mut(), route);
    }
}

fn add_headers(headers: &mut HeaderMap, route: &Deprecated) {
    let since = format!("@{}", route.since.timestamp());
    let until = route.until.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let link = format!("<{}>; rel=\"successor-version\"", route.instead);
    for (name, value) in [(DEPRECATION, since), (SUNSET, until), (LINK, link)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::middleware::{Next, from_fn};
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpResponse, web};

    use super::*;

    #[actix_web::test]
    async fn a_route_that_will_go_says_so_in_every_answer_and_no_other_does() {
        let old = Deprecated {
            method: "GET",
            path: "/api/old/{id}",
            since: "2026-11-01T00:00:00Z".parse().unwrap(),
            until: "2027-06-01T00:00:00Z".parse().unwrap(),
            instead: "/api/new/{id}",
        };
        let gone = async || HttpResponse::NotFound();
        let app = App::new()
            .wrap(from_fn(move |request, next: Next<_>| {
                let old = old.clone();
                async move {
                    let mut response = next.call(request).await?;
                    announce(&[old], &mut response);
                    Ok::<_, actix_web::Error>(response)
                }
            }))
            .route("/api/old/{id}", web::get().to(gone))
            .route("/api/new/{id}", web::get().to(gone));
        let app = init_service(app).await;
        let said = call_service(&app, TestRequest::get().uri("/api/old/7").to_request()).await;
        let header = |name: &str| said.headers().get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("deprecation"), Some("@1793491200"));
        assert_eq!(header("sunset"), Some("Tue, 01 Jun 2027 00:00:00 GMT"));
        assert_eq!(header("link"), Some("</api/new/{id}>; rel=\"successor-version\""));
        let silent = call_service(&app, TestRequest::get().uri("/api/new/7").to_request()).await;
        assert!(!silent.headers().contains_key("deprecation") && !silent.headers().contains_key("sunset"));
    }
}
