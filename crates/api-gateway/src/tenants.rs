//! Which tenants are known, whether their subscriptions are in force, and what they use of what their plans allow.
//!
//! All of it is in memory, so that a request costs the database nothing. Each second the gateway writes down what it has
//! counted, and reads what the tenants that were active have used at all gateways together ([`Tenants::follow`]).

mod account;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{Days, NaiveDate, TimeDelta, Utc};
use domain::{Backoff, Rate, TenantId};
use store::{Store, StoreError, UsageCount};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use self::account::{Account, Refusal};
use crate::error::{ApiError, Code};

/// Tenants remembered. Those that have been quiet the longest are forgotten beyond that.
const MAX_REMEMBERED: usize = 100_000;
/// How long a request waits to get to know its tenant. One that publishes goes on without; the dispatcher makes it known.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often counts are written down, and subscriptions and what was used elsewhere are read.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How long a 429 is held back, at most: a client that asks again at once would use up the gateway.
const MAX_HOLD: Duration = Duration::from_millis(200);
/// How many are held back at a time. Further ones are answered at once.
const MAX_HELD: usize = 1_000;
/// How long daily totals are kept.
const USAGE_KEPT: Days = Days::new(400);
/// How long a gateway that writes no more is remembered: longer than a write could be under way.
const WRITERS_KEPT: TimeDelta = TimeDelta::days(1);
/// How often what is too old is deleted.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);

pub(crate) struct Tenants {
    store: Store,
    auto_create: bool,
    /// Names this process in the database, where its counts are told from those of others.
    gateway: Uuid,
    started: Instant,
    accounts: Mutex<HashMap<TenantId, Account>>,
    held: Semaphore,
}

impl Tenants {
    pub(crate) fn new(store: Store, auto_create: bool) -> Self {
        Self {
            store,
            auto_create,
            gateway: Uuid::now_v7(),
            started: Instant::now(),
            accounts: Mutex::default(),
            held: Semaphore::new(MAX_HELD),
        }
    }

    /// Makes the tenant known, or refuses it where configuration says that operators do that.
    pub(crate) async fn admit(&self, tenant: TenantId) -> Result<(), ApiError> {
        if self.lock().get(&tenant).is_some_and(Account::is_known) {
            return Ok(());
        }
        // Boxed: requests of tenants that are known are not to be as large.
        Box::pin(self.make_known(tenant)).await
    }

    async fn make_known(&self, tenant: TenantId) -> Result<(), ApiError> {
        if self.auto_create {
            self.store.ensure_tenants(&[tenant]).await?;
        }
        if !self.learn(tenant).await? {
            return Err(ApiError::new(Code::Forbidden, "The tenant is not known"));
        }
        Ok(())
    }

    /// Lets a request to the API through, or says why not. A tenant that is not known yet has no limits.
    pub(crate) async fn admit_request(&self, tenant: TenantId, is_change: bool) -> Result<(), ApiError> {
        self.remember(tenant).await;
        let admitted = self.with_account(tenant, |account, now| {
            if is_change {
                account.check_subscription(Utc::now())?;
            }
            account.take_request(Utc::now().date_naive(), now)
        });
        self.answer(admitted).await
    }

    /// Lets events through, or says why not. An absent database does not stop events where tenants make themselves known.
    pub(crate) async fn admit_events(&self, tenant: TenantId, events: u32) -> Result<(), ApiError> {
        if self.auto_create {
            self.remember_publisher(tenant).await;
        } else {
            self.admit(tenant).await?;
        }
        let admitted = self.with_account(tenant, |account, now| {
            account.check_subscription(Utc::now())?;
            account.take_events(events, Utc::now().date_naive(), now)
        });
        self.answer(admitted).await
    }

    /// Takes back events that were let through and could not be accepted. What they cost of the rate stays spent.
    pub(crate) fn take_back_events(&self, tenant: TenantId, events: u32) {
        self.with_account(tenant, |account, _| account.take_back(events, Utc::now().date_naive()));
    }

    /// Holds a refusal for a rate's sake back a little, where there is room again after `wait`.
    pub(crate) async fn hold_back(&self, wait: Duration) {
        if let Ok(_held) = self.held.try_acquire() {
            sleep(MAX_HOLD.min(wait)).await;
        }
    }

