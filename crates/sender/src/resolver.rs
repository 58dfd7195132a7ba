//! Looks up the names of receivers, refuses those that lead where Postrider does not connect to, and tells a name that
//! cannot be resolved, which is its owner's concern, from name servers that do not answer, which is ours.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use domain::{AddressPolicy, Refused};
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, select};
use futures_util::stream::FuturesUnordered;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use hyper_util::client::legacy::connect::dns::Name as HostName;
use tokio::time::{Instant, timeout, timeout_at};
use tower_service::Service;
use tracing::{debug, warn};

use crate::name_servers::MAX_NAME_SERVERS;
use crate::occasionally::Occasionally;

/// The longest a look-up takes; a short deadline of attempts shortens it to a quarter of that.
const MAX_LOOKUP_TIME: Duration = Duration::from_secs(4);
/// How long addresses of the other kind, IPv4 or IPv6, are waited for once there are some of one kind.
const OTHER_KIND_WAIT: Duration = Duration::from_millis(250);
/// How long a name server may take before another one is asked besides.
const NEXT_SERVER_AFTER: Duration = Duration::from_millis(300);
/// Answers kept in memory for each name server, negative ones included.
const MAX_CACHED_ANSWERS: u64 = 8_192;
/// The longest an address is kept, whatever its time to live says.
const MAX_POSITIVE_TTL: Duration = Duration::from_secs(3_600);
/// The longest it is kept that a name has no address: its owner may be mending it.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// How long it is relied upon that the name servers answer, or do not. Shorter than look-ups take to time out, so that
/// the answer to a look-up that timed out is never from before it began.
const VERDICT_HOLDS: Duration = Duration::from_secs(1);
/// How often the system's configuration is read again at most, while the name servers do not answer.
const REREAD_EVERY: Duration = Duration::from_secs(10);
/// How often it is said at most that the name servers do not answer.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Why a name led to no address to connect to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// Theirs: the name does not exist, has no address, or its own name servers are broken.
    #[error("the name cannot be resolved")]
    Unresolvable,
    /// Theirs: one of its addresses is not to be connected to.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Ours: no name server answers.
    #[error("no name server answers")]
    NoNameServer,
}

/// Resolves names for the HTTP client. It dials the very addresses that were checked here.
#[derive(Clone)]
pub(crate) struct GuardedResolver(Arc<Lookups>);

impl GuardedResolver {
    /// Asks these servers, or the system's if there are none.
    pub(crate) fn new(policy: AddressPolicy, servers: Vec<SocketAddr>, attempt_deadline: Duration) -> Self {
        let lookup_time = MAX_LOOKUP_TIME.min(attempt_deadline / 4);
        let sources = Sources::read(&servers, lookup_time);
        Self(Arc::new(Lookups {
            policy,
            servers,
            lookup_time,
            sources: Mutex::new(Arc::new(sources)),
            verdict: tokio::sync::Mutex::new(None),
            rereading: Occasionally::new(REREAD_EVERY),
            warning: Occasionally::new(WARN_EVERY),
        }))
    }

    /// Every address of a name, whether or not it may be connected to.
    pub(crate) async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.0.look_up(name).await
    }
}

impl Service<HostName> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = BoxFuture<'static, Result<Self::Response, ResolveError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: HostName) -> Self::Future {
        let lookups = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses = lookups.addresses(name.as_str()).await?;
            // Port 0 stands for the one in the URL.
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(addresses.collect::<Vec<_>>().into_iter())
        })
    }
}

struct Lookups {
    policy: AddressPolicy,
    servers: Vec<SocketAddr>,
    lookup_time: Duration,
    sources: Mutex<Arc<Sources>>,
    /// Whether the name servers answered when they were last tried out, and when that was. Its lock makes sure that
    /// they are tried out once at a time.
    verdict: tokio::sync::Mutex<Option<(Instant, bool)>>,
    rereading: Occasionally,
    warning: Occasionally,
}

