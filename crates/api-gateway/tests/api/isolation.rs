//! Every route of the OpenAPI document, tried with what belongs to another tenant. A route that is added is tried too.
#![expect(clippy::wildcard_enum_match_arm, reason = "JSON: most kinds of values are treated alike")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use domain::{Event, Scope, TenantId};
use reqwest::Method;
use serde_json::{Value, json};
use store::{AttemptRecord, Batch, DeliveryKey, Lease};
use uuid::Uuid;

use crate::helpers::{Answer, TestApi, send, token};

/// In everything that the victim writes in its own words.
const MARK: &str = "the-victims-own";
/// What the victim publishes under.
const EVENT: &str = "the-victims-own-event";

/// Before a place in a list, which is no name of anything.
const CURSOR: &str = "cursor:";

/// An operation of the document.
struct Operation {
    method: Method,
    path: String,
    /// In the path.
    parameters: Vec<String>,
    /// In the query.
    query: Vec<String>,
    /// What the document shows as a body.
    body: Option<Value>,
}

impl Operation {
    fn all(document: &Value) -> Vec<Self> {
        let mut all = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let listed = operation["parameters"].as_array().cloned().unwrap_or_default();
                let named = |place: &str| {
                    let inside = listed.iter().filter(|parameter| parameter["in"] == place);
                    inside.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
                };
                let content = &operation["requestBody"]["content"]["application/json"];
                all.push(Self {
                    method: method.to_uppercase().parse().unwrap(),
                    path: path.clone(),
                    parameters: path
                        .split('{')
                        .skip(1)
                        .map(|rest| rest.split('}').next().unwrap().to_owned())
                        .collect(),
                    query: named("query"),
                    body: content.is_object().then(|| shown(document, content)),
                });
            }
        }
        all
    }

    /// Where it is asked for something, which goes where `{}` is: plainly, with what pages and filters take, and beside
    /// something of one's own.
    fn paths(&self, ids: &BTreeSet<String>, own: &str) -> Vec<String> {
        let first = self.parameters.first().cloned();
        let is_first = |name: &str| Some(name) == first.as_deref();
        let plain = self.path_with(|name| if is_first(name) { "{}" } else { EVENT }.to_owned());
        let cursor =
            ids.iter().find(|id| id.starts_with(CURSOR)).map(|cursor| cursor.trim_start_matches(CURSOR));
        let value =
            |name: &String| if name.contains("ursor") { cursor } else { names_an_id(name).then_some("{}") };
        let query = self.query.iter().filter_map(|name| Some(format!("{name}={}", value(name)?)));
        let with_query = format!("{plain}?{}", query.collect::<Vec<_>>().join("&"));
        let beside = self.path_with(|name| if is_first(name) { own } else { "{}" }.to_owned());
        if self.parameters.len() > 1 { vec![plain, with_query, beside] } else { vec![plain, with_query] }
    }

    fn path_with(&self, value: impl Fn(&str) -> String) -> String {
        self.parameters
            .iter()
            .fold(self.path.clone(), |path, name| path.replace(&format!("{{{name}}}"), &value(name)))
    }

    async fn call(&self, api: &TestApi, token: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut request = api.request(self.method.clone(), path).bearer_auth(token);
        if !self.method.is_safe() {
            request = request.header("Idempotency-Key", MARK);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        send(request).await
    }
}

/// The example of a body: its own, or that of its schema or of its schema's fields.
fn shown(document: &Value, content: &Value) -> Value {
    let schema = match content["schema"]["$ref"].as_str() {
        Some(path) => document.pointer(path.trim_start_matches('#')).unwrap(),
        None => &content["schema"],
    };
    let named =
        content["examples"].as_object().and_then(|all| all.values().next()).map(|example| &example["value"]);
    for example in [Some(&content["example"]), named, Some(&schema["example"]), Some(&schema["examples"][0])]
    {
        if let Some(example) = example.filter(|example| !example.is_null()) {
            return example.clone();
        }
    }
    let fields = schema["properties"].as_object().into_iter().flatten();
    let example = |field: &Value| {
        [&field["example"], &field["examples"][0]].into_iter().find(|e| !e.is_null()).cloned()
    };
    Value::Object(fields.filter_map(|(name, field)| Some((name.clone(), example(field)?))).collect())
}

fn names_an_id(key: &str) -> bool {
    let key = key.to_lowercase();
    key == "ids" || ["id", "ids", "key"].iter().any(|end| key.ends_with(end))
}

