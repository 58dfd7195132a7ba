use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use domain::{DomainEvent, EventType, Exchange, TenantId};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::deliveries::DeliveryKey;
use crate::error::is_duplicate;
use crate::exchanges::ExchangeColumns;
use crate::{BatchId, Store, StoreError, outbox};

/// A row for the history.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// The delivery.
    pub key: DeliveryKey,
    /// The tenant of webhook and event.
    pub tenant_id: TenantId,
    /// The type of the event.
    pub event_type: EventType,
    /// 1 is the first.
    pub attempt: u32,
    /// When the request was begun.
    pub started_at: DateTime<Utc>,
    /// How long it took, to the end of the answer, in milliseconds.
    pub duration_ms: u32,
    /// The answer's status, if an answer came.
    pub status_code: Option<u16>,
    /// Why it failed; `None` means delivered.
    pub error: Option<&'static str>,
    /// When it is tried again; `None` after the last attempt.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// What made it, where its number does not tell.
    pub trigger: Option<Trigger>,
    /// What was said on both sides, if that is kept.
    pub exchange: Option<Box<Exchange>>,
}

/// What made an attempt. A retry has none, nor has the first attempt of a delivery that was made straight from its hand-over:
/// nearly all are of these, and their number tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The first attempt of a delivery that had waited for it as a row.
    First,
    /// The delivery was asked for again, by itself or by a recovery.
    Resend,
    /// The tenant tried its webhook out.
    Test,
    /// No attempt: the tenant cancelled the delivery.
    Cancel,
}

impl Trigger {
    /// The name the API shows and the database keeps.
    pub fn code(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Resend => "resend",
            Self::Test => "test",
            Self::Cancel => "cancel",
        }
    }
}

/// The new state of an unfinished delivery.
#[derive(Debug, Clone)]
pub struct Parked {
    /// The delivery.
    pub key: DeliveryKey,
    /// The tenant of webhook and event.
    pub tenant_id: TenantId,
    /// When the event was handed over.
    pub accepted_at: DateTime<Utc>,
    /// Attempts made so far.
    pub attempts: u32,
    /// When it may be taken; `None`: when its webhook's gate has room.
    pub due_at: Option<DateTime<Utc>>,
    /// Who is at it until then, if anybody is.
    pub leased_by: Option<Uuid>,
    /// The open batch it comes from, if it has no row yet. Neither a batch that another dispatcher has taken over meanwhile
    /// nor a row that another has finished comes back.
    pub batch: Option<BatchId>,
}

/// What a dispatcher has to write down at one moment. A delivery is in at most one of `parked` and `finished`.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Rows for the history.
    pub attempts: Vec<AttemptRecord>,
    /// Deliveries that go on later.
    pub parked: Vec<Parked>,
    /// Deliveries that have a row and need it no more.
    pub finished: Vec<DeliveryKey>,
    /// Batches whose last delivery settles with this. One that another dispatcher has taken over stays with it.
    pub settled: Vec<BatchId>,
}

impl Batch {
    /// How many results there are.
    pub fn len(&self) -> usize {
        self.attempts.len() + self.parked.len() + self.finished.len()
    }

    /// The results in two halves, neither empty where there are two or more. What was settled with them is left out.
    pub fn halve(mut self) -> (Self, Self) {
        let half = self.len() / 2;
        let attempts = half.min(self.attempts.len());
        let parked = (half - attempts).min(self.parked.len());
        let second = Self {
            attempts: self.attempts.split_off(attempts),
            parked: self.parked.split_off(parked),
            finished: self.finished.split_off(half - attempts - parked),
            settled: Vec::new(),
        };
        (Self { settled: Vec::new(), ..self }, second)
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
            && self.parked.is_empty()
            && self.finished.is_empty()
            && self.settled.is_empty()
    }
}

