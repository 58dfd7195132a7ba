//! Access tokens whose keys come from a file or a URL: which are believed, and which are not.

use std::path::PathBuf;
use std::time::Duration;

use api_gateway::TokenKeyConfig;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{TimeDelta, Utc};
use reqwest::Method;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ring::{hmac, rsa};
use serde_json::{Value, json};
use test_support::{JWT_AUDIENCE, JWT_ISSUER, JWT_SECRET, Receiver, eventually};
use tokio::sync::watch::Sender;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::helpers::{TestApi, send};

/// Of no use anywhere else.
const RSA_KEY: &[u8] = include_bytes!("rsa_key_of_tests.pk8");

enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl Key {
    fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::from_pkcs8(RSA_KEY).unwrap())
    }

    fn ec() -> Self {
        let (scheme, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(scheme, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(scheme, pkcs8.as_ref(), &random).unwrap())
    }

    fn ed() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
            Self::Secret(_) => "HS256",
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        let mut jwk = match self {
            Self::Rsa(key) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "n": encode(&public.n), "e": encode(&public.e)})
            }
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])})
            }
            Self::Ed(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key().as_ref())}),
            Self::Secret(secret) => json!({"kty": "oct", "k": encode(secret)}),
        };
        jwk["kid"] = kid.into();
        jwk
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            Self::Ec(key) => key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Secret(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
            }
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// A good token under this key.
    fn good(&self, kid: &str) -> String {
        self.token(&json!({"alg": self.algorithm(), "kid": kid}), &claims())
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn claims() -> Value {
    json!({
        "sub": "tester",
        "tenant_id": Uuid::now_v7(),
        "scope": "webhooks:read",
        "exp": (Utc::now() + TimeDelta::hours(1)).timestamp(),
        "iss": JWT_ISSUER,
        "aud": JWT_AUDIENCE,
    })
}

fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A file that goes with the test.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(text: &str) -> Self {
        let file = Self(std::env::temp_dir().join(format!("postrider-keys-{}.json", Uuid::now_v7())));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    fn config(&self) -> TokenKeyConfig {
        TokenKeyConfig { file: Some(self.0.clone()), ..TokenKeyConfig::default() }
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn start_with(keys: TokenKeyConfig) -> TestApi {
    TestApi::start_with(|config| config.token_keys = keys).await
}

fn at_url(receiver: &Receiver) -> TokenKeyConfig {
    TokenKeyConfig { url: Some(receiver.url("/jwks.json").parse().unwrap()), ..TokenKeyConfig::default() }
}

async fn status(api: &TestApi, token: &str) -> u16 {
    let answer = api.call_as(token, Method::GET, "/api/webhooks", None).await;
    assert!(matches!(
        (answer.status, answer.code()),
        (200, "") | (401, "UNAUTHORIZED") | (503, "SERVICE_UNAVAILABLE")
    ));
    answer.status
}

async fn wait_for_status(api: &TestApi, token: &str, wanted: u16) {
    eventually("the other keys", async || (status(api, token).await == wanted).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_all_four_algorithms_are_verified_by_the_key_of_their_name() {
    let keys = [Key::rsa(), Key::ec(), Key::ed(), Key::Secret(vec![7; 32])];
    let jwks: Vec<Value> = keys.iter().map(|key| key.jwk(key.algorithm())).collect();
    let file = KeyFile::new(&key_set(&jwks));
    let api = start_with(file.config()).await;
    for key in &keys {
        let name = key.algorithm();
        let good = key.good(name);
        for _ in 0..2 {
            assert_eq!(status(&api, &good).await, 200, "{name}, also when it is seen again");
        }
        assert_eq!(
            status(&api, &key.token(&json!({"alg": name}), &claims())).await,
            200,
            "{name} without kid"
        );
        let (message, signature) = good.rsplit_once('.').unwrap();
        let mut forged = URL_SAFE_NO_PAD.decode(signature).unwrap();
        forged[9] ^= 1;
        assert_eq!(status(&api, &format!("{message}.{}", encode(&forged))).await, 401, "{name}, forged");
        assert_eq!(status(&api, &format!("{message}.")).await, 401, "{name}, not signed");
        assert_eq!(status(&api, &key.good("another")).await, 401, "{name}, unknown kid");
    }
    let strangers = [Key::ec(), Key::ed(), Key::Secret(vec![8; 32])];
    for key in &strangers {
        assert_eq!(status(&api, &key.good(key.algorithm())).await, 401, "{}", key.algorithm());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_serves_another_algorithm_than_its_own() {
    let keys = [Key::rsa(), Key::ec(), Key::ed()];
    let jwks: Vec<Value> = keys.iter().map(|key| key.jwk(key.algorithm())).collect();
    let file = KeyFile::new(&key_set(&jwks));
    let api =
        start_with(TokenKeyConfig { secret: Sender::new(JWT_SECRET.parse().ok()), ..file.config() }).await;
    for (key, jwk) in keys.iter().zip(&jwks) {
        let name = key.algorithm();
        // Whatever an attacker can see of a public key, taken for the secret of an HMAC.
        let mut shown = vec![jwk.to_string().into_bytes(), key_set(&jwks).into_bytes()];
        for part in ["n", "x", "y"] {
            if let Some(text) = jwk[part].as_str() {
                shown.extend([text.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(text).unwrap()]);
            }
        }
        if let Key::Rsa(key) = key {
            let public: &rsa::PublicKey = key.public_key();
            shown.push(public.as_ref().to_vec());
        }
        for secret in shown {
            let confused = Key::Secret(secret);
            assert_eq!(status(&api, &confused.good(name)).await, 401, "HS256 with the public key of {name}");
            let claimed = confused.token(&json!({"alg": name, "kid": name}), &claims());
            assert_eq!(status(&api, &claimed).await, 401, "{name} with an HMAC");
        }
        for other in ["RS256", "ES256", "EdDSA", "HS256", "RS512", "PS256", "ES384", "none", "None", ""] {
            if other != name {
                let header = json!({"alg": other, "kid": name});
                assert_eq!(status(&api, &key.token(&header, &claims())).await, 401, "{name} as {other}");
            }
        }
    }
    let secret = Key::Secret(JWT_SECRET.as_bytes().to_vec());
    assert_eq!(status(&api, &secret.good("any")).await, 200, "the secret has no name of its own");
    for alg in ["RS256", "HS384", "none"] {
        assert_eq!(status(&api, &secret.token(&json!({"alg": alg}), &claims())).await, 401, "{alg}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_bring_keys_extensions_or_hostile_names_are_refused_or_ignored() {
    let (key, stranger) = (Key::ec(), Key::ec());
    let file = KeyFile::new(&key_set(&[key.jwk("k1")]));
    let api = start_with(file.config()).await;
    let mut elsewhere = Receiver::start().await;
    let with = |name: &str, value: Value| {
        let mut header = json!({"alg": "ES256", "kid": "k1"});
        header[name] = value;
        header
    };
    let link = json!(elsewhere.url("/jwks.json"));
    let brought = [
        ("jwk", stranger.jwk("k1")),
        ("jku", link.clone()),
        ("x5u", link),
        ("x5c", json!(["AAAA"])),
        ("typ", json!("at+jwt")),
    ];
    for (name, value) in brought {
        let header = with(name, value);
        assert_eq!(status(&api, &stranger.token(&header, &claims())).await, 401, "{name} of a stranger");
        assert_eq!(status(&api, &key.token(&header, &claims())).await, 200, "{name} is not looked at");
    }
    assert!(elsewhere.try_next().is_none(), "nothing is fetched from where a token points");
    for (name, value) in [
        ("crit", json!(["b64"])),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("b64", json!("false")),
        ("alg", json!(["ES256"])),
        ("alg", Value::Null),
        ("kid", json!(7)),
        ("kid", json!("k2")),
        ("kid", json!("")),
        ("kid", json!("../../../../dev/null")),
        ("kid", json!("k1' OR '1'='1")),
        ("kid", json!("k1; DROP TABLE tenants")),
        ("kid", json!("k1\u{0}")),
        ("kid", json!("k".repeat(3_000))),
    ] {
        let header = with(name, value);
        assert_eq!(status(&api, &key.token(&header, &claims())).await, 401, "{header}");
    }
    let good = key.good("k1");
    let parts: Vec<&str> = good.split('.').collect();
    for bad in [
        format!("{}.{}", parts[0], parts[1]),
        format!("{good}.x"),
        format!(".{}.{}", parts[1], parts[2]),
        format!("{}..{}", parts[0], parts[2]),
        format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        format!("{}.{}.{}", encode("{"), parts[1], parts[2]),
        format!("{}.{}.{}", encode(r#"{"alg":"ES256","alg":"none"}"#), parts[1], parts[2]),
        key.token(&json!({"alg": "ES256", "x": "y".repeat(9_000)}), &claims()),
    ] {
        assert_eq!(status(&api, &bad).await, 401, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_are_not_current_ours_and_of_the_right_type_are_refused_whatever_signs_them() {
    let key = Key::ed();
    let file = KeyFile::new(&key_set(&[key.jwk("k1")]));
    let api = start_with(file.config()).await;
    let (now, hour) = (Utc::now(), TimeDelta::hours(1));
    for (name, value) in [
        ("exp", json!((now - hour).timestamp())),
        ("exp", json!("2099-01-01T00:00:00Z")),
        ("exp", json!((now + hour).timestamp().to_string())),
        ("exp", Value::Null),
        ("exp", json!(-1)),
        ("nbf", json!((now + hour).timestamp())),
        ("nbf", json!("2020-01-01T00:00:00Z")),
        ("iat", json!("2020-01-01T00:00:00Z")),
        ("iss", json!("https://evil.test")),
        ("iss", Value::Null),
        ("aud", json!("somebody-else")),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("tenant_id", json!("' OR 1=1 --")),
        ("scope", json!(["webhooks:read"])),
        ("sub", Value::Null),
    ] {
        let mut claims = claims();
        claims[name] = value.clone();
        let token = key.token(&json!({"alg": "EdDSA", "kid": "k1"}), &claims);
        assert_eq!(status(&api, &token).await, 401, "{name}: {value}");
        let mut without = claims.clone();
        if !["nbf", "iat"].contains(&name) {
            without.as_object_mut().unwrap().remove(name);
            let token = key.token(&json!({"alg": "EdDSA", "kid": "k1"}), &without);
            assert_eq!(status(&api, &token).await, 401, "without {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_is_read_again_when_it_changes_and_kept_when_it_breaks() {
    let (old, new) = (Key::rsa(), Key::ed());
    let file = KeyFile::new(&key_set(&[old.jwk("old")]));
    let api = start_with(file.config()).await;
    assert_eq!((status(&api, &old.good("old")).await, status(&api, &new.good("new")).await), (200, 401));
    file.write(&key_set(&[old.jwk("old"), new.jwk("new")]));
    wait_for_status(&api, &new.good("new"), 200).await;
    let seen_before = old.good("old");
    assert_eq!(status(&api, &seen_before).await, 200);
    file.write("{ this is broken");
    let until = Instant::now() + Duration::from_millis(1_500);
    eventually("a look at the broken file", async || {
        assert_eq!(status(&api, &seen_before).await, 200, "what was read last stays");
        (Instant::now() > until).then_some(())
    })
    .await;
    file.write(&key_set(&[new.jwk("new")]));
    wait_for_status(&api, &seen_before, 401).await;
    std::fs::remove_file(&file.0).unwrap();
    assert_eq!(status(&api, &new.good("new")).await, 200, "what was read last stays");
    file.write(&key_set(&[old.jwk("old")]));
    wait_for_status(&api, &old.good("old"), 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_at_a_url_are_read_for_an_unknown_name_and_kept_while_the_url_fails() {
    let (old, new) = (Key::ec(), Key::ec());
    let mut issuer = Receiver::start().await;
    issuer.answer_next_in_full(200, &[], key_set(&[old.jwk("old")]));
    let api = start_with(at_url(&issuer)).await;
    wait_for_status(&api, &old.good("old"), 200).await;
    issuer.next().await;
    issuer.answer_next_in_full(200, &[], key_set(&[old.jwk("old"), new.jwk("new")]));
    wait_for_status(&api, &new.good("new"), 200).await;
    issuer.next().await;
    // From now on the URL answers 204 without keys: the last ones stay.
    for number in 0..100 {
        assert_eq!(status(&api, &new.good(&format!("made-up-{number}"))).await, 401);
    }
    let mut readings = 0;
    while issuer.try_next().is_some() {
        readings += 1;
    }
    assert!(readings <= 10, "names that are made up have it read {readings} times");
    assert_eq!((status(&api, &old.good("old")).await, status(&api, &new.good("new")).await), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_was_never_read_is_said_to_be_lacking_and_tokens_are_asked_to_wait() {
    let key = Key::rsa();
    let issuer = Receiver::start().await;
    issuer.answer_always(500);
    let api = start_with(at_url(&issuer)).await;
    assert_eq!(status(&api, &key.good("k1")).await, 503);
    let ready = send(api.request(Method::GET, "/health/ready")).await;
    let check = json!({"name": "token keys", "ok": false, "required": true});
    assert_eq!(ready.status, 503);
    assert!(ready.body["checks"].as_array().unwrap().contains(&check), "{ready:?}");
    let oversized = format!("{}{}", key_set(&[key.jwk("k1")]), " ".repeat(300 * 1024));
    issuer.answer_next_in_full(200, &[], oversized);
    issuer.answer_next_with(302, &[("location", "/elsewhere")]);
    issuer.answer_next_in_full(200, &[], key_set(&[Key::Secret(vec![7; 32]).jwk("k1")]));
    issuer.answer_next_in_full(200, &[], key_set(&[key.jwk("k1")]));
    wait_for_status(&api, &key.good("k1"), 200).await;
    api.wait_until_ready().await;
    assert_eq!(
        status(&api, &Key::Secret(vec![7; 32]).good("k1")).await,
        401,
        "no secret comes from the network"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_secret_a_url_that_was_never_read_keeps_nobody_out() {
    let issuer = Receiver::start().await;
    issuer.answer_always(500);
    let keys = TokenKeyConfig { secret: Sender::new(JWT_SECRET.parse().ok()), ..at_url(&issuer) };
    let api = start_with(keys).await;
    assert_eq!(status(&api, &api.token).await, 200);
    api.wait_until_ready().await;
    let ready = send(api.request(Method::GET, "/health/ready")).await;
    let check = json!({"name": "token keys", "ok": false, "required": false});
    assert!(ready.body["checks"].as_array().unwrap().contains(&check), "{ready:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_hangs_holds_up_no_token_with_a_known_key() {
    let key = Key::ed();
    let issuer = Receiver::start().await;
    issuer.answer_next_in_full(200, &[], key_set(&[key.jwk("k1")]));
    let api = start_with(at_url(&issuer)).await;
    wait_for_status(&api, &key.good("k1"), 200).await;
    issuer.hang();
    let (known, unknown) = (key.good("k1"), key.good("k2"));
    let (known, unknown) =
        tokio::join!(timeout(Duration::from_secs(2), status(&api, &known)), status(&api, &unknown));
    assert_eq!((known.unwrap(), unknown), (200, 401));
    issuer.release();
}
