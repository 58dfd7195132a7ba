use std::time::Duration;

use domain::{Clock as _, TenantId};
use lapin::BasicProperties;
use test_support::{Receiver, eventually};
use uuid::Uuid;

use crate::helpers::{SECRET, World};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_delivered_signed_and_recorded_in_two_rows() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/hook"), &["message.sent"]).await;
    let dispatcher = world.dispatcher().await;
    world.publish("order-1").await;

    let request = receiver.next().await;
    assert_eq!(request.path, "/hook");
    assert_eq!(request.id(), "order-1");
    assert_eq!(request.header("content-type"), "application/json");
    assert!(request.header("user-agent").starts_with("Postrider/"));
    assert_eq!(request.header("webhook-timestamp"), world.clock.now().timestamp().to_string());
    assert!(request.is_signed_with(SECRET) && !request.is_signed_with("another-secret"));
    let body = r#"{"id":"order-1","type":"message.sent","timestamp":"2026-05-30T10:00:00.000Z","data":{}}"#;
    assert_eq!(request.body, body);

    let history = world.wait_for_history(webhook, 1).await;
    assert_eq!((history[0].attempt, history[0].status_code, &history[0].error), (1, Some(204), &None));
    world.wait_until_settled().await;
    assert!(dispatcher.shut_down().await);
    let inserted = "SELECT sum(n_tup_ins + n_tup_upd)::bigint FROM pg_stat_user_tables
        WHERE relname LIKE 'events_%' OR relname LIKE 'delivery_attempts_%' OR relname = 'deliveries'";
    let rows = eventually("both rows in the statistics", async || {
        let rows = world.database.count(inserted).await;
        (rows >= 2).then_some(rows)
    })
    .await;
    assert_eq!(rows, 2, "one event, one attempt, and nothing updated");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_webhooks_that_want_an_event_get_it() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let other_tenant = TenantId(Uuid::now_v7());
    world.database.store.ensure_tenants(&[other_tenant]).await.unwrap();
    for (path, events) in
        [("/exact", "message.sent"), ("/below", "message.*"), ("/all", "*"), ("/no", "session.connected")]
    {
        world.webhook(&receiver.url(path), &[events]).await;
    }
    world.webhook_of(world.tenant, &receiver.url("/session"), &["*"], Some(&["s1"])).await;
    world.webhook_of(world.tenant, &receiver.url("/other-session"), &["*"], Some(&["s2"])).await;
    world.webhook_of(other_tenant, &receiver.url("/stranger"), &["*"], None).await;
    let _dispatcher = world.dispatcher().await;
    let event = world.event("e1", "message.sent", "{}").replace(r#""data""#, r#""sessionId":"s1","data""#);
    world.publish_raw("message.sent", event, BasicProperties::default()).await;
    let mut paths = Vec::new();
    for _ in 0..4 {
        paths.push(receiver.next().await.path);
    }
    paths.sort();
    assert_eq!(paths, ["/all", "/below", "/exact", "/session"]);
    world.wait_until_settled().await;
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_published_after_a_webhooks_creation_reaches_it_and_after_its_deletion_does_not() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let _dispatcher = world.dispatcher().await;
    let mut webhooks = Vec::new();
    for number in 0..20 {
        webhooks.push(world.webhook(&receiver.url(&format!("/{number}")), &["message.sent"]).await);
        world.publish(&format!("e{number}")).await;
        for _ in 0..=number {
            assert_eq!(receiver.next().await.id(), format!("e{number}"));
        }
    }
    for webhook in webhooks {
        world
            .database
            .store
            .delete_webhook(world.tenant, webhook, &domain::Expected::Any, world.clock.now())
            .await
            .unwrap();
    }
    world.publish("late").await;
    world.wait_until_settled().await;
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_event_is_delivered_once_also_across_midnight() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    let twice = format!("[{0},{0}]", world.event("e1", "message.sent", "{}"));
    world.publish_raw("message.sent", twice, BasicProperties::default()).await;
    world.publish("e1").await;
    assert_eq!(receiver.next().await.id(), "e1");
    world.clock.advance(Duration::from_secs(24 * 3600));
    world.publish("e1").await;
    world.publish("e2").await;
    assert_eq!(receiver.next().await.id(), "e2");
    world.wait_until_settled().await;
    assert!(receiver.try_next().is_none());
    assert_eq!(world.database.count("SELECT count(*) FROM events").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_receiver_holds_up_neither_its_batch_nor_anybody_else() {
    let world = World::create().await;
    let mut hanging = Receiver::start().await;
    let mut healthy = Receiver::start().await;
    hanging.hang();
    let stuck = world.webhook(&hanging.url("/"), &["*"]).await;
    world.webhook(&healthy.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher_with(|config| config.webhook_concurrency = 2).await;
    for number in 0..20 {
        world.publish(&format!("e{number}")).await;
    }
    for _ in 0..20 {
        healthy.next().await;
    }
    // Two hang, under a lease; the others wait for the webhook's gate. No batch waits for any of them.
    eventually("no open batch", async || {
        (world.database.count("SELECT count(*) FROM open_batches").await == 0).then_some(())
    })
    .await;
    assert_eq!(world.database.count("SELECT count(*) FROM deliveries").await, 20);
    hanging.release();
    let history = world.wait_for_history(stuck, 20).await;
    assert_eq!(history.len(), 20);
    world.wait_until_settled().await;
    let mut seen = 0;
    while hanging.try_next().is_some() {
        seen += 1;
    }
    assert_eq!(seen, 20, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_after_the_deadline_is_a_timeout() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.hang();
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher =
        world.dispatcher_with(|config| config.delivery_timeout = Duration::from_millis(1500)).await;
    world.publish("e1").await;
    receiver.next().await;
    let history = world.wait_for_history(webhook, 1).await;
    assert_eq!((history[0].status_code, history[0].error.as_deref()), (None, Some("timeout")));
    assert!(history[0].next_attempt_at.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed_and_nothing_listening_is_a_failed_connection() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next_with(302, &[("location", &receiver.url("/elsewhere"))]);
    let redirected = world.webhook(&receiver.url("/"), &["message.sent"]).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed at once
    let refused = world.webhook(&format!("http://{nobody}/"), &["message.sent"]).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("e1").await;
    assert_eq!(receiver.next().await.path, "/");
    let history = world.wait_for_history(redirected, 1).await;
    assert_eq!((history[0].status_code, history[0].error.as_deref()), (Some(302), Some("status")));
    let history = world.wait_for_history(refused, 1).await;
    assert_eq!((history[0].status_code, history[0].error.as_deref()), (None, Some("connect")));
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_not_public_are_refused_at_every_attempt() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let literal = world.webhook(&receiver.url("/"), &["*"]).await;
    let port = receiver.url("").rsplit_once(':').unwrap().1.to_owned();
    let named = world.webhook(&format!("http://localhost:{port}/"), &["*"]).await;
    let private = world.webhook("http://10.1.2.3/", &["*"]).await;
    let _dispatcher = world
        .dispatcher_with(|config| {
            config.url_policy = domain::UrlPolicy { allow_http: true, ..domain::UrlPolicy::default() };
        })
        .await;
    world.publish("e1").await;
    for webhook in [literal, named, private] {
        let history = world.wait_for_history(webhook, 1).await;
        assert_eq!(history[0].error.as_deref(), Some("address_refused"));
    }
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_answers_410_is_not_asked_again() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_always(410);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("e1").await;
    receiver.next().await;
    let disabled = eventually("the webhook disabled", async || {
        let webhook = world.database.store.webhook(world.tenant, webhook).await.unwrap().unwrap();
        webhook.disabled.filter(|_| !webhook.is_active)
    })
    .await;
    assert_eq!(disabled.0, domain::DisabledReason::Gone);
    let history = world.wait_for_history(webhook, 1).await;
    assert_eq!((history[0].status_code, history[0].next_attempt_at), (Some(410), None));
    world.publish("e2").await;
    world.wait_until_settled().await;
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_a_header_cannot_carry_are_percent_encoded_and_the_signature_covers_that() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("Bestellung 7 €").await;
    let request = receiver.next().await;
    assert_eq!(request.id(), "Bestellung%207%20%E2%82%AC");
    assert!(request.is_signed_with(SECRET));
    assert!(std::str::from_utf8(&request.body).unwrap().contains(r#""id":"Bestellung 7 €""#));
}
