use std::process::Output;

use broker::Intake;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use test_support::{TestBroker, eventually};

use crate::{postrider, text};

fn dead_letters(broker: &TestBroker, arguments: &[&str]) -> Output {
    postrider(&[&["dead-letters"], arguments].concat())
        .env("POSTRIDER_AMQP_URL", broker.url())
        .env("POSTRIDER_AMQP_PREFIX", broker.prefix())
        .output()
        .unwrap()
}

fn listed(broker: &TestBroker) -> String {
    let output = dead_letters(broker, &["list"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The id of the one that is listed with this detail.
fn id_of(list: &str, detail: &str) -> String {
    let line =
        list.lines().find(|line| line.contains(detail)).unwrap_or_else(|| panic!("{detail} in {list}"));
    line.split_whitespace().next().unwrap().to_owned()
}

/// Puts a dead letter there, as a dispatcher does.
async fn put(channel: &Channel, broker: &TestBroker, reason: &str, detail: &str, exchange: &str, body: &str) {
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("postrider-reason", reason),
        ("postrider-detail", detail),
        ("postrider-exchange", exchange),
        ("postrider-routing-key", "message.sent"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default().with_headers(headers).with_delivery_mode(2);
    let (dead, options) = (broker.topology.dead().into(), BasicPublishOptions::default());
    channel.basic_publish(dead, "".into(), options, body.as_bytes(), properties).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_looked_at_put_back_and_thrown_away() {
    let broker = TestBroker::create();
    assert!(listed(&broker).contains("0 dead letter(s)"), "an empty queue is declared and listed");
    let (_connection, channel) = broker.channel().await;
    let events = broker.topology.events_exchange(Intake::Shared);
    put(&channel, &broker, "unknown_type", "first\u{1b}[2J", &events, "{\"n\": 1.0}").await;
    put(&channel, &broker, "bad_event", "second", &events, "{}").await;
    put(&channel, &broker, "bad_event", "third", "somebody.elses", "[]").await;
    let list =
        eventually("all of them", async || Some(listed(&broker)).filter(|list| list.contains("3 dead")))
            .await;
    assert!(!list.contains('\u{1b}'), "what others wrote does not steer the terminal: {list:?}");

    let first = id_of(&list, "first");
    let shown = dead_letters(&broker, &["show", &first]);
    assert_eq!(text(&shown.stdout), "{\"n\": 1.0}\n", "byte for byte");
    assert!(text(&shown.stderr).contains("reason: unknown_type"), "{}", text(&shown.stderr));

    let replayed = dead_letters(&broker, &["replay", &first]);
    assert!(replayed.status.success(), "{}", text(&replayed.stderr));
    let queue = broker.topology.dispatch_queue(Intake::Shared);
    let message = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap().unwrap();
    message.ack(BasicAckOptions::default()).await.unwrap();
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), (events.as_str(), "message.sent"));
    assert_eq!(message.data, b"{\"n\": 1.0}");

    let foreign = dead_letters(&broker, &["replay", &id_of(&list, "third")]);
    assert!(text(&foreign.stderr).contains("somebody.elses"), "{}", text(&foreign.stderr));
    let unknown = dead_letters(&broker, &["drop", &id_of(&list, "second"), "000000000000"]);
    assert!(text(&unknown.stderr).contains("nothing was changed"), "{}", text(&unknown.stderr));
    assert_eq!(dead_letters(&broker, &["drop"]).status.code(), Some(2), "it must be said which");
    assert!(listed(&broker).contains("2 dead letter(s)"));
    let dropped = dead_letters(&broker, &["drop", "--reason", "bad_event"]);
    assert!(text(&dropped.stdout).contains("2 dead letter(s) dropped"));
    assert!(listed(&broker).contains("0 dead letter(s)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_survives_being_looked_at_more_often_than_rabbitmq_4_returns_a_message() {
    let broker = TestBroker::create();
    listed(&broker);
    let (_connection, channel) = broker.channel().await;
    let events = broker.topology.events_exchange(Intake::Shared);
    put(&channel, &broker, "unknown_type", "kept", &events, "{}").await;
    let list = eventually("it", async || Some(listed(&broker)).filter(|list| list.contains("kept"))).await;
    let id = id_of(&list, "kept");
    for _ in 0..25 {
        assert_eq!(id_of(&listed(&broker), "kept"), id);
    }
    let dead = broker.topology.dead();
    let message = channel.basic_get(dead.into(), BasicGetOptions::default()).await.unwrap().unwrap();
    let headers = message.properties.headers().clone().unwrap_or_default();
    let returns =
        headers.inner().get("x-delivery-count").and_then(AMQPValue::as_long_long_int).unwrap_or_default();
    assert!((1..20).contains(&returns), "it was put there anew in time: {returns}");
}
