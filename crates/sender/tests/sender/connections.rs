//! Connections are used again where the protocol lets them be, and nothing of one request is left for the next.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::Utc;
use domain::{Cause, Outcome};
use futures_util::future::join_all;
use postrider_sender::{Capture, Sender};
use socket2::{Domain, Socket, Type};
use test_support::{NameServer, RawReceiver, Step, local_url_policy, read_head};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::certificates::{acceptor, trusting_the_test_authority};
use crate::{event, sender_with_deadline, target};

const DEADLINE: Duration = Duration::from_secs(2);

async fn sender() -> Sender {
    sender_with_deadline(local_url_policy(), &NameServer::start().await, DEADLINE)
}

async fn outcome(sender: &Sender, url: &str) -> Outcome {
    sender.send(&target(url), &event(), Utc::now(), Capture::Failures).await.unwrap().outcome
}

/// A receiver that reads a request and says each of these in turn, three times over.
async fn receiver(answer: &[Step]) -> RawReceiver {
    let exchange = [&[Step::ReadRequest], answer].concat();
    RawReceiver::start(vec![exchange; 3].concat()).await
}

#[tokio::test]
async fn an_answer_that_was_read_to_its_end_leaves_the_connection_to_the_next_request() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-trailer: t\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let receiver = receiver(&[Step::write(answer)]).await;
        let sender = sender().await;
        for _ in 0..3 {
            assert_eq!(outcome(&sender, &receiver.url("/")).await, Outcome::Delivered, "{answer}");
        }
        assert_eq!(receiver.connections(), 1, "{answer}");
    }
}

#[tokio::test]
async fn one_that_comes_in_parts_does_too() {
    let parts = ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "2\r\nok\r\n", "0\r\n\r\n"];
    let (written, pause) = (parts.map(Step::write), Step::Pause(Duration::from_millis(50)));
    let receiver =
        receiver(&written.into_iter().flat_map(|part| [part, pause.clone()]).collect::<Vec<_>>()).await;
    let sender = sender().await;
    for _ in 0..3 {
        assert_eq!(outcome(&sender, &receiver.url("/")).await, Outcome::Delivered);
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn one_that_the_receiver_closed_meanwhile_costs_no_attempt() {
    let receiver = RawReceiver::start([
        Step::ReadRequest,
        Step::write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ])
    .await;
    let sender = sender().await;
    for connections in 1..=3 {
        assert_eq!(outcome(&sender, &receiver.url("/")).await, Outcome::Delivered);
        assert_eq!(receiver.connections(), connections);
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_answer_that_ends_the_connection_or_says_too_much_leaves_none() {
    for answer in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        // The second would be taken for the answer to the next request.
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let receiver = receiver(&[Step::write(answer)]).await;
        let sender = sender().await;
        let first = outcome(&sender, &receiver.url("/")).await;
        assert_eq!(outcome(&sender, &receiver.url("/")).await, first, "{answer}");
        assert_eq!(receiver.connections(), 2, "{answer}");
    }
}

#[tokio::test]
async fn neither_does_one_that_came_too_late_or_not_to_its_end() {
    for (answer, cause) in [
        (&[][..], Cause::Timeout),
        (&[Step::write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok")], Cause::Timeout),
        (&[Step::write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")], Cause::Protocol),
    ] {
        let receiver = RawReceiver::start([&[Step::ReadRequest], answer, &[Step::Hang]].concat()).await;
        let names = NameServer::start().await;
        let sender = sender_with_deadline(local_url_policy(), &names, Duration::from_millis(300));
        for connections in 1..=2 {
            assert_eq!(outcome(&sender, &receiver.url("/")).await, Outcome::Retryable(cause));
            assert_eq!(receiver.connections(), connections);
        }
    }
}

#[tokio::test]
async fn requests_that_wait_at_once_have_a_connection_each_and_leave_them_to_the_next() {
    let receiver = receiver(&[
        Step::Pause(Duration::from_millis(300)),
        Step::write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ])
    .await;
    let (sender, url) = (sender().await, receiver.url("/"));
    for _ in 0..3 {
        let outcomes = join_all((0..20).map(|_| outcome(&sender, &url))).await;
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Delivered), "{outcomes:?}");
    }
    assert_eq!(receiver.connections(), 20);
}

/// Some of these fit into what lies between the two ends, some do not, and of some only the end does not.
const BODIES: std::ops::RangeInclusive<usize> = 1..=12;
const BODY_STEP: usize = 20 * 1024;

#[tokio::test]
async fn a_request_that_is_answered_early_arrives_whole_all_the_same() {
    let sender = &sender().await;
    let arrivals = BODIES.map(|steps| async move {
        let listener = narrow_listener();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let receiver = async { answer_early(listener.accept().await.unwrap().0).await };
        arrived(sender, &url, steps * BODY_STEP, receiver).await
    });
    join_all(arrivals).await;
}

#[test]
fn over_tls_too() {
    trusting_the_test_authority("connections::where_the_test_authority_is_trusted");
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn where_the_test_authority_is_trusted() {
    let names = NameServer::start().await;
    names.know("receiver.test", &["127.0.0.1"]);
    let sender = &sender_with_deadline(local_url_policy(), &names, DEADLINE);
    let arrivals = BODIES.map(|steps| async move {
        let listener = narrow_listener();
        let url = format!("https://receiver.test:{}/", listener.local_addr().unwrap().port());
        let receiver = async {
            let stream = listener.accept().await.unwrap().0;
            answer_early(acceptor().accept(stream).await.unwrap()).await
        };
        arrived(sender, &url, steps * BODY_STEP, receiver).await
    });
    join_all(arrivals).await;
}

/// The receiver gives how much of the body has come.
async fn arrived(sender: &Sender, url: &str, bytes: usize, receiver: impl Future<Output = usize>) {
    let mut event = event();
    event.body = vec![b'b'; bytes].into();
    let attempt = async { sender.send(&target(url), &event, Utc::now(), Capture::Failures).await.unwrap() };
    let (attempted, arrived) = tokio::join!(attempt, receiver);
    assert_eq!((attempted.outcome, arrived), (Outcome::Delivered, bytes));
}

/// Says yes to a request of which it has read the head, and reads the body a while later.
async fn answer_early(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> usize {
    let mut request = Vec::new();
    let head = read_head(&mut stream, &mut request).await.unwrap();
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(300)).await;
    let rest = async { while stream.read_buf(&mut request).await.is_ok_and(|bytes| bytes > 0) {} };
    // Those that are sent whole by now are kept open.
    let _ = timeout(Duration::from_secs(1), rest).await;
    request.len() - head
}

/// One whose connections hold little on their way, unlike others on loopback.
fn narrow_listener() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_mss(536).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(1).unwrap();
    socket.set_nonblocking(true).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

#[tokio::test]
async fn one_that_nobody_used_for_a_minute_is_closed() {
    let receiver = receiver(&[Step::write("HTTP/1.1 204 No Content\r\n\r\n")]).await;
    let (sender, url) = (sender().await, receiver.url("/"));
    for (idle, connections) in
        [(Duration::ZERO, 1), (Duration::from_secs(45), 1), (Duration::from_secs(61), 2)]
    {
        pass(idle).await;
        assert_eq!(outcome(&sender, &url).await, Outcome::Delivered);
        assert_eq!(receiver.connections(), connections, "after {idle:?}");
    }
}

/// Lets time pass for the sender, in steps in which it can do what is due.
async fn pass(time: Duration) {
    let step = Duration::from_secs(1);
    tokio::time::pause();
    for _ in 0..time.as_secs() {
        tokio::time::advance(step).await;
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
}