/// What could lead to something of the victim's: ids and cursors, wherever they are in an answer.
fn collect_ids(value: &Value, ids: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(cursor) if key.ends_with("ursor") => {
                        _ = ids.insert(format!("{CURSOR}{cursor}"))
                    }
                    Value::String(id) if names_an_id(key) => _ = ids.insert(id.clone()),
                    _ => {}
                }
                collect_ids(value, ids);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_ids(value, ids)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The token of a tenant that may do whatever a tenant may.
fn everything(tenant: TenantId) -> String {
    let scopes = Scope::ALL.into_iter().filter(|scope| *scope != Scope::Admin);
    token(tenant, &scopes.map(Scope::as_str).collect::<Vec<_>>().join(" "))
}

/// Another one of the same form, which nobody has.
fn nobodys(id: &str) -> String {
    if id.parse::<Uuid>().is_ok() {
        return Uuid::now_v7().to_string();
    }
    id.bytes().map(|byte| if byte.is_ascii_alphanumeric() { 'q' } else { char::from(byte) }).collect()
}

/// The same request about something of the victim's and about something that is nobody's must be answered the same.
fn without(answer: &Answer, id: &str) -> (u16, String) {
    (answer.status, answer.body.to_string().replace(id, "…"))
}

/// A tenant that has some of everything. Gives what others must not get at: ids to ask for, and what must never be answered.
async fn victim(api: &TestApi, operations: &[Operation]) -> BTreeSet<String> {
    let webhook = json!({
        "url": format!("https://{MARK}.example.com/"), "events": ["message.sent"], "description": MARK,
        "headers": {"x-secret": MARK}, "secret": MARK, "metadata": {"name": MARK},
    });
    let created =
        api.call_as(&everything(api.tenant), Method::POST, "/api/webhooks", Some(&webhook.to_string())).await;
    assert_eq!(created.status, 201, "{created:?}");
    let mut ids = BTreeSet::from([EVENT.to_owned(), MARK.to_owned(), api.tenant.to_string(), created.id()]);
    let now = Utc::now();
    let event = Event {
        tenant_id: api.tenant,
        id: EVENT.parse().unwrap(),
        event_type: "message.sent".parse().unwrap(),
        occurred_at: now,
        session_id: Some(MARK.parse().unwrap()),
        ordering_key: None,
        trace: None,
        deliver_at: None,
        tags: Vec::new(),
        body: Bytes::from(
            json!({"id": EVENT, "type": "message.sent", "timestamp": now, "data": MARK}).to_string(),
        ),
    };
    let lease = Lease { holder: Uuid::now_v7(), until: now + TimeDelta::seconds(30) };
    let handed = api.database.store.hand_over(&[&event], now, lease, false).await.unwrap();
    let attempt = |number: u32| AttemptRecord {
        key: DeliveryKey {
            webhook_id: created.id().parse().unwrap(),
            event_id: event.id.clone(),
            event_day: handed.day,
        },
        tenant_id: api.tenant,
        event_type: event.event_type.clone(),
        attempt: number,
        started_at: now + TimeDelta::milliseconds(number.into()),
        duration_ms: 1,
        status_code: Some(200),
        error: None,
        next_attempt_at: None,
        trigger: None,
        exchange: None,
    };
    let attempts = (1..=3).map(attempt).collect();
    let batch = Batch { attempts, settled: vec![handed.batch], ..Batch::default() };
    api.database.store.record(&batch, lease.holder).await.unwrap();
    // Whatever else can be made, as the document shows it.
    for operation in operations.iter().filter(|o| o.method == Method::POST && o.parameters.is_empty()) {
        let answer =
            operation.call(api, &everything(api.tenant), &operation.path, operation.body.as_ref()).await;
        if answer.status == 201 {
            collect_ids(&answer.body, &mut ids);
        }
    }
    for (_, answer) in seen_by_the_victim(api, operations, &ids).await {
        collect_ids(&answer, &mut ids);
    }
    // What anybody's looks like: the catalogue, and pages of one.
    ids.retain(|id| id.len() > 8);
    ids
}

