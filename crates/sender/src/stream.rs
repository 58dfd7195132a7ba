//! Streams that are small while they carry no TLS, and keep its state behind a pointer where they do: a connection has room
//! for the larger of the two.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

type Plain = TokioIo<TcpStream>;

/// What a connection to a receiver is made of.
pub(crate) enum Stream {
    Plain(Plain),
    Tls(Box<Tls>),
}

pub(crate) struct Tls {
    stream: TokioIo<TlsStream<TokioIo<Plain>>>,
    holds_back: Arc<HeldBack>,
}

/// Whether TLS has taken bytes that the socket had no room for.
#[derive(Default)]
pub(crate) struct HeldBack(AtomicBool);

impl HeldBack {
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Stream {
    /// Follows what is held back, where anything can be.
    pub(crate) fn held_back(&self) -> Option<Arc<HeldBack>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(Arc::clone(&tls.holds_back)),
        }
    }

    fn set_held_back(&self, any: bool) {
        if let Self::Tls(tls) = self {
            tls.holds_back.0.store(any, Ordering::Relaxed);
        }
    }
}

impl From<MaybeHttpsStream<Plain>> for Stream {
    fn from(stream: MaybeHttpsStream<Plain>) -> Self {
        match stream {
            MaybeHttpsStream::Http(plain) => Self::Plain(plain),
            MaybeHttpsStream::Https(stream) => {
                Self::Tls(Box::new(Tls { stream, holds_back: Arc::default() }))
            }
        }
    }
}

/// Asks the stream that there is.
macro_rules! ask {
    ($stream:expr, $method:ident, $($argument:expr),*) => {
        match $stream.get_mut() {
            Stream::Plain(plain) => Pin::new(plain).$method($($argument),*),
            Stream::Tls(tls) => Pin::new(&mut tls.stream).$method($($argument),*),
        }
    };
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ask!(self, poll_read, context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.set_held_back(true);
        ask!(self, poll_write, context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ask!(self.as_mut(), poll_flush, context);
        if flushed.is_ready() {
            self.set_held_back(false);
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ask!(self, poll_shutdown, context)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(plain) => plain.is_write_vectored(),
            Self::Tls(tls) => tls.stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.set_held_back(true);
        ask!(self, poll_write_vectored, context, buffers)
    }
}
