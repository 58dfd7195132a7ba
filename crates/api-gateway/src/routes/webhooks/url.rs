use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::Utc;
use domain::{EventId, Scope, WebhookUrl, render_body};
use sender::{Certificate, Connected, DryRun, FoundAddress, TlsHandshake};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::to_raw_value;
use signing::Secret;
use utoipa::ToSchema;

use super::timestamp;
use crate::auth::Authenticated;
use crate::body::{FieldErrors, JsonBody};
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::state::State;

/// A URL to follow.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"url": "https://api.yourapp.com/webhooks/actiwapi"}))]
pub(crate) struct TestUrl {
    /// The URL, right or wrong.
    #[schema(required = true, value_type = String)]
    url: Option<String>,
    /// Signs the example; one is made up when absent. It is not kept.
    secret: Option<String>,
}

/// What a URL leads to. A step that was not reached, because the one before it failed, is null.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UrlReport {
    /// Whether a delivery would come as far as its request.
    reachable: bool,
    /// The text of the URL.
    policy: PolicyStep,
    /// Where its host is.
    dns: Option<DnsStep>,
    /// The connection.
    connection: Option<ConnectionStep>,
    /// The TLS handshake; null for `http` too.
    tls: Option<TlsStep>,
    /// What a delivery is signed like.
    signature: SignatureExample,
}

/// Whether this installation delivers to such a URL.
#[derive(Serialize, ToSchema)]
struct PolicyStep {
    ok: bool,
    /// Null when it is.
    #[schema(example = "url must use https")]
    problem: Option<String>,
}

/// What the name servers say.
#[derive(Serialize, ToSchema)]
struct DnsStep {
    /// Whether there are addresses, each of them allowed: otherwise none is connected to.
    ok: bool,
    addresses: Vec<AddressView>,
    problem: Option<String>,
}

/// An address that the name leads to.
#[derive(Serialize, ToSchema)]
struct AddressView {
    /// Null for one that is refused.
    #[schema(example = "93.184.215.14")]
    address: Option<String>,
    #[schema(example = "ipv4")]
    family: &'static str,
    /// False for addresses that are not public.
    allowed: bool,
}

/// Whether a connection was opened.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ConnectionStep {
    ok: bool,
    /// To which address.
    address: Option<String>,
    duration_ms: Option<u64>,
    problem: Option<String>,
}

/// How the TLS handshake went.
#[derive(Serialize, ToSchema)]
struct TlsStep {
    ok: bool,
    #[schema(example = "TLS 1.3")]
    version: Option<&'static str>,
    /// What the receiver showed, whether or not it is trusted.
    certificate: Option<CertificateView>,
    #[schema(example = "invalid peer certificate: UnknownIssuer")]
    problem: Option<String>,
}

/// A receiver's certificate.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CertificateView {
    #[schema(example = "CN=api.yourapp.com")]
    subject: String,
    issuer: String,
    /// The names it is for, at most 20.
    names: Vec<String>,
    #[schema(format = DateTime)]
    not_before: String,
    #[schema(format = DateTime)]
    not_after: String,
}

/// A delivery that is made up: any Standard Webhooks library verifies `body` with `headers` and `secret`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SignatureExample {
    #[schema(example = "whsec_eW91ci1zaWduaW5nLXNlY3JldA==")]
    secret: String,
    headers: SignatureHeaders,
    body: String,
    /// What HMAC-SHA256 is taken of: id, timestamp and body, with dots between them. Its base64 after `v1,` is the signature.
    signed_content: String,
}

/// The headers of Standard Webhooks.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct SignatureHeaders {
    webhook_id: String,
    webhook_timestamp: String,
    webhook_signature: String,
}

