use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use crate::events::{StoredEvent, event_columns, read_event};
use crate::{BatchId, Lease, Store, StoreError};

/// An open batch whose holder went silent, with its events.
#[derive(Debug, Clone)]
pub struct TakenOver {
    /// The batch, now leased to who asked.
    pub id: BatchId,
    /// Its events.
    pub events: Vec<StoredEvent>,
}

const RENEW_BATCHES: &str = "-- renew_batches
UPDATE open_batches SET leased_until = $3 WHERE id = ANY($1) AND leased_by = $2";

const TAKE_OVER_BATCH: &str = "-- take_over_batch
UPDATE open_batches SET leased_by = $2, leased_until = $3
WHERE id = (
    SELECT id FROM open_batches WHERE leased_until < $1 AND id <> ALL($4) ORDER BY leased_until LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, day";

const EVENTS_OF_BATCH: &str = concat!(
    "-- events_of_batch
SELECT ",
    event_columns!(),
    " FROM events e WHERE e.day = $1 AND e.batch_id = $2"
);

const EXPIRE_BATCHES: &str = "-- expire_batches
UPDATE open_batches SET leased_until = $2 WHERE leased_by = $1";

impl Store {
    /// Keeps batches leased. Says how many still are.
    pub async fn renew_batches(&self, ids: &[BatchId], lease: Lease) -> Result<u64, StoreError> {
        let client = self.connection().await?;
        let statement = client.prepare_cached(RENEW_BATCHES).await?;
        Ok(client.execute(&statement, &[&ids, &lease.holder, &lease.until]).await?)
    }

    /// Takes the batch whose lease ran out first, if there is one. Not those in `except`, which the taker itself is at:
    /// their results wait to be written down.
    pub async fn take_over_batch(
        &self,
        now: DateTime<Utc>,
        lease: Lease,
        except: &[BatchId],
    ) -> Result<Option<TakenOver>, StoreError> {
        let client = self.connection().await?;
        let statement = client.prepare_cached(TAKE_OVER_BATCH).await?;
        let Some(batch) = client.query_opt(&statement, &[&now, &lease.holder, &lease.until, &except]).await?
        else {
            return Ok(None);
        };
        let (id, day): (BatchId, NaiveDate) = (batch.get(0), batch.get(1));
        let rows = client.query(&client.prepare_cached(EVENTS_OF_BATCH).await?, &[&day, &id]).await?;
        Ok(Some(TakenOver { id, events: rows.iter().map(read_event).collect::<Result<_, _>>()? }))
    }

    /// Lets go of every batch of a dispatcher that is leaving, so that the others need not wait for its leases.
    pub async fn expire_batches(&self, holder: Uuid, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let client = self.connection().await?;
        let statement = client.prepare_cached(EXPIRE_BATCHES).await?;
        Ok(client.execute(&statement, &[&holder, &now]).await?)
    }
}
