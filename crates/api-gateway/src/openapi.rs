//! The OpenAPI document, generated from the handlers, and Swagger UI.

use actix_web::web::{self, ServiceConfig};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::routes::{event_batches, event_types, events, history, plans, stored_events, tenants, webhooks};

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
        webhooks::url::test,
        webhooks::retry_schedule::preview,
        webhooks::filter_test::test,
        webhooks::resend::resend,
        history::list,
        events::publish,
        event_batches::publish,
        stored_events::get,
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
        (name = "Events", description = "Publishing"),
        (name = "Usage", description = "What a plan allows, and what was used of it"),
        (name = "Administration", description = "Tenants and plans, for those who run the installation")
    ),
    modifiers(&Bearer)
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some(
                "An access token: a JWT (HS256) with the claims sub, tenant_id, scope, exp, iss and aud. Scopes: \
                 webhooks:read, webhooks:write, events:publish, admin.",
            ))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// What describes the API.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// `/openapi.json`, and Swagger UI at `/docs/`.
pub(crate) fn routes(app: &mut ServiceConfig) {
    let config = Config::from("/openapi.json").persist_authorization(true).try_it_out_enabled(true);
    app.service(web::redirect("/docs", "/docs/"))
        .service(SwaggerUi::new("/docs/{_:.*}").config(config).url("/openapi.json", document()));
}
