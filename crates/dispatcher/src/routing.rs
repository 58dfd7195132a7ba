//! Which webhooks an event goes to, from memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{Event, EventData, TenantId, WebhookId};
use sender::Target;
use store::{Store, StoreError};

/// The webhooks of tenants that had events lately, each as of a known version.
pub(crate) struct Routing {
    store: Store,
    tenants: Mutex<HashMap<TenantId, TenantWebhooks>>,
}

#[derive(Clone)]
struct TenantWebhooks {
    version: i64,
    targets: Arc<[Arc<Target>]>,
}

impl Routing {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, tenants: Mutex::default() }
    }

    /// Makes sure that what is known of these tenants is at least as new as these versions.
    pub(crate) async fn refresh(&self, versions: &HashMap<TenantId, i64>) -> Result<(), StoreError> {
        let stale: Vec<TenantId> = {
            let tenants = self.lock();
            let is_stale = |tenant: &TenantId, version: i64| {
                tenants.get(tenant).is_none_or(|known| known.version < version)
            };
            versions.iter().filter(|(tenant, version)| is_stale(tenant, **version)).map(|(t, _)| *t).collect()
        };
        if stale.is_empty() {
            return Ok(());
        }
        // Read after their version: they may be newer than it says, never older.
        let loaded = self.store.webhooks_of_tenants(&stale).await?;
        let mut tenants = self.lock();
        for (tenant, webhooks) in loaded {
            let targets = webhooks.into_iter().map(Target::new).map(Arc::new).collect();
            let version = versions.get(&tenant).copied().unwrap_or_default();
            // Another task may have read a later state meanwhile.
            if tenants.get(&tenant).is_none_or(|known| known.version <= version) {
                tenants.insert(tenant, TenantWebhooks { version, targets });
            }
        }
        Ok(())
    }

    /// Like [`Routing::refresh`], with the versions of this moment.
    pub(crate) async fn refresh_now(&self, tenants: HashSet<TenantId>) -> Result<(), StoreError> {
        if tenants.is_empty() {
            return Ok(());
        }
        let tenants: Vec<TenantId> = tenants.into_iter().collect();
        self.refresh(&self.store.webhooks_versions(&tenants).await?).await
    }

    /// The webhooks that want an event.
    pub(crate) fn matching(&self, event: &Event) -> Vec<Arc<Target>> {
        let targets = self.targets(event.tenant_id);
        let data = EventData::of_body(&event.body);
        targets.iter().filter(|target| target.webhook.matches(event, &data)).cloned().collect()
    }

    /// One webhook, if it is there and on.
    pub(crate) fn active(&self, tenant: TenantId, webhook: WebhookId) -> Option<Arc<Target>> {
        let targets = self.targets(tenant);
        targets.iter().find(|target| target.webhook.id == webhook && target.webhook.is_active).cloned()
    }

    fn targets(&self, tenant: TenantId) -> Arc<[Arc<Target>]> {
        self.lock().get(&tenant).map(|known| known.targets.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, TenantWebhooks>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
