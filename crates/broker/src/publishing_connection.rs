//! A connection that publishes with confirms, and does nothing else.
//!
//! lapin, which all else here uses, has a thread for each connection, so that a message and its confirm change threads five
//! times between the caller and the socket. Here whoever publishes reads and writes the socket himself. Frames and TLS are those
//! of `amq-protocol`, as lapin's are.

use std::future::poll_fn;
use std::io::{self, Error, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use amq_protocol::auth::Credentials;
use amq_protocol::frame::{
    AMQPContentHeader, AMQPFrame, ProtocolVersion, WriteContext, gen_frame, parse_frame,
};
use amq_protocol::protocol::basic::{AMQPMethod as Basic, AMQPProperties, Publish};
use amq_protocol::protocol::channel::AMQPMethod as ChannelMethod;
use amq_protocol::protocol::confirm::AMQPMethod as ConfirmMethod;
use amq_protocol::protocol::connection::AMQPMethod as ConnectionMethod;
use amq_protocol::protocol::{AMQPClass, channel, confirm, connection, constants};
use amq_protocol::tcp::{AMQPUriTcpExt as _, OwnedTLSConfig};
use amq_protocol::types::{AMQPValue, FieldTable};
use amq_protocol::uri::AMQPUri;
use futures_util::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// The only one.
const CHANNEL: u16 = 1;
/// What is asked of the broker for a frame at most, in bytes; it is RabbitMQ's own maximum. The URL can say otherwise.
const FRAME_MAX: u32 = 128 * 1024;
/// What every broker takes, in bytes.
const FRAME_MIN: usize = constants::FRAME_MIN_SIZE as usize;
/// What a frame has beside its payload, in bytes.
const FRAME_OVERHEAD: usize = 8;
/// What is read at a time, in bytes: a confirm has 21.
const READ_BYTES: usize = 4096;
/// What the broker may tell us, and how.
const CAPABILITIES: [&str; 4] =
    ["publisher_confirms", "basic.nack", "connection.blocked", "authentication_failure_close"];

pub(crate) struct PublishingConnection {
    socket: Box<dyn Socket>,
    outgoing: Vec<u8>,
    /// How much of it is written.
    written: usize,
    incoming: Vec<u8>,
    /// How much of it is taken up.
    taken: usize,
    frame_max: usize,
    heartbeat: Option<Duration>,
    heard_at: Instant,
    spoke_at: Instant,
    published: u64,
    is_blocked: bool,
    was_returned: bool,
    said_goodbye: bool,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// What the broker says of a message, or of all up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Confirm {
    pub(crate) tag: u64,
    pub(crate) multiple: bool,
    /// Why it has not taken it, unless it has.
    pub(crate) refusal: Option<&'static str>,
}

impl PublishingConnection {
    /// Connects, and opens a channel that confirms. `name` is shown in the broker's list of connections.
    pub(crate) async fn open(uri: &AMQPUri, tls: &OwnedTLSConfig, name: &str) -> io::Result<Self> {
        let runtime = lapin::runtime::default_runtime().map_err(Error::other)?;
        let socket = uri.connect_with_config_async(tls.as_ref(), &runtime).await?;
        let mut new = Self::on(Box::new(socket));
        new.write_frame(&AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1()))?;
        new.introduce(uri, name).await?;
        new.open_channel().await?;
        Ok(new)
    }

    fn on(socket: Box<dyn Socket>) -> Self {
        let now = Instant::now();
        Self {
            socket,
            outgoing: Vec::new(),
            written: 0,
            incoming: Vec::new(),
            taken: 0,
            frame_max: FRAME_MIN,
            heartbeat: None,
            heard_at: now,
            spoke_at: now,
            published: 0,
            is_blocked: false,
            was_returned: false,
            said_goodbye: false,
        }
    }

    async fn introduce(&mut self, uri: &AMQPUri, name: &str) -> io::Result<()> {
        let answer = self.next_method().await?;
        let AMQPClass::Connection(ConnectionMethod::Start(_)) = answer else {
            return Err(unexpected(&answer));
        };
        let text = |text: &str| AMQPValue::LongString(text.into());
        let mut capabilities = FieldTable::default();
        for capability in CAPABILITIES {
            capabilities.insert(capability.into(), true.into());
        }
        let mut client_properties = FieldTable::default();
        client_properties.insert("product".into(), text("Postrider"));
        client_properties.insert("version".into(), text(env!("CARGO_PKG_VERSION")));
        client_properties.insert("connection_name".into(), text(name));
        client_properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
        let mechanism = uri.query.auth_mechanism.unwrap_or_default();
        self.say(ConnectionMethod::StartOk(connection::StartOk {
            client_properties,
            mechanism: mechanism.name().into(),
            response: Credentials::from(uri.authority.userinfo.clone()).sasl_auth_string(mechanism),
            locale: "en_US".into(),
        }))?;
        let answer = self.next_method().await?;
        let AMQPClass::Connection(ConnectionMethod::Tune(theirs)) = answer else {
            return Err(unexpected(&answer));
        };
        let frame_max = lower(uri.query.frame_max.unwrap_or(FRAME_MAX), theirs.frame_max);
        let heartbeat = lower(uri.query.heartbeat.unwrap_or_default(), theirs.heartbeat);
        self.frame_max = usize::try_from(frame_max).unwrap_or(usize::MAX).max(FRAME_MIN);
        self.heartbeat = (heartbeat > 0).then(|| Duration::from_secs(heartbeat.into()));
        self.say(ConnectionMethod::TuneOk(connection::TuneOk {
            channel_max: CHANNEL,
            frame_max,
            heartbeat,
        }))?;
        let virtual_host = uri.vhost.as_str().into();
        self.say(ConnectionMethod::Open(connection::Open { virtual_host }))?;
        let answer = self.next_method().await?;
        let AMQPClass::Connection(ConnectionMethod::OpenOk(_)) = answer else {
            return Err(unexpected(&answer));
        };
        Ok(())
    }

    async fn open_channel(&mut self) -> io::Result<()> {
        self.send(CHANNEL, AMQPClass::Channel(ChannelMethod::Open(channel::Open {})))?;
        let answer = self.next_method().await?;
        let AMQPClass::Channel(ChannelMethod::OpenOk(_)) = answer else { return Err(unexpected(&answer)) };
        self.send(CHANNEL, AMQPClass::Confirm(ConfirmMethod::Select(confirm::Select { nowait: false })))?;
        let answer = self.next_method().await?;
        let AMQPClass::Confirm(ConfirmMethod::SelectOk(_)) = answer else { return Err(unexpected(&answer)) };
        Ok(())
    }

    /// Whether the broker takes no messages at the moment, because it is short of memory or disk.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Takes a message, and gives it its tag. It is written while a confirm is waited for.
    pub(crate) fn publish(
        &mut self,
        exchange: &str,
        routing_key: &str,
        properties: AMQPProperties,
        message: &[u8],
    ) -> io::Result<u64> {
        let publish = Publish {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            mandatory: true,
            immediate: false,
        };
        let class_id = publish.get_amqp_class_id();
        self.send(CHANNEL, AMQPClass::Basic(Basic::Publish(publish)))?;
        let header = AMQPContentHeader { class_id, body_size: message.len() as u64, properties };
        self.write_frame(&AMQPFrame::Header(CHANNEL, header))?;
        for part in message.chunks(self.frame_max - FRAME_OVERHEAD) {
            let length = u32::try_from(part.len()).map_err(Error::other)?;
            self.outgoing.push(constants::FRAME_BODY);
            self.outgoing.extend_from_slice(&CHANNEL.to_be_bytes());
            self.outgoing.extend_from_slice(&length.to_be_bytes());
            self.outgoing.extend_from_slice(part);
            self.outgoing.push(constants::FRAME_END);
        }
        self.published += 1;
        Ok(self.published)
    }

    /// Writes what there is to be written, and waits for the next confirm. Nothing is lost where it is dropped meanwhile.
    #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else the broker says ends the connection")]
    pub(crate) async fn next_confirm(&mut self) -> io::Result<Confirm> {
        loop {
            match self.next_method().await? {
                AMQPClass::Basic(Basic::Ack(ack)) => {
                    // Perhaps another message was returned: the connection ends all the same, before that one's confirm.
                    let refusal = self.was_returned.then_some("a message was returned: no queue took it");
                    return Ok(Confirm { tag: ack.delivery_tag, multiple: ack.multiple, refusal });
                }
                AMQPClass::Basic(Basic::Nack(nack)) => {
                    let refusal = Some("a message was refused");
                    return Ok(Confirm { tag: nack.delivery_tag, multiple: nack.multiple, refusal });
                }
                AMQPClass::Basic(Basic::Return(_)) => self.was_returned = true,
                AMQPClass::Connection(ConnectionMethod::Blocked(_)) => self.is_blocked = true,
                AMQPClass::Connection(ConnectionMethod::Unblocked(_)) => self.is_blocked = false,
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// To be called every second. Says that we are there, and finds that the broker is not.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        let Some(heartbeat) = self.heartbeat else { return Ok(()) };
        if self.heard_at.elapsed() > heartbeat * 2 {
            return Err(Error::new(ErrorKind::TimedOut, "the broker is silent"));
        }
        if self.spoke_at.elapsed() > heartbeat / 2 && self.outgoing.is_empty() {
            self.write_frame(&AMQPFrame::Heartbeat)?;
        }
        Ok(())
    }

    /// Says goodbye, and waits for the answer.
    pub(crate) async fn close(mut self) -> io::Result<()> {
        self.say_goodbye()?;
        while !matches!(self.next_method().await?, AMQPClass::Connection(ConnectionMethod::CloseOk(_))) {}
        Ok(())
    }

    fn say_goodbye(&mut self) -> io::Result<()> {
        self.said_goodbye = true;
        self.say(goodbye())
    }

    fn say(&mut self, method: ConnectionMethod) -> io::Result<()> {
        self.send(0, AMQPClass::Connection(method))
    }

    fn send(&mut self, channel: u16, method: AMQPClass) -> io::Result<()> {
        self.write_frame(&AMQPFrame::Method(channel, method))
    }

    fn write_frame(&mut self, frame: &AMQPFrame) -> io::Result<()> {
        let written = gen_frame(frame)(WriteContext::from(Vec::new())).map_err(Error::other)?;
        self.outgoing.extend_from_slice(&written.into_inner().0);
        Ok(())
    }

    async fn next_method(&mut self) -> io::Result<AMQPClass> {
        poll_fn(|context| {
            loop {
                if let Poll::Ready(Err(error)) = self.poll_write(context) {
                    return Poll::Ready(Err(error));
                }
                // What a returned message holds is ours, and a heartbeat says nothing but that it came.
                if let AMQPFrame::Method(_, method) = ready!(self.poll_frame(context))? {
                    return Poll::Ready(Ok(method));
                }
            }
        })
        .await
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outgoing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.outgoing.len() {
            let rest = &self.outgoing[self.written..];
            let written = ready!(Pin::new(&mut self.socket).poll_write(context, rest))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.spoke_at = Instant::now();
        }
        ready!(Pin::new(&mut self.socket).poll_flush(context))?;
        self.outgoing.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<io::Result<AMQPFrame>> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Poll::Ready(Ok(frame));
            }
            let filled = self.incoming.len();
            self.incoming.resize(filled + READ_BYTES, 0);
            let polled = Pin::new(&mut self.socket).poll_read(context, &mut self.incoming[filled..]);
            let read = if let Poll::Ready(Ok(read)) = polled { read } else { 0 };
            self.incoming.truncate(filled + read);
            if ready!(polled)? == 0 {
                return Poll::Ready(Err(Error::new(
                    ErrorKind::UnexpectedEof,
                    "the broker closed the connection",
                )));
            }
            self.heard_at = Instant::now();
        }
    }

    /// The next frame, if all of it is there.
    fn take_frame(&mut self) -> io::Result<Option<AMQPFrame>> {
        let left = &self.incoming[self.taken..];
        if left.is_empty() {
            self.incoming.clear();
            self.taken = 0;
            return Ok(None);
        }
        match parse_frame(left) {
            Ok((rest, frame)) => {
                self.taken = self.incoming.len() - rest.len();
                Ok(Some(frame))
            }
            Err(error) if error.is_incomplete() => {
                self.incoming.drain(..self.taken);
                self.taken = 0;
                Ok(None)
            }
            Err(_) => Err(Error::new(ErrorKind::InvalidData, "the broker does not speak AMQP 0-9-1")),
        }
    }
}

