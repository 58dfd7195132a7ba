use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use domain::{Invalid, Scope};
use serde::{Deserialize, Serialize};
use store::{AttemptCounts, Interval, Statistics};
use utoipa::{IntoParams, ToSchema};

use super::{parse_id, timestamp};
use crate::auth::Authenticated;
use crate::body::{FieldErrors, Query};
use crate::envelope::{Failure, Success, success};
use crate::error::ApiError;
use crate::routes::paging::parse_time;
use crate::state::State;

/// The longest range by the hour.
const MAX_HOURS: TimeDelta = TimeDelta::days(7);
/// The longest range by the day.
const MAX_DAYS: TimeDelta = TimeDelta::days(92);

/// What became of a webhook's attempts over time.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Statistics)]
pub(crate) struct StatisticsView {
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    to: String,
    /// `hour` or `day`, UTC.
    #[schema(example = "hour")]
    interval: &'static str,
    /// Null as a rule. Where the range has more than 200,000 attempts, only the newest are counted: from this time on. Ask for
    /// what is before it with `to`.
    #[schema(format = DateTime)]
    counted_from: Option<String>,
    /// Of the whole range.
    total: Counts,
    /// One for each hour or day, oldest first, also where nothing happened.
    buckets: Vec<Bucket>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = StatisticsBucket)]
struct Bucket {
    /// When it begins.
    #[schema(format = DateTime)]
    at: String,
    #[serde(flatten)]
    counts: Counts,
}

/// Attempts, counted. Tests are not among them, nor is what was cancelled without a request.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AttemptCounts)]
struct Counts {
    /// Requests made.
    attempts: i64,
    /// Those that were answered with 2xx.
    delivered: i64,
    /// Those that were not; a delivery that is tried again counts each time.
    failed: i64,
    /// The failed ones by error class, as in the history.
    #[schema(example = json!({"status": 3, "timeout": 1}))]
    failures: BTreeMap<String, i64>,
    /// How long half of the attempts took at most, in milliseconds; null where there was none.
    #[schema(example = 48)]
    p50_ms: Option<i32>,
    /// How long 95 of 100 took at most.
    #[schema(example = 210)]
    p95_ms: Option<i32>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct StatisticsQuery {
    /// Attempts begun at this time or later (RFC 3339); a day before `to` when absent, a week before it by the day.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<String>,
    /// Attempts begun before this time (RFC 3339); now when absent.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<String>,
    /// `hour`, for at most 7 days, or `day`, for at most 92; `hour` when absent.
    #[param(example = "hour")]
    interval: Option<String>,
}

/// Webhook statistics
///
/// How many attempts were made, what became of them and how long they took, by the hour or the day. Scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/api/webhooks/{id}/statistics",
    tag = "Webhooks",
    security(("bearer" = [])),
    params(("id" = String, Path, format = Uuid, description = "Webhook UUID"), StatisticsQuery),
    responses(
        (status = 200, description = "The statistics", body = Success<StatisticsView>),
        (status = 400, description = "`VALIDATION_ERROR`", body = Failure),
        (status = 401, description = "`UNAUTHORIZED`", body = Failure),
        (status = 403, description = "`FORBIDDEN`", body = Failure),
        (status = 404, description = "`NOT_FOUND`", body = Failure),
    ),
)]
pub(crate) async fn get(
    caller: Authenticated,
    state: web::Data<State>,
    id: web::Path<String>,
    Query(query): Query<StatisticsQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.may(Scope::WebhooksRead)?;
    let id = parse_id(&id)?;
    let range = Range::parse(&query, Utc::now())?;
    state.store.webhook(tenant, id).await?.ok_or_else(ApiError::webhook_not_found)?;
    let statistics = state.store.statistics(tenant, id, range.from, range.to, range.interval).await?;
    Ok(success(StatusCode::OK, StatisticsView::new(&range, statistics)))
}

struct Range {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    interval: Interval,
}

impl Range {
    fn parse(query: &StatisticsQuery, now: DateTime<Utc>) -> Result<Self, ApiError> {
        let mut errors = FieldErrors::default();
        let interval = errors.keep("interval", parse_interval(query.interval.as_deref()));
        let time = |field: &'static str, text: &Option<String>| {
            text.as_deref().map(|text| parse_time(field, text)).transpose()
        };
        let to = errors.keep("to", time("to", &query.to)).map(|to| to.unwrap_or(now));
        let from = errors.keep("from", time("from", &query.from));
        let (Some(interval), Some(to), Some(from)) = (interval, to, from) else {
            return Err(errors.into_error());
        };
        let (usual, longest, most) = match interval {
            Interval::Hour => (TimeDelta::days(1), MAX_HOURS, "7 days by the hour"),
            Interval::Day => (TimeDelta::days(7), MAX_DAYS, "92 days by the day"),
        };
        let from = from.unwrap_or(to - usual);
        if from >= to {
            return Err(ApiError::field("from", "from must be before to"));
        }
        if to - from > longest {
            return Err(ApiError::field("from", format!("the range must be at most {most}")));
        }
        Ok(Self { from, to, interval })
    }

    /// When each bucket begins.
    fn buckets(&self) -> impl Iterator<Item = DateTime<Utc>> {
        let length = match self.interval {
            Interval::Hour => TimeDelta::hours(1),
            Interval::Day => TimeDelta::days(1),
        };
        let (first, to) = (self.from.duration_trunc(length).unwrap_or(self.from), self.to);
        std::iter::successors(Some(first), move |at| Some(*at + length)).take_while(move |at| *at < to)
    }
}

fn parse_interval(text: Option<&str>) -> Result<Interval, Invalid> {
    match text {
        None | Some("hour") => Ok(Interval::Hour),
        Some("day") => Ok(Interval::Day),
        Some(_) => Err(Invalid::new("interval must be hour or day")),
    }
}

impl StatisticsView {
    fn new(range: &Range, mut statistics: Statistics) -> Self {
        let bucket = |at| {
            let counts = statistics.buckets.remove(&at).unwrap_or_default();
            Bucket { at: timestamp(at), counts: Counts::from(counts) }
        };
        Self {
            from: timestamp(range.from),
            to: timestamp(range.to),
            interval: range.interval.code(),
            counted_from: statistics.counted_from.map(timestamp),
            buckets: range.buckets().map(bucket).collect(),
            total: statistics.total.into(),
        }
    }
}

impl From<AttemptCounts> for Counts {
    fn from(counts: AttemptCounts) -> Self {
        let failed = counts.failed();
        Self {
            attempts: counts.delivered + failed,
            delivered: counts.delivered,
            failed,
            failures: counts.failures,
            p50_ms: counts.p50_ms,
            p95_ms: counts.p95_ms,
        }
    }
}
