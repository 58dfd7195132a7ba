//! Black-box tests of the command line.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod dead_letters;
mod doctor;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use service::access_token::{KeySet, TokenVerifier};
use signing::{ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER, sign};
use store::Keyring;
use test_support::{
    ENCRYPTION_KEYS, JWT_AUDIENCE, JWT_ISSUER, JWT_SECRET, OTHER_ENCRYPTION_KEY, TestDatabase,
};

const TENANT: &str = "7b2e1c9a-4f1d-4d7e-9a55-0d3f6a1b2c3d";
const SECRET: &str = "your-signing-secret";

fn postrider(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.env_clear().args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_names_every_command_and_each_explains_itself() {
    let help = text(&postrider(&["--help"]).output().unwrap().stdout);
    for command in
        ["migrate", "token", "publish", "listen", "history", "audit", "keys", "dead-letters", "doctor"]
    {
        assert!(help.contains(command), "{command} in: {help}");
        let output = postrider(&[command, "--help"]).output().unwrap();
        assert!(output.status.success() && output.stdout.len() > 200, "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_applies_what_is_missing_once_even_when_five_run_at_the_same_time() {
    let database = TestDatabase::create_empty().await;
    let migrate = || {
        postrider(&["migrate"]).env("POSTRIDER_DATABASE_URL", database.url()).stdout(Stdio::piped()).spawn()
    };
    let running: Vec<Child> = (0..5).map(|_| migrate().unwrap()).collect();
    let outputs: Vec<Output> = running.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    assert!(outputs.iter().all(|output| output.status.success()));
    let applied = outputs.iter().filter(|output| text(&output.stdout).contains("applied 0001")).count();
    assert_eq!(applied, 1);
    database.store.check_schema().await.unwrap();
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass";
    assert_eq!(database.count(partitions).await, 10, "yesterday, today, seven days ahead, and the default");
    let again = migrate().unwrap().wait_with_output().unwrap();
    assert!(text(&again.stdout).contains("up to date"));
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_counts_and_says_that_nothing_is_lost_and_fails_when_something_is() {
    let database = TestDatabase::create().await;
    let audit = || {
        postrider(&["audit", "--since", "2h"])
            .env("POSTRIDER_DATABASE_URL", database.url_of("reader"))
            .output()
            .unwrap()
    };
    let clean = audit();
    assert!(clean.status.success(), "{}", text(&clean.stderr));
    assert!(text(&clean.stdout).contains("nothing is lost"));
    // An event of an hour ago, a webhook that wanted it, and no trace of an attempt.
    let plant = format!(
        "INSERT INTO tenants (id) VALUES ('{TENANT}');
         INSERT INTO webhooks (id, tenant_id, url, events, secret, is_active, duplicate_key, created_at, updated_at)
         VALUES ('{TENANT}', '{TENANT}', 'https://example.com/', '{{*}}', '0123456789', true, '', now() - interval '1 day',
             now() - interval '1 day');
         INSERT INTO events (batch_id, occurred_at, accepted_at, day, tenant_id, id, type, body)
         SELECT 0, at, at, (at AT TIME ZONE 'UTC')::date, '{TENANT}', 'lost-1', 'message.sent', '{{}}'
         FROM (SELECT now() - interval '1 hour' AS at) t"
    );
    database.client().await.batch_execute(&plant).await.unwrap();
    let lossy = audit();
    assert_eq!(lossy.status.code(), Some(1));
    assert!(text(&lossy.stdout).contains("lost-1") && text(&lossy.stdout).contains("never attempted"));
    let repaired = postrider(&["audit", "--since", "2h", "--repair"])
        .env("POSTRIDER_DATABASE_URL", database.url())
        .output();
    assert!(text(&repaired.unwrap().stdout).contains("1 scheduled"));
    assert!(audit().status.success());
}

#[test]
fn keys_generate_prints_a_key_that_can_be_used_and_nothing_else() {
    let generate = || text(&postrider(&["keys", "generate"]).output().unwrap().stdout);
    let (key, other) = (generate(), generate());
    assert_eq!(key.lines().count(), 1);
    let keyring: Keyring = key.trim_end().parse().unwrap();
    assert!(keyring.first_id().unwrap().starts_with("k-"));
    assert_ne!(key, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_encrypts_what_is_in_plain_says_how_much_and_fails_for_what_it_cannot_read() {
    let database = TestDatabase::create().await;
    let plant = format!(
        "INSERT INTO tenants (id) VALUES ('{TENANT}');
         INSERT INTO webhooks (id, tenant_id, url, events, secret, is_active, duplicate_key, created_at, updated_at)
         SELECT gen_random_uuid(), '{TENANT}', 'https://example.com/', '{{*}}', '0123456789', true, n::text, now(), now()
         FROM generate_series(1, 250) n"
    );
    database.client().await.batch_execute(&plant).await.unwrap();
    let rotate = |keys: &str| {
        postrider(&["keys", "rotate"])
            .env("POSTRIDER_DATABASE_URL", database.url())
            .env("POSTRIDER_ENCRYPTION_KEYS", keys)
            .output()
            .unwrap()
    };
    let rotated = rotate(ENCRYPTION_KEYS);
    assert!(rotated.status.success(), "{}", text(&rotated.stderr));
    let printed = text(&rotated.stdout);
    assert!(printed.contains("200 secret(s) encrypted so far"), "{printed}");
    assert!(printed.contains("250 secret(s) encrypted with key test"), "{printed}");
    assert_eq!(database.count("SELECT count(*) FROM webhooks WHERE secret = '0123456789'").await, 0);
    assert!(text(&rotate(ENCRYPTION_KEYS).stdout).starts_with("0 secret(s)"), "nothing is left to do");

    let wrong = rotate(OTHER_ENCRYPTION_KEY);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        text(&wrong.stdout).contains("encrypted with key test, which is not in POSTRIDER_ENCRYPTION_KEYS")
    );
    assert!(text(&wrong.stderr).contains("250 secret(s) cannot be read"));

    let garbled = rotate("k1:hunter2");
    assert_eq!(garbled.status.code(), Some(1));
    let errors = text(&garbled.stderr);
    assert!(errors.contains("32 bytes in base64") && !errors.contains("hunter2"), "{errors}");
}

#[test]
fn a_database_that_cannot_be_reached_is_an_error_that_says_so() {
    let url = "postgres://nobody:hunter2@127.0.0.1:1/none";
    let output = postrider(&["migrate"]).env("POSTRIDER_DATABASE_URL", url).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.contains("database") && !errors.contains("hunter2"), "{errors}");
}

#[test]
fn token_prints_a_token_that_verifies_and_nothing_else() {
    service::install_crypto();
    let token = |scope: &str| {
        postrider(&["token", "--tenant", TENANT, "--scope", scope, "--ttl", "1h"])
            .env("POSTRIDER_JWT_SECRET", JWT_SECRET)
            .env("POSTRIDER_JWT_ISSUER", JWT_ISSUER)
            .env("POSTRIDER_JWT_AUDIENCE", JWT_AUDIENCE)
            .output()
            .unwrap()
    };
    let printed = text(&token("webhooks:read admin").stdout);
    let caller =
        TokenVerifier::new(KeySet::of_secret(&JWT_SECRET.parse().unwrap()), JWT_ISSUER, JWT_AUDIENCE)
            .verify(printed.trim_end())
            .unwrap();
    assert_eq!(caller.tenant_id.to_string(), TENANT);
    assert_eq!(caller.scopes.to_string(), "webhooks:read admin");
    let wrong = token("webhooks:rule");
    assert!(!wrong.status.success() && text(&wrong.stderr).contains("webhooks:read"));
}

#[test]
fn a_secret_that_cannot_be_used_is_not_repeated() {
    let output = postrider(&["token", "--tenant", TENANT])
        .env("POSTRIDER_JWT_SECRET", "hunter2")
        .env("POSTRIDER_JWT_ISSUER", JWT_ISSUER)
        .env("POSTRIDER_JWT_AUDIENCE", JWT_AUDIENCE)
        .output()
        .unwrap();
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("POSTRIDER_JWT_SECRET: must be at least 32 bytes"), "{errors}");
    assert!(!errors.contains("hunter2"), "{errors}");
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut child = postrider(&["token", "--tenant", TENANT])
        .env("POSTRIDER_JWT_SECRET", JWT_SECRET)
        .env("POSTRIDER_JWT_ISSUER", JWT_ISSUER)
        .env("POSTRIDER_JWT_AUDIENCE", JWT_AUDIENCE)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

struct Listener {
    child: Child,
    output: BufReader<ChildStdout>,
    url: String,
}

fn listen(arguments: &[&str]) -> Listener {
    let mut child =
        postrider(&["listen", "--address", "127.0.0.1:0", "--secret", SECRET, "--timeout", "30s"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    let url = first.trim().strip_prefix("listening on ").unwrap().to_owned();
    Listener { child, output, url }
}

async fn deliver(url: &str, secret: &str) -> u16 {
    let secret: Secret = secret.parse().unwrap();
    let now = chrono::Utc::now().timestamp();
    let body = r#"{"type":"message.sent"}"#;
    let response = reqwest::Client::new()
        .post(url)
        .header(ID_HEADER, "evt_1")
        .header(TIMESTAMP_HEADER, now)
        .header(SIGNATURE_HEADER, sign([&secret], "evt_1", now, body.as_bytes()))
        .body(body)
        .send()
        .await
        .unwrap();
    response.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_verifies_prints_fails_first_if_told_so_and_ends_after_its_count() {
    service::install_crypto();
    let mut listener = listen(&["--count", "2", "--fail-first", "1", "--status", "202"]);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(deliver(&listener.url, SECRET).await);
    }
    assert_eq!(statuses, [500, 202, 202]);
    assert!(listener.child.wait().unwrap().success());
    let mut printed = String::new();
    listener.output.read_to_string(&mut printed).unwrap();
    assert_eq!(printed.matches("signature verified").count(), 3);
    assert!(printed.contains("evt_1") && printed.contains(r#"{"type":"message.sent"}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_refuses_a_forged_request_and_fails() {
    service::install_crypto();
    let listener = listen(&["--count", "1"]);
    assert_eq!(deliver(&listener.url, "another-secret").await, 401);
    let output = listener.child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("signature is wrong"));
}

#[test]
fn a_gateway_that_cannot_be_reached_is_named() {
    let output = postrider(&["publish", "--type", "message.sent", "--data", "1", "--token", "x"])
        .args(["--url", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("http://127.0.0.1:1/api/events cannot be reached"));
}
