use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What a [`RawReceiver`] does with a connection, one step after the other; then it closes it.
#[derive(Debug, Clone)]
pub enum Step {
    /// Waits until a request has come whole.
    ReadRequest,
    /// Writes these bytes.
    Write(Vec<u8>),
    /// Writes these bytes over and over, until the other side has had enough.
    WriteForEver(Vec<u8>),
    /// Writes these bytes over and over, one at a time, with a pause after each.
    Drip(Vec<u8>, Duration),
    /// Waits for so long.
    Pause(Duration),
    /// Neither says anything nor listens, until the other side gives up.
    Hang,
    /// Breaks the connection off, without the farewell of TCP.
    Reset,
}

impl Step {
    /// Writes this text.
    pub fn write(text: &str) -> Self {
        Self::Write(text.as_bytes().to_vec())
    }

    /// Writes this text over and over.
    pub fn write_for_ever(text: &str) -> Self {
        Self::WriteForEver(text.as_bytes().to_vec())
    }

    /// Writes this text over and over, byte for byte, with a pause of 50 ms after each.
    pub fn drip(text: &str) -> Self {
        Self::Drip(text.as_bytes().to_vec(), Duration::from_millis(50))
    }
}

/// A TCP server on loopback that speaks HTTP as badly as it is told to.
pub struct RawReceiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    bytes_written: AtomicU64,
}

impl RawReceiver {
    /// Starts one, on any free port, that treats every connection so.
    pub async fn start(steps: impl Into<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(accept(listener, steps.into(), Arc::clone(&shared)));
        Self { address, shared, task }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many bytes the other side took, or the machine's buffers for it.
    pub fn bytes_written(&self) -> u64 {
        self.shared.bytes_written.load(Ordering::Relaxed)
    }
}

impl Drop for RawReceiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, steps: Vec<Step>, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let (steps, shared) = (steps.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            if steps.iter().any(|step| matches!(step, Step::Reset)) {
                stream.set_zero_linger().unwrap();
            }
            treat(stream, &steps, &shared).await
        });
    }
}

/// Ends early where the other side does, which is what it is for.
async fn treat(mut stream: TcpStream, steps: &[Step], shared: &Shared) -> std::io::Result<()> {
    for step in steps {
        match step {
            Step::ReadRequest => read_request(&mut stream).await?,
            Step::Write(bytes) => write(&mut stream, bytes, shared).await?,
            Step::WriteForEver(bytes) => loop {
                write(&mut stream, bytes, shared).await?;
            },
            Step::Drip(bytes, pause) => {
                for byte in bytes.iter().cycle() {
                    write(&mut stream, &[*byte], shared).await?;
                    sleep(*pause).await;
                }
            }
            Step::Pause(duration) => sleep(*duration).await,
            Step::Hang => std::future::pending().await,
            Step::Reset => return Ok(()),
        }
    }
    stream.shutdown().await
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], shared: &Shared) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    shared.bytes_written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    Ok(())
}

/// Reads a head and as much of a body as it announces.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let mut request = Vec::new();
    let head_end = read_head(stream, &mut request).await?;
    let head = String::from_utf8_lossy(&request[..head_end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    while request.len() < head_end + length {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Reads a head, and perhaps more, and gives where it ends.
pub async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    request: &mut Vec<u8>,
) -> std::io::Result<usize> {
    loop {
        if let Some(at) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(at + 4);
        }
        if stream.read_buf(request).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
