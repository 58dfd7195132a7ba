use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Most bytes that travel in one piece.
const CHUNK_BYTES: usize = 16 * 1024;
/// Pieces under way in one direction of one connection. More wait in the sender's socket.
const CHUNKS_UNDER_WAY: usize = 1024;
/// How long one upstream may take to accept a connection before the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How soon the port is asked for again when somebody holds it for a moment.
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// A TCP proxy on loopback that breaks the network on demand.
///
/// Each new connection goes to the first upstream that accepts it, beginning after the one that was used last, as a
/// Kubernetes Service would have it.
pub struct Proxy {
    address: SocketAddr,
    rules: watch::Sender<Rules>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// The way that bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From clients to the upstream.
    ToUpstream,
    /// From the upstream to clients.
    ToClient,
}

/// What happens to bytes.
#[derive(Debug, Clone, Default)]
struct Rules {
    refuse: bool,
    /// Connections numbered below this are cut.
    cut_below: u64,
    /// What connections numbered below this send disappears, in this direction: to the upstream, to the client.
    swallow_below: [u64; 2],
    delay: [Duration; 2],
    /// Zero: as fast as it goes.
    bytes_per_second: usize,
}

#[derive(Default)]
struct Shared {
    next_connection: AtomicU64,
    open: AtomicUsize,
}

