use std::sync::Arc;

use std::time::Duration;

use domain::{RetrySchedule, UrlPolicy};
use sender::Sender;
use store::Store;

use crate::api_keys::ApiKeys;
use crate::catalogue::Catalogue;
use crate::schema::SchemaValidation;
use crate::settled::Settled;
use crate::tenants::Tenants;
use crate::test_runs::TestRuns;
use crate::token_keys::TokenKeys;

/// What every handler can use.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) token_keys: Arc<TokenKeys>,
    pub(crate) api_keys: Arc<ApiKeys>,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) catalogue: Catalogue,
    pub(crate) settled: Settled,
    pub(crate) url_policy: UrlPolicy,
    /// For tests.
    pub(crate) sender: Sender,
    pub(crate) test_runs: TestRuns,
    /// That of webhooks without one of their own.
    pub(crate) retry_schedule: RetrySchedule,
    /// What is done about data that is not as its type's schema says.
    pub(crate) schema_validation: SchemaValidation,
    /// How long events are kept.
    pub(crate) retention: Duration,
}
