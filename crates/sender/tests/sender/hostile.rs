//! Receivers that misbehave: each attempt ends within its time, and reads and keeps no more than its share.

use std::time::{Duration, Instant};

use chrono::Utc;
use domain::{Cause, MAX_RETRY_AFTER, Outcome};
use futures_util::future::join_all;
use postrider_sender::{Attempted, Capture, MAX_KEPT_BODY_BYTES};
use test_support::{NameServer, RawReceiver, Receiver, Step, local_url_policy};

use crate::{event, exchange, sender_with_deadline, target};

/// What an attempt may take here.
const DEADLINE: Duration = Duration::from_millis(600);
/// For a machine that is busy with other tests.
const SLACK: Duration = Duration::from_secs(5);
/// What is written before the other side's silence is felt: the machine's buffers of both ends.
const MAX_BUFFERED_BYTES: u64 = 24 * 1024 * 1024;
/// How much the whole process may grow by 64 attempts to receivers without an end. The head of an answer is given up after
/// 0.4 MiB.
const MAX_GROWTH_KIB: u64 = 160 * 1024;

const OK_HEAD: &str = "HTTP/1.1 200 OK\r\n\r\n";
const PROTOCOL: Outcome = Outcome::Retryable(Cause::Protocol);
const TIMEOUT: Outcome = Outcome::Retryable(Cause::Timeout);

/// One attempt to a receiver that does this, and the bytes that it got rid of.
async fn attempt_to(steps: impl Into<Vec<Step>>) -> (Attempted, u64) {
    let receiver = RawReceiver::start(steps).await;
    (attempt(&receiver.url("/")).await, receiver.bytes_written())
}

async fn attempt(url: &str) -> Attempted {
    let names = NameServer::start().await;
    let sender = sender_with_deadline(local_url_policy(), &names, DEADLINE);
    let began = Instant::now();
    let attempted = sender.send(&target(url), &event(), Utc::now(), Capture::All).await.unwrap();
    assert!(began.elapsed() < DEADLINE + SLACK, "it took {:?}", began.elapsed());
    attempted
}

/// One attempt to a receiver that answers with this and closes the connection.
async fn answered(answer: impl AsRef<[u8]>) -> Attempted {
    attempt_to([Step::ReadRequest, Step::Write(answer.as_ref().to_vec())]).await.0
}

#[tokio::test]
async fn a_body_without_an_end_is_cut_off_and_the_status_counts() {
    for head in [
        OK_HEAD,
        "HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709550000\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFF\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
    ] {
        let endless = Step::WriteForEver(vec![b'x'; 64 * 1024]);
        let (attempted, written) = attempt_to([Step::ReadRequest, Step::write(head), endless]).await;
        assert_eq!((attempted.outcome, attempted.status_code), (Outcome::Delivered, Some(200)), "{head}");
        let response = exchange(&attempted).response.as_ref().unwrap();
        assert!(response.body_cut && response.body.len() == MAX_KEPT_BODY_BYTES, "{head}");
        assert!(written < MAX_BUFFERED_BYTES, "{head}: {written} bytes were taken");
    }
}

#[tokio::test]
async fn a_receiver_that_says_one_byte_at_a_time_has_only_the_deadline() {
    let chunk = "1\r\nx\r\n".to_owned();
    for (head, dripped, status) in [
        ("", "HTTP/1.1 200 OK and more of it", None),
        ("HTTP/1.1 200 OK\r\nx: ", "y", None),
        (OK_HEAD, "x", Some(200)),
        ("HTTP/1.1 500 No\r\ncontent-length: 1000\r\nretry-after: 60\r\n\r\n", "x", Some(500)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &chunk, Some(200)),
    ] {
        let (attempted, _) = attempt_to([Step::ReadRequest, Step::write(head), Step::drip(dripped)]).await;
        assert_eq!((attempted.outcome, attempted.status_code), (TIMEOUT, status), "{head} {dripped}");
        assert!(attempted.duration >= DEADLINE);
    }
}

#[tokio::test]
async fn a_receiver_that_does_nothing_has_only_the_deadline() {
    for steps in [vec![Step::Hang], vec![Step::ReadRequest, Step::Hang]] {
        assert_eq!(attempt_to(steps).await.0.outcome, TIMEOUT);
    }
}

#[tokio::test]
async fn an_answer_that_says_continue_for_ever_has_only_the_deadline() {
    for head in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"] {
        let (attempted, _) = attempt_to([Step::ReadRequest, Step::write_for_ever(head)]).await;
        assert_eq!((attempted.outcome, attempted.status_code), (TIMEOUT, None), "{head}");
    }
    let few = "HTTP/1.1 100 Continue\r\n\r\n".repeat(50) + "HTTP/1.1 204 No Content\r\n\r\n";
    assert_eq!(answered(few).await.outcome, Outcome::Delivered);
}

