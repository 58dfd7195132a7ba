//! JSON Schemas of the data of events.

use std::str::FromStr;

use domain::{EventData, Invalid};
use jsonschema::{PatternOptions, Validator};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Largest schema and largest example, in bytes of JSON.
pub(crate) const MAX_SCHEMA_BYTES: usize = 64 * 1024;
/// Most problems that are told of one event.
const MAX_PROBLEMS: usize = 5;
/// Longest text of a problem, in characters.
const MAX_PROBLEM_CHARS: usize = 200;
/// Largest regular expression of a schema, compiled, in bytes.
const MAX_PATTERN_BYTES: usize = 1024 * 1024;

/// What is done about data that is not as its type's schema says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaValidation {
    /// It is not looked at.
    Off,
    /// The event is accepted, and the answer says what is wrong.
    Warn,
    /// The event is not accepted.
    Reject,
}

impl FromStr for SchemaValidation {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "off" => Ok(Self::Off),
            "warn" => Ok(Self::Warn),
            "reject" => Ok(Self::Reject),
            other => Err(Invalid::new(format!("must be off, warn or reject, not {other:?}"))),
        }
    }
}

/// A schema, ready to check data.
pub(crate) struct Schema(Validator);

/// Where data is not as its type's schema says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct SchemaProblem {
    /// Where in `data`, as a JSON Pointer; empty for all of it.
    #[schema(example = "/from")]
    pub(crate) pointer: String,
    #[schema(example = "7 is not of type \"string\"")]
    pub(crate) problem: String,
}

impl Schema {
    /// Reads a schema of any draft, the latest one unless it says otherwise. It can refer only to what is in it.
    pub(crate) fn compile(json: &str) -> Result<Self, Invalid> {
        let schema: Value = serde_json::from_str(json)
            .map_err(|error| Invalid::new(format!("schema must be a JSON Schema: {error}")))?;
        // Patterns of the kind that takes time in proportion to the text, whatever the text.
        let patterns = PatternOptions::regex().size_limit(MAX_PATTERN_BYTES);
        let built = jsonschema::options().offline().with_pattern_options(patterns).build(&schema);
        built.map(Self).map_err(|error| {
            let place = error.instance_path().to_string();
            let problem = shortened(&error.to_string());
            Invalid::new(format!("schema is not a JSON Schema: {problem} (at {place:?})"))
        })
    }

    /// What is wrong with data. Nothing where it cannot be judged: it has numbers or texts that no program can hold.
    pub(crate) fn problems(&self, data: &RawValue) -> Vec<SchemaProblem> {
        let data = EventData::published(data);
        let Some(value) = data.value() else { return Vec::new() };
        if self.0.is_valid(value) {
            return Vec::new();
        }
        let problem = |error: jsonschema::ValidationError<'_>| SchemaProblem {
            pointer: error.instance_path().to_string(),
            problem: shortened(&error.to_string()),
        };
        self.0.iter_errors(value).take(MAX_PROBLEMS).map(problem).collect()
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= MAX_PROBLEM_CHARS {
        return text.to_owned();
    }
    text.chars().take(MAX_PROBLEM_CHARS).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(schema: &Value, data: &str) -> Vec<SchemaProblem> {
        let data = RawValue::from_string(data.to_owned()).unwrap();
        Schema::compile(&schema.to_string()).unwrap().problems(&data)
    }

    #[test]
    fn each_problem_says_where_it_is() {
        let schema = json!({"type": "object", "required": ["from"], "properties": {"parts": {"items": {"type": "integer"}}}});
        assert_eq!(problems(&schema, r#"{"from":"a","parts":[1,2]}"#), []);
        let found = problems(&schema, r#"{"parts":[1,"x"]}"#);
        let mut pointers: Vec<&str> = found.iter().map(|problem| problem.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(pointers, ["", "/parts/1"], "{found:?}");
    }

    #[test]
    fn few_problems_are_told_and_shortly() {
        let items = format!("[{}]", vec!["7"; 100].join(","));
        assert_eq!(problems(&json!({"items": {"type": "string"}}), &items).len(), MAX_PROBLEMS);
        let long = format!("\"{}\"", "x".repeat(10_000));
        assert!(
            problems(&json!({"type": "integer"}), &long)[0].problem.chars().count() <= MAX_PROBLEM_CHARS + 1
        );
    }

    #[test]
    fn what_no_program_can_hold_cannot_be_wrong() {
        assert_eq!(problems(&json!({"type": "string"}), "1e400"), []);
    }

    #[test]
    fn what_is_no_schema_or_leads_elsewhere_is_refused() {
        for bad in [
            r#"{"type":"#,
            r#"{"type":"nothing"}"#,
            r#"{"$ref":"https://example.com/schema.json"}"#,
            r#"{"$ref":"file:///etc/passwd"}"#,
            r##"{"$ref":"#/missing"}"##,
            r#"{"pattern":"("}"#,
            r#"7"#,
        ] {
            assert!(Schema::compile(bad).is_err(), "{bad}");
        }
    }
}
