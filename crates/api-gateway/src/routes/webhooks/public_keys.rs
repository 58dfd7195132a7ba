use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::{HttpResponse, web};
use chrono::Utc;
use serde::Serialize;
use signing::VerifyingKey;
use store::StoreError;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::parse_id;
use super::view::verifying_keys;
use crate::envelope::Failure;
use crate::error::{ApiError, Code};
use crate::state::State;

/// Most webhooks that are looked up for this at a time: it is open to all, and must leave the others their connections.
static LOOK_UPS: Semaphore = Semaphore::const_new(2);
/// How long a look-up may take, with the wait for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// A JSON Web Key Set (RFC 7517).
#[derive(Serialize, ToSchema)]
pub(crate) struct KeySet {
    /// The newest first. During a rotation those that were replaced are among them, until they end.
    keys: Vec<Jwk>,
}

/// A public key (RFC 8037).
#[derive(Serialize, ToSchema)]
pub(crate) struct Jwk {
    /// Its thumbprint (RFC 7638).
    #[schema(example = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")]
    kid: String,
    #[schema(example = "OKP")]
    kty: &'static str,
    #[schema(example = "Ed25519")]
    crv: &'static str,
    #[schema(example = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")]
    x: String,
    #[schema(example = "EdDSA")]
    alg: &'static str,
    #[serde(rename = "use")]
    #[schema(example = "sig")]
    usage: &'static str,
}

/// Get public keys
///
/// Public: what verifies deliveries of a webhook whose `signatureScheme` is or was `ed25519`, as a JSON Web Key Set without an
/// envelope, so that any library reads it. Keep it for five minutes at most, and read it again where no key verifies.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}/jwks.json",
    tag = "Webhooks",
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID")),
    responses(
        (status = 200, description = "The key set", body = KeySet),
        (status = 404, description = "`NOT_FOUND`: no such webhook, or it has no public keys", body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`: they cannot be read at the moment", body = Failure),
    ),
)]
pub(crate) async fn get(state: web::Data<State>, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let id = parse_id(&id)?;
    let found = async {
        let _turn = LOOK_UPS.acquire().await;
        state.store.webhook_of_any_tenant(id).await
    };
    let busy = |_| StoreError::Unavailable("public keys could not be looked up in time".to_owned());
    let webhook = timeout(PATIENCE, found).await.map_err(busy)??.ok_or_else(ApiError::webhook_not_found)?;
    let keys = webhook.signing_keys.map_err(StoreError::Sealed)?;
    let keys = verifying_keys(keys.as_ref(), Utc::now()).map(|(key, _)| jwk(&key)).collect::<Vec<_>>();
    if keys.is_empty() {
        return Err(ApiError::new(Code::NotFound, "Webhook not found"));
    }
    let mut response = HttpResponse::Ok().json(KeySet { keys });
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    Ok(response)
}

fn jwk(key: &VerifyingKey) -> Jwk {
    let (kid, x) = (key.id(), key.to_base64url());
    Jwk { kid, kty: "OKP", crv: "Ed25519", x, alg: "EdDSA", usage: "sig" }
}
