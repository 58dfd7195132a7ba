//! The handlers, one file for each resource.

pub(crate) mod api_keys;
pub(crate) mod audit_log;
pub(crate) mod erasures;
pub(crate) mod event_batches;
pub(crate) mod event_deliveries;
pub(crate) mod event_feed;
pub(crate) mod event_previews;
pub(crate) mod event_types;
pub(crate) mod events;
pub(crate) mod history;
pub(crate) mod paging;
pub(crate) mod plans;
pub(crate) mod recoveries;
pub(crate) mod stored_events;
pub(crate) mod tenants;
pub(crate) mod webhooks;

use actix_web::web::{self, ServiceConfig};

use crate::error::{ApiError, Code};

/// Every route of the API. A path answers any other method with 405 and the methods it has; `HEAD` comes as `GET`
/// (`http/methods.rs`).
///
/// They are tried in this order, those with parameters by a regular expression each: the busiest comes first.
pub(crate) fn all(app: &mut ServiceConfig) {
    app.service(
        web::resource("/api/events")
            .route(web::post().to(events::publish))
            .route(web::get().to(event_feed::list))
            .default_service(web::to(async || not_allowed("GET, HEAD, POST"))),
    )
    .service(
        web::resource("/api/events/batch")
            .route(web::post().to(event_batches::publish))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/webhooks/events")
            .route(web::get().to(event_types::list))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/webhooks/events/{type}")
            .route(web::get().to(event_types::get))
            .route(web::put().to(event_types::put))
            .route(web::delete().to(event_types::delete))
            .default_service(web::to(async || not_allowed("GET, HEAD, PUT, DELETE"))),
    )
    .service(
        web::resource("/api/webhooks")
            .route(web::get().to(webhooks::read::list))
            .route(web::post().to(webhooks::create::create))
            .default_service(web::to(async || not_allowed("GET, HEAD, POST"))),
    )
    .service(
        web::resource("/api/webhooks/filter/test")
            .route(web::post().to(webhooks::filter_test::test))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/webhooks/retry-schedule/preview")
            .route(web::post().to(webhooks::retry_schedule::preview))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/webhooks/{id}")
            .route(web::get().to(webhooks::read::get))
            .route(web::patch().to(webhooks::change::change))
            .route(web::delete().to(webhooks::delete::delete))
            .default_service(web::to(async || not_allowed("GET, HEAD, PATCH, DELETE"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/pause")
            .route(web::post().to(webhooks::pause::pause))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/resume")
            .route(web::post().to(webhooks::pause::resume))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/webhooks/url/test")
            .route(web::post().to(webhooks::url::test))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/test")
            .route(web::post().to(webhooks::test::test))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/secret")
            .route(web::get().to(webhooks::secret::get))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/secret/rotate")
            .route(web::post().to(webhooks::secret::rotate))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/jwks.json")
            .route(web::get().to(webhooks::public_keys::get))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/history")
            .route(web::get().to(history::list))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/deliveries/{eventId}/resend")
            .route(web::post().to(webhooks::resend::resend))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/events/erasures")
            .route(web::post().to(erasures::erase))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/events/preview")
            .route(web::post().to(event_previews::preview))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/events/{id}")
            .route(web::get().to(stored_events::get))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/audit-log")
            .route(web::get().to(audit_log::list))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .configure(deliveries)
    .configure(administration);
}

fn deliveries(app: &mut ServiceConfig) {
    app.service(
        web::resource("/api/webhooks/{id}/history/{attemptId}")
            .route(web::get().to(history::get))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/statistics")
            .route(web::get().to(webhooks::statistics::get))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/deliveries")
            .route(web::get().to(webhooks::deliveries::list))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/deliveries/{eventId}/cancel")
            .route(web::post().to(webhooks::deliveries::cancel))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/recoveries")
            .route(web::get().to(recoveries::list))
            .route(web::post().to(recoveries::create))
            .default_service(web::to(async || not_allowed("GET, HEAD, POST"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/recoveries/{recoveryId}")
            .route(web::get().to(recoveries::get))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/webhooks/{id}/recoveries/{recoveryId}/cancel")
            .route(web::post().to(recoveries::cancel))
            .default_service(web::to(async || not_allowed("POST"))),
    )
    .service(
        web::resource("/api/events/{id}/deliveries")
            .route(web::get().to(event_deliveries::list))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    );
}

fn administration(app: &mut ServiceConfig) {
    app.service(
        web::resource("/api/api-keys")
            .route(web::get().to(api_keys::list))
            .route(web::post().to(api_keys::create))
            .default_service(web::to(async || not_allowed("GET, HEAD, POST"))),
    )
    .service(
        web::resource("/api/api-keys/{id}")
            .route(web::delete().to(api_keys::revoke))
            .default_service(web::to(async || not_allowed("DELETE"))),
    )
    .service(
        web::resource("/api/usage")
            .route(web::get().to(tenants::usage))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/tenants")
            .route(web::get().to(tenants::list))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/tenants/{id}")
            .route(web::get().to(tenants::get))
            .route(web::put().to(tenants::put))
            .default_service(web::to(async || not_allowed("GET, HEAD, PUT"))),
    )
    .service(
        web::resource("/api/plans")
            .route(web::get().to(plans::list))
            .default_service(web::to(async || not_allowed("GET, HEAD"))),
    )
    .service(
        web::resource("/api/plans/{name}")
            .route(web::put().to(plans::put))
            .route(web::delete().to(plans::delete))
            .default_service(web::to(async || not_allowed("PUT, DELETE"))),
    );
}

/// The answer to a path that does not exist.
pub(crate) async fn not_found() -> Result<&'static str, ApiError> {
    Err(ApiError::new(Code::NotFound, "No such path; the API is described at /docs"))
}

fn not_allowed(allow: &'static str) -> Result<&'static str, ApiError> {
    Err(ApiError::method_not_allowed(allow))
}
