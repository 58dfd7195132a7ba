//! API keys, remembered for a moment: a request costs the database nothing as a rule, and a key that is in use works while
//! the database is away. A key that is revoked stops working within [`FRESH_FOR`]. What a key has used of a limit of its own is
//! remembered with it, at each gateway by itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::{ApiKeyId, Rate, Throttle, Throttled};
use service::access_token::Caller;
use service::api_key::{ApiKey, ApiKeyHash};
use store::{ApiKeyRow, Store, StoreError};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long a key is used before it is read again.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// How long a key that was read before works while it cannot be read again.
const WARM_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long to wait for the database while there is an older answer to fall back on.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long to wait for it where there is none.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// Most keys that are looked up at a time: whoever makes keys up must not use up the connections to the database.
const MAX_LOOK_UPS: usize = 2;
/// Most keys remembered.
const MAX_REMEMBERED: usize = 10_000;
/// How exactly it is written down when a key was last used.
const GRAIN: TimeDelta = TimeDelta::seconds(60);
/// How often that is written.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct ApiKeys {
    store: Store,
    started: Instant,
    remembered: Mutex<HashMap<ApiKeyHash, Remembered>>,
    look_ups: Semaphore,
}

struct Remembered {
    /// `None`: there is no such key.
    key: Option<ApiKeyRow>,
    read_at: Instant,
    ask_again_at: Instant,
    used_at: Option<DateTime<Utc>>,
    /// What the database was last told of that.
    written: Option<DateTime<Utc>>,
    /// What it has used of a limit of its own.
    throttle: Throttle,
}

