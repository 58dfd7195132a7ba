use std::collections::HashMap;

use domain::TenantId;
use uuid::Uuid;

use crate::{Store, StoreError};

const ENSURE_TENANTS: &str = "-- ensure_tenants
INSERT INTO tenants (id) SELECT DISTINCT unnest($1::uuid[]) ON CONFLICT DO NOTHING";

const TENANT_EXISTS: &str = "-- tenant_exists
SELECT EXISTS (SELECT FROM tenants WHERE id = $1)";

const WEBHOOKS_VERSIONS: &str = "-- webhooks_versions
SELECT id, webhooks_version FROM tenants WHERE id = ANY($1)";

impl Store {
    /// Makes tenants known, on the trial plan. Those that are known stay as they are.
    pub async fn ensure_tenants(&self, tenants: &[TenantId]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
        let client = self.connection().await?;
        client.execute(&client.prepare_cached(ENSURE_TENANTS).await?, &[&ids]).await?;
        Ok(())
    }

    /// Whether the tenant is known.
    pub async fn tenant_exists(&self, tenant: TenantId) -> Result<bool, StoreError> {
        let client = self.connection().await?;
        let row = client.query_one(&client.prepare_cached(TENANT_EXISTS).await?, &[&tenant.0]).await?;
        Ok(row.get(0))
    }

    /// How often the webhooks of each of these tenants have changed so far.
    pub async fn webhooks_versions(
        &self,
        tenants: &[TenantId],
    ) -> Result<HashMap<TenantId, i64>, StoreError> {
        let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
        let client = self.connection().await?;
        let rows = client.query(&client.prepare_cached(WEBHOOKS_VERSIONS).await?, &[&ids]).await?;
        Ok(rows.iter().map(|row| (TenantId(row.get(0)), row.get(1))).collect())
    }
}
