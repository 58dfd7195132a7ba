//! The least HTTP/1.1 that a benchmark needs: keep-alive, bodies with a content-length, nothing else.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Most header fields of a message.
const MAX_HEADERS: usize = 64;
/// Largest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// What is read at a time, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// Where a message's body is in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framing {
    pub(crate) body_from: usize,
    pub(crate) end: usize,
}

/// Bytes that were read and not yet used.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

impl Buffer {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; READ_BYTES], filled: 0 }
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Reads more. Says whether there was any.
    pub(crate) async fn read(&mut self, stream: &mut TcpStream) -> anyhow::Result<bool> {
        if self.filled == self.bytes.len() {
            if self.filled >= MAX_MESSAGE_BYTES {
                bail!("a message is larger than {MAX_MESSAGE_BYTES} bytes");
            }
            self.bytes.resize(self.filled * 2, 0);
        }
        let read = stream.read(&mut self.bytes[self.filled..]).await?;
        self.filled += read;
        Ok(read > 0)
    }

    /// Drops what a message took.
    pub(crate) fn consume(&mut self, end: usize) {
        self.bytes.copy_within(end..self.filled, 0);
        self.filled -= end;
    }
}

/// A connection to a server.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Buffer,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Buffer::new() })
    }

    /// Sends a request, and gives the status of its answer.
    pub(crate) async fn status_of(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        let (status, framing) = self.answer_to(request).await?;
        self.buffer.consume(framing.end);
        Ok(status)
    }

    /// Sends a request, and gives the status and the body of its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
        let (status, framing) = self.answer_to(request).await?;
        let body = self.buffer.filled()[framing.body_from..framing.end].to_vec();
        self.buffer.consume(framing.end);
        Ok((status, body))
    }

    async fn answer_to(&mut self, request: &[u8]) -> anyhow::Result<(u16, Framing)> {
        self.stream.write_all(request).await?;
        loop {
            if let Some(answer) = parse_answer(self.buffer.filled())? {
                return Ok(answer);
            }
            if !self.buffer.read(&mut self.stream).await? {
                bail!("the server closed the connection instead of answering");
            }
        }
    }
}

/// A whole request as bytes.
pub(crate) fn request(method: &str, host: SocketAddr, path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn parse_answer(bytes: &[u8]) -> anyhow::Result<Option<(u16, Framing)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body_from) = answer.parse(bytes)? else { return Ok(None) };
    let status = answer.code.context("an answer without a status")?;
    Ok(framing(bytes, body_from, answer.headers)?.map(|framing| (status, framing)))
}

/// Where a body begins and ends, once all of it is there.
pub(crate) fn framing(
    bytes: &[u8],
    body_from: usize,
    headers: &[httparse::Header<'_>],
) -> anyhow::Result<Option<Framing>> {
    let mut length = 0;
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            length = str::from_utf8(header.value)?.parse::<usize>().context("content-length is no number")?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("a body without content-length");
        }
    }
    let end = body_from + length;
    Ok((bytes.len() >= end).then_some(Framing { body_from, end }))
}

/// Most header fields that are parsed, for callers of [`framing`].
pub(crate) fn empty_headers<'a>() -> [httparse::Header<'a>; MAX_HEADERS] {
    [httparse::EMPTY_HEADER; MAX_HEADERS]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_when_its_body_is() {
        let bytes = b"HTTP/1.1 202 Accepted\r\ncontent-length: 4\r\n\r\nabcdHTTP/1.1";
        let (status, framing) = parse_answer(bytes).unwrap().unwrap();
        assert_eq!((status, &bytes[framing.body_from..framing.end]), (202, b"abcd".as_slice()));
        assert!(parse_answer(&bytes[..bytes.len() - 9]).unwrap().is_none());
        let (status, framing) = parse_answer(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!((status, framing.body_from), (204, framing.end));
        assert!(parse_answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
