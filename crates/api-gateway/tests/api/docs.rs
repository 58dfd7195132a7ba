use reqwest::Method;
use serde_json::Value;

use crate::helpers::{TestApi, filled_in, send};

#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_document_is_3_1_and_every_operation_in_it_exists() {
    let api = TestApi::start().await;
    let document = send(api.request(Method::GET, "/openapi.json")).await.body;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations += 1;
            let path = filled_in(path);
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = send(api.request(method.clone(), &path)).await;
            let is_public = operation.get("security").is_none();
            let exists = [200, if path.ends_with("/jwks.json") { 404 } else { 200 }];
            let is_right = if is_public { exists.contains(&answer.status) } else { answer.status == 401 };
            assert!(is_right, "{method} {path}: {answer:?}");
            assert!(
                operation["summary"].is_string() && operation["description"].is_string(),
                "{method} {path}"
            );
        }
    }
    assert!(operations > 25, "the document has them all");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], Value::from("bearer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn swagger_ui_is_served_by_the_gateway_itself() {
    let api = TestApi::start().await;
    let page = send(api.request(Method::GET, "/docs")).await;
    assert_eq!(page.status, 200);
    let html = page.body.as_str().unwrap();
    assert!(html.contains("swagger-ui") && !html.contains("https://"), "no file of it comes from elsewhere");
    assert_eq!(send(api.request(Method::GET, "/docs/swagger-ui-bundle.js")).await.status, 200);
    let settings = send(api.request(Method::GET, "/docs/swagger-initializer.js")).await;
    assert!(settings.body.as_str().unwrap().contains("/openapi.json"));
}

/// How many texts in a schema have an example, and how many would be shown as "string".
fn count_texts(document: &Value, schema: &Value) -> (usize, usize) {
    if ["example", "examples", "enum", "const", "format"].iter().any(|key| schema.get(key).is_some()) {
        return (1, 0);
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        return count_texts(document, document.pointer(name).unwrap());
    }
    let types = schema["type"].as_array().map_or_else(|| vec![schema["type"].clone()], Clone::clone);
    let own = (0, usize::from(types.contains(&"string".into())));
    let properties = schema["properties"].as_object().into_iter().flat_map(|properties| properties.values());
    let parts =
        ["oneOf", "anyOf", "allOf"].iter().flat_map(|key| schema[key].as_array().into_iter().flatten());
    let all = properties.chain(parts).chain(schema.get("items")).map(|part| count_texts(document, part));
    all.fold(own, |(with, without), (more, fewer)| (with + more, without + fewer))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_and_every_answer_has_an_example() {
    let api = TestApi::start().await;
    let document = send(api.request(Method::GET, "/openapi.json")).await.body;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            let answers = responses.iter().map(|(status, response)| (status.as_str(), response));
            let request = operation.get("requestBody").map(|body| ("request", body));
            for (what, holder) in answers.chain(request) {
                let content = &holder["content"]["application/json"];
                if what.starts_with(['4', '5']) {
                    assert!(content["example"]["code"].is_string(), "{method} {path} {what}: {content}");
                } else if content.get("example").is_none() && content.get("schema").is_some() {
                    let (with, without) = count_texts(&document, &content["schema"]);
                    assert!(with > 0 || without == 0, "{method} {path} {what} has no example");
                }
            }
            for status in ["500", "503"] {
                assert!(responses.contains_key(status), "{method} {path} says what else can happen");
            }
        }
    }
}
