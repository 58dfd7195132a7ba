//! What holds for every operation, and would have to be said again and again: errors that any request can meet, an example of
//! each, and that what is absent is not null.

use serde_json::json;
use utoipa::Modify;
use utoipa::openapi::path::Operation;
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder,
};

use super::operations;

/// Errors that a handler need not say it has: status, description, and whether only requests with a body meet it.
const ERRORS: [(&str, &str, bool); 8] = [
    ("408", "`REQUEST_TIMEOUT`: the request body did not arrive in time", true),
    ("413", "`PAYLOAD_TOO_LARGE`", true),
    ("414", "`URI_TOO_LONG`: path and query", false),
    ("415", "`UNSUPPORTED_MEDIA_TYPE`: the request body is not JSON", true),
    ("429", "`RATE_LIMITED`: see `Retry-After`", false),
    ("431", "`HEADERS_TOO_LARGE`: all headers together", false),
    ("500", "`INTERNAL_ERROR`: tell us the `X-Request-Id`", false),
    ("503", "`SERVICE_UNAVAILABLE`: something of ours is away, see `Retry-After`", false),
];
/// What `If-Match` and `If-None-Match` hold.
const ENTITY_TAGS: &str = r#"^(\*|(W/)?"[!#-+\--~]*"( *, *(W/)?"[!#-+\--~]*"){0,31})$"#;
/// What a response's `content` is called.
const JSON: &str = "application/json";

pub(super) struct Everywhere;

impl Modify for Everywhere {
    fn modify(&self, document: &mut OpenApi) {
        for operation in document.paths.paths.values_mut().flat_map(operations) {
            add_errors(operation);
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response {
                    describe(status, response);
                }
            }
            forbid_null(operation);
        }
    }
}

fn add_errors(operation: &mut Operation) {
    let has_body = operation.request_body.is_some();
    for (status, description, _) in ERRORS.iter().filter(|(.., only_with_body)| has_body || !only_with_body) {
        operation.responses.responses.entry((*status).to_owned()).or_insert_with(|| {
            let failure = ContentBuilder::new().schema(Some(Ref::from_schema_name("Failure"))).build();
            ResponseBuilder::new().description(*description).content(JSON, failure).build().into()
        });
    }
}

/// Adds an example to an error, and the headers that some have.
fn describe(status: &str, response: &mut Response) {
    if status < "400" {
        return;
    }
    let code = response.description.split('`').nth(1).unwrap_or_default().to_owned();
    let mut example = json!({"success": false, "message": message(&code), "code": code});
    if code == "VALIDATION_ERROR" {
        example["errors"] = json!({"url": "url must use https"});
    }
    if let Some(RefOr::T(content)) = response.content.get_mut(JSON) {
        content.example.get_or_insert(example);
    }
    let names: &[(&str, &str)] = match status {
        "429" => &[
            ("Retry-After", "Seconds until there is room again"),
            ("RateLimit", "What remains, and when there is more"),
            ("RateLimit-Policy", "What is limited, and to how much"),
        ],
        "503" => &[("Retry-After", "Seconds after which to try again")],
        _ => &[],
    };
    for (name, description) in names {
        let header = HeaderBuilder::new().description(Some(*description)).build();
        response.headers.entry((*name).to_owned()).or_insert_with(|| header.into());
    }
}

/// As the API says it, or nearly.
fn message(code: &str) -> &'static str {
    match code {
        "VALIDATION_ERROR" => "Validation failed",
        "UNAUTHORIZED" => "Send an access token: Authorization: Bearer {accessToken}",
        "FORBIDDEN" => "The access token lacks the scope webhooks:write",
        "NOT_FOUND" => "Not found",
        "CONFLICT" => "It exists already, or its state does not allow this",
        "RATE_LIMITED" => "Your plan allows 6000 requests a minute",
        "INTERNAL_ERROR" => "Internal error",
        "WHATSAPP_UNAVAILABLE" => "The session is disconnected",
        "REQUEST_TIMEOUT" => "The request body must arrive within 15 s",
        "PRECONDITION_FAILED" => "It has changed meanwhile; read it again, and change what it is now",
        "PAYLOAD_TOO_LARGE" => "The request body must be at most 272 KiB",
        "URI_TOO_LONG" => "Path and query must be at most 8 KiB",
        "HEADERS_TOO_LARGE" => "The headers must be at most 32 KiB together",
        "UNSUPPORTED_MEDIA_TYPE" => "Send the request body as JSON, with Content-Type: application/json",
        _ => "The service is busy; try again shortly",
    }
}

/// A parameter or a body that may be absent is absent then, not null.
fn forbid_null(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
        {
            object.schema_type = without_null(&object.schema_type);
            if ["If-Match", "If-None-Match"].contains(&parameter.name.as_str()) {
                object.pattern = Some(ENTITY_TAGS.to_owned());
            }
        }
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        forbid_null_body(body);
    }
}

fn forbid_null_body(body: &mut RequestBody) {
    for content in body.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        let Some(RefOr::T(Schema::OneOf(choice))) = &content.schema else { continue };
        if let Some(shape) = choice.items.iter().find(|item| matches!(item, RefOr::Ref(_))) {
            content.schema = Some(shape.clone());
            body.required = Some(Required::False);
        }
    }
}

fn without_null(kind: &SchemaType) -> SchemaType {
    let SchemaType::Array(kinds) = kind else { return kind.clone() };
    let rest: Vec<Type> = kinds.iter().filter(|kind| **kind != Type::Null).cloned().collect();
    match rest.as_slice() {
        [only] => SchemaType::Type(only.clone()),
        _ => SchemaType::Array(rest),
    }
}
