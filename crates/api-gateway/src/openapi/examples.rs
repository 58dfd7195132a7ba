//! Examples of what many answers have, by name, where a field has none of its own: "string" tells nobody anything.

use serde_json::{Value, json};
use utoipa::Modify;
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems, Object, Schema, SchemaType, Type};
use utoipa::openapi::{OpenApi, RefOr};

pub(super) struct Examples;

impl Modify for Examples {
    fn modify(&self, document: &mut OpenApi) {
        let schemas = document.components.iter_mut().flat_map(|components| components.schemas.values_mut());
        schemas.for_each(|schema| fill("", schema));
    }
}

fn fill(name: &str, schema: &mut RefOr<Schema>) {
    let RefOr::T(schema) = schema else { return };
    match schema {
        Schema::Object(object) => fill_object(name, object),
        Schema::Array(array) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                fill(name, items);
            }
        }
        Schema::OneOf(choice) => choice.items.iter_mut().for_each(|item| fill(name, item)),
        Schema::AllOf(all) => all.items.iter_mut().for_each(|item| fill(name, item)),
        Schema::AnyOf(any) => any.items.iter_mut().for_each(|item| fill(name, item)),
        _ => {}
    }
}

fn fill_object(name: &str, object: &mut Object) {
    let has_own = object.example.is_some() || !object.examples.is_empty() || object.enum_values.is_some();
    if !has_own && object.properties.is_empty() && object.format.is_none() {
        let is_text = match &object.schema_type {
            SchemaType::Type(kind) => *kind == Type::String,
            SchemaType::Array(kinds) => kinds.contains(&Type::String),
            SchemaType::AnyValue => false,
        };
        object.example = example(name).filter(|example| example.is_string() == is_text);
    }
    for (name, property) in object.properties.iter_mut() {
        fill(name, property);
    }
    if let Some(AdditionalProperties::RefOr(values)) = object.additional_properties.as_deref_mut() {
        fill(name, values);
    }
}

fn example(name: &str) -> Option<Value> {
    Some(match name {
        "address" => json!("203.0.113.7"),
        "body" => {
            json!(
                r#"{"id":"order-1042","type":"message.received","timestamp":"2026-05-30T10:00:00.000Z","data":{"text":"hi"}}"#
            )
        }
        "data" => json!({"from": "+15550100", "text": "hi"}),
        "description" => json!("Production CRM"),
        "disabledReason" => json!("gone"),
        "error" => json!("timeout"),
        "eventId" | "id" | "webhook-id" => json!("order-1042"),
        "filter" => json!({"amount": {"$gte": 100}}),
        "found" | "operand" => json!(100),
        "issuer" => json!("CN=Example CA"),
        "name" => json!("team"),
        "names" => json!("api.yourapp.com"),
        "nextCursor" => json!("MTc0ODU5OTIwMDAwMDAwMC5vcmRlci0xMDQy"),
        "orderingKey" => json!("customer-17"),
        "problem" => json!("no such host"),
        "event" | "eventType" | "type" => json!("message.received"),
        "requestId" => json!("0190c0ff-ee7a-7b1c-8d2e-4f5061728394"),
        "sessionId" | "sessionIds" => json!("session-1"),
        "signedContent" => json!("order-1042.1748599200.{\"id\":\"order-1042\"}"),
        "webhook-signature" => json!("v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="),
        "webhook-timestamp" => json!("1748599200"),
        _ => return None,
    })
}
