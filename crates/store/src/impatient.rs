//! A connection that gives up on a server which does not answer.
//!
//! TCP notices a peer that is gone, not one that is frozen, nor a middle man that takes everything and passes nothing on. Each
//! statement has a limit, so a server that is asked and says nothing for longer than that is one of those.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

/// A stream that fails when what was written is not answered within a time.
pub(crate) struct ImpatientStream<S> {
    stream: S,
    patience: Duration,
    /// Runs while an answer is awaited.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The last bytes that were read.
    tail: [u8; READY_FOR_QUERY],
}

/// The length of the message with which an answer of the server's ends: `Z`, its length, the state of the transaction.
const READY_FOR_QUERY: usize = 6;

impl<S> ImpatientStream<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, deadline: None, tail: [0; READY_FOR_QUERY] }
    }

    /// What was asked is answered, or goes on being answered.
    fn has_read(&mut self, bytes: &[u8]) {
        for byte in &bytes[bytes.len().saturating_sub(READY_FOR_QUERY)..] {
            self.tail.rotate_left(1);
            self.tail[READY_FOR_QUERY - 1] = *byte;
        }
        if bytes.is_empty() || self.tail.starts_with(b"Z\0\0\0\x05") {
            self.deadline = None;
        } else if let Some(deadline) = &mut self.deadline {
            deadline.as_mut().reset(Instant::now() + self.patience);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ImpatientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            self.has_read(&buffer.filled()[before..]);
            return Poll::Ready(result);
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(context));
        let reason = format!("the server has not answered for {} s", self.patience.as_secs());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ImpatientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.deadline.is_none() {
            let mut deadline = Box::pin(sleep_until(Instant::now() + self.patience));
            // Whoever writes also reads, and is to be woken when the time is over.
            if deadline.as_mut().poll(context).is_pending() {
                self.deadline = Some(deadline);
            }
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for ImpatientStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// Wraps each connection. The driver lets a stream be replaced where it would begin TLS, and nowhere else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Impatience(pub(crate) Duration);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Impatience {
    type Stream = ImpatientStream<S>;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _: &str) -> io::Result<Self> {
        Ok(*self)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Impatience {
    type Stream = ImpatientStream<S>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<ImpatientStream<S>>>;

    fn connect(self, stream: S) -> Self::Future {
        std::future::ready(Ok(ImpatientStream::new(stream, self.0)))
    }
}

/// Wraps what TLS has decrypted, of each connection.
#[derive(Clone)]
pub(crate) struct ImpatientTls {
    patience: Duration,
    connector: TlsConnector,
}

impl ImpatientTls {
    pub(crate) fn new(patience: Duration, connector: TlsConnector) -> Self {
        Self { patience, connector }
    }
}

/// A connection that TLS is begun on, with the server of a name.
pub(crate) struct Handshake {
    tls: ImpatientTls,
    server: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for ImpatientTls {
    type Stream = ImpatientStream<tokio_rustls::client::TlsStream<S>>;
    type TlsConnect = Handshake;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, InvalidDnsNameError> {
        Ok(Handshake { tls: self.clone(), server: ServerName::try_from(host.to_owned())? })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = ImpatientStream<tokio_rustls::client::TlsStream<S>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let Self { tls, server } = self;
        Box::pin(async move {
            let stream = tls.connector.connect(server, stream).await?;
            Ok(ImpatientStream::new(stream, tls.patience))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_asked_and_stays_silent_is_given_up_on_and_an_idle_one_is_not() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = ImpatientStream::new(near, Duration::from_secs(5));
        let mut byte = [0];
        let idle = tokio::time::timeout(Duration::from_secs(60), stream.read_exact(&mut byte)).await;
        assert!(idle.is_err(), "nothing was asked");
        stream.write_all(b"?").await.unwrap();
        far.write_all(b"!Z\0\0\0\x05I").await.unwrap();
        stream.read_exact(&mut [0; 7]).await.unwrap();
        let idle = tokio::time::timeout(Duration::from_secs(60), stream.read_exact(&mut byte)).await;
        assert!(idle.is_err(), "what was asked is answered");
        stream.write_all(b"?").await.unwrap();
        far.write_all(b"half").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        let began = Instant::now();
        let error = stream.read_exact(&mut byte).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 5));
    }
}
