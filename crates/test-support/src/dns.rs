use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
/// A message's header, which the question follows.
const HEADER_BYTES: usize = 12;
const TTL_SECONDS: u32 = 60;

/// A name server on loopback, over UDP. It knows the names it is told, and says of any other that it does not exist.
pub struct NameServer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    names: HashMap<String, Known>,
    asked: HashMap<String, usize>,
    mood: Mood,
    ignores_ipv6: bool,
}

enum Known {
    Addresses(Vec<IpAddr>),
    /// One after the other, and from the beginning again; each for no time at all.
    Alternating(Vec<IpAddr>, usize),
    Broken,
}

/// How every question is met.
#[derive(Default, Clone, Copy)]
enum Mood {
    #[default]
    Answering,
    Failing,
    Silent,
}

impl NameServer {
    /// Starts one, on any free port.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let task = tokio::spawn(serve(socket, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A name has these addresses from now on.
    pub fn know(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.shared.lock().unwrap().names.insert(name.to_owned(), Known::Addresses(addresses));
    }

    /// A name has one of these IPv4 addresses at a time from now on, another one whenever it is asked for.
    pub fn alternate(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.shared.lock().unwrap().names.insert(name.to_owned(), Known::Alternating(addresses, 0));
    }

    /// A name is answered with SERVFAIL from now on, as one is whose own name servers are broken.
    pub fn break_name(&self, name: &str) {
        self.shared.lock().unwrap().names.insert(name.to_owned(), Known::Broken);
    }

    /// Answers questions, as it does from the start.
    pub fn answer(&self) {
        self.shared.lock().unwrap().mood = Mood::Answering;
    }

    /// Answers every question with SERVFAIL, as a cache does that is cut off from the world.
    pub fn fail(&self) {
        self.shared.lock().unwrap().mood = Mood::Failing;
    }

    /// Answers nothing.
    pub fn fall_silent(&self) {
        self.shared.lock().unwrap().mood = Mood::Silent;
    }

    /// Answers no question for IPv6 addresses, as some name servers do.
    pub fn ignore_ipv6(&self) {
        self.shared.lock().unwrap().ignores_ipv6 = true;
    }

    /// How often a name was asked for, each kind of address counted.
    pub fn asked(&self, name: &str) -> usize {
        self.shared.lock().unwrap().asked.get(name).copied().unwrap_or_default()
    }

    /// All names that were asked for.
    pub fn names_asked(&self) -> Vec<String> {
        self.shared.lock().unwrap().asked.keys().cloned().collect()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, shared: Arc<Mutex<Shared>>) {
    let mut buffer = [0; 1500];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let reply = reply_to(&buffer[..length], &mut shared.lock().unwrap());
        if let Some(reply) = reply {
            socket.send_to(&reply, client).await.unwrap();
        }
    }
}

/// RFC 1035, section 4.1. One question, and no name compression in it.
fn reply_to(query: &[u8], shared: &mut Shared) -> Option<Vec<u8>> {
    let (name, question_end) = read_name(query);
    let record_type = u16::from_be_bytes([query[question_end - 4], query[question_end - 3]]);
    *shared.asked.entry(name.clone()).or_default() += 1;
    if shared.ignores_ipv6 && record_type == TYPE_AAAA {
        return None;
    }
    let mut ttl = TTL_SECONDS;
    let (code, addresses) = match (shared.mood, shared.names.get_mut(&name)) {
        (Mood::Silent, _) => return None,
        (Mood::Failing, _) | (_, Some(Known::Broken)) => (SERVFAIL, Vec::new()),
        (Mood::Answering, None) => (NXDOMAIN, Vec::new()),
        (Mood::Answering, Some(Known::Alternating(addresses, asked))) => {
            ttl = 0;
            let is_asked = record_type == TYPE_A;
            *asked += usize::from(is_asked);
            (0, addresses.get(*asked % addresses.len()).filter(|_| is_asked).copied().into_iter().collect())
        }
        (Mood::Answering, Some(Known::Addresses(addresses))) => {
            let is_asked = |address: &&IpAddr| match address {
                IpAddr::V4(_) => record_type == TYPE_A,
                IpAddr::V6(_) => record_type == TYPE_AAAA,
            };
            (0, addresses.iter().filter(is_asked).copied().collect())
        }
    };
    let mut reply = Vec::new();
    reply.extend(&query[..2]); // the id
    reply.extend([0x81, 0x80 | code]); // a response; recursion desired and available
    reply.extend([0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]); // one question, the answers
    reply.extend(&query[HEADER_BYTES..question_end]);
    for address in addresses {
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        reply.extend([0xc0, 0x0c]); // the name of the question
        reply.extend(record_type.to_be_bytes());
        reply.extend([0, 1]); // class IN
        reply.extend(ttl.to_be_bytes());
        reply.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        reply.extend(bytes);
    }
    Some(reply)
}

/// The name that is asked for, and where the question ends.
fn read_name(query: &[u8]) -> (String, usize) {
    let mut labels = Vec::new();
    let mut at = HEADER_BYTES;
    while query[at] > 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    (labels.join("."), at + 5)
}
