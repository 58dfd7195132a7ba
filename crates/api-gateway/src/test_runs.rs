//! Bounds tests: they make a gateway send requests to wherever a tenant says.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::web;
use domain::{Rate, TenantId, Throttle, Throttled, WebhookId};
use tokio::time::Instant;

use crate::error::ApiError;
use crate::state::State;

/// Tests a minute that one tenant can make, through each gateway.
const TESTS_PER_MINUTE: u32 = 10;
/// Tenants remembered.
const MAX_REMEMBERED: usize = 10_000;
/// When it is worth another try while a test of the same webhook is under way.
const UNDER_WAY_RETRY: Duration = Duration::from_secs(1);

/// The tests of a gateway.
pub(crate) struct TestRuns {
    since: Instant,
    runs: Mutex<Runs>,
}

#[derive(Default)]
struct Runs {
    under_way: HashSet<WebhookId>,
    tenants: HashMap<TenantId, Throttle>,
}

impl Default for TestRuns {
    fn default() -> Self {
        Self { since: Instant::now(), runs: Mutex::default() }
    }
}

impl TestRuns {
    /// Lets a test that concerns no webhook through.
    pub(crate) fn admit(&self, tenant: TenantId) -> Result<(), ApiError> {
        self.lock().take(tenant, self.since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runs {
    fn take(&mut self, tenant: TenantId, now: Duration) -> Result<(), ApiError> {
        let rate = rate();
        if self.tenants.len() >= MAX_REMEMBERED {
            self.tenants.retain(|_, throttle| throttle.remaining(rate, now) < rate.burst());
        }
        if self.tenants.len() >= MAX_REMEMBERED {
            self.tenants.clear();
        }
        self.tenants.entry(tenant).or_default().take(1, rate, now).map_err(|Throttled { wait }| {
            let message = format!("At most {TESTS_PER_MINUTE} tests a minute; try again later");
            ApiError::rate_limited(message, "tests", rate, wait)
        })
    }
}

/// A test of a webhook that is under way: the only one. It ends when this is dropped.
pub(crate) struct TestRun {
    state: web::Data<State>,
    webhook: WebhookId,
}

impl TestRun {
    /// Begins a test of a webhook.
    pub(crate) fn begin(
        state: web::Data<State>,
        tenant: TenantId,
        webhook: WebhookId,
    ) -> Result<Self, ApiError> {
        {
            let mut runs = state.test_runs.lock();
            if runs.under_way.contains(&webhook) {
                let message = "A test of this webhook is under way";
                return Err(ApiError::rate_limited(message, "tests", rate(), UNDER_WAY_RETRY));
            }
            runs.take(tenant, state.test_runs.since.elapsed())?;
            runs.under_way.insert(webhook);
        }
        Ok(Self { state, webhook })
    }
}

impl Drop for TestRun {
    fn drop(&mut self) {
        self.state.test_runs.lock().under_way.remove(&self.webhook);
    }
}

fn rate() -> Rate {
    Rate::per_minute(TESTS_PER_MINUTE)
}
