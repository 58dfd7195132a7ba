//! The receivers of all webhooks, in a process of their own: they answer at once, or never, and note what came.
//!
//! `POST /at-once/N` is answered 204 and noted under N; `POST /never/N` is noted and not answered. Standard output has the
//! address first. After that each line on standard input is answered by what came since the last one: the count as 8
//! bytes, little-endian, and the arrivals ([`Arrival::encode`]). The process ends with its standard input.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, stdin, stdout};
use tokio::net::{TcpListener, TcpStream};

use crate::arrivals::Arrival;
use crate::http::{self, Buffer};
use crate::payload::{now_micros, read_stamp};

/// Addresses that are listened on, 127.0.0.1 and the following: webhooks of different hosts share no connections.
pub(crate) const HOSTS: u8 = 16;
/// Arrivals kept until they are asked for. More than that are a mistake in a scenario.
const MAX_KEPT: usize = 20_000_000;
const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

type Arrivals = Arc<Mutex<Vec<Arrival>>>;

/// Serves until standard input ends.
pub(crate) async fn run() -> anyhow::Result<()> {
    let arrivals = Arrivals::default();
    let port = listen(&arrivals).await?;
    let mut out = stdout();
    out.write_all(format!("{port}\n").as_bytes()).await?;
    out.flush().await?;
    let mut lines = BufReader::new(stdin()).lines();
    while lines.next_line().await?.is_some() {
        let taken = std::mem::take(&mut *arrivals.lock().unwrap_or_else(PoisonError::into_inner));
        let mut bytes = Vec::with_capacity(8 + taken.len() * Arrival::BYTES);
        bytes.extend_from_slice(&u64::try_from(taken.len())?.to_le_bytes());
        taken.iter().for_each(|arrival| arrival.encode(&mut bytes));
        out.write_all(&bytes).await?;
        out.flush().await?;
    }
    Ok(())
}

/// Where webhook number `hook` is.
pub(crate) fn address_of(hook: u32, port: u16) -> SocketAddr {
    let host = u8::try_from(hook % u32::from(HOSTS)).unwrap_or_default() + 1;
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), port))
}

async fn listen(arrivals: &Arrivals) -> anyhow::Result<u16> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = first.local_addr()?.port();
    let mut listeners = vec![first];
    for hook in 1..u32::from(HOSTS) {
        let address = address_of(hook, port);
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.with_context(|| format!("cannot listen on {address}"))?);
    }
    for listener in listeners {
        tokio::spawn(accept(listener, Arc::clone(arrivals)));
    }
    Ok(port)
}

async fn accept(listener: TcpListener, arrivals: Arrivals) {
    // An error is of one connection, or of too many of them: nothing that waiting for the next would not mend.
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let arrivals = Arc::clone(&arrivals);
            tokio::spawn(async move {
                // Whoever sends something else than deliveries loses its connection; the count tells.
                let _ = serve(stream, &arrivals).await;
            });
        }
    }
}

async fn serve(mut stream: TcpStream, arrivals: &Arrivals) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Buffer::new();
    loop {
        let Some((end, arrival, is_answered)) = parse(buffer.filled())? else {
            if !buffer.read(&mut stream).await? {
                return Ok(());
            }
            continue;
        };
        buffer.consume(end);
        {
            let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            if arrivals.len() < MAX_KEPT {
                arrivals.push(arrival);
            }
        }
        if is_answered {
            stream.write_all(NO_CONTENT).await?;
        }
    }
}

/// The end of a request, what it says, and whether it gets an answer.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(usize, Arrival, bool)>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut headers = http::empty_headers();
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(body_from) = request.parse(bytes)? else { return Ok(None) };
    let Some(framing) = http::framing(bytes, body_from, request.headers)? else { return Ok(None) };
    let path = request.path.unwrap_or_default();
    let (number, is_answered) = match (path.strip_prefix("/at-once/"), path.strip_prefix("/never/")) {
        (Some(number), _) => (number, true),
        (None, Some(number)) => (number, false),
        (None, None) => bail!("no such path: {path}"),
    };
    let hook = number.parse().context("the path has no number")?;
    let stamp = read_stamp(&bytes[framing.body_from..framing.end]);
    let (sent_at, sequence) = stamp.context("the body has no stamp")?;
    Ok(Some((framing.end, Arrival { hook, sequence, sent_at, arrived_at: now_micros() }, is_answered)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Template, data_field};

    #[test]
    fn a_delivery_is_read_once_it_is_complete() {
        let address = address_of(18, 9000);
        assert_eq!(address.to_string(), "127.0.0.3:9000");
        let request = http::request("POST", address, "/at-once/18", "", &format!("{{{}}}", data_field()));
        let mut template = Template::new(request).unwrap();
        let bytes = template.stamp(1_790_000_000_000_000, 5);
        let (end, arrival, is_answered) = parse(bytes).unwrap().unwrap();
        assert_eq!((end, arrival.hook, arrival.sequence, is_answered), (bytes.len(), 18, 5, true));
        assert!(parse(&bytes[..bytes.len() - 1]).unwrap().is_none());
        assert!(parse(b"GET / HTTP/1.1\r\n\r\n").is_err());
    }
}