// One statement is one transaction and one round trip. Writing the same twice, after a connection was lost and nobody
// knows whether it was committed, changes nothing: the first statement fails at it, the second passes over it.
//
// Columns are unnested beside one another where rows are selected: in FROM each is copied whole first, five times the work.
//
// Rows are looked up one by one, by subqueries that give a value: for EXISTS and for joins the planner can decide to read all
// of a table instead.
macro_rules! record {
    ($name:literal, $repeats:literal, $exchanges:literal) => {
        concat!(
            "-- ",
            $name,
            "
WITH attempts AS (
    INSERT INTO delivery_attempts (tenant_id, webhook_id, event_id, event_day, event_type, attempt, started_at,
        duration_ms, status_code, error, next_attempt_at, trigger)
    SELECT unnest($1::uuid[]), unnest($2::uuid[]), unnest($3::text[]), unnest($4::date[]), unnest($5::text[]),
        unnest($6::integer[]), unnest($7::timestamptz[]), unnest($8::integer[]), unnest($9::smallint[]), unnest($10::text[]),
        unnest($11::timestamptz[]), unnest($26::text[])",
            $repeats,
            "
), parked AS (
    INSERT INTO deliveries AS d (tenant_id, webhook_id, event_id, event_day, accepted_at, attempts, due_at, leased_by)
    SELECT g.tenant_id, g.webhook_id, g.event_id, g.event_day, g.accepted_at, g.attempts, g.due_at, g.leased_by
    FROM (SELECT unnest($12::uuid[]) AS tenant_id, unnest($13::uuid[]) AS webhook_id, unnest($14::text[]) AS event_id,
            unnest($15::date[]) AS event_day, unnest($16::timestamptz[]) AS accepted_at, unnest($17::integer[]) AS attempts,
            unnest($18::timestamptz[]) AS due_at, unnest($19::uuid[]) AS leased_by, unnest($24::bigint[]) AS batch_id) AS g
    WHERE CASE WHEN g.batch_id IS NULL
        THEN (SELECT true FROM deliveries x
            WHERE x.webhook_id = g.webhook_id AND x.event_id = g.event_id AND x.event_day = g.event_day)
        ELSE (SELECT true FROM open_batches b WHERE b.id = g.batch_id AND b.leased_by = $25) END
    ON CONFLICT (webhook_id, event_id, event_day)
    DO UPDATE SET attempts = excluded.attempts, due_at = excluded.due_at, leased_by = excluded.leased_by
        -- One without an attempt of its own has nothing to say of a delivery that somebody else holds by now.
        WHERE d.attempts < excluded.attempts
            OR (d.attempts = excluded.attempts AND (d.leased_by IS NULL OR d.leased_by = $25))
), finished AS (
    DELETE FROM deliveries WHERE ctid = ANY (ARRAY(
        SELECT (SELECT d.ctid FROM deliveries d
            WHERE d.webhook_id = g.webhook_id AND d.event_id = g.event_id AND d.event_day = g.event_day)
        FROM (SELECT unnest($20::uuid[]) AS webhook_id, unnest($21::text[]) AS event_id,
            unnest($22::date[]) AS event_day) AS g))
)",
            $exchanges,
            "
DELETE FROM open_batches WHERE id = ANY($23) AND leased_by = $25"
        )
    };
}

/// For attempts that are new and of which no more is kept, as nearly all: looking first whether one is there costs a third of the
/// whole. One that was written before fails it.
const RECORD: &str = record!("record", "", "");

/// For any attempts, those written before and those of which more is kept among them.
const RECORD_ANY: &str = record!(
    "record_any",
    "
    ON CONFLICT DO NOTHING",
    ", exchanges AS (
    INSERT INTO attempt_exchanges (tenant_id, webhook_id, event_id, started_at, request_headers, response_status,
        response_headers, response_body, headers_cut, body_cut, explanation)
    SELECT unnest($27::uuid[]), unnest($28::uuid[]), unnest($29::text[]), unnest($30::timestamptz[]), unnest($31::text[]),
        unnest($32::smallint[]), unnest($33::text[]), unnest($34::bytea[]), unnest($35::boolean[]), unnest($36::boolean[]),
        unnest($37::text[])
    ON CONFLICT DO NOTHING
)"
);

