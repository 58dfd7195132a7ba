//! What a dispatcher says of itself shows no secret, however much it is told to say.

use std::process::Command;

use domain::{Clock as _, CustomHeaders, SecretBytes, WebhookUrl};
use store::NewWebhook;
use test_support::{
    ENCRYPTION_KEYS, LoggedProcess, RawReceiver, Receiver, Secrets, Step, eventually, metrics_at, password_of,
};

use crate::helpers::World;

const WEBHOOK_SECRET: &str = "webhook-secret-3d0f7a";
const HEADER_VALUE: &str = "Bearer header-value-58aa02";

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_dispatchers_logs_or_metrics() {
    let world = World::create().await;
    let mut good = Receiver::start().await;
    let failing = RawReceiver::start([Step::ReadRequest, Step::write("HTTP/1.1 500 No\r\n\r\n")]).await;
    let broken = RawReceiver::start([Step::ReadRequest, Step::Reset]).await;
    let mut webhooks = Vec::new();
    for url in [good.url("/"), failing.url("/"), broken.url("/"), "http://10.0.0.1/".to_owned()] {
        let url = WebhookUrl::parse_stored(&url).unwrap();
        let secret = SecretBytes::new(WEBHOOK_SECRET.as_bytes().to_vec());
        let mut new = NewWebhook::new(url, vec!["*".parse().unwrap()], secret);
        let headers = CustomHeaders::new([("Authorization".to_owned(), HEADER_VALUE.to_owned())]);
        new.delivery.headers = Ok(headers.unwrap());
        let created =
            world.database.store.create_webhook(world.tenant, &new, world.clock.now()).await.unwrap();
        webhooks.push(created.id);
    }
    let process = LoggedProcess::start(
        Command::new(env!("CARGO_BIN_EXE_dispatcher"))
            .env_clear()
            .env("POSTRIDER_LOG", "trace")
            .env("POSTRIDER_DATABASE_URL", world.database.url())
            .env("POSTRIDER_AMQP_URL", world.broker.url())
            .env("POSTRIDER_AMQP_PREFIX", world.broker.prefix())
            .env("POSTRIDER_ENCRYPTION_KEYS", ENCRYPTION_KEYS)
            .env("POSTRIDER_HEALTH_ADDRESS", "127.0.0.1:0")
            .env("POSTRIDER_RECEIVER_ALLOW_HTTP", "true")
            .env("POSTRIDER_RECEIVER_ALLOWED_NETWORKS", "127.0.0.0/8"),
    );
    world.broker.wait_until_declared().await;
    world.publish("e1").await;
    let signature = good.next().await.header("webhook-signature").trim_start_matches("v1,").to_owned();
    for webhook in webhooks {
        world.wait_for_history(webhook, 1).await;
    }
    let metrics = metrics_at(process.address("health").await).await;
    let log = eventually("the log of an attempt", async || {
        let log = process.log();
        (log.len() > 2_000).then_some(log)
    })
    .await;

    let (_, key) = ENCRYPTION_KEYS.split_once(':').unwrap();
    let mut secrets = Secrets::default();
    for (what, secret) in [
        ("webhook secret", WEBHOOK_SECRET),
        ("header value", HEADER_VALUE),
        ("encryption key", key),
        ("database password", password_of(world.database.url())),
        ("AMQP password", password_of(world.broker.url())),
        ("signature", &signature),
    ] {
        secrets.add(what, secret);
    }
    for (place, text) in [("log", &log), ("metrics", &metrics)] {
        let shown = secrets.shown_in(text);
        let lines = text.lines().filter(|line| !secrets.shown_in(line).is_empty());
        let lines: Vec<String> = lines.map(|line| line.chars().take(400).collect()).take(10).collect();
        assert!(shown.is_empty(), "the {place} show: {shown:?}\n{}", lines.join("\n"));
    }
}