impl Lookups {
    /// Every address of a name, if all of them may be connected to.
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let addresses = self.look_up(name).await?;
        for address in &addresses {
            self.policy.check(*address)?;
        }
        Ok(addresses)
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let Ok(mut name) = Name::from_ascii(name) else { return Err(ResolveError::Unresolvable) };
        name.set_fqdn(true); // a customer's name never becomes one of the operator's search domains
        let sources = Arc::clone(&*lock(&self.sources));
        let known = sources.in_hosts_file(&name);
        if !known.is_empty() {
            return Ok(known);
        }
        match sources.ask_for_both(name, self.lookup_time).await {
            Answer::Addresses(addresses) if addresses.is_empty() => Err(ResolveError::Unresolvable),
            Answer::Addresses(addresses) => Ok(addresses),
            Answer::Failed(reason) => Err(self.blame(&sources, &reason).await),
        }
    }

    /// Finds out who is to blame for a look-up that failed. A name server gives no other answer for a name whose own
    /// servers are broken than for all names while it is cut off from the world.
    async fn blame(&self, sources: &Sources, reason: &str) -> ResolveError {
        if self.servers_answer(sources).await {
            return ResolveError::Unresolvable;
        }
        if self.warning.is_due() {
            warn!(
                reason,
                "no name server answers; deliveries wait and use up no attempt. See POSTRIDER_DNS_SERVERS and /etc/resolv.conf"
            );
        }
        if self.rereading.is_due() {
            *lock(&self.sources) = Arc::new(Sources::read(&self.servers, self.lookup_time));
        }
        ResolveError::NoNameServer
    }

    /// Asks for a name that no cache can know, so that the answer comes from beyond the machine's own name servers: one
    /// that is cut off would still know the root's. `example.com` is set aside for good (RFC 2606) and always served;
    /// that the name below it does not exist is an answer.
    async fn servers_answer(&self, sources: &Sources) -> bool {
        let mut verdict = self.verdict.lock().await;
        if let Some((at, answered)) = *verdict
            && at.elapsed() < VERDICT_HOLDS
        {
            return answered;
        }
        let name = format!("postrider-{:016x}.example.com.", rand::random::<u64>());
        let answered = match Name::from_ascii(&name) {
            Ok(name) => {
                let answer = sources.ask(name, RecordType::A, self.lookup_time / 2).await;
                matches!(answer, Answer::Addresses(_))
            }
            Err(_) => false,
        };
        *verdict = Some((Instant::now(), answered));
        answered
    }
}

/// Where addresses come from.
struct Sources {
    hosts: Hosts,
    /// One for each name server. A resolver of several takes the first answer it gets, also where that is a failure.
    resolvers: Vec<TokioResolver>,
    /// The one that was the last to answer, which is asked first.
    preferred: AtomicUsize,
}

enum Answer {
    /// None at all, if the name has none of this kind or does not exist.
    Addresses(Vec<IpAddr>),
    /// There was no answer, or not one to the question.
    Failed(String),
}

impl Answer {
    fn late(after: Duration) -> Self {
        Self::Failed(format!("no answer within {} ms", after.as_millis()))
    }

    fn has_addresses(&self) -> bool {
        matches!(self, Self::Addresses(addresses) if !addresses.is_empty())
    }
}

impl Sources {
    fn read(servers: &[SocketAddr], lookup_time: Duration) -> Self {
        let servers = if servers.is_empty() {
            system_name_servers()
        } else {
            servers.iter().map(name_server).collect()
        };
        let hosts = Hosts::from_system().unwrap_or_else(|error| {
            warn!(%error, "the hosts file cannot be read; only name servers are asked");
            Hosts::default()
        });
        let resolver = |server| {
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
                .with_options(options(lookup_time))
                .build()
                .inspect_err(|error| warn!(%error, "a name server cannot be used"))
                .ok()
        };
        let resolvers = servers.into_iter().take(MAX_NAME_SERVERS).filter_map(resolver).collect();
        Self { hosts, resolvers, preferred: AtomicUsize::new(0) }
    }

