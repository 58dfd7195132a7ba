use std::process::Command;

use broker::Intake;
use chrono::Utc;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use test_support::{ENCRYPTION_KEYS, OTHER_ENCRYPTION_KEY, Receiver, TestBroker, TestDatabase};

use crate::{TENANT, postrider, text};

fn doctor(database: &TestDatabase, broker: &TestBroker) -> Command {
    let mut command = postrider(&["doctor"]);
    command
        .env("POSTRIDER_DATABASE_URL", database.url_of("reader"))
        .env("POSTRIDER_AMQP_URL", broker.url())
        .env("POSTRIDER_AMQP_PREFIX", broker.prefix())
        .env("POSTRIDER_ENCRYPTION_KEYS", ENCRYPTION_KEYS);
    command
}

/// Whether it found nothing wrong, and what it said.
fn found(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// Its exchanges and queues, declared by the command line itself.
fn declare(broker: &TestBroker) {
    let listed = postrider(&["dead-letters", "list"])
        .env("POSTRIDER_AMQP_URL", broker.url())
        .env("POSTRIDER_AMQP_PREFIX", broker.prefix())
        .output();
    assert!(listed.unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_nothing_wrong_with_a_sound_installation() {
    let (database, broker) = (TestDatabase::create().await, TestBroker::create());
    declare(&broker);
    let (_connection, channel) = broker.channel().await;
    let mut consumers = Vec::new();
    for intake in Intake::ALL {
        let (queue, options) =
            (broker.topology.dispatch_queue(intake).into(), BasicConsumeOptions::default());
        consumers
            .push(channel.basic_consume(queue, "".into(), options, FieldTable::default()).await.unwrap());
    }
    let (is_sound, said) = found(&mut doctor(&database, &broker));
    assert!(is_sound, "{said}");
    for good in [
        "database: PostgreSQL",
        "broker: RabbitMQ",
        "clock:",
        "schema:",
        "partitions:",
        "keys:",
        "deliveries:",
        "topology:",
        "receivers:",
    ] {
        assert!(said.contains(good), "{good} in {said}");
    }
    let (is_sound, said) = found(doctor(&database, &broker).env("POSTRIDER_RECEIVER_ALLOW_HTTP", "true"));
    assert!(is_sound && said.contains("note") && said.contains("http:// is allowed"), "{said}");
    let (is_sound, said) = found(doctor(&database, &broker).env("POSTRIDER_URL", "http://127.0.0.1:1"));
    assert!(!is_sound && said.contains("is a gateway running there"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_what_to_do_about_each_thing_that_is_wrong() {
    let (database, broker) = (TestDatabase::create().await, TestBroker::create());
    let (is_sound, said) = found(&mut doctor(&database, &broker));
    assert!(
        !is_sound && said.contains("not there:") && said.contains("start a gateway or a dispatcher"),
        "{said}"
    );
    declare(&broker);
    let today = Utc::now().format("%Y%m%d");
    let break_it = format!(
        "DROP TABLE events_{today};
         INSERT INTO tenants (id) VALUES ('{TENANT}');
         INSERT INTO deliveries (accepted_at, due_at, event_day, attempts, tenant_id, webhook_id, event_id)
         VALUES (now(), now() - interval '10 minutes', current_date, 0, '{TENANT}', gen_random_uuid(), 'e');
         INSERT INTO audit_progress (audited_until, leased_until, events, lost, repaired)
         VALUES (now(), 'epoch', 10, 3, 1);
         INSERT INTO webhooks (id, tenant_id, url, events, secret, secret_key_id, is_active, duplicate_key, created_at, updated_at)
         VALUES (gen_random_uuid(), '{TENANT}', 'https://example.com/', '{{*}}', '0', 'test', true, '', now(), now())"
    );
    database.client().await.batch_execute(&break_it).await.unwrap();
    let (is_sound, said) =
        found(doctor(&database, &broker).env("POSTRIDER_ENCRYPTION_KEYS", OTHER_ENCRYPTION_KEY));
    assert!(!is_sound, "{said}");
    for (wrong, advice) in [
        ("today has none", "postrider migrate"),
        ("1 due, the oldest for 60", "Add dispatchers"),
        ("3 deliveries found lost, 1 scheduled again", "audit --repair"),
        ("1 under test", "POSTRIDER_ENCRYPTION_KEYS"),
        ("dispatch: 0 message(s), 0 consumer(s)", "no dispatcher takes events over"),
    ] {
        assert!(said.contains(wrong) && said.contains(advice), "{wrong}: {advice} in {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_a_database_without_a_schema_and_servers_that_are_away() {
    let (empty, broker) = (TestDatabase::create_empty().await, TestBroker::create());
    let (is_sound, said) = found(&mut doctor(&empty, &broker));
    assert!(
        !is_sound && said.contains("migration(s) behind") && said.contains("postrider migrate"),
        "{said}"
    );
    let mut away = doctor(&empty, &broker);
    away.env("POSTRIDER_DATABASE_URL", "postgres://nobody:hunter2@127.0.0.1:1/none");
    away.env("POSTRIDER_AMQP_URL", "amqp://nobody:hunter2@127.0.0.1:1/%2f");
    let (is_sound, said) = found(&mut away);
    assert!(
        !is_sound && said.contains("is Postgres running") && said.contains("is RabbitMQ running"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "a password is not repeated: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_what_a_gateway_says_it_lacks() {
    let (database, broker) = (TestDatabase::create().await, TestBroker::create());
    let gateway = Receiver::start().await;
    let report =
        |ok| format!(r#"{{"status":"ok","checks":[{{"name":"token keys","ok":{ok},"required":false}}]}}"#);
    for (status, ok, expected) in [
        (200, true, "ok    API: "),
        (200, false, "is ready, but lacks: token keys"),
        (503, false, "is not ready, and lacks: token keys"),
    ] {
        gateway.answer_next_in_full(status, &[], report(ok));
        let (_, said) = found(doctor(&database, &broker).env("POSTRIDER_URL", gateway.url("")));
        assert!(said.contains(expected), "{expected} in {said}");
        assert_eq!(said.contains("POSTRIDER_JWT_JWKS_URL"), !ok, "{said}");
    }
}
