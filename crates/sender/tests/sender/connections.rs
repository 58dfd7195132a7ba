//! Connections are used again where the protocol lets them be, and nothing of one request is left for the next.

use std::time::Duration;

use chrono::Utc;
use domain::{Cause, Outcome};
use postrider_sender::{Capture, Sender};
use test_support::{NameServer, RawReceiver, Step, local_url_policy};
use tokio::time::sleep;

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
        let outcomes = futures_util::future::join_all((0..20).map(|_| outcome(&sender, &url))).await;
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Delivered), "{outcomes:?}");
    }
    assert_eq!(receiver.connections(), 20);
}

#[tokio::test]
async fn one_that_nobody_used_for_a_minute_is_closed() {
    let receiver = receiver(&[Step::write("HTTP/1.1 204 No Content\r\n\r\n")]).await;
    let (sender, url) = (sender().await, receiver.url("/"));
    for (idle, connections) in
        [(Duration::ZERO, 1), (Duration::from_secs(45), 1), (Duration::from_secs(75), 2)]
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