#[tokio::test]
async fn a_head_that_is_too_long_is_given_up() {
    let many = "x-filler: v\r\n".repeat(5_000);
    for (begin, rest) in [
        ("HTTP/1.1 200 OK\r\n", "x-filler: v\r\n"),
        ("HTTP/1.1 200 OK\r\nx: ", "v"),
        ("HTTP/1.1 200 ", "reason"),
        ("", "no line ends here "),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", "extension"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", "x-trailer: v\r\n"),
    ] {
        let endless = Step::write_for_ever(&rest.repeat(1_000));
        let (attempted, written) = attempt_to([Step::ReadRequest, Step::write(begin), endless]).await;
        assert_eq!(attempted.outcome, PROTOCOL, "{begin}{rest}…");
        assert!(written < MAX_BUFFERED_BYTES, "{begin}{rest}…: {written} bytes were taken");
    }
    assert_eq!(answered(format!("HTTP/1.1 200 OK\r\n{many}\r\n")).await.outcome, PROTOCOL);
}

#[tokio::test]
async fn an_answer_that_is_not_http_or_breaks_off_is_a_failed_attempt() {
    for (answer, status) in [
        ("", None),
        ("<html>HTTP/0.9 has no head</html>\r\n\r\n", None),
        ("\r\n\r\n\r\n", None),
        ("HTTP/1.1 200", None),
        ("HTTP/1.1 20 OK\r\n\r\n", None),
        ("HTTP/1.1 2000 OK\r\n\r\n", None),
        ("HTTP/1.1 099 Low\r\n\r\n", None),
        ("HTTP/1.1 -20 OK\r\n\r\n", None),
        ("HTTP/2.0 200 OK\r\n\r\n", None),
        ("HTTP/9.9 200 OK\r\n\r\n", None),
        ("ICY 200 OK\r\n\r\n", None),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
        ("\u{16}\u{3}\u{1}\0\u{5}hello", None),
        ("HTTP/1.1 200 OK\r\nna\0me: v\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nname: v\0w\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nname: v\u{7f}w\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nname : v\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\n: v\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nname: v\r\n folded\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok", None),
        ("HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551614\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok", None),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", Some(200)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", Some(200)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nhello", Some(200)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n", Some(200)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello", Some(200)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello world\r\n0\r\n\r\n", Some(200)),
    ] {
        let attempted = answered(answer).await;
        assert_eq!((attempted.outcome, attempted.status_code), (PROTOCOL, status), "{answer:?}");
        assert!(exchange(&attempted).explanation.is_some(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_status_that_nobody_knows_is_a_failed_attempt_with_that_status() {
    for status in [299, 300, 304, 399, 418, 599, 600, 999] {
        let attempted = answered(format!("HTTP/1.1 {status} Odd\r\nconnection: close\r\n\r\n")).await;
        assert_eq!((attempted.outcome, attempted.status_code), (Outcome::of_status(status), Some(status)));
    }
    let switched =
        answered("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await;
    assert_ne!(switched.outcome, Outcome::Delivered);
}

#[tokio::test]
async fn a_connection_that_is_reset_is_a_failed_attempt() {
    let begun = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nsho";
    for steps in [
        vec![Step::Reset],
        vec![Step::ReadRequest, Step::Reset],
        vec![Step::ReadRequest, Step::write("HTTP/1.1 2"), Step::Reset],
        vec![Step::ReadRequest, Step::write(begun), Step::Reset],
    ] {
        let outcome = attempt_to(steps.clone()).await.0.outcome;
        let failed = [PROTOCOL, Outcome::Retryable(Cause::Connect)];
        assert!(failed.contains(&outcome), "{steps:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn an_answer_before_the_request_is_read_neither_hangs_nor_counts_twice() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for steps in [vec![Step::write(answer), Step::Hang], vec![Step::write(answer)]] {
        let receiver = RawReceiver::start(steps).await;
        let attempted = attempt(&receiver.url("/")).await;
        assert!([Outcome::Delivered, PROTOCOL].contains(&attempted.outcome), "{attempted:?}");
        assert_eq!(receiver.connections(), 1, "what may have been sent is not sent again");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_not_taken_for_that_of_the_next_request() {
    let two = "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let receiver = RawReceiver::start([Step::ReadRequest, Step::write(two), Step::Hang]).await;
    let names = NameServer::start().await;
    let sender = sender_with_deadline(local_url_policy(), &names, DEADLINE);
    for _ in 0..3 {
        let target = target(&receiver.url("/"));
        let attempted = sender.send(&target, &event(), Utc::now(), Capture::All).await.unwrap();
        assert_eq!(attempted.status_code, Some(500));
    }
    assert_eq!(receiver.connections(), 3, "a connection with something left in it is not used again");
}

#[tokio::test]
async fn a_compressed_body_is_not_unpacked() {
    // 1 MiB of zeros; a stream of these is one, too, and unpacks to 60 MiB.
    let bomb = include_bytes!("../../testdata/zeros.gz").repeat(60);
    let mut answer =
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-type: text/plain\r\n\r\n".to_vec();
    answer.extend(&bomb);
    let attempted = answered(answer).await;
    assert_eq!(attempted.outcome, Outcome::Delivered);
    let exchange = exchange(&attempted);
    assert_eq!(exchange.response.as_ref().unwrap().body, bomb[..MAX_KEPT_BODY_BYTES]);
    assert!(!exchange.request_headers.iter().any(|(name, _)| name == "accept-encoding"));
}

#[tokio::test]
async fn bodies_and_headers_that_are_not_utf8_are_kept_as_far_as_they_can_be_shown() {
    let attempted =
        answered(b"HTTP/1.1 200 OK\r\nx-latin: caf\xe9\r\ncontent-length: 4\r\n\r\n\xff\xfe\0\x80").await;
    assert_eq!(attempted.outcome, Outcome::Delivered);
    let response = exchange(&attempted).response.as_ref().unwrap();
    assert_eq!(&response.body[..], b"\xff\xfe\0\x80");
    assert!(response.headers.contains(&("x-latin".to_owned(), "caf\u{fffd}".to_owned())), "{response:?}");
}

#[tokio::test]
async fn redirects_are_not_followed_wherever_they_lead() {
    let mut inside = Receiver::start().await;
    let receiver = Receiver::start().await;
    for status in [300, 301, 302, 303, 305, 307, 308] {
        for location in [&inside.url("/"), "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"] {
            receiver.answer_next_with(status, &[("location", location), ("refresh", "0; url=/")]);
            let attempted = attempt(&receiver.url("/")).await;
            assert_eq!(attempted.outcome, Outcome::Retryable(Cause::Status(status)), "{location}");
        }
    }
    assert!(inside.try_next().is_none());
}

#[tokio::test]
async fn what_retry_after_asks_for_is_bounded_in_both_its_forms() {
    let day = Some(MAX_RETRY_AFTER);
    for (value, wait) in [
        ("99999999999999999999999999999999999999", day),
        ("18446744073709551615", day),
        ("86401", day),
        ("Wed, 31 Dec 9999 23:59:59 GMT", None), // a Friday
        ("Fri, 31 Dec 9999 23:59:59 GMT", day),
        ("Thu, 01 Jan 1970 00:00:00 GMT", Some(Duration::ZERO)),
        ("0", Some(Duration::ZERO)),
        ("-1", None),
        ("1e9", None),
        ("inf", None),
        ("120, 240", None),
        ("tomorrow", None),
        ("Fri, 31 Dec 99999999999 23:59:59 GMT", None),
    ] {
        let answer = format!("HTTP/1.1 503 Busy\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n");
        let attempted = answered(answer).await;
        assert_eq!(attempted.outcome, Outcome::Retryable(Cause::Status(503)));
        assert_eq!(attempted.retry_after, wait, "{value}");
    }
}

#[tokio::test]
async fn endless_answers_to_many_attempts_at_once_take_little_memory() {
    let endless = |begin: &str, rest: &str| {
        [Step::ReadRequest, Step::write(begin), Step::write_for_ever(&rest.repeat(1_000))]
    };
    let kinds = [
        endless(OK_HEAD, "a body without end "),
        endless("HTTP/1.1 200 OK\r\nx: ", "a header without end "),
        endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "5\r\nhello\r\n"),
        endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", "x-trailer: v\r\n"),
    ];
    let names = NameServer::start().await;
    let sender = sender_with_deadline(local_url_policy(), &names, DEADLINE);
    let mut receivers = Vec::new();
    for steps in kinds {
        receivers.push(RawReceiver::start(steps).await);
    }
    let before = most_memory_kib();
    let targets: Vec<_> = (0..64).map(|n| target(&receivers[n % receivers.len()].url("/"))).collect();
    let event = event();
    join_all(targets.iter().map(|target| sender.send(target, &event, Utc::now(), Capture::All))).await;
    let growth = most_memory_kib() - before;
    assert!(growth < MAX_GROWTH_KIB, "the process grew by {growth} KiB");
}

/// The most memory that this process has had resident so far.
fn most_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
