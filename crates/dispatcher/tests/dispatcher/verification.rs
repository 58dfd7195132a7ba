//! The reference libraries of Standard Webhooks verify what a dispatcher sends.

use std::io::Write as _;
use std::process::{Command, Stdio};

use lapin::BasicProperties;
use serde_json::json;
use signing::{Secret, SigningKey};
use test_support::{Receiver, check_configuration_table};

use crate::helpers::{SECRET, World};

const PYTHON: &str = r#"
import json, sys
from standardwebhooks import Webhook
captured = json.load(sys.stdin)
Webhook(captured["secret"]).verify(captured["body"], captured["headers"])
"#;

const JAVASCRIPT: &str = r#"
const { Webhook } = require("standardwebhooks");
let text = "";
process.stdin.on("data", (chunk) => (text += chunk));
process.stdin.on("end", () => {
  const captured = JSON.parse(text);
  new Webhook(captured.secret).verify(captured.body, captured.headers);
});
"#;

fn python() -> Command {
    let mut command = Command::new(variable("POSTRIDER_TEST_PYTHON"));
    command.args(["-c", PYTHON]);
    command
}

fn javascript() -> Command {
    let mut command = Command::new(variable("POSTRIDER_TEST_NODE"));
    command.args(["-e", JAVASCRIPT]).env("NODE_PATH", variable("POSTRIDER_TEST_NODE_MODULES"));
    command
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests by ./scripts/test"))
}

/// Runs a program with the captured request on its standard input. Says whether it verified, and what it printed.
fn verifies(mut program: Command, captured: &serde_json::Value) -> (bool, String) {
    let mut child = program.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(captured.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_and_javascript_libraries_verify_a_delivery_and_refuse_a_changed_one() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    world.webhook(&receiver.url("/"), &["*"]).await;
    let _dispatcher = world.dispatcher().await;
    let event = world.event("Bestellung 7 €", "message.sent", r#"{ "n": 1.0, "s": "é\u00e9" }"#);
    world.publish_raw("message.sent", event, BasicProperties::default()).await;
    let request = receiver.next().await;
    let secret: Secret = SECRET.parse().unwrap();
    let captured = |body: &str| {
        json!({
            "secret": secret.reveal(),
            "body": body,
            "headers": {
                "webhook-id": request.id(),
                "webhook-timestamp": request.header("webhook-timestamp"),
                "webhook-signature": request.header("webhook-signature"),
            },
        })
    };
    let body = std::str::from_utf8(&request.body).unwrap();
    for library in [python, javascript] {
        let (verified, errors) = verifies(library(), &captured(body));
        assert!(verified, "{errors}");
        let (verified, errors) = verifies(library(), &captured(&body.replace("1.0", "1.1")));
        assert!(!verified && errors.contains("atching signature"), "{errors}");
    }
}

/// The function of the README, and a call.
fn javascript_of_the_readme() -> Command {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let (_, function) = readme.split_once("function isSigned(").unwrap();
    let (function, _) = function.split_once("\n}\n").unwrap();
    let program = format!(
        r#"const {{ createPublicKey, verify }} = require("node:crypto");
function isSigned({function}
}}
let text = "";
process.stdin.on("data", (chunk) => (text += chunk));
process.stdin.on("end", () => {{
  const {{ keys, headers, body }} = JSON.parse(text);
  process.exit(isSigned(keys, headers, body) ? 0 : 1);
}});"#
    );
    let mut command = Command::new(variable("POSTRIDER_TEST_NODE"));
    command.args(["-e", &program]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_of_the_readme_verifies_a_delivery_with_the_public_key_alone() {
    let world = World::create().await;
    let mut receiver = Receiver::start().await;
    let key = SigningKey::generate();
    world.webhook_signed_with(&key, &receiver.url("/")).await;
    let _dispatcher = world.dispatcher().await;
    world.publish("e1").await;
    let request = receiver.next().await;
    let jwk = |key: &SigningKey| json!({"kty": "OKP", "crv": "Ed25519", "x": key.verifying_key().to_base64url(), "alg": "EdDSA", "use": "sig"});
    let body = std::str::from_utf8(&request.body).unwrap();
    let captured = |keys: &[&SigningKey], body: &str| {
        json!({
            "keys": keys.iter().map(|key| jwk(key)).collect::<Vec<_>>(),
            "body": body,
            "headers": {
                "webhook-id": request.id(),
                "webhook-timestamp": request.header("webhook-timestamp"),
                "webhook-signature": request.header("webhook-signature"),
            },
        })
    };
    let other = SigningKey::generate();
    let (verified, errors) = verifies(javascript_of_the_readme(), &captured(&[&other, &key], body));
    assert!(verified, "{errors}");
    assert!(!verifies(javascript_of_the_readme(), &captured(&[&other], body)).0);
    assert!(!verifies(javascript_of_the_readme(), &captured(&[&key], &format!("{body} "))).0);
}

#[test]
fn the_readme_lists_the_dispatchers_settings() {
    check_configuration_table("dispatcher", dispatcher::config::SETTINGS);
}

#[test]
fn without_encryption_keys_it_exits_2_and_names_them() {
    let output = Command::new(env!("CARGO_BIN_EXE_dispatcher"))
        .env_clear()
        .env("POSTRIDER_DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .env("POSTRIDER_AMQP_URL", "amqp://127.0.0.1:1/%2f")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(report.contains("POSTRIDER_ENCRYPTION_KEYS"), "{report}");
    assert!(!report.contains("POSTRIDER_DATABASE_URL"), "{report}");
}
