//! What a webhook wants of an event's data, in a small language of JSON objects.
//!
//! `{"amount": {"$gte": 100}, "customer.country": "DE"}` wants both; `$and`, `$or` and `$not` combine filters. A field is
//! named by its path, with dots between; a number picks from an array.

mod data;
mod evaluate;
mod parse;

use std::fmt;

use serde_json::{Number, Value};

pub use data::EventData;
pub use evaluate::{Explanation, JudgedCondition};

/// Longest filter, in bytes of JSON.
pub const MAX_FILTER_BYTES: usize = 8 * 1024;
/// Deepest nesting of filters in a filter.
pub const MAX_FILTER_DEPTH: usize = 8;
/// Most conditions and combinations in a filter.
pub const MAX_FILTER_NODES: usize = 64;
/// Most values of one `$in`.
pub const MAX_FILTER_VALUES: usize = 100;

/// A filter, parsed. Keeps the text as its owner wrote it.
#[derive(Clone)]
pub struct Filter {
    text: Box<str>,
    root: Node,
}

#[derive(Debug, Clone)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Condition(Condition),
}

/// What is asked of one field.
#[derive(Debug, Clone)]
struct Condition {
    path: Path,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Equal(Scalar),
    NotEqual(Scalar),
    In(Vec<Scalar>),
    Compare(Comparison, Scalar),
    Prefix(Box<str>),
    Exists(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// A value without parts.
#[derive(Debug, Clone)]
enum Scalar {
    Null,
    Bool(bool),
    Number(Number),
    Text(Box<str>),
}

/// Where a field is.
#[derive(Debug, Clone)]
struct Path {
    text: Box<str>,
    segments: Box<[Box<str>]>,
}

impl Filter {
    /// The JSON as its owner wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Condition {
    fn operator(&self) -> &'static str {
        match &self.test {
            Test::Equal(_) => "$eq",
            Test::NotEqual(_) => "$ne",
            Test::In(_) => "$in",
            Test::Compare(Comparison::Greater, _) => "$gt",
            Test::Compare(Comparison::GreaterOrEqual, _) => "$gte",
            Test::Compare(Comparison::Less, _) => "$lt",
            Test::Compare(Comparison::LessOrEqual, _) => "$lte",
            Test::Prefix(_) => "$prefix",
            Test::Exists(_) => "$exists",
        }
    }

    fn operand(&self) -> Value {
        match &self.test {
            Test::Equal(value) | Test::NotEqual(value) | Test::Compare(_, value) => value.to_value(),
            Test::In(values) => values.iter().map(Scalar::to_value).collect(),
            Test::Prefix(text) => Value::from(&**text),
            Test::Exists(exists) => Value::from(*exists),
        }
    }
}

impl Scalar {
    fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::from(*value),
            Self::Number(number) => Value::from(number.clone()),
            Self::Text(text) => Value::from(&**text),
        }
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Filter {}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