impl Store {
    /// Writes a batch of results of `holder`'s down, all or nothing.
    pub async fn record(&self, batch: &Batch, holder: Uuid) -> Result<(), StoreError> {
        let exhausted: Vec<DomainEvent> = batch.attempts.iter().filter_map(outbox::exhausted).collect();
        let mut client = self.connection().await?;
        if !exhausted.is_empty() {
            let transaction = client.transaction().await?;
            write(&transaction, batch, holder, Form::Any).await?;
            outbox::announce(&transaction, &exhausted).await?;
            return Ok(transaction.commit().await?);
        }
        if batch.attempts.iter().all(|attempt| attempt.exchange.is_none()) {
            let written = write(&client, batch, holder, Form::New).await;
            if !written.as_ref().is_err_and(is_duplicate) {
                return Ok(written?);
            }
        }
        Ok(write(&client, batch, holder, Form::Any).await?)
    }
}

/// Which of the two statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    New,
    Any,
}

async fn write(
    client: &impl GenericClient,
    batch: &Batch,
    holder: Uuid,
    form: Form,
) -> Result<(), tokio_postgres::Error> {
    let attempts = &batch.attempts;
    let parked = &batch.parked;
    let finished = &batch.finished;
    let results: [&(dyn ToSql + Sync); 26] = [
        &column(attempts, |a| a.tenant_id.0),
        &column(attempts, |a| a.key.webhook_id.0),
        &column(attempts, |a| a.key.event_id.as_str()),
        &column(attempts, |a| a.key.event_day),
        &column(attempts, |a| a.event_type.as_str()),
        &column(attempts, |a| to_integer(a.attempt)),
        &column(attempts, |a| a.started_at),
        &column(attempts, |a| to_integer(a.duration_ms)),
        &column(attempts, |a| a.status_code.and_then(|status| i16::try_from(status).ok())),
        &column(attempts, |a| a.error),
        &column(attempts, |a| a.next_attempt_at),
        &column(parked, |p| p.tenant_id.0),
        &column(parked, |p| p.key.webhook_id.0),
        &column(parked, |p| p.key.event_id.as_str()),
        &column(parked, |p| p.key.event_day),
        &column(parked, |p| p.accepted_at),
        &column(parked, |p| to_integer(p.attempts)),
        &column(parked, |p| p.due_at),
        &column(parked, |p| p.leased_by),
        &column(finished, |key| key.webhook_id.0),
        &column(finished, |key| key.event_id.as_str()),
        &column(finished, |key| key.event_day),
        &batch.settled,
        &column(parked, |p| p.batch),
        &holder,
        &column(attempts, |a| a.trigger.map(Trigger::code)),
    ];
    match form {
        Form::New => client.execute(&client.prepare_cached(RECORD).await?, &results).await?,
        Form::Any => {
            let exchanges = ExchangeColumns::of(attempts);
            let parameters = [&results[..], &exchanges.parameters()].concat();
            client.execute(&client.prepare_cached(RECORD_ANY).await?, &parameters).await?
        }
    };
    Ok(())
}

fn column<'a, T, V>(rows: &'a [T], value: impl Fn(&'a T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

fn to_integer(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use domain::WebhookId;

    use super::*;

    #[test]
    fn halves_are_never_empty_and_lose_nothing() {
        let key = DeliveryKey {
            webhook_id: WebhookId::generate(),
            event_id: domain::EventId::generate(),
            event_day: chrono::NaiveDate::default(),
        };
        let parked = Parked {
            key: key.clone(),
            tenant_id: TenantId(Uuid::nil()),
            accepted_at: DateTime::UNIX_EPOCH,
            attempts: 0,
            due_at: None,
            leased_by: None,
            batch: None,
        };
        for (park, finish) in [(0, 2), (1, 1), (2, 0), (3, 4), (5, 0)] {
            let batch = Batch {
                parked: vec![parked.clone(); park],
                finished: vec![key.clone(); finish],
                settled: vec![1],
                ..Batch::default()
            };
            let (first, second) = batch.halve();
            assert!(!first.is_empty() && !second.is_empty(), "{park} {finish}");
            assert_eq!(first.parked.len() + second.parked.len(), park);
            assert_eq!(first.finished.len() + second.finished.len(), finish);
        }
    }
}
