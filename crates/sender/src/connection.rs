//! Connections that are small while they carry no TLS, and keep its state behind a pointer where they do: the HTTP client
//! moves a connection through several of its own states, each of which has room for it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::TryFutureExt as _;
use futures_util::future::MapOk;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::resolver::GuardedResolver;

type Plain = TokioIo<TcpStream>;
type Https = HttpsConnector<HttpConnector<GuardedResolver>>;

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Connector(pub(crate) Https);

/// A connection to a receiver.
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

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = <Https as Service<Uri>>::Error;
    type Future = MapOk<<Https as Service<Uri>>::Future, fn(MaybeHttpsStream<Plain>) -> Stream>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.0.call(uri).map_ok(Stream::from)
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(plain) => plain.connected(),
            Self::Tls(tls) => tls.inner().get_ref().0.inner().connected(),
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
