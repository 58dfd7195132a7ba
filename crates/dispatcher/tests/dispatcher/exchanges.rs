use domain::{DeliveryChange, HeadersChange};
use store::{AttemptFilter, WebhookChange};
use test_support::Receiver;

use crate::helpers::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_kept_of_attempts_that_fail_and_of_no_others() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let webhook = world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher_with(|config| config.retry_schedule = "1h".parse().unwrap()).await;
    receiver.answer_next_in_full(500, &[("x-why", "because")], "y".repeat(10_000));
    world.publish("e1").await;
    receiver.next().await;
    world.publish("e2").await;
    let delivered = receiver.next().await;
    world.wait_for_history(webhook, 2).await;

    let store = &world.database.store;
    let filter = AttemptFilter::default();
    let page = store.attempts(world.tenant, webhook, &filter, 10, None).await.unwrap();
    for attempt in page.attempts {
        let exchange = store.exchange(world.tenant, webhook, &attempt.cursor()).await.unwrap();
        if attempt.event_id.as_str() == "e2" {
            assert_eq!(exchange, None, "{} was delivered", delivered.id());
            continue;
        }
        let exchange = exchange.unwrap();
        let header = |headers: &domain::Headers, name: &str| {
            headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        assert_eq!(header(&exchange.request_headers, "webhook-id").as_deref(), Some("e1"));
        let response = exchange.response.unwrap();
        assert_eq!((response.status, response.body.len(), response.body_cut), (500, 4096, true));
        assert_eq!(header(&response.headers, "x-why").as_deref(), Some("because"));
    }
    assert_eq!(world.database.count("SELECT count(*) FROM attempt_exchanges").await, 1);
    assert_eq!(world.database.count("SELECT count(*) FROM attempt_exchanges_default").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_without_an_answer_says_why_and_hides_the_webhooks_own_headers() {
    let world = World::create().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed at once
    let webhook = world.webhook(&format!("http://{nobody}/"), &["*"]).await;
    let headers =
        HeadersChange::merge(vec![("x-token".to_owned(), Some("receiver-token".to_owned()))]).unwrap();
    let delivery = DeliveryChange { headers: Some(headers), ..DeliveryChange::default() };
    let change = WebhookChange { delivery, ..WebhookChange::default() };
    let store = &world.database.store;
    store.change_webhook(world.tenant, webhook, &change, chrono::Utc::now()).await.unwrap();
    let _dispatcher = world.dispatcher().await;
    world.publish("e1").await;
    world.wait_for_history(webhook, 1).await;
    let page = store.attempts(world.tenant, webhook, &AttemptFilter::default(), 10, None).await.unwrap();
    let exchange = store.exchange(world.tenant, webhook, &page.attempts[0].cursor()).await.unwrap().unwrap();
    assert_eq!(exchange.response, None);
    let explanation = exchange.explanation.unwrap();
    assert!(explanation.contains("refused"), "{explanation}");
    let own = exchange.request_headers.iter().find(|(name, _)| name == "x-token").unwrap();
    assert!(!own.1.contains("receiver-token"), "{own:?}");
}
