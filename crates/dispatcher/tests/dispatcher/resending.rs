use std::time::Duration;

use domain::{Clock as _, EventId, WebhookId};
use store::{AttemptFilter, Resend};
use test_support::Receiver;

use crate::helpers::World;

/// Attempt, what made it, and what became of it; oldest first.
async fn attempts(world: &World, webhook: WebhookId) -> Vec<(i32, String, &'static str)> {
    let filter = AttemptFilter::default();
    let page = world.database.store.attempts(world.tenant, webhook, &filter, 100, None).await.unwrap();
    page.attempts.into_iter().rev().map(|a| (a.attempt, a.trigger, a.outcome.code())).collect()
}

async fn resend(world: &World, webhook: WebhookId, event: &str) -> Resend {
    world.clock.advance(Duration::from_millis(1)); // no two attempts of a delivery begin at the same time
    let event: EventId = event.parse().unwrap();
    world.database.store.resend(world.tenant, webhook, &event, world.clock.now()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_or_has_failed_is_sent_again_with_all_its_retries() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next(&[204, 500, 500, 204]);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher_with(|config| config.retry_schedule = "5s".parse().unwrap()).await;
    world.publish("e1").await;
    let first = receiver.next().await;
    world.wait_for_history(webhook, 1).await;
    world.wait_until_settled().await;

    assert_eq!(resend(&world, webhook, "e1").await, Resend::Scheduled);
    let second = receiver.next().await;
    assert_eq!((second.id(), &second.body), (first.id(), &first.body));
    world.wait_for_history(webhook, 2).await;
    assert_eq!(resend(&world, webhook, "e1").await, Resend::Unfinished, "its retry is to come");
    world.clock.advance(Duration::from_secs(6));
    receiver.next().await;
    world.wait_for_history(webhook, 3).await;
    world.wait_until_settled().await;

    assert_eq!(resend(&world, webhook, "e1").await, Resend::Scheduled, "it has failed for good");
    receiver.next().await;
    world.wait_for_history(webhook, 4).await;
    world.wait_until_settled().await;
    let expected = [
        (1, "first", "delivered"),
        (1, "resend", "retrying"),
        (2, "retry", "failed"),
        (1, "resend", "delivered"),
    ];
    let expected = expected.map(|(attempt, trigger, outcome)| (attempt, trigger.to_owned(), outcome));
    assert_eq!(attempts(&world, webhook).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_can_be_sent_to_a_webhook_that_came_later() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let _dispatcher = world.dispatcher().await;
    let early = world.webhook(&receiver.url("/early"), &["*"]).await;
    world.publish("e1").await;
    receiver.next().await;
    world.wait_for_history(early, 1).await;
    world.wait_until_settled().await;
    let late = world.webhook(&receiver.url("/late"), &["*"]).await;
    assert_eq!(resend(&world, late, "unknown").await, Resend::UnknownEvent);
    assert_eq!(resend(&world, late, "e1").await, Resend::Scheduled);
    assert_eq!(receiver.next().await.path, "/late");
    world.wait_for_history(late, 1).await;
    assert_eq!(attempts(&world, late).await, [(1, "resend".to_owned(), "delivered")]);
}
