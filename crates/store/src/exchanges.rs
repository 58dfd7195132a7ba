use bytes::Bytes;
use chrono::{DateTime, Utc};
use domain::{CapturedResponse, Exchange, Headers, TenantId, WebhookId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::{AttemptCursor, AttemptRecord, Store, StoreError};

/// The exchanges of some attempts, as the columns of one statement.
#[derive(Default)]
pub(crate) struct ExchangeColumns<'a> {
    tenant_ids: Vec<Uuid>,
    webhook_ids: Vec<Uuid>,
    event_ids: Vec<&'a str>,
    started_at: Vec<DateTime<Utc>>,
    request_headers: Vec<String>,
    response_statuses: Vec<Option<i16>>,
    response_headers: Vec<Option<String>>,
    response_bodies: Vec<Option<&'a [u8]>>,
    headers_cut: Vec<bool>,
    body_cut: Vec<bool>,
    explanations: Vec<Option<String>>,
}

impl<'a> ExchangeColumns<'a> {
    pub(crate) fn of(attempts: &'a [AttemptRecord]) -> Self {
        let mut columns = Self::default();
        for attempt in attempts {
            let Some(exchange) = &attempt.exchange else { continue };
            let response = exchange.response.as_ref();
            columns.tenant_ids.push(attempt.tenant_id.0);
            columns.webhook_ids.push(attempt.key.webhook_id.0);
            columns.event_ids.push(attempt.key.event_id.as_str());
            columns.started_at.push(attempt.started_at);
            columns.request_headers.push(to_json(&exchange.request_headers));
            columns.response_statuses.push(response.and_then(|response| response.status.try_into().ok()));
            columns.response_headers.push(response.map(|response| to_json(&response.headers)));
            columns.response_bodies.push(response.map(|response| &response.body[..]));
            columns.headers_cut.push(response.is_some_and(|response| response.headers_cut));
            columns.body_cut.push(response.is_some_and(|response| response.body_cut));
            // A text of the database has no NUL; that of a header has none anyway.
            columns.explanations.push(exchange.explanation.as_ref().map(|text| text.replace('\0', "")));
        }
        columns
    }

    /// In the order of the statement's parameters.
    pub(crate) fn parameters(&self) -> [&(dyn ToSql + Sync); 11] {
        [
            &self.tenant_ids,
            &self.webhook_ids,
            &self.event_ids,
            &self.started_at,
            &self.request_headers,
            &self.response_statuses,
            &self.response_headers,
            &self.response_bodies,
            &self.headers_cut,
            &self.body_cut,
            &self.explanations,
        ]
    }
}

const GET_EXCHANGE: &str = "-- get_exchange
SELECT request_headers, response_status, response_headers, response_body, headers_cut, body_cut, explanation FROM attempt_exchanges
WHERE tenant_id = $1 AND webhook_id = $2 AND started_at = $3 AND event_id = $4";

impl Store {
    /// What was said on both sides of an attempt, if that is kept.
    pub async fn exchange(
        &self,
        tenant: TenantId,
        webhook: WebhookId,
        attempt: &AttemptCursor,
    ) -> Result<Option<Exchange>, StoreError> {
        let client = self.of_tenant(tenant).await?;
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&tenant.0, &webhook.0, &attempt.started_at, &attempt.event_id.as_str()];
        client.query_opt(GET_EXCHANGE, &parameters).await?.as_ref().map(read_exchange).transpose()
    }
}

fn to_json(headers: &Headers) -> String {
    serde_json::to_string(headers).expect("texts are JSON")
}

fn from_json(text: &str) -> Result<Headers, StoreError> {
    let unreadable = |error: serde_json::Error| domain::Invalid::new(error.to_string());
    serde_json::from_str(text).map_err(unreadable).map_err(StoreError::unreadable("attempt_exchanges"))
}

fn read_exchange(row: &Row) -> Result<Exchange, StoreError> {
    let response_headers: Option<&str> = row.get("response_headers");
    let read_response = |headers| {
        Ok::<_, StoreError>(CapturedResponse {
            status: row
                .get::<_, Option<i16>>("response_status")
                .unwrap_or_default()
                .try_into()
                .unwrap_or_default(),
            headers: from_json(headers)?,
            headers_cut: row.get("headers_cut"),
            body: Bytes::from(row.get::<_, Option<Vec<u8>>>("response_body").unwrap_or_default()),
            body_cut: row.get("body_cut"),
        })
    };
    Ok(Exchange {
        request_headers: from_json(row.get("request_headers"))?,
        response: response_headers.map(read_response).transpose()?,
        explanation: row.get("explanation"),
    })
}
