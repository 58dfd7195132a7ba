use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use domain::{DEFAULT_OVERLAP, PreviousSecret, Scope, SecretBytes, SignatureScheme, Webhook, check_overlap};
use serde::{Deserialize, Serialize};
use signing::{Secret, SigningKey};
use store::StoreError;
use utoipa::ToSchema;

use super::view::{PublicKeyView, SignatureSchemeName, public_keys};
use super::{parse_id, timestamp};
use crate::auth::Authenticated;
use crate::body::{FieldErrors, OptionalJsonBody};
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::state::State;

/// What signs a webhook's deliveries, and what verifies them.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WebhookSecret {
    /// How deliveries are signed. With `ed25519` the secrets sign nothing.
    #[schema(value_type = SignatureSchemeName)]
    signature_scheme: &'static str,
    /// What verifies deliveries that are signed with `ed25519`, the newest first. The private keys are never shown.
    public_keys: Vec<PublicKeyView>,
    /// Verifies deliveries, with any Standard Webhooks library.
    #[schema(example = "whsec_eW91ci1zaWduaW5nLXNlY3JldA==")]
    secret: String,
    /// Those that it replaced and that sign yet, the newest first.
    previous: Vec<PreviousSecretView>,
}

/// A secret that was replaced and signs for a while yet.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PreviousSecret)]
pub(crate) struct PreviousSecretView {
    #[schema(example = "whsec_dGhlLXNlY3JldC1iZWZvcmU=")]
    secret: String,
    /// When it ends.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// How to replace a secret.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schema(example = json!({"overlapSeconds": 86400}))]
pub(crate) struct RotateSecret {
    /// The new secret, as at creation. Made up when absent. Not for a webhook that signs with `ed25519`.
    secret: Option<String>,
    /// How long the old secret signs beside the new one, in seconds: 0 to 604,800; a day when absent.
    #[schema(minimum = 0, maximum = 604_800)]
    overlap_seconds: Option<i64>,
}

/// Get secret
///
/// What signs the webhook's deliveries, with those secrets that were replaced and sign yet. Not to be cached. Scope
/// `webhooks:write`.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}/secret",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID")),
    responses(
        (status = 200, description = "The secret", body = Success<WebhookSecret>),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`: it cannot be read at the moment", body = Failure),
    ),
)]
pub(crate) async fn get(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let webhook =
        state.store.webhook(tenant, parse_id(&id)?).await?.ok_or_else(ApiError::webhook_not_found)?;
    let shown = shown(&webhook, Utc::now())?;
    // Nobody looks unseen.
    caller.store(&state).log_use("webhook.secret_read", &webhook.id.to_string()).await?;
    Ok(shown)
}

/// Rotate secret
///
/// Gives the webhook a new secret, or where `signatureScheme` is `ed25519` a new private key, whose public key is in the answer
/// and at `GET …/jwks.json`. For the time of the overlap each delivery carries the signatures of both, the new one first,
/// so that a receiver that knows either accepts it. Rotate, give the receiver the new secret within that time, and be done. At
/// most 5 secrets sign at a time. Setting `secret` by `PATCH` has no overlap, and ends those there are. Scope `webhooks:write`.
#[utoipa::path(
    post,
    path = "/api/webhooks/{id}/secret/rotate",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID")),
    request_body(content = Option<RotateSecret>, description = "May be absent"),
    responses(
        (status = 200, description = "The new secret", body = Success<WebhookSecret>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
        (status = 409, description = "`CONFLICT`: as many secrets sign as can", body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`: the old secret cannot be read; `PATCH` can replace it",
            body = Failure),
    ),
)]
pub(crate) async fn rotate(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    OptionalJsonBody(request): OptionalJsonBody<RotateSecret>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksWrite)?;
    let id = parse_id(&id)?;
    let request = request.unwrap_or_default();
    let mut errors = FieldErrors::default();
    let has_secret = request.secret.is_some();
    let secret = request.secret.map_or_else(|| Ok(Secret::generate()), |secret| secret.parse::<Secret>());
    let secret = errors.keep("secret", secret);
    let overlap = request.overlap_seconds.map_or(Ok(DEFAULT_OVERLAP), check_overlap);
    let overlap = errors.keep("overlapSeconds", overlap);
    let (Some(secret), Some(overlap)) = (secret, overlap) else { return Err(errors.into_error()) };
    let (store, now) = (caller.store(&state), Utc::now());
    let webhook = store.webhook(tenant, id).await?.ok_or_else(ApiError::webhook_not_found)?;
    let rotated = match webhook.delivery.signature_scheme {
        SignatureScheme::HmacSha256 => {
            let secret = SecretBytes::new(secret.expose_bytes());
            store.replace_secret(tenant, id, &secret, overlap, now).await?
        }
        SignatureScheme::Ed25519 if has_secret => {
            let problem = "the webhook signs with ed25519: its new key is made by Postrider";
            return Err(ApiError::field("secret", problem));
        }
        SignatureScheme::Ed25519 => {
            let key = SecretBytes::new(SigningKey::generate().expose_seed());
            store.replace_signing_key(tenant, id, &key, overlap, now).await?
        }
    };
    shown(&rotated.ok_or_else(ApiError::webhook_not_found)?, now)
}

fn shown(webhook: &Webhook, now: DateTime<Utc>) -> Result<HttpResponse, ApiError> {
    let secret = webhook.secret.clone().map_err(StoreError::Sealed)?;
    let previous = webhook.previous_secrets.clone().map_err(StoreError::Sealed)?;
    let live = previous.iter().filter(|previous| previous.is_live(now));
    let keys = webhook.signing_keys.as_ref().map_err(|reason| StoreError::Sealed(reason.clone()))?;
    let shown = WebhookSecret {
        signature_scheme: webhook.delivery.signature_scheme.code(),
        public_keys: public_keys(keys.as_ref()),
        secret: reveal(&secret)?,
        previous: live.map(view).collect::<Result<_, _>>()?,
    };
    let mut response = success(StatusCode::OK, shown);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn view(previous: &PreviousSecret) -> Result<PreviousSecretView, ApiError> {
    Ok(PreviousSecretView { secret: reveal(&previous.secret)?, expires_at: timestamp(previous.expires_at) })
}

fn reveal(secret: &SecretBytes) -> Result<String, ApiError> {
    let secret = Secret::from_bytes(secret.expose());
    secret.map(|secret| secret.reveal()).map_err(|error| ApiError::field("secret", error.to_string()))
}
