use std::time::Duration;

use domain::Clock as _;
use test_support::{Receiver, eventually};

use crate::helpers::{SECRET, World};

#[tokio::test(flavor = "multi_thread")]
async fn two_failures_and_a_success_are_three_attempts_with_the_schedules_gaps() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next(&[500, 500, 204]);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("e1").await;

    let mut requests = vec![receiver.next().await];
    // 5 s and 5 min, each by up to 10 % either way: nothing comes before, it comes after.
    for (number, least, most) in [(1, 4.5, 5.5), (2, 270.0, 330.0)] {
        world.wait_for_history(webhook, number).await;
        world.clock.advance(Duration::from_secs_f64(least - 0.01));
        receiver.expect_none(Duration::from_millis(150)).await;
        world.clock.advance(Duration::from_secs_f64(most - least + 0.02));
        requests.push(receiver.next().await);
    }
    for request in &requests {
        assert_eq!(request.id(), "e1", "the same webhook-id");
        assert_eq!(request.body, requests[0].body);
        assert!(request.is_signed_with(SECRET));
    }
    let timestamps: Vec<&str> = requests.iter().map(|request| request.header("webhook-timestamp")).collect();
    assert_ne!(timestamps[0], timestamps[1], "signed anew each time");

    let history = world.wait_for_history(webhook, 3).await;
    let statuses: Vec<(i32, Option<i16>)> = history.iter().map(|a| (a.attempt, a.status_code)).collect();
    assert_eq!(statuses, [(1, Some(500)), (2, Some(500)), (3, Some(204))]);
    for (attempt, seconds) in history.iter().zip([5.0, 300.0]) {
        let gap = (attempt.next_attempt_at.unwrap() - attempt.started_at).as_seconds_f64();
        assert!((0.9 * seconds..1.1 * seconds + 0.5).contains(&gap), "{gap} for {seconds}");
    }
    assert_eq!(history[2].next_attempt_at, None);
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_attempt_a_delivery_is_finally_failed() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_always(503);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher_with(|config| config.retry_schedule = "1s,1s".parse().unwrap()).await;
    world.publish("e1").await;
    for number in 1..=3 {
        receiver.next().await;
        world.wait_for_history(webhook, number).await;
        world.clock.advance(Duration::from_secs(2));
    }
    world.wait_until_settled().await;
    let history = world.history(webhook).await;
    assert_eq!(history.len(), 3);
    assert_eq!(history[2].next_attempt_at, None);
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_lengthens_the_wait() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next_with(429, &[("retry-after", "3600")]);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("e1").await;
    receiver.next().await;
    let history = world.wait_for_history(webhook, 1).await;
    let wait = (history[0].next_attempt_at.unwrap() - history[0].started_at).num_seconds();
    assert!((3600..3610).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_switched_off_or_deleted_cancels_what_waits_and_the_history_says_so() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_always(500);
    let off = world.webhook(&receiver.url("/off"), &["*"]).await;
    let deleted = world.webhook(&receiver.url("/deleted"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("e1").await;
    receiver.next().await;
    receiver.next().await;
    world.wait_for_history(off, 1).await;
    world.wait_for_history(deleted, 1).await;
    let change = store::WebhookChange { is_active: Some(false), ..store::WebhookChange::default() };
    world.clock.advance(Duration::from_secs(1));
    world.database.store.change_webhook(world.tenant, off, &change, world.clock.now()).await.unwrap();
    world
        .database
        .store
        .delete_webhook(world.tenant, deleted, &domain::Expected::Any, world.clock.now())
        .await
        .unwrap();
    for webhook in [off, deleted] {
        let history = world.wait_for_history(webhook, 2).await;
        assert_eq!(history[1].error.as_deref(), Some("cancelled"));
        assert_eq!(history[1].attempt, 1, "no further attempt was made");
    }
    world.wait_until_settled().await;
    world.clock.advance(Duration::from_secs(3600));
    receiver.expect_none(Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_survive_a_restart_of_the_dispatcher() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next(&[500]);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let dispatcher = world.dispatcher().await;
    world.publish("e1").await;
    receiver.next().await;
    world.wait_for_history(webhook, 1).await;
    assert!(dispatcher.shut_down().await);
    world.clock.advance(Duration::from_secs(6));
    let _second = world.dispatcher().await;
    assert_eq!(receiver.next().await.id(), "e1");
    assert_eq!(world.wait_for_history(webhook, 2).await[1].attempt, 2);
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_webhooks_backlog_of_due_deliveries_does_not_hold_up_anothers() {
    let world = World::create().await;
    let mut hanging = Receiver::start().await;
    let mut healthy = Receiver::start().await;
    hanging.hang();
    let stuck = world.webhook(&hanging.url("/"), &["message.received"]).await;
    let other = world.webhook(&healthy.url("/"), &["message.sent"]).await;
    // 3,000 deliveries of one webhook are due, and after them in time one of another.
    let client = world.database.client().await;
    let insert = "WITH e AS (
        INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
        SELECT 0, $1, $1::timestamptz + n * interval '1 microsecond', $2, $3, 'e' || n, 'message.sent', '{}'
        FROM generate_series(1, $5::bigint) n RETURNING *)
        INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
        SELECT accepted_at, accepted_at, day, 1, tenant_id, $4, id FROM e";
    let now = world.clock.now();
    let tenant = world.tenant.0;
    client.execute(insert, &[&now, &now.date_naive(), &tenant, &stuck.0, &3000_i64]).await.unwrap();
    let late = now + chrono::TimeDelta::seconds(1);
    let one = insert.replace("'e' || n", "'late'");
    client.execute(&one, &[&late, &now.date_naive(), &tenant, &other.0, &1_i64]).await.unwrap();
    world.clock.advance(Duration::from_secs(2));
    let _dispatcher = world.dispatcher_with(|config| config.webhook_concurrency = 4).await;
    assert_eq!(healthy.next().await.id(), "late");
    eventually("four requests under way", async || {
        let leased = "SELECT count(*) FROM deliveries WHERE leased_by IS NOT NULL";
        (world.database.count(leased).await == 4).then_some(())
    })
    .await;
    drop(hanging.next().await);
}