impl Drop for PublishingConnection {
    /// Says goodbye where its thread ended before the connection did, as far as that goes without waiting.
    fn drop(&mut self) {
        if !self.said_goodbye && self.say_goodbye().is_ok() {
            let _ = self.poll_write(&mut Context::from_waker(std::task::Waker::noop()));
        }
    }
}

fn goodbye() -> ConnectionMethod {
    let reply_text = "done".into();
    ConnectionMethod::Close(connection::Close {
        reply_code: constants::REPLY_SUCCESS,
        reply_text,
        class_id: 0,
        method_id: 0,
    })
}

/// The lower of two limits, where none is 0.
fn lower<N: Ord + Default>(ours: N, theirs: N) -> N {
    if ours == N::default() || theirs == N::default() { ours.max(theirs) } else { ours.min(theirs) }
}

fn unexpected(method: &AMQPClass) -> Error {
    if let AMQPClass::Connection(ConnectionMethod::Close(connection::Close {
        reply_code, reply_text, ..
    }))
    | AMQPClass::Channel(ChannelMethod::Close(channel::Close { reply_code, reply_text, .. })) = method
    {
        return Error::other(format!("the broker closed the connection: {reply_code} {reply_text}"));
    }
    Error::new(ErrorKind::InvalidData, format!("the broker said what was not expected: {method:?}"))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use amq_protocol::protocol::basic;

    use super::*;

    /// Reads what is put in, a piece at a time, and keeps what is written.
    #[derive(Clone, Default)]
    struct Wire {
        pieces: Arc<Mutex<VecDeque<Vec<u8>>>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
            let Some(piece) = self.pieces.lock().unwrap().pop_front() else { return Poll::Ready(Ok(0)) };
            into[..piece.len()].copy_from_slice(&piece);
            Poll::Ready(Ok(piece.len()))
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            // Less than what is offered, as a full socket does.
            let some = &bytes[..bytes.len().min(1000)];
            self.written.lock().unwrap().extend_from_slice(some);
            Poll::Ready(Ok(some.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn bytes(frame: &AMQPFrame) -> Vec<u8> {
        gen_frame(frame)(WriteContext::from(Vec::new())).unwrap().into_inner().0
    }

    fn says(method: Basic) -> Vec<u8> {
        bytes(&AMQPFrame::Method(CHANNEL, AMQPClass::Basic(method)))
    }

    fn ack(delivery_tag: u64) -> Vec<u8> {
        says(Basic::Ack(basic::Ack { delivery_tag, multiple: false }))
    }

    fn connection(pieces: Vec<Vec<u8>>) -> (PublishingConnection, Wire) {
        let wire = Wire { pieces: Arc::new(Mutex::new(pieces.into())), ..Wire::default() };
        (PublishingConnection::on(Box::new(wire.clone())), wire)
    }

    #[tokio::test]
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else is to be written")]
    async fn a_message_longer_than_a_frame_goes_in_parts_and_its_confirm_may_come_in_pieces() {
        let confirm = ack(1);
        let (first, second) = confirm.split_at(9);
        let (mut broker, wire) = connection(vec![first.to_vec(), second.to_vec()]);
        let message: Vec<u8> = (0..=u8::MAX).cycle().take(20_000).collect();
        assert_eq!(broker.publish("exchange", "key", AMQPProperties::default(), &message).unwrap(), 1);
        let confirm = broker.next_confirm().await.unwrap();
        assert_eq!(confirm, Confirm { tag: 1, multiple: false, refusal: None });
        let written = wire.written.lock().unwrap().clone();
        let (mut rest, mut body, mut parts) = (written.as_slice(), Vec::new(), 0);
        while !rest.is_empty() {
            let (after, frame) = parse_frame(rest).unwrap();
            assert!(rest.len() - after.len() <= broker.frame_max);
            match frame {
                AMQPFrame::Method(CHANNEL, AMQPClass::Basic(Basic::Publish(publish))) => {
                    assert!(publish.mandatory && publish.exchange.as_str() == "exchange");
                }
                AMQPFrame::Header(CHANNEL, header) => assert_eq!(header.body_size, 20_000),
                AMQPFrame::Body(CHANNEL, part) => {
                    body.extend(part);
                    parts += 1;
                }
                other => panic!("{other:?}"),
            }
            rest = after;
        }
        assert_eq!((body.len(), parts), (message.len(), 3));
        assert!(body == message);
    }

    #[tokio::test]
    async fn after_a_returned_message_no_confirm_is_believed() {
        let returned = basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "exchange".into(),
            routing_key: "key".into(),
        };
        let properties = AMQPProperties::default();
        let header = AMQPContentHeader { class_id: 60, body_size: 1, properties };
        let pieces = vec![
            ack(1),
            says(Basic::Return(returned)),
            bytes(&AMQPFrame::Header(CHANNEL, header)),
            bytes(&AMQPFrame::Body(CHANNEL, vec![1])),
            bytes(&AMQPFrame::Heartbeat),
            ack(2),
        ];
        let (mut broker, _) = connection(pieces);
        assert_eq!(broker.next_confirm().await.unwrap().refusal, None);
        let confirm = broker.next_confirm().await.unwrap();
        assert!(confirm.tag == 2 && confirm.refusal.is_some());
    }

    #[tokio::test]
    async fn the_end_of_the_connection_says_why() {
        let close = channel::Close {
            reply_code: 404,
            reply_text: "NOT_FOUND - no exchange".into(),
            class_id: 60,
            method_id: 40,
        };
        let close = bytes(&AMQPFrame::Method(CHANNEL, AMQPClass::Channel(ChannelMethod::Close(close))));
        let (mut broker, _) = connection(vec![close]);
        let error = broker.next_confirm().await.unwrap_err().to_string();
        assert_eq!(error, "the broker closed the connection: 404 NOT_FOUND - no exchange");
        assert_eq!(broker.next_confirm().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        let (mut broker, _) = connection(vec![b"HTTP/1.1 400 Bad Request".to_vec()]);
        assert_eq!(broker.next_confirm().await.unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_broker_hears_heartbeats_and_is_given_up() {
        let (mut broker, _) = connection(Vec::new());
        broker.heartbeat = Some(Duration::from_secs(10));
        broker.check().unwrap();
        assert!(broker.outgoing.is_empty());
        tokio::time::advance(Duration::from_secs(6)).await;
        broker.check().unwrap();
        broker.check().unwrap();
        assert_eq!(broker.outgoing, bytes(&AMQPFrame::Heartbeat));
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(broker.check().unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn one_that_is_dropped_says_goodbye() {
        let (broker, wire) = connection(Vec::new());
        drop(broker);
        let goodbye = bytes(&AMQPFrame::Method(0, AMQPClass::Connection(goodbye())));
        assert_eq!(*wire.written.lock().unwrap(), goodbye);
    }
}
