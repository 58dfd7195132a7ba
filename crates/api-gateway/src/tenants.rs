//! Which tenants are known. Remembered, so that it costs the database one question for each.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::TenantId;
use store::{Store, StoreError};
use tokio::time::timeout;
use tracing::warn;

use crate::error::{ApiError, Code};

/// Tenants remembered before the memory is emptied and built anew.
const MAX_REMEMBERED: usize = 100_000;
/// How long publishing waits to make a tenant known. The dispatcher does it otherwise.
const PUBLISH_PATIENCE: Duration = Duration::from_millis(500);

pub(crate) struct Tenants {
    store: Store,
    auto_create: bool,
    known: Mutex<HashSet<TenantId>>,
}

impl Tenants {
    pub(crate) fn new(store: Store, auto_create: bool) -> Self {
        Self { store, auto_create, known: Mutex::default() }
    }

    /// Makes the tenant known, or refuses it where configuration says that operators do that.
    pub(crate) async fn admit(&self, tenant: TenantId) -> Result<(), ApiError> {
        if self.lock().contains(&tenant) {
            return Ok(());
        }
        if !self.find_or_create(tenant).await? {
            return Err(ApiError::new(Code::Forbidden, "The tenant is not known"));
        }
        self.remember(tenant);
        Ok(())
    }

    /// Like [`Tenants::admit`], but an absent database does not stop events where tenants make themselves known.
    pub(crate) async fn admit_publisher(&self, tenant: TenantId) -> Result<(), ApiError> {
        if !self.auto_create || self.lock().contains(&tenant) {
            return self.admit(tenant).await;
        }
        match timeout(PUBLISH_PATIENCE, self.find_or_create(tenant)).await {
            Ok(Ok(_)) => self.remember(tenant),
            Ok(Err(error)) => warn!(%error, %tenant, "a tenant is left to the dispatcher to make known"),
            Err(_) => warn!(%tenant, "a tenant is left to the dispatcher to make known"),
        }
        Ok(())
    }

    async fn find_or_create(&self, tenant: TenantId) -> Result<bool, StoreError> {
        if self.auto_create {
            self.store.ensure_tenants(&[tenant]).await?;
            return Ok(true);
        }
        self.store.tenant_exists(tenant).await
    }

    fn remember(&self, tenant: TenantId) {
        let mut known = self.lock();
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(tenant);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<TenantId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
