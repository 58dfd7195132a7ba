//! Looking up the names of receivers: whose fault it is when that fails, and who pays for it.

use std::time::Duration;

use dispatcher::Dispatcher;
use domain::{Clock as _, WebhookId};
use test_support::{NameServer, Receiver, eventually};

use crate::helpers::{SECRET, World};

/// Longer than a delivery rests after a fault of ours.
const REST: Duration = Duration::from_secs(34);

/// Starts a dispatcher that asks this name server, with short look-ups.
async fn start(world: &World, names: &NameServer) -> Dispatcher {
    let servers = vec![names.address()];
    world
        .dispatcher_with(|config| {
            config.dns_servers = servers;
            config.delivery_timeout = Duration::from_secs(4);
        })
        .await
}

/// A URL of the receiver's by name.
fn named(receiver: &Receiver, name: &str) -> String {
    receiver.url("/").replace("127.0.0.1", name)
}

/// Waits until the one delivery rests, and makes sure that nothing is charged for it.
async fn expect_parked_free_of_charge(world: &World, webhook: WebhookId) {
    let now = world.clock.now();
    let resting = format!(
        "SELECT count(*) FROM deliveries WHERE due_at > '{now}' AND leased_by IS NULL AND attempts = 0
         AND NOT EXISTS (SELECT FROM open_batches)"
    );
    eventually("the delivery put off and its batch closed", async || {
        (world.database.count(&resting).await == 1).then_some(())
    })
    .await;
    assert_eq!(world.history(webhook).await, []);
    assert_eq!(world.database.count("SELECT count(*) FROM webhook_health").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_name_server_answers_nothing_is_charged_and_then_it_is_the_first_attempt() {
    let world = World::create().await;
    let names = NameServer::start().await;
    let mut receiver = Receiver::start().await;
    names.know("receiver.test", &["127.0.0.1"]);
    names.fall_silent();
    let webhook = world.webhook(&named(&receiver, "receiver.test"), &["*"]).await;
    let dispatcher = start(&world, &names).await;
    world.publish("e1").await;
    expect_parked_free_of_charge(&world, webhook).await;
    // The same again for a delivery that has a row.
    world.clock.advance(REST);
    expect_parked_free_of_charge(&world, webhook).await;

    names.answer();
    world.clock.advance(REST);
    let request = receiver.next().await;
    assert!(request.is_signed_with(SECRET) && request.id() == "e1");
    let history = world.wait_for_history(webhook, 1).await;
    assert_eq!((history[0].attempt, history[0].status_code), (1, Some(204)));
    world.wait_until_settled().await;
    assert!(dispatcher.shut_down().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_is_gone_or_cut_off_is_no_fault_of_the_receivers() {
    let world = World::create().await;
    let names = NameServer::start().await;
    names.know("receiver.test", &["127.0.0.1"]);
    names.fail();
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&named(&receiver, "receiver.test"), &["*"]).await;
    let cut_off = start(&world, &names).await;
    world.publish("e1").await;
    expect_parked_free_of_charge(&world, webhook).await;
    assert!(cut_off.shut_down().await);
    let canaries = names.names_asked().iter().filter(|name| name.ends_with(".example.com")).count();
    assert_eq!(canaries, 1, "the name server was tried out before it was blamed: {:?}", names.names_asked());

    // Nothing listens any more: the port is closed.
    let address = names.address();
    drop(names);
    let alone = world.dispatcher_with(|config| config.dns_servers = vec![address]).await;
    world.clock.advance(REST);
    expect_parked_free_of_charge(&world, webhook).await;
    assert!(receiver.try_next().is_none());
    assert!(alone.shut_down().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_exist_or_has_no_address_or_is_broken_is_charged() {
    let world = World::create().await;
    let names = NameServer::start().await;
    let receiver = Receiver::start().await;
    names.know("empty.test", &[]);
    names.break_name("broken.test");
    let _dispatcher = start(&world, &names).await;
    for (event, name) in [("e1", "missing.test"), ("e2", "empty.test"), ("e3", "broken.test")] {
        let webhook = world.webhook(&named(&receiver, name), &["*"]).await;
        world.publish(event).await;
        let history = world.wait_for_history(webhook, 1).await;
        assert_eq!((history[0].attempt, history[0].error.as_deref()), (1, Some("dns")), "{name}");
        assert!(history[0].next_attempt_at.is_some(), "{name}");
        assert!(names.asked(name) > 0, "{name}");
        world
            .database
            .store
            .delete_webhook(world.tenant, webhook, &domain::Expected::Any, history[0].started_at)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_that_is_not_public_refuses_the_whole_name() {
    let world = World::create().await;
    let names = NameServer::start().await;
    let mut receiver = Receiver::start().await;
    names.know("inside.test", &["10.0.0.7"]);
    names.know("mixed.test", &["127.0.0.1", "10.0.0.7"]);
    names.know("mixed6.test", &["127.0.0.1", "fd00::7"]);
    names.know("mapped.test", &["::ffff:10.0.0.7"]);
    let _dispatcher = start(&world, &names).await;
    let cases = [("e1", "inside.test"), ("e2", "mixed.test"), ("e3", "mixed6.test"), ("e4", "mapped.test")];
    for (event, name) in cases {
        let webhook = world.webhook(&named(&receiver, name), &["*"]).await;
        world.publish(event).await;
        let history = world.wait_for_history(webhook, 1).await;
        let error = history[0].error.as_deref();
        assert_eq!((history[0].status_code, error), (None, Some("address_refused")), "{name}");
        world
            .database
            .store
            .delete_webhook(world.tenant, webhook, &domain::Expected::Any, history[0].started_at)
            .await
            .unwrap();
    }
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_ignores_questions_for_ipv6_holds_nothing_up() {
    let world = World::create().await;
    let names = NameServer::start().await;
    let mut receiver = Receiver::start().await;
    names.know("receiver.test", &["127.0.0.1"]);
    names.ignore_ipv6();
    world.webhook(&named(&receiver, "receiver.test"), &["*"]).await;
    let servers = vec![names.address()];
    let _dispatcher = world.dispatcher_with(|config| config.dns_servers = servers).await;
    world.publish("e1").await;
    receiver.next().await;
    world.wait_until_settled().await;
    let took = world.database.count("SELECT duration_ms::bigint FROM delivery_attempts").await;
    assert!(took < 3_000, "a whole look-up, {took} ms, was waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_server_that_works_is_enough() {
    let world = World::create().await;
    let (silent, failing, working) =
        (NameServer::start().await, NameServer::start().await, NameServer::start().await);
    silent.fall_silent();
    failing.fail();
    let mut receiver = Receiver::start().await;
    for number in 0..10 {
        let name = format!("receiver{number}.test");
        working.know(&name, &["127.0.0.1"]);
        world.webhook(&named(&receiver, &name), &["*"]).await;
    }
    let servers = [&silent, &failing, &working].map(NameServer::address).to_vec();
    let _dispatcher = world.dispatcher_with(|config| config.dns_servers = servers).await;
    world.publish("e1").await;
    for _ in 0..10 {
        receiver.next().await;
    }
    world.wait_until_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_for_their_time_and_names_are_asked_for_as_they_are() {
    let world = World::create().await;
    let names = NameServer::start().await;
    let mut receiver = Receiver::start().await;
    names.know("receiver.test", &["127.0.0.1"]);
    let webhook = world.webhook(&named(&receiver, "receiver.test"), &["*"]).await;
    let _dispatcher = start(&world, &names).await;
    for round in 1..=3 {
        // A connection that is kept would need no look-up.
        receiver.answer_next_with(204, &[("connection", "close")]);
        world.publish(&format!("e{round}")).await;
        receiver.next().await;
        world.wait_for_history(webhook, round).await;
    }
    assert_eq!(names.asked("receiver.test"), 2, "once for each kind of address");
    assert_eq!(names.names_asked(), ["receiver.test"], "no search domain, no canary");
}