    /// Writes down what was counted and reads what was used elsewhere, until told to stop; then writes a last time.
    pub(crate) async fn follow(&self, stop: CancellationToken) {
        let mut unwritten = UsageCount::default();
        let mut backoff = Backoff::default();
        let mut forgot_at = None;
        loop {
            let is_last = stop.is_cancelled();
            let wait = match self.sync(&mut unwritten).await {
                Ok(()) => {
                    backoff.reset();
                    SYNC_INTERVAL
                }
                Err(error) => {
                    warn!(%error, "what tenants have used is kept in memory until the database answers");
                    backoff.next(rand::random()).max(SYNC_INTERVAL)
                }
            };
            if is_last {
                return;
            }
            if forgot_at.is_none_or(|at: Instant| at.elapsed() >= FORGET_INTERVAL) {
                forgot_at = Some(Instant::now());
                self.forget_old_usage().await;
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn sync(&self, unwritten: &mut UsageCount) -> Result<(), StoreError> {
        if unwritten.used.is_empty() {
            unwritten.sequence += 1;
            unwritten.used = self.lock().iter_mut().flat_map(|(id, account)| account.drain(*id)).collect();
        }
        if !unwritten.used.is_empty() {
            // A write whose fate is not known is repeated under the same number, and counts once.
            self.store.record_usage(self.gateway, unwritten, Utc::now()).await?;
            let mut accounts = self.lock();
            for (tenant, day, usage) in unwritten.used.drain(..) {
                if let Some(account) = accounts.get_mut(&tenant) {
                    account.written(day, usage);
                }
            }
        }
        self.read_active().await
    }

    /// Reads the subscriptions of those tenants that have been active, and what they used elsewhere.
    async fn read_active(&self) -> Result<(), StoreError> {
        let active: Vec<TenantId> = {
            let mut accounts = self.lock();
            let active = accounts.iter_mut().filter_map(|(id, account)| account.was_active().then_some(*id));
            active.collect()
        };
        if active.is_empty() {
            return Ok(());
        }
        let day = Utc::now().date_naive();
        let read = self.store.tenants(&active, day).await?;
        let (mut accounts, now) = (self.lock(), self.started.elapsed());
        for tenant in read {
            if let Some(account) = accounts.get_mut(&tenant.id) {
                account.learn(tenant, day, now);
            }
        }
        Ok(())
    }

    async fn forget_old_usage(&self) {
        let today = Utc::now().date_naive();
        let oldest = today.checked_sub_days(USAGE_KEPT).unwrap_or(NaiveDate::MIN);
        if let Err(error) = self.store.forget_usage(oldest, Utc::now() - WRITERS_KEPT).await {
            warn!(%error, "old counts of what tenants used could not be deleted");
        }
    }

    /// Gets to know a tenant before its first request, if the database answers.
    async fn remember(&self, tenant: TenantId) {
        if self.lock().contains_key(&tenant) {
            return;
        }
        // A request that the database has no answer for says so itself.
        let _ = Box::pin(timeout(PATIENCE, self.learn(tenant))).await;
        self.insert(tenant);
    }

    async fn remember_publisher(&self, tenant: TenantId) {
        if self.lock().contains_key(&tenant) {
            return;
        }
        match timeout(PATIENCE, self.admit(tenant)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(cause = error.cause(), %tenant, "a tenant is left to the dispatcher to make known");
            }
            Err(_) => warn!(%tenant, "a tenant is left to the dispatcher to make known"),
        }
        self.insert(tenant);
    }

    /// Reads a tenant's subscription. Says whether the tenant is known.
    async fn learn(&self, tenant: TenantId) -> Result<bool, StoreError> {
        let day = Utc::now().date_naive();
        let Some(found) = self.store.tenants(&[tenant], day).await?.pop() else { return Ok(false) };
        self.insert(tenant);
        self.with_account(tenant, |account, now| account.learn(found, day, now));
        Ok(true)
    }

    fn insert(&self, tenant: TenantId) {
        let mut accounts = self.lock();
        if accounts.len() >= MAX_REMEMBERED {
            accounts.retain(|_, account| account.is_needed());
        }
        accounts.entry(tenant).or_default();
    }

    fn with_account<T>(&self, tenant: TenantId, act: impl FnOnce(&mut Account, Duration) -> T) -> T {
        let now = self.started.elapsed();
        act(self.lock().entry(tenant).or_default(), now)
    }

    async fn answer(&self, admitted: Result<(), Refusal>) -> Result<(), ApiError> {
        let Err(refusal) = admitted else { return Ok(()) };
        if let Refusal::TooFast { wait, .. } = &refusal {
            self.hold_back(*wait).await;
        }
        Err(refusal.into())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotInForce(reason) => Self::new(Code::SubscriptionInactive, reason.to_string()),
            Refusal::DayUsedUp { limit } => {
                let message =
                    format!("Your plan allows {limit} events a day; the next day begins at 00:00 UTC");
                Self::new(Code::LimitExceeded, message)
            }
            Refusal::TooFast { what, rate, wait } => too_fast(what, rate, wait),
        }
    }
}

fn too_fast(what: &'static str, rate: Rate, wait: Duration) -> ApiError {
    let per_minute = rate.calls_per_minute();
    ApiError::rate_limited(format!("Your plan allows {per_minute} {what} a minute"), what, rate, wait)
}
