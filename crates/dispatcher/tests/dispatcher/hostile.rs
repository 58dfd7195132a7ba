//! Receivers that misbehave, beside one that does not.

use domain::WebhookId;
use test_support::{RawReceiver, Receiver, Step};

use crate::helpers::World;

const EVENTS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_misbehave_hurt_only_themselves() {
    let world = World::create().await;
    let mut healthy = Receiver::start().await;
    let answer = |steps: &[Step]| [&[Step::ReadRequest], steps].concat();
    // What becomes of them is told only at the deadline, which none of these reaches while the test runs.
    let without_end = [
        vec![Step::Hang],
        answer(&[Step::Hang]),
        answer(&[Step::write("HTTP/1.1 200 OK\r\nx: "), Step::drip("y")]),
        answer(&[Step::write("HTTP/1.1 200 OK\r\n\r\n"), Step::drip("x")]),
    ];
    let failing = [
        (answer(&[]), "protocol"),
        (answer(&[Step::Reset]), "protocol"),
        (answer(&[Step::write("HTTP/0.9? <html>\r\n\r\n")]), "protocol"),
        (
            answer(&[Step::write("HTTP/1.1 200 OK\r\nx: "), Step::write_for_ever(&"endless ".repeat(8_000))]),
            "protocol",
        ),
        (answer(&[Step::write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsho")]), "protocol"),
        (
            answer(&[Step::write(
                "HTTP/1.1 302 Go\r\nlocation: http://10.0.0.1/\r\ncontent-length: 0\r\n\r\n",
            )]),
            "status",
        ),
    ];
    let mut receivers = Vec::new();
    for steps in without_end {
        let receiver = RawReceiver::start(steps).await;
        world.webhook(&receiver.url("/"), &["*"]).await;
        receivers.push(receiver);
    }
    let mut failures = Vec::new();
    for (steps, error) in failing {
        let receiver = RawReceiver::start(steps).await;
        failures.push((world.webhook(&receiver.url("/"), &["*"]).await, error));
        receivers.push(receiver);
    }
    let endless_body = RawReceiver::start(answer(&[
        Step::write("HTTP/1.1 200 OK\r\n\r\n"),
        Step::write_for_ever(&"x".repeat(64_000)),
    ]))
    .await;
    let taken_as_read = world.webhook(&endless_body.url("/"), &["*"]).await;
    let webhook = world.webhook(&healthy.url("/"), &["*"]).await;

    let _dispatcher = world.dispatcher().await;
    for number in 0..EVENTS {
        world.publish(&format!("e{number}")).await;
    }
    for _ in 0..EVENTS {
        healthy.next().await;
    }
    let delivered = world.wait_for_history(webhook, EVENTS).await;
    assert!(delivered.iter().all(|attempt| (attempt.attempt, attempt.status_code) == (1, Some(204))));
    for (webhook, error) in failures {
        first_attempts(&world, webhook, Some(error)).await;
    }
    first_attempts(&world, taken_as_read, None).await;
}

/// Waits for the attempts that a webhook's circuit breaker lets through at once: three, or some more.
async fn first_attempts(world: &World, webhook: WebhookId, error: Option<&str>) {
    let history = world.wait_for_history(webhook, 3).await;
    assert!(history.iter().all(|attempt| attempt.error.as_deref() == error), "{error:?}: {history:?}");
}