impl Proxy {
    /// Listens on any free port.
    pub async fn start(upstreams: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (rules, followed) = watch::channel(Rules::default());
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(accept(listener, address, upstreams, followed, Arc::clone(&shared)));
        Self { address, rules, shared, task }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Ends every fault. A connection that has lost bytes stays dead all the same; but where one side has ended it, the
    /// other hears of it now.
    pub fn pass(&self) {
        self.rules.send_modify(|rules| *rules = Rules { cut_below: rules.cut_below, ..Rules::default() });
    }

    /// Closes every connection. New ones are accepted.
    pub fn cut(&self) {
        let next = self.next_connection();
        self.rules.send_modify(|rules| rules.cut_below = next);
    }

    /// Refuses new connections, and closes those that are open.
    pub fn refuse(&self) {
        let next = self.next_connection();
        self.rules.send_modify(|rules| (rules.refuse, rules.cut_below) = (true, next));
    }

    /// Lets everything disappear that is sent either way, while each side believes that the other is there.
    pub fn black_hole(&self) {
        self.rules.send_modify(|rules| rules.swallow_below = [u64::MAX; 2]);
    }

    /// The same in one direction only.
    pub fn black_hole_towards(&self, direction: Direction) {
        self.rules.send_modify(|rules| rules.swallow_below[direction as usize] = u64::MAX);
    }

    /// The same for the connections that are open now: they are half open, new ones work.
    pub fn black_hole_existing(&self) {
        let next = self.next_connection();
        self.rules.send_modify(|rules| rules.swallow_below = [next; 2]);
    }

    /// Lets what is sent in one direction arrive so much later.
    pub fn delay(&self, direction: Direction, by: Duration) {
        self.rules.send_modify(|rules| rules.delay[direction as usize] = by);
    }

    /// Lets so many bytes pass a second, in each direction of each connection.
    pub fn throttle(&self, bytes_per_second: usize) {
        self.rules.send_modify(|rules| rules.bytes_per_second = bytes_per_second);
    }

    fn next_connection(&self) -> u64 {
        self.shared.next_connection.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

/// Listens while connections are not refused. The port is given up meanwhile, so that the kernel refuses them.
async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    upstreams: Vec<SocketAddr>,
    mut rules: watch::Receiver<Rules>,
    shared: Arc<Shared>,
) {
    let mut listener = Some(listener);
    loop {
        let refuse = rules.borrow_and_update().refuse;
        match &listener {
            Some(_) if refuse => listener = None,
            None if !refuse => match TcpListener::bind(address).await {
                Ok(bound) => listener = Some(bound),
                Err(_) => sleep(BIND_PAUSE).await,
            },
            Some(open) => tokio::select! {
                accepted = open.accept() => {
                    let Ok((client, _)) = accepted else { continue };
                    let number = shared.next_connection.fetch_add(1, Ordering::SeqCst);
                    let connection = connect(number, client, upstreams.clone(), rules.clone(), Arc::clone(&shared));
                    tokio::spawn(connection);
                }
                changed = rules.changed() => if changed.is_err() { return },
            },
            None => {
                if rules.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn connect(
    number: u64,
    client: TcpStream,
    upstreams: Vec<SocketAddr>,
    rules: watch::Receiver<Rules>,
    shared: Arc<Shared>,
) {
    shared.open.fetch_add(1, Ordering::Relaxed);
    let first = usize::try_from(number).unwrap_or_default();
    for place in 0..upstreams.len() {
        let upstream = TcpStream::connect(upstreams[(first + place) % upstreams.len()]);
        if let Ok(Ok(upstream)) = timeout(CONNECT_TIMEOUT, upstream).await {
            forward(number, client, upstream, rules).await;
            break;
        }
    }
    shared.open.fetch_sub(1, Ordering::Relaxed);
}

async fn forward(number: u64, client: TcpStream, upstream: TcpStream, rules: watch::Receiver<Rules>) {
    let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_upstream, to_upstream) = upstream.into_split();
    // Whether bytes of this connection were lost: it then only looks alive, to both sides.
    let (dead, _) = watch::channel(false);
    let up = Pump { number, direction: Direction::ToUpstream, rules: rules.clone(), dead: dead.clone() };
    let down = Pump { number, direction: Direction::ToClient, rules: rules.clone(), dead };
    let mut cut = rules;
    tokio::select! {
        _ = async { tokio::join!(up.run(from_client, to_upstream), down.run(from_upstream, to_client)) } => {}
        // An error: the proxy is gone, and so is the network.
        _ = cut.wait_for(|rules| number < rules.cut_below) => {}
    }
}

/// One direction of one connection.
struct Pump {
    number: u64,
    direction: Direction,
    rules: watch::Receiver<Rules>,
    dead: watch::Sender<bool>,
}

impl Pump {
    async fn run(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let (chunks, mut under_way) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_UNDER_WAY);
        let read = async {
            let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
            while let Ok(1..) = (&mut from).take(CHUNK_BYTES as u64).read_buf(&mut buffer).await {
                let due = Instant::now() + self.rules.borrow().delay[self.direction as usize];
                if chunks.send((due, buffer.split().freeze())).await.is_err() {
                    break;
                }
                buffer.reserve(CHUNK_BYTES);
            }
            drop(chunks);
        };
        let write = async {
            while let Some((due, chunk)) = under_way.recv().await {
                sleep_until(due).await;
                if self.loses_bytes() {
                    continue;
                }
                if to.write_all(&chunk).await.is_err() {
                    break;
                }
                let bytes_per_second = self.rules.borrow().bytes_per_second;
                if bytes_per_second > 0 {
                    sleep(Duration::from_secs_f64(chunk.len() as f64 / bytes_per_second as f64)).await;
                }
            }
            if !*self.dead.borrow() {
                let _ = to.shutdown().await;
            }
        };
        tokio::join!(read, write);
        if *self.dead.borrow() {
            // The end, too, is heard of only when the network is whole again. An error: the proxy itself is gone.
            let place = self.direction as usize;
            let mut rules = self.rules.clone();
            let _ = rules.wait_for(|rules| self.number >= rules.swallow_below[place]).await;
            let _ = to.shutdown().await;
        }
    }

    fn loses_bytes(&self) -> bool {
        let swallowed = self.number < self.rules.borrow().swallow_below[self.direction as usize];
        if swallowed {
            self.dead.send_replace(true);
        }
        swallowed || *self.dead.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends back what it is sent, each line with a name before it.
    async fn echo(name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 64 * 1024];
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        stream.write_all(name.as_bytes()).await.unwrap();
                        stream.write_all(&buffer[..read]).await.unwrap();
                    }
                });
            }
        });
        address
    }

    async fn ask(stream: &mut TcpStream, question: &str, expected: &str) -> bool {
        let mut answer = vec![0; expected.len()];
        stream.write_all(question.as_bytes()).await.is_ok()
            && matches!(timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await, Ok(Ok(_)))
            && answer == expected.as_bytes()
    }

    async fn is_silent(stream: &mut TcpStream) -> bool {
        timeout(Duration::from_millis(200), stream.read(&mut [0; 16])).await.is_err()
    }

    #[tokio::test]
    async fn it_forwards_to_the_first_upstream_that_accepts() {
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let proxy = Proxy::start(vec![nobody, echo("a").await]).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(ask(&mut stream, "hello", "ahello").await);
        assert_eq!(proxy.connections(), 1);
    }

    #[tokio::test]
    async fn cut_ends_what_is_open_and_refuse_what_is_new() {
        let proxy = Proxy::start(vec![echo("").await]).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(ask(&mut stream, "x", "x").await);
        proxy.cut();
        assert!(!ask(&mut stream, "x", "x").await);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(ask(&mut stream, "x", "x").await, "new connections work after a cut");
        proxy.refuse();
        assert!(!ask(&mut stream, "x", "x").await);
        crate::eventually("a refusal", async || TcpStream::connect(proxy.address()).await.err()).await;
        proxy.pass();
        let connect = async || TcpStream::connect(proxy.address()).await.ok();
        let mut stream = crate::eventually("a connection", connect).await;
        assert!(ask(&mut stream, "x", "x").await);
    }

    #[tokio::test]
    async fn half_open_connections_stay_dead_while_new_ones_work() {
        let proxy = Proxy::start(vec![echo("").await]).await;
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(ask(&mut old, "x", "x").await);
        proxy.black_hole_existing();
        old.write_all(b"lost").await.unwrap();
        assert!(is_silent(&mut old).await);
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(ask(&mut new, "y", "y").await);
        proxy.pass();
        old.write_all(b"again").await.unwrap();
        assert!(is_silent(&mut old).await, "what has lost bytes does not come back to life");
        proxy.black_hole();
        new.write_all(b"lost").await.unwrap();
        assert!(is_silent(&mut new).await);
    }

    #[tokio::test]
    async fn delays_and_throttles() {
        let proxy = Proxy::start(vec![echo("").await]).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.delay(Direction::ToClient, Duration::from_millis(300));
        let began = Instant::now();
        assert!(ask(&mut stream, "x", "x").await);
        assert!(began.elapsed() >= Duration::from_millis(300));
        proxy.pass();
        proxy.throttle(10_000);
        let began = Instant::now();
        let text = "z".repeat(3_000);
        assert!(ask(&mut stream, &text, &text).await);
        assert!(ask(&mut stream, "x", "x").await);
        assert!(began.elapsed() >= Duration::from_millis(300));
    }
}