/// Test URL
///
/// Follows a URL under the rules of every delivery and says what is met: whether its text is allowed, where its name leads,
/// which addresses are refused, whether a connection opens, and what TLS comes to. No request is made. Addresses that are
/// refused are neither connected to nor told. With an example to verify your own verification with. Counts as a test: ten a
/// minute of a tenant through each gateway. Takes at most ten seconds. Scope `webhooks:write`.
#[utoipa::path(
    post,
    path = "/api/webhooks/url/test",
    tag = "Webhooks",
    security(("bearer" = [])),
    request_body = TestUrl,
    responses(
        (status = 200, description = "What the URL leads to: see `reachable`", body = Success<UrlReport>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 429, description = "`RATE_LIMITED`: see `Retry-After`", body = Failure),
    ),
)]
pub(crate) async fn test(
    caller: Authenticated,
    state: web::Data<State>,
    JsonBody(request): JsonBody<TestUrl>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let mut errors = FieldErrors::default();
    let text = errors.require("url", request.url, Ok::<_, String>);
    let secret = request.secret.map_or_else(|| Ok(Secret::generate()), |secret| secret.parse::<Secret>());
    let secret = errors.keep("secret", secret);
    let (Some(text), Some(secret)) = (text, secret) else { return Err(errors.into_error()) };
    state.test_runs.admit(tenant)?;
    let run = match WebhookUrl::parse_stored(&text) {
        Ok(url) => state.sender.dry_run(&url).await,
        Err(problem) => DryRun::of_text(Err(problem.to_string())),
    };
    Ok(success(StatusCode::OK, UrlReport::new(run, SignatureExample::new(&secret)?)))
}

impl UrlReport {
    fn new(run: DryRun, signature: SignatureExample) -> Self {
        Self {
            reachable: run.is_reachable(),
            policy: PolicyStep { ok: run.policy.is_ok(), problem: run.policy.err() },
            dns: run.addresses.map(DnsStep::new),
            connection: run.connection.map(ConnectionStep::new),
            tls: run.tls.map(TlsStep::new),
            signature,
        }
    }
}

impl DnsStep {
    fn new(found: Result<Vec<FoundAddress>, String>) -> Self {
        let addresses: Vec<AddressView> =
            found.as_deref().unwrap_or_default().iter().map(AddressView::new).collect();
        let ok = found.is_ok() && addresses.iter().all(|address| address.allowed);
        let refused = (!ok).then(|| "the name leads to an address that is not public".to_owned());
        Self { ok, addresses, problem: found.err().or(refused) }
    }
}

impl AddressView {
    fn new(found: &FoundAddress) -> Self {
        let (address, is_ipv6) = match found {
            FoundAddress::Allowed(address) => (Some(address.to_string()), address.is_ipv6()),
            FoundAddress::Refused { is_ipv6 } => (None, *is_ipv6),
        };
        Self { allowed: address.is_some(), address, family: if is_ipv6 { "ipv6" } else { "ipv4" } }
    }
}

impl ConnectionStep {
    fn new(connection: Result<Connected, String>) -> Self {
        match connection {
            Ok(Connected { address, duration }) => Self {
                ok: true,
                address: Some(address.to_string()),
                duration_ms: u64::try_from(duration.as_millis()).ok(),
                problem: None,
            },
            Err(problem) => Self { ok: false, address: None, duration_ms: None, problem: Some(problem) },
        }
    }
}

impl TlsStep {
    fn new(tls: TlsHandshake) -> Self {
        let certificate = tls.certificate.map(|certificate| {
            let Certificate { subject, issuer, names, not_before, not_after } = certificate;
            let (not_before, not_after) = (timestamp(not_before), timestamp(not_after));
            CertificateView { subject, issuer, names, not_before, not_after }
        });
        let (version, problem) = match tls.version {
            Ok(version) => (Some(version), None),
            Err(problem) => (None, Some(problem)),
        };
        Self { ok: version.is_some(), version, certificate, problem }
    }
}

impl SignatureExample {
    fn new(secret: &Secret) -> Result<Self, ApiError> {
        let (id, now) = (EventId::generate(), Utc::now());
        let invalid = |error: &dyn std::fmt::Display| ApiError::field("body", error.to_string());
        let event_type = "message.received".parse().map_err(|error: domain::Invalid| invalid(&error))?;
        let data = to_raw_value(&json!({"test": true})).map_err(|error| invalid(&error))?;
        let body = String::from_utf8_lossy(&render_body(&id, &event_type, now, &data)).into_owned();
        let (id, timestamp) = (id.to_header(), now.timestamp());
        Ok(Self {
            secret: secret.reveal(),
            signed_content: format!("{id}.{timestamp}.{body}"),
            headers: SignatureHeaders {
                webhook_signature: signing::sign([secret], &id, timestamp, body.as_bytes()),
                webhook_id: id,
                webhook_timestamp: timestamp.to_string(),
            },
            body,
        })
    }
}
