use actix_web::{HttpResponse, web};
use domain::{EventType, Scope, SessionId, Tag, parse_occurred_at};
use serde::{Deserialize, Serialize};
use store::{EventCursor, EventFilter};
use utoipa::{IntoParams, ToSchema};

use crate::auth::Authenticated;
use crate::body::{FieldErrors, Query};
use crate::cursor::{decode_event, encode_event};
use crate::envelope::Failure;
use crate::error::ApiError;
use crate::routes::stored_events::{EventView, view};
use crate::state::State;

/// Events of a page.
const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 100;

/// Which events to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct FeedQuery {
    /// A `nextCursor`: what was accepted after that. Absent: from the oldest that is kept.
    after: Option<String>,
    /// 1 to 100; 50 when absent. A page has fewer when it would be larger than some 4 MiB.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// Only events of this type.
    #[serde(rename = "type")]
    #[param(example = "message.received")]
    event_type: Option<String>,
    /// Only events of this session.
    session_id: Option<String>,
    /// Only events with this tag.
    tag: Option<String>,
    /// Only events accepted at this time or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Only events accepted before this time.
    #[param(format = DateTime)]
    to: Option<String>,
}

/// Events in the order in which they were taken over from the queue.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Feed {
    /// Always true.
    success: bool,
    data: Vec<EventView>,
    /// Give it as `after`, now or later, to go on from here. Null only while the tenant has no event at all.
    next_cursor: Option<String>,
    /// Whether there may be more at this moment. A page can have fewer events than asked for, or none, and more to follow.
    has_more: bool,
}

/// List events
///
/// For receivers who were away: every event of the tenant, in the order in which dispatchers took them over, for as long as
/// they are kept. Go on with `nextCursor` until `hasMore` is false, and keep it for the next time. No event is passed by: what
/// is still being taken over, and everything after it, is shown once it is there, as a rule within milliseconds. Events appear
/// when a dispatcher has taken them over, whether or not a webhook wanted them. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/events",
    tag = "Events",
    security(("bearer" = [])),
    params(FeedQuery),
    responses(
        (status = 200, description = "The events", body = Feed),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 503, description = "`SERVICE_UNAVAILABLE`", body = Failure),
    ),
)]
pub(crate) async fn list(
    caller: Authenticated,
    state: web::Data<State>,
    Query(query): Query<FeedQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let (after, limit, filter) = parse(query)?;
    let settled = state.settled.batch().await?;
    let page = state.store.events_after(tenant, after, settled, &filter, limit).await?;
    Ok(HttpResponse::Ok().json(Feed {
        success: true,
        data: page.events.into_iter().map(view).collect::<Result<_, _>>()?,
        next_cursor: page.next.as_ref().map(encode_event),
        has_more: page.has_more,
    }))
}

fn parse(query: FeedQuery) -> Result<(Option<EventCursor>, i64, EventFilter), ApiError> {
    let mut errors = FieldErrors::default();
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        errors.add("limit", format!("limit must be 1 to {MAX_LIMIT}"));
    }
    let time = |errors: &mut FieldErrors, field: &str, text: Option<String>| {
        let bad = |_| format!("{field} must be an RFC 3339 time with an offset, like 2026-05-30T10:00:00Z");
        text.and_then(|text| errors.keep(field, parse_occurred_at(&text).map_err(bad)))
    };
    let after = query.after.and_then(|after| errors.keep("after", decode_event(&after)));
    let filter = EventFilter {
        event_type: query.event_type.and_then(|name| errors.keep("type", name.parse::<EventType>())),
        session_id: query.session_id.and_then(|id| errors.keep("sessionId", id.parse::<SessionId>())),
        tag: query.tag.and_then(|tag| errors.keep("tag", tag.parse::<Tag>())),
        from: time(&mut errors, "from", query.from),
        to: time(&mut errors, "to", query.to),
    };
    if errors.is_empty() { Ok((after, limit, filter)) } else { Err(errors.into_error()) }
}
