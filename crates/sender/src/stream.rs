//! Streams that are small while they carry no TLS, and keep its state behind a pointer where they do: a connection has room
//! for the larger of the two.

use std::io;
use std::pin::Pin;
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
    Tls(Box<TokioIo<TlsStream<TokioIo<Plain>>>>),
}

impl From<MaybeHttpsStream<Plain>> for Stream {
    fn from(stream: MaybeHttpsStream<Plain>) -> Self {
        match stream {
            MaybeHttpsStream::Http(plain) => Self::Plain(plain),
            MaybeHttpsStream::Https(tls) => Self::Tls(Box::new(tls)),
        }
    }
}

/// Asks the stream that there is.
macro_rules! ask {
    ($stream:expr, $method:ident, $($argument:expr),*) => {
        match $stream.get_mut() {
            Stream::Plain(plain) => Pin::new(plain).$method($($argument),*),
            Stream::Tls(tls) => Pin::new(tls).$method($($argument),*),
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
        ask!(self, poll_write, context, buffer)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ask!(self, poll_flush, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ask!(self, poll_shutdown, context)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(plain) => plain.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ask!(self, poll_write_vectored, context, buffers)
    }
}
