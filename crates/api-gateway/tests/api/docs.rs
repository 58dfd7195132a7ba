use reqwest::Method;
use serde_json::Value;

use crate::helpers::{TestApi, send};

#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_document_is_3_1_and_every_operation_in_it_exists() {
    let api = TestApi::start().await;
    let document = send(api.request(Method::GET, "/openapi.json")).await.body;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations += 1;
            let path = path
                .replace("{id}", "018f0000-0000-7000-8000-000000000000")
                .replace("{name}", "team")
                .replace("{type}", "message.sent")
                .replace("{eventId}", "e1");
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = send(api.request(method.clone(), &path)).await;
            let is_public = operation.get("security").is_none();
            assert_eq!(answer.status, if is_public { 200 } else { 401 }, "{method} {path}");
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