    fn in_hosts_file(&self, name: &Name) -> Vec<IpAddr> {
        let of_type = |record_type| self.hosts.lookup_static_host(&Query::query(name.clone(), record_type));
        let lookups = [of_type(RecordType::A), of_type(RecordType::AAAA)];
        lookups
            .iter()
            .flatten()
            .flat_map(|lookup| lookup.answers())
            .filter_map(|r| r.data.ip_addr())
            .collect()
    }

    /// Asks for IPv4 and IPv6 addresses at once. There are name servers that never answer for the kind they do not have, so
    /// once there are addresses of one kind the other is not waited for much longer.
    async fn ask_for_both(&self, name: Name, within: Duration) -> Answer {
        let v4 = pin!(self.ask(name.clone(), RecordType::A, within));
        let v6 = pin!(self.ask(name.clone(), RecordType::AAAA, within));
        let (first, other) = select(v4, v6).await.factor_first();
        let patience = if first.has_addresses() { OTHER_KIND_WAIT } else { within };
        let second = timeout(patience, other).await.unwrap_or_else(|_| Answer::late(patience));
        match (first, second) {
            (Answer::Addresses(first), Answer::Addresses(second)) => {
                let mut all = [first, second].concat();
                all.sort_by_key(IpAddr::is_ipv6); // IPv4 is tried first: more networks have it
                Answer::Addresses(all)
            }
            (some, _) | (_, some) if some.has_addresses() => some,
            (Answer::Failed(reason), _) | (_, Answer::Failed(reason)) => {
                debug!(%name, reason, "a name could not be looked up");
                Answer::Failed(reason)
            }
        }
    }

    /// Asks one name server after the other, the next when those before have failed or take long. The first real answer
    /// counts; only if there is none, the last failure does.
    async fn ask(&self, name: Name, record_type: RecordType, within: Duration) -> Answer {
        let deadline = Instant::now() + within;
        let first = self.preferred.load(Ordering::Relaxed);
        let count = self.resolvers.len();
        let mut waiting = (0..count).map(|offset| (first + offset) % count);
        let mut asked = FuturesUnordered::new();
        let mut failure = Answer::late(within);
        while Instant::now() < deadline {
            if let Some(place) = waiting.next() {
                asked.push(self.ask_one(place, name.clone(), record_type));
            }
            let patience = if waiting.len() > 0 { Instant::now() + NEXT_SERVER_AFTER } else { deadline };
            match timeout_at(patience.min(deadline), asked.next()).await {
                Ok(Some((place, answer @ Answer::Addresses(_)))) => {
                    self.preferred.store(place, Ordering::Relaxed);
                    return answer;
                }
                Ok(Some((_, failed @ Answer::Failed(_)))) => failure = failed,
                Ok(None) => break, // every one has failed
                Err(_) => {}
            }
        }
        failure
    }

    async fn ask_one(&self, place: usize, name: Name, record_type: RecordType) -> (usize, Answer) {
        let answer = match self.resolvers[place].lookup(name, record_type).await {
            Ok(lookup) => Answer::Addresses(
                lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect(),
            ),
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Answer::Addresses(Vec::new()),
            Err(error) => Answer::Failed(error.to_string()),
        };
        (place, answer)
    }
}

/// Those of `/etc/resolv.conf`, or, as its manual says, the one on this machine if it names none.
fn system_name_servers() -> Vec<NameServerConfig> {
    match system_conf::read_system_conf() {
        Ok((config, _)) => config.name_servers().to_vec(),
        Err(error) => {
            warn!(%error, "the system names no name server; the one on this machine is asked");
            vec![NameServerConfig::udp_and_tcp(IpAddr::from([127, 0, 0, 1]))]
        }
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    udp.port = address.port();
    tcp.port = address.port();
    NameServerConfig::new(address.ip(), true, vec![udp, tcp])
}

fn options(lookup_time: Duration) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    // Two tries fit into a look-up.
    options.timeout = lookup_time / 2;
    options.attempts = 1;
    options.cache_size = MAX_CACHED_ANSWERS;
    options.positive_max_ttl = Some(MAX_POSITIVE_TTL);
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    // Asked before the resolver is: a name that is in it needs no name server at all.
    options.use_hosts_file = ResolveHosts::Never;
    options
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
