use chrono::{DateTime, Utc};

use crate::{AuditReport, Store, StoreError};

/// What the audits that dispatchers run by themselves have come to, since the installation began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditProgress {
    /// Events handed over before this are audited.
    pub audited_until: DateTime<Utc>,
    /// Events looked at.
    pub events: i64,
    /// Deliveries found lost.
    pub lost: i64,
    /// Deliveries that were scheduled again.
    pub repaired: i64,
}

const BEGIN_AUDIT: &str = "-- begin_audit
INSERT INTO audit_progress AS p (audited_until, leased_until) VALUES ($3, $2)
ON CONFLICT (is_only_row) DO UPDATE SET leased_until = $2 WHERE p.leased_until < $1
RETURNING audited_until";

const END_AUDIT: &str = "-- end_audit
UPDATE audit_progress SET audited_until = $1, leased_until = 'epoch',
    events = events + $2, lost = lost + $3, repaired = repaired + $4";

const AUDIT_PROGRESS: &str = "-- audit_progress
SELECT audited_until, events, lost, repaired FROM audit_progress";

impl Store {
    /// Makes the caller the one that audits, until `leased_until`, and says from when on; `None` while another is at it. The
    /// very first audit begins at `first`.
    pub async fn begin_audit(
        &self,
        now: DateTime<Utc>,
        leased_until: DateTime<Utc>,
        first: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let client = self.connection().await?;
        let statement = client.prepare_cached(BEGIN_AUDIT).await?;
        let row = client.query_opt(&statement, &[&now, &leased_until, &first]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Writes down how far the audit came, and what came of it.
    pub async fn end_audit(
        &self,
        until: DateTime<Utc>,
        report: &AuditReport,
        repaired: u64,
    ) -> Result<(), StoreError> {
        let integer = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let client = self.connection().await?;
        let statement = client.prepare_cached(END_AUDIT).await?;
        let counts = [report.events, report.lost, repaired].map(integer);
        client.execute(&statement, &[&until, &counts[0], &counts[1], &counts[2]]).await?;
        Ok(())
    }

    /// What the audits have come to; `None` before the first.
    pub async fn audit_progress(&self) -> Result<Option<AuditProgress>, StoreError> {
        let client = self.connection().await?;
        let row = client.query_opt(&client.prepare_cached(AUDIT_PROGRESS).await?, &[]).await?;
        Ok(row.map(|row| AuditProgress {
            audited_until: row.get(0),
            events: row.get(1),
            lost: row.get(2),
            repaired: row.get(3),
        }))
    }
}
