//! The keys of access tokens: from configuration, a file and a URL, kept up to date while the gateway runs.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{Backoff, Invalid};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use service::access_token::{Caller, KeyOrigin, KeySet, ReadKeys, TokenError, TokenVerifier};
use service::values::JwtSecret;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::{ApiError, Code};

/// How often the file is looked at.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the URL is read.
const URL_INTERVAL: Duration = Duration::from_secs(300);
/// How soon again a token with an unknown key can have it read, whoever sends how many of them.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(5);
/// How long one reading may take.
const URL_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest key set, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// Where the keys of access tokens come from. At least one of them must say.
#[derive(Debug, Clone, Default)]
pub struct TokenKeyConfig {
    /// A shared secret, for HS256. What is sent later takes its place.
    pub secret: watch::Sender<Option<JwtSecret>>,
    /// A file with a JSON Web Key Set.
    pub file: Option<PathBuf>,
    /// Where one is served.
    pub url: Option<JwksUrl>,
}

impl TokenKeyConfig {
    /// Whether there is nothing to verify a token with.
    pub fn is_empty(&self) -> bool {
        self.secret.borrow().is_none() && self.file.is_none() && self.url.is_none()
    }
}

/// Where a JSON Web Key Set is served: `https`, or this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksUrl(Url);

impl FromStr for JwksUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let url = Url::parse(text).map_err(|error| Invalid::new(format!("is not a URL: {error}")))?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_local = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        match url.scheme() {
            _ if !url.username().is_empty() || url.password().is_some() => {
                Err(Invalid::new("must not have a user name or password"))
            }
            "https" => Ok(Self(url)),
            "http" if is_local => Ok(Self(url)),
            _ => Err(Invalid::new("must be https; http is for this machine (127.0.0.1, localhost) alone")),
        }
    }
}

pub(crate) struct TokenKeys {
    verifier: TokenVerifier,
    sources: Mutex<Sources>,
    secret: watch::Sender<Option<JwtSecret>>,
    file: Option<PathBuf>,
    url: Option<JwksUrl>,
    client: Client,
    /// Whether the URL was ever read.
    was_read: AtomicBool,
    /// Somebody sent a token with a key that is not known.
    wanted: Notify,
    /// When the last reading of the URL ended, well or badly.
    last_reading: watch::Sender<Option<Instant>>,
}

/// What each source has, as it was last read well.
#[derive(Default)]
struct Sources {
    configured: KeySet,
    of_file: (Vec<u8>, KeySet),
    of_url: (Vec<u8>, KeySet),
}

impl TokenKeys {
    /// Reads the file, if there is one; whoever names a file must have it there.
    pub(crate) fn new(config: TokenKeyConfig, issuer: &str, audience: &str) -> anyhow::Result<Self> {
        let client = Client::builder().timeout(URL_TIMEOUT).redirect(Policy::none()).no_proxy().build()?;
        let configured = key_of(config.secret.borrow().as_ref());
        let keys = Self {
            verifier: TokenVerifier::new(configured.clone(), issuer, audience),
            sources: Mutex::new(Sources { configured, ..Sources::default() }),
            secret: config.secret,
            file: config.file,
            url: config.url,
            client,
            was_read: AtomicBool::new(false),
            wanted: Notify::new(),
            last_reading: watch::Sender::new(None),
        };
        if let Some(path) = &keys.file {
            let bytes = read_file(path)
                .map_err(|error| anyhow::anyhow!("{}, the keys of access tokens: {error}", path.display()))?;
            keys.take_file(path, bytes)
                .map_err(|error| anyhow::anyhow!("{}, the keys of access tokens: {error}", path.display()))?;
        }
        Ok(keys)
    }

    /// Checks a token and says whose it is. A key that is not known may just have become one.
    pub(crate) async fn verify(&self, token: &str) -> Result<Caller, ApiError> {
        let verified = match self.verifier.verify(token) {
            Err(TokenError::UnknownKey) if self.read_anew().await => self.verifier.verify(token),
            verified => verified,
        };
        verified.map_err(|error| match error {
            TokenError::UnknownKey if self.lacks_url() => {
                let message = "The keys of access tokens could not be read yet; try again shortly";
                ApiError::new(Code::ServiceUnavailable, message)
            }
            error @ (TokenError::UnknownKey | TokenError::Refused(_)) => {
                ApiError::new(Code::Unauthorized, capitalised(&error.to_string()))
            }
        })
    }

    /// Whether there is a URL that was never read.
    pub(crate) fn lacks_url(&self) -> bool {
        self.url.is_some() && !self.was_read.load(Ordering::Relaxed)
    }

    /// Whether there is a URL.
    pub(crate) fn has_url(&self) -> bool {
        self.url.is_some()
    }

    /// Whether no token at all can be verified.
    pub(crate) fn has_none(&self) -> bool {
        self.lock().all().is_empty()
    }

