//! The real binary.

use std::process::Command;

use broker::Intake;
use lapin::options::{BasicGetOptions, QueuePurgeOptions};
use lapin::{Connection, ConnectionProperties};
use test_support::{ENCRYPTION_KEYS, JWT_SECRET, TestDatabase, check_configuration_table, eventually};

use crate::helpers::TestApi;

fn gateway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_api-gateway"));
    command.env_clear();
    command
}

#[test]
fn the_readme_lists_the_gateways_settings() {
    check_configuration_table("gateway", api_gateway::config::SETTINGS);
}

#[test]
fn without_configuration_it_exits_2_and_names_everything_that_is_missing() {
    let output = gateway().env("POSTRIDER_JWT_SECRET", "short").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let report = String::from_utf8(output.stderr).unwrap();
    for variable in
        ["DATABASE_URL", "AMQP_URL", "ENCRYPTION_KEYS", "JWT_SECRET", "JWT_ISSUER", "JWT_AUDIENCE"]
    {
        assert!(report.contains(&format!("POSTRIDER_{variable}")), "{variable} in: {report}");
    }
    assert!(report.contains("postrider keys generate"), "{report}");
    assert!(!report.contains("short"), "a secret is not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_migrations_pending_it_exits_3_and_says_what_to_do() {
    let database = TestDatabase::create_empty().await;
    let output = gateway()
        .env("POSTRIDER_DATABASE_URL", database.url_of("gateway"))
        .env("POSTRIDER_AMQP_URL", "amqp://127.0.0.1:1/%2f")
        .env("POSTRIDER_JWT_SECRET", JWT_SECRET)
        .env("POSTRIDER_ENCRYPTION_KEYS", ENCRYPTION_KEYS)
        .env("POSTRIDER_JWT_ISSUER", "i")
        .env("POSTRIDER_JWT_AUDIENCE", "a")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().contains("postrider migrate"));
}

#[test]
fn it_tells_its_version_and_how_it_is_used() {
    let output = gateway().arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("api-gateway {}\n", service::VERSION));
    assert!(gateway().arg("--help").output().unwrap().status.success());
    assert_eq!(gateway().arg("--nonsense").output().unwrap().status.code(), Some(2));
}

#[test]
fn without_any_key_of_access_tokens_it_exits_2_and_names_all_three_ways() {
    let configured = || {
        let mut gateway = gateway();
        gateway
            .env("POSTRIDER_DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
            .env("POSTRIDER_AMQP_URL", "amqp://127.0.0.1:1/%2f")
            .env("POSTRIDER_ENCRYPTION_KEYS", ENCRYPTION_KEYS)
            .env("POSTRIDER_JWT_ISSUER", "i")
            .env("POSTRIDER_JWT_AUDIENCE", "a");
        gateway
    };
    let output = configured().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let report = String::from_utf8(output.stderr).unwrap();
    for variable in ["JWT_SECRET", "JWT_JWKS_FILE", "JWT_JWKS_URL"] {
        assert!(report.contains(&format!("POSTRIDER_{variable}")), "{variable} in: {report}");
    }
    let output = configured().env("POSTRIDER_JWT_JWKS_URL", "http://login.example.com/").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("must be https"));
}

/// What ./scripts/test makes users for; elsewhere it is the one user with all rights.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_publishes_without_a_right_to_anything_else_at_the_broker() {
    let api = TestApi::start().await;
    api.wait_until_ready().await;
    let broker = api.broker.config_of("gateway").only_publishing();
    let gateway = api.start_another_with(|config| config.broker = broker);
    let event = r#"{"type":"message.sent","data":1}"#;
    eventually("a publisher", async || {
        (gateway.post(&api, "/api/events", event).await.status == 202).then_some(())
    })
    .await;
    gateway.shut_down().await;
    if api.broker.url_of("gateway") == api.broker.url() {
        return;
    }
    for queue in [api.broker.topology.dispatch_queue(Intake::Shared), api.broker.topology.dead()] {
        let url = api.broker.url_of("gateway");
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let got = channel.basic_get(queue.clone().into(), BasicGetOptions::default()).await;
        assert!(got.is_err(), "{queue} can be read");
        let channel = connection.create_channel().await.unwrap();
        let purged = channel.queue_purge(queue.clone().into(), QueuePurgeOptions::default()).await;
        assert!(purged.is_err(), "{queue} can be emptied");
    }
}
