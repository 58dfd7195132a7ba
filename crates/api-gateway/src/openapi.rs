//! The OpenAPI document, generated from the handlers, and Swagger UI.

mod everywhere;
mod examples;

use actix_web::web::{self, ServiceConfig};
use domain::Scope;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::{Config, SwaggerUi};

use self::everywhere::Everywhere;
use self::examples::Examples;
use crate::routes::{
    api_keys, audit_log, erasures, event_batches, event_deliveries, event_feed, event_previews, event_types,
    events, history, plans, recoveries, stored_events, tenants, webhooks,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Postrider",
        description = "Webhooks that never get lost: subscribe HTTPS endpoints to events, publish events, read the \
            history of every delivery attempt.\n\nEvery answer is an envelope: `{\"success\": true, \"data\": …}` or \
            `{\"success\": false, \"message\", \"code\", \"errors\"}`."
    ),
    paths(
        event_types::list,
        event_types::get,
        event_types::put,
        event_types::delete,
        webhooks::read::list,
        webhooks::create::create,
        webhooks::read::get,
        webhooks::change::change,
        webhooks::delete::delete,
        webhooks::pause::pause,
        webhooks::pause::resume,
        webhooks::test::test,
        webhooks::secret::get,
        webhooks::secret::rotate,
        webhooks::public_keys::get,
        webhooks::url::test,
        webhooks::retry_schedule::preview,
        webhooks::filter_test::test,
        webhooks::resend::resend,
        webhooks::deliveries::list,
        webhooks::deliveries::cancel,
        webhooks::statistics::get,
        history::list,
        history::get,
        recoveries::create,
        recoveries::list,
        recoveries::get,
        recoveries::cancel,
        events::publish,
        event_batches::publish,
        event_previews::preview,
        event_feed::list,
        erasures::erase,
        stored_events::get,
        api_keys::list,
        api_keys::create,
        api_keys::revoke,
        audit_log::list,
        event_deliveries::list,
        tenants::usage,
        tenants::list,
        tenants::get,
        tenants::put,
        plans::list,
        plans::put,
        plans::delete
    ),
    tags(
        (name = "Webhooks", description = "Subscriptions and their history"),
        (name = "Recoveries", description = "Jobs that make deliveries again"),
        (name = "Events", description = "Publishing"),
        (name = "API keys", description = "Keys for programs, in place of access tokens"),
        (name = "Usage", description = "What a plan allows, and what was used of it"),
        (name = "Audit log", description = "Who did what, when and from where"),
        (name = "Administration", description = "Tenants and plans, for those who run the installation")
    ),
    modifiers(&Access, &Everywhere, &Examples)
)]
struct Document;

/// How callers say who they are, and what each operation asks of them.
struct Access;

impl Modify for Access {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scopes = Scope::ALL.map(Scope::as_str).join(", ");
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(format!(
                "An access token: a JWT with the claims sub, tenant_id, scope, exp, iss and aud. Scopes: {scopes}.",
            )))
            .build();
        let key = "An API key, as `POST /api/api-keys` makes them, in place of an access token. With both, a request is \
                   refused.";
        let key = ApiKey::Header(ApiKeyValue::with_description("X-API-Key", key));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(token));
        components.add_security_scheme("apiKey", SecurityScheme::ApiKey(key));
        for operation in document.paths.paths.values_mut().flat_map(operations) {
            if operation.security.is_some() {
                let scope = operation.description.as_deref().and_then(scope_in);
                let either = ["bearer", "apiKey"];
                operation.security = Some(either.map(|name| SecurityRequirement::new(name, scope)).into());
            }
        }
    }
}

/// What describes the API.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = path;
    [get, put, post, delete, patch].into_iter().flatten()
}

/// Each description names its scope for people; what names it for programs is made from that.
fn scope_in(description: &str) -> Option<&'static str> {
    let words = description.split_whitespace().collect::<Vec<_>>().join(" ");
    let is_named = |scope: &&str| words.contains(&format!("Scope `{scope}`"));
    Scope::ALL.map(Scope::as_str).into_iter().find(is_named)
}

/// `/openapi.json`, and Swagger UI at `/docs/`.
pub(crate) fn routes(app: &mut ServiceConfig) {
    let config = Config::from("/openapi.json").persist_authorization(true).try_it_out_enabled(true);
    app.service(web::redirect("/docs", "/docs/"))
        .service(SwaggerUi::new("/docs/{_:.*}").config(config).url("/openapi.json", document()));
}