/// Why a key opens nothing.
#[derive(Debug)]
pub(crate) enum KeyRefusal {
    /// In a sentence for its holder.
    Invalid(&'static str),
    /// Whether it opens anything cannot be found out.
    Unknown(StoreError),
    /// It opens nothing for now: it has been used more often than it may be.
    TooFast { rate: Rate, wait: Duration },
}

enum Known {
    Fresh(Option<ApiKeyRow>),
    /// To be read again; by whoever finds this.
    Stale(ApiKeyRow),
    No,
}

impl ApiKeys {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            started: Instant::now(),
            remembered: Mutex::default(),
            look_ups: Semaphore::new(MAX_LOOK_UPS),
        }
    }

    /// Checks a key and says whose it is. Counts one request of it.
    pub(crate) async fn verify(&self, text: &str) -> Result<Caller, KeyRefusal> {
        let key: ApiKey = text.parse().map_err(|_| KeyRefusal::Invalid("The API key is not valid"))?;
        let hash = key.hash();
        let row = match self.known(&hash) {
            Known::Fresh(row) => row,
            Known::Stale(row) => match self.read(&hash, PATIENCE).await {
                Ok(row) => row,
                Err(error) => {
                    warn!(%error, key = %row.id, "an API key could not be read again; it works as before");
                    Some(row)
                }
            },
            Known::No => self.read(&hash, LONG_PATIENCE).await.map_err(KeyRefusal::Unknown)?,
        };
        let now = Utc::now();
        let row = check(row, now).map_err(KeyRefusal::Invalid)?;
        self.count_use(&hash, row.rate, now)?;
        Ok(Caller { subject: format!("api-key:{}", row.id), tenant_id: row.tenant_id, scopes: row.scopes })
    }

    /// Takes in what has just been written: a new key works here at once, a revoked one no more.
    pub(crate) fn learn(&self, hash: ApiKeyHash, row: ApiKeyRow) {
        self.remember(hash, Some(row));
    }

    /// The same of a key whose hash is not at hand.
    pub(crate) fn learn_end(&self, row: &ApiKeyRow) {
        for remembered in self.lock().values_mut() {
            if remembered.key.as_ref().is_some_and(|key| key.id == row.id) {
                remembered.key = Some(row.clone());
            }
        }
    }

    /// Writes down when keys were used, until told to stop; then a last time.
    pub(crate) async fn follow(&self, stop: CancellationToken) {
        loop {
            let is_last = stop.is_cancelled();
            let used = self.unwritten();
            if !used.is_empty() {
                match self.store.record_api_key_use(&used).await {
                    Ok(()) => self.written(&used),
                    Err(error) => warn!(%error, "when API keys were last used is not written down yet"),
                }
            }
            if is_last {
                return;
            }
            tokio::select! {
                () = sleep(WRITE_INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    fn count_use(&self, hash: &ApiKeyHash, rate: Option<Rate>, now: DateTime<Utc>) -> Result<(), KeyRefusal> {
        let mut remembered = self.lock();
        let Some(remembered) = remembered.get_mut(hash) else { return Ok(()) };
        remembered.used_at = Some(now);
        let Some(rate) = rate else { return Ok(()) };
        let taken = remembered.throttle.take(1, rate, self.started.elapsed());
        taken.map_err(|Throttled { wait }| KeyRefusal::TooFast { rate, wait })
    }

    fn known(&self, hash: &ApiKeyHash) -> Known {
        let mut remembered = self.lock();
        let Some(remembered) = remembered.get_mut(hash) else { return Known::No };
        let now = Instant::now();
        if now < remembered.ask_again_at {
            return Known::Fresh(remembered.key.clone());
        }
        match &remembered.key {
            Some(key) if remembered.read_at.elapsed() < WARM_FOR => {
                // One request reads the key anew; the others go on meanwhile.
                remembered.ask_again_at = now + FRESH_FOR;
                Known::Stale(key.clone())
            }
            Some(_) | None => Known::No,
        }
    }

    async fn read(&self, hash: &ApiKeyHash, patience: Duration) -> Result<Option<ApiKeyRow>, StoreError> {
        let read = async {
            let _turn = self.look_ups.acquire().await;
            self.store.api_key(hash).await
        };
        let late = || StoreError::Unavailable("an API key could not be looked up in time".to_owned());
        let row = timeout(patience, read).await.map_err(|_| late())??;
        self.remember(*hash, row.clone());
        Ok(row)
    }

    fn remember(&self, hash: ApiKeyHash, key: Option<ApiKeyRow>) {
        let mut all = self.lock();
        if all.len() >= MAX_REMEMBERED && !all.contains_key(&hash) {
            all.retain(|_, remembered| remembered.key.is_some());
        }
        let now = Instant::now();
        if all.len() >= MAX_REMEMBERED {
            all.retain(|_, remembered| now < remembered.ask_again_at);
        }
        if all.len() >= MAX_REMEMBERED {
            return; // it is read again for the next request
        }
        let (used_at, written, throttle) = all
            .get(&hash)
            .map_or_else(Default::default, |before| (before.used_at, before.written, before.throttle));
        let ask_again_at = now + FRESH_FOR;
        all.insert(hash, Remembered { key, read_at: now, ask_again_at, used_at, written, throttle });
    }

    fn unwritten(&self) -> Vec<(ApiKeyId, DateTime<Utc>)> {
        let remembered = self.lock();
        let used = remembered.values().filter_map(|remembered| {
            let at = remembered.used_at?;
            let is_news = remembered.written.is_none_or(|written| at - written >= GRAIN);
            Some((remembered.key.as_ref().filter(|_| is_news)?.id, at))
        });
        used.collect()
    }

    fn written(&self, used: &[(ApiKeyId, DateTime<Utc>)]) {
        let used: HashMap<ApiKeyId, DateTime<Utc>> = used.iter().copied().collect();
        for remembered in self.lock().values_mut() {
            if let Some(at) = remembered.key.as_ref().and_then(|key| used.get(&key.id)) {
                remembered.written = Some(*at);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ApiKeyHash, Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(row: Option<ApiKeyRow>, now: DateTime<Utc>) -> Result<ApiKeyRow, &'static str> {
    let row = row.ok_or("The API key is not valid")?;
    if row.revoked_at.is_some() {
        return Err("The API key was revoked");
    }
    if row.is_live(now) { Ok(row) } else { Err("The API key has expired") }
}
