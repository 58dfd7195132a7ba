//! Deliveries of one ordering key, one after another.

use std::collections::HashMap;
use std::time::Duration;

use domain::GateChange;
use test_support::Receiver;

use crate::crashes::Process;
use crate::helpers::World;

const ORDERED: GateChange =
    GateChange { rate_limit: None, concurrency: None, drain_rate: None, is_ordered: Some(true) };

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_delivery_blocks_its_key_alone_until_it_succeeds() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next(&[500]);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    world.set_gate(webhook, ORDERED).await;
    let _dispatcher = world.dispatcher().await;
    world.publish_in_order("a1", "a").await;
    assert_eq!(receiver.next().await.id(), "a1");
    world.wait_for_history(webhook, 1).await;
    for id in ["a2", "b1", "a3", "b2"] {
        world.publish_in_order(id, &id[..1]).await;
    }
    assert_eq!(receiver.next().await.id(), "b1");
    assert_eq!(receiver.next().await.id(), "b2");
    receiver.expect_none(Duration::from_millis(300)).await;
    world.clock.advance(Duration::from_secs(6));
    for id in ["a1", "a2", "a3"] {
        assert_eq!(receiver.next().await.id(), id);
    }
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_finally_failed_lets_the_next_of_its_key_go() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.answer_next(&[500]);
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    world.set_gate(webhook, ORDERED).await;
    let _dispatcher = world.dispatcher_with(|config| config.retry_schedule = "".parse().unwrap()).await;
    world.publish_in_order("a1", "a").await;
    world.publish_in_order("a2", "a").await;
    assert_eq!(receiver.next().await.id(), "a1");
    assert_eq!(receiver.next().await.id(), "a2");
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_never_has_two_requests_under_way() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    receiver.hang();
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    world.set_gate(webhook, ORDERED).await;
    let (_first, _second) = (world.dispatcher().await, world.dispatcher().await);
    for id in ["a1", "a2", "b1"] {
        world.publish_in_order(id, &id[..1]).await;
    }
    let mut ids = [receiver.next().await.id().to_owned(), receiver.next().await.id().to_owned()];
    ids.sort();
    assert_eq!(ids, ["a1", "b1"]);
    receiver.expect_none(Duration::from_millis(500)).await;
    receiver.release();
    assert_eq!(receiver.next().await.id(), "a2");
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_survives_several_dispatchers_that_are_killed() {
    const EVENTS: usize = 600;
    const KEYS: usize = 6;
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    world.set_gate(webhook, ORDERED).await;
    let mut processes = [Process::start(&world), Process::start(&world)];
    world.broker.wait_until_declared().await;
    for number in 0..EVENTS {
        world.publish_in_order(&format!("{number:04}"), &format!("key{}", number % KEYS)).await;
        if number % 100 == 50 {
            // One of the two in turn, so that the one which takes the events over is killed as well.
            let process = &mut processes[(number / 100) % 2];
            process.kill();
            *process = Process::start(&world);
        }
    }
    let mut last: HashMap<usize, usize> = HashMap::new();
    let mut arrived = std::collections::HashSet::new();
    while arrived.len() < EVENTS {
        let number: usize = receiver.next().await.id().parse().unwrap();
        if !arrived.insert(number) {
            continue; // again, because its dispatcher was killed before it wrote down that it had arrived
        }
        let before = last.insert(number % KEYS, number);
        let expected = if number < KEYS { None } else { Some(number - KEYS) };
        assert_eq!(before, expected, "before {number}");
    }
    world.wait_until_settled().await;
}
