//! The contract for services that publish straight to RabbitMQ, proved with bare lapin: `deploy/asyncapi.yaml`.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use test_support::Receiver;
use uuid::Uuid;

use crate::helpers::{SECRET, World};

#[tokio::test(flavor = "multi_thread")]
async fn data_is_delivered_byte_for_byte_as_published() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["message.sent"]).await;
    let _dispatcher = world.dispatcher().await;
    let data = r#"{ "z":1.0, "a":[ 1e400,-0,0.10 , 12345678901234567890123 ], "s":"\u00e9\/é", "a":null }"#;
    let properties = BasicProperties::default().with_content_type("application/json".into());
    world.publish_raw("message.sent", world.event("e1", "message.sent", data), properties).await;
    let request = receiver.next().await;
    let body = std::str::from_utf8(&request.body).unwrap();
    assert_eq!(body.split_once(r#","data":"#).unwrap().1, format!("{data}}}"));
    assert!(request.is_signed_with(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_or_an_array_of_events_makes_a_message() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["message.sent"]).await;
    let _dispatcher = world.dispatcher().await;
    let events: Vec<String> = (0..500).map(|n| world.event(&format!("e{n}"), "message.sent", "1")).collect();
    world.publish_raw("message.sent", format!("[{}]", events.join(",")), BasicProperties::default()).await;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..500 {
        ids.insert(receiver.next().await.id().to_owned());
    }
    assert_eq!(ids.len(), 500);
    world.wait_until_settled().await;
    assert_eq!(world.broker.ready_messages().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_are_dead_lettered_with_their_reason() {
    let world = World::create().await;
    let _dispatcher = world.dispatcher().await;
    let plain = BasicProperties::default;
    let version = |value: AMQPValue| {
        let mut headers = FieldTable::default();
        headers.insert("postrider-version".into(), value);
        plain().with_headers(headers)
    };
    let good = world.event("e1", "message.sent", "{}");
    let stranger = good.replace(&world.tenant.to_string(), &Uuid::now_v7().to_string());
    let unknown_type = world.event("e1", "order.paid", "{}");
    let deep = world.event("e1", "message.sent", &format!("{}{}", "[".repeat(65), "]".repeat(65)));
    for (reason, key, body, properties) in [
        ("not_utf8", "message.sent", b"\xff\xfe".to_vec(), plain()),
        ("not_json", "message.sent", b"hello".to_vec(), plain()),
        ("too_large", "message.sent", vec![b'1'; 1024 * 1024 + 1], plain()),
        (
            "bad_content_type",
            "message.sent",
            good.clone().into(),
            plain().with_content_type("text/xml".into()),
        ),
        (
            "content_encoding",
            "message.sent",
            good.clone().into(),
            plain().with_content_encoding("gzip".into()),
        ),
        ("unknown_version", "message.sent", good.clone().into(), version(AMQPValue::LongInt(2))),
        ("bad_header", "message.sent", good.clone().into(), version(AMQPValue::Boolean(true))),
        ("bad_event", "message.sent", good.replace("\"e1\"", "\"e.1\"").into(), plain()),
        ("bad_event", "message.sent", good.replace(r#""id":"e1","#, "").into(), plain()),
        ("bad_event", "message.sent", deep.into(), plain()),
        ("routing_key_mismatch", "message.received", good.clone().into(), plain()),
        ("unknown_tenant", "message.sent", stranger.into(), plain()),
        ("unknown_type", "order.paid", unknown_type.into(), plain()),
    ] {
        world.publish_raw(key, &body, properties).await;
        let dead = world.broker.dead_letter().await;
        assert_eq!(dead.reason, reason, "{}", dead.detail);
        assert!(!dead.detail.is_empty());
        assert_eq!(dead.body, String::from_utf8_lossy(&body), "what was published is kept");
    }
    assert_eq!(world.database.count("SELECT count(*) FROM events").await, 0);
    assert_eq!(world.broker.ready_messages().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_event_of_an_array_is_dead_lettered_alone() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["message.sent"]).await;
    let _dispatcher = world.dispatcher().await;
    let good = world.event("good", "message.sent", "1");
    let stranger =
        world.event("lost", "message.sent", "1").replace(&world.tenant.to_string(), &Uuid::nil().to_string());
    let body = format!(r#"[{good},{{"id":"bad"}},{stranger}]"#);
    world.publish_raw("message.sent", body, BasicProperties::default()).await;
    assert_eq!(receiver.next().await.id(), "good");
    let mut reasons = Vec::new();
    for _ in 0..2 {
        let dead = world.broker.dead_letter().await;
        reasons.push((dead.reason, dead.body));
    }
    reasons.sort();
    assert_eq!(reasons[0], ("bad_event".to_owned(), r#"{"id":"bad"}"#.to_owned()));
    assert_eq!(reasons[1], ("unknown_tenant".to_owned(), stranger));
}