    /// Keeps the keys up to date, until told to stop.
    pub(crate) async fn follow(&self, stop: CancellationToken) {
        let work = async { tokio::join!(self.follow_secret(), self.follow_file(), self.follow_url()) };
        tokio::select! {
            _ = work => {}
            () = stop.cancelled() => {}
        }
    }

    async fn follow_secret(&self) {
        let mut changes = self.secret.subscribe();
        // What was sent before is not passed over.
        changes.mark_changed();
        while changes.changed().await.is_ok() {
            let configured = key_of(changes.borrow_and_update().as_ref());
            let mut sources = self.lock();
            sources.configured = configured;
            self.verifier.replace_keys(sources.all());
        }
    }

    async fn follow_file(&self) {
        let Some(path) = &self.file else { return };
        // Said once for each fault, not each second.
        let mut last_problem = String::new();
        loop {
            sleep(FILE_INTERVAL).await;
            let read = {
                let path = path.clone();
                tokio::task::spawn_blocking(move || read_file(&path)).await
            };
            let taken = match read {
                Ok(Ok(bytes)) => self.take_file(path, bytes).map_err(|error| error.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let problem = taken.err().unwrap_or_default();
            if !problem.is_empty() && problem != last_problem {
                warn!(file = %path.display(), problem, "the keys of access tokens stay as they were");
            }
            last_problem = problem;
        }
    }

    fn take_file(&self, path: &Path, bytes: Vec<u8>) -> Result<(), Invalid> {
        let mut sources = self.lock();
        if sources.of_file.0 == bytes {
            return Ok(());
        }
        let ReadKeys { keys, passed_over } = KeySet::from_jwks(&bytes, KeyOrigin::File)?;
        info!(file = %path.display(), ?keys, passed_over, "the keys of access tokens were read");
        sources.of_file = (bytes, keys);
        self.verifier.replace_keys(sources.all());
        Ok(())
    }

    async fn follow_url(&self) {
        let Some(JwksUrl(url)) = &self.url else { return };
        let mut backoff = Backoff::default();
        loop {
            let wait = match self.fetch(url).await.and_then(|bytes| self.take_url(url, bytes)) {
                Ok(()) => {
                    backoff.reset();
                    self.was_read.store(true, Ordering::Relaxed);
                    URL_INTERVAL
                }
                Err(problem) => {
                    warn!(%url, problem, "the keys of access tokens stay as they were");
                    backoff.next(rand::random())
                }
            };
            self.last_reading.send_replace(Some(Instant::now()));
            tokio::select! {
                () = sleep(wait) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    async fn fetch(&self, url: &Url) -> Result<Vec<u8>, String> {
        let explain = |error: reqwest::Error| error.without_url().to_string();
        let mut answer = self.client.get(url.clone()).send().await.map_err(explain)?;
        if !answer.status().is_success() {
            return Err(format!("the answer is {}", answer.status()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(explain)? {
            if bytes.len() + chunk.len() > MAX_BYTES {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn take_url(&self, url: &Url, bytes: Vec<u8>) -> Result<(), String> {
        let mut sources = self.lock();
        if sources.of_url.0 == bytes && !bytes.is_empty() {
            return Ok(());
        }
        let read = KeySet::from_jwks(&bytes, KeyOrigin::Url).map_err(|error| format!("the answer {error}"));
        let ReadKeys { keys, passed_over } = read?;
        info!(%url, ?keys, passed_over, "the keys of access tokens were read");
        sources.of_url = (bytes, keys);
        self.verifier.replace_keys(sources.all());
        Ok(())
    }

    /// Has the URL read once more, unless it has just been. Says whether there may be other keys now.
    async fn read_anew(&self) -> bool {
        let mut readings = self.last_reading.subscribe();
        let was_just_read =
            |last: &Option<Instant>| last.is_some_and(|at| at.elapsed() < UNKNOWN_KEY_INTERVAL);
        if self.url.is_none() || was_just_read(&readings.borrow_and_update()) {
            return false;
        }
        self.wanted.notify_one();
        matches!(timeout(URL_TIMEOUT, readings.changed()).await, Ok(Ok(())))
    }

    fn lock(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sources {
    fn all(&self) -> KeySet {
        self.configured.clone().and(&self.of_file.1).and(&self.of_url.1)
    }
}

fn key_of(secret: Option<&JwtSecret>) -> KeySet {
    secret.map(KeySet::of_secret).unwrap_or_default()
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if read > MAX_BYTES { Err(too_large()) } else { Ok(bytes) }
}

fn too_large() -> String {
    format!("it is larger than {} KiB", MAX_BYTES / 1024)
}

fn capitalised(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for good in [
            "https://login.example.com/jwks.json",
            "http://127.0.0.1:9/x",
            "http://[::1]:9/x",
            "http://localhost/x",
        ] {
            assert!(good.parse::<JwksUrl>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "login.example.com",
            "http://login.example.com/",
            "http://10.0.0.1/",
            "file:///etc/passwd",
            "http://localhost.example.com/",
            "https://user:pw@login.example.com/",
        ] {
            assert!(bad.parse::<JwksUrl>().is_err(), "{bad}");
        }
    }
}