/// What every route that only reads shows the victim.
async fn seen_by_the_victim(
    api: &TestApi,
    operations: &[Operation],
    ids: &BTreeSet<String>,
) -> BTreeMap<String, Value> {
    let mut seen = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.method == Method::GET) {
        let page = if operation.query.iter().any(|name| name == "limit") { "?limit=1" } else { "" };
        for id in ids {
            // One of several ids in a path is the event's, as a rule.
            let path =
                operation.path_with(|name| if name == "eventId" { EVENT.to_owned() } else { id.clone() });
            let answer = operation.call(api, &everything(api.tenant), &format!("{path}{page}"), None).await;
            // What is counted up to now is never the same twice, and looking at a secret is itself in the log.
            let of_now = ["/api/usage", "/api/audit-log", "/statistics"];
            let is_of_now = of_now.iter().any(|end| path.ends_with(end));
            if answer.status == 200 && !is_of_now {
                seen.insert(path, answer.body);
            }
            if operation.parameters.is_empty() {
                break;
            }
        }
    }
    seen
}

/// The body the document shows, with an id wherever one belongs.
fn about(body: &Value, id: &str) -> Value {
    match body {
        Value::Object(fields) => {
            let replace = |(key, value): (&String, &Value)| {
                let value = match value {
                    Value::String(_) if names_an_id(key) => json!(id),
                    Value::Array(_) if names_an_id(key) => json!([id]),
                    other => about(other, id),
                };
                (key.clone(), value)
            };
            Value::Object(fields.iter().map(replace).collect())
        }
        other => other.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_answers_with_what_is_another_tenants_or_hints_that_it_exists() {
    let api = TestApi::start().await;
    let unlimited = "UPDATE plans SET requests_per_minute = NULL, events_per_minute = NULL";
    api.database.client().await.execute(unlimited, &[]).await.unwrap();
    let document = send(api.request(Method::GET, "/openapi.json")).await.body;
    let operations = Operation::all(&document);
    let ids = victim(&api, &operations).await;
    // What changes by itself, such as the time that statistics end at, shows nothing.
    let (mut before, again) = (
        seen_by_the_victim(&api, &operations, &ids).await,
        seen_by_the_victim(&api, &operations, &ids).await,
    );
    before.retain(|path, answer| again.get(path) == Some(answer));
    assert!(ids.len() >= 5 && before.len() >= 6, "{ids:?}\n{:?}", before.keys());
    let stranger = everything(TenantId(Uuid::now_v7()));

    let own = json!({"url": "https://stranger.example.com/", "events": ["*"]}).to_string();
    let own = api.call_as(&stranger, Method::POST, "/api/webhooks", Some(&own)).await.id();

    let (mut asked, mut for_operators) = (0, BTreeSet::new());
    for operation in &operations {
        let name = format!("{} {}", operation.method, operation.path);
        for id in &ids {
            for path in operation.paths(&ids, &own) {
                let nobodys = nobodys(id);
                let body = |id| operation.body.as_ref().map(|body| about(body, id));
                let theirs =
                    operation.call(&api, &stranger, &path.replace("{}", id), body(id).as_ref()).await;
                let unknown = operation
                    .call(&api, &stranger, &path.replace("{}", &nobodys), body(&nobodys).as_ref())
                    .await;
                if theirs.status == 403 && theirs.body["message"].as_str().unwrap().contains("admin") {
                    for_operators.insert(name.clone());
                    continue;
                }
                let refused = (theirs.status, theirs.code()) == (403, "FORBIDDEN");
                assert!(!refused, "{name} was not tried: {theirs:?}");
                asked += 1;
                if !operation.parameters.is_empty() {
                    assert_eq!(
                        without(&theirs, id),
                        without(&unknown, &nobodys),
                        "{name} tells {id} from nobody's"
                    );
                    // The cursor of another list is refused to everybody.
                    if !theirs.body["errors"]["cursor"].is_string() {
                        assert_eq!(
                            (theirs.status, theirs.code()),
                            (404, "NOT_FOUND"),
                            "{name}: {path} {id} {theirs:?}"
                        );
                    }
                }
                let said = format!("{path} {:?}", body(id));
                let text = theirs.body.to_string();
                for other in ids.iter().filter(|other| *other != id && !said.contains(*other)) {
                    assert!(!text.contains(other.as_str()), "{name} with {id} answers with {other}: {text}");
                }
            }
        }
    }
    assert!(asked > operations.len(), "{asked} requests");
    assert!(
        for_operators.iter().all(|name| name.contains("/api/tenants")
            || name.contains("/api/plans")
            || name.contains("/api/webhooks/events/")
            || name.contains("/api/admin")
            || name.contains("/api/webhooks/events/{type}")),
        "{for_operators:?}"
    );
    let after = seen_by_the_victim(&api, &operations, &ids).await;
    for (path, answer) in before {
        assert_eq!(after.get(&path), Some(&answer), "{path}: nothing of the victim's has changed");
    }
}
