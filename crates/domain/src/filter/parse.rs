use std::fmt;
use std::str::FromStr;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{
    Comparison, Condition, Filter, MAX_FILTER_BYTES, MAX_FILTER_DEPTH, MAX_FILTER_NODES, MAX_FILTER_VALUES,
    Node, Path, Scalar, Test,
};
use crate::Invalid;

/// What can be asked of a field.
const OPERATORS: &str = "$eq, $ne, $in, $gt, $gte, $lt, $lte, $prefix, $exists";

impl FromStr for Filter {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() > MAX_FILTER_BYTES {
            let kib = MAX_FILTER_BYTES / 1024;
            return Err(Invalid::new(format!("filter must be at most {kib} KiB of JSON")));
        }
        let mut nodes = 0;
        let root = parse_filter(text, "filter", 1, &mut nodes)?;
        Ok(Self { text: text.into(), root })
    }
}

/// `at` says where in the filter, for people.
fn parse_filter(json: &str, at: &str, depth: usize, nodes: &mut usize) -> Result<Node, Invalid> {
    if depth > MAX_FILTER_DEPTH {
        return Err(Invalid::new(format!("filter must be nested at most {MAX_FILTER_DEPTH} deep")));
    }
    let entries = parse_object(json, at)?;
    let mut parts = Vec::with_capacity(entries.len());
    for (name, value) in &entries {
        let at = format!("{at}.{name}");
        match name.as_str() {
            "$and" => parts.push(Node::All(parse_filters(value, &at, depth, nodes)?)),
            "$or" => parts.push(Node::Any(parse_filters(value, &at, depth, nodes)?)),
            "$not" => {
                count(nodes)?;
                parts.push(Node::Not(Box::new(parse_filter(value.get(), &at, depth + 1, nodes)?)));
            }
            operator if operator.starts_with('$') => {
                let known = "$and, $or and $not combine filters; other operators belong below a field";
                return Err(Invalid::new(format!("{at}: {known}, as in {{\"amount\": {{\"$gt\": 5}}}}")));
            }
            _ => {
                for test in parse_tests(value, &at)? {
                    let path = parse_path(name, &at)?;
                    count(nodes)?;
                    parts.push(Node::Condition(Condition { path, test }));
                }
            }
        }
    }
    Ok(Node::All(parts))
}

fn count(nodes: &mut usize) -> Result<(), Invalid> {
    *nodes += 1;
    if *nodes > MAX_FILTER_NODES {
        return Err(Invalid::new(format!(
            "filter must have at most {MAX_FILTER_NODES} conditions and combinations"
        )));
    }
    Ok(())
}

fn parse_filters(list: &RawValue, at: &str, depth: usize, nodes: &mut usize) -> Result<Vec<Node>, Invalid> {
    count(nodes)?;
    let filters: Vec<Box<RawValue>> = serde_json::from_str(list.get()).unwrap_or_default();
    if filters.is_empty() {
        return Err(Invalid::new(format!("{at} must be a list of filters, at least one")));
    }
    let mut parts = Vec::with_capacity(filters.len());
    for (place, filter) in filters.iter().enumerate() {
        parts.push(parse_filter(filter.get(), &format!("{at}[{place}]"), depth + 1, nodes)?);
    }
    Ok(parts)
}

/// What is asked of one field: a value, or operators that must all hold.
fn parse_tests(value: &RawValue, at: &str) -> Result<Vec<Test>, Invalid> {
    if !value.get().starts_with('{') {
        return Ok(vec![Test::Equal(parse_scalar(value, at)?)]);
    }
    let operators = parse_object(value.get(), at)?;
    operators
        .iter()
        .map(|(operator, operand)| parse_test(operator, operand, &format!("{at}.{operator}")))
        .collect()
}

fn parse_test(operator: &str, operand: &RawValue, at: &str) -> Result<Test, Invalid> {
    let compare = |comparison| match parse_scalar(operand, at)? {
        bound @ (Scalar::Number(_) | Scalar::Text(_)) => Ok(Test::Compare(comparison, bound)),
        Scalar::Null | Scalar::Bool(_) => Err(Invalid::new(format!("{at} must be a number or a text"))),
    };
    match operator {
        "$eq" => parse_scalar(operand, at).map(Test::Equal),
        "$ne" => parse_scalar(operand, at).map(Test::NotEqual),
        "$in" => parse_values(operand, at).map(Test::In),
        "$gt" => compare(Comparison::Greater),
        "$gte" => compare(Comparison::GreaterOrEqual),
        "$lt" => compare(Comparison::Less),
        "$lte" => compare(Comparison::LessOrEqual),
        "$prefix" => match parse_scalar(operand, at)? {
            Scalar::Text(text) => Ok(Test::Prefix(text)),
            Scalar::Null | Scalar::Bool(_) | Scalar::Number(_) => {
                Err(Invalid::new(format!("{at} must be a text")))
            }
        },
        "$exists" => match parse_scalar(operand, at)? {
            Scalar::Bool(exists) => Ok(Test::Exists(exists)),
            Scalar::Null | Scalar::Number(_) | Scalar::Text(_) => {
                Err(Invalid::new(format!("{at} must be true or false")))
            }
        },
        other if other.starts_with('$') => {
            Err(Invalid::new(format!("{at} is not an operator; choose from {OPERATORS}")))
        }
        _ => Err(Invalid::new(format!(
            "{at}: an object below a field holds operators ({OPERATORS}); name a field further down by its path, with dots"
        ))),
    }
}

fn parse_values(list: &RawValue, at: &str) -> Result<Vec<Scalar>, Invalid> {
    let values: Vec<Box<RawValue>> = serde_json::from_str(list.get()).unwrap_or_default();
    if values.is_empty() || values.len() > MAX_FILTER_VALUES {
        return Err(Invalid::new(format!("{at} must be a list of 1 to {MAX_FILTER_VALUES} values")));
    }
    values.iter().map(|value| parse_scalar(value, at)).collect()
}

fn parse_scalar(value: &RawValue, at: &str) -> Result<Scalar, Invalid> {
    match serde_json::from_str(value.get()) {
        Ok(Value::Null) => Ok(Scalar::Null),
        Ok(Value::Bool(value)) => Ok(Scalar::Bool(value)),
        Ok(Value::Number(number)) => Ok(Scalar::Number(number)),
        Ok(Value::String(text)) => Ok(Scalar::Text(text.into())),
        Ok(Value::Array(_) | Value::Object(_)) => {
            Err(Invalid::new(format!("{at} must be compared with a text, a number, true, false or null")))
        }
        Err(error) => Err(Invalid::new(format!("{at}: {error}"))),
    }
}

/// Names with dots between. A backslash takes a dot, a dollar sign or a backslash as it is.
fn parse_path(text: &str, at: &str) -> Result<Path, Invalid> {
    let mut segments = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, segments.last_mut()) {
            ('.', _) => segments.push(String::new()),
            ('\\', Some(segment)) => match characters.next() {
                Some(escaped @ ('.' | '$' | '\\')) => segment.push(escaped),
                Some(_) | None => {
                    return Err(Invalid::new(format!(
                        "{at}: a backslash must be followed by a dot, $ or backslash"
                    )));
                }
            },
            (_, Some(segment)) => segment.push(character),
            (_, None) => {}
        }
    }
    if segments.iter().any(String::is_empty) {
        return Err(Invalid::new(format!(
            "{at}: a path is names with single dots between, like customer.country"
        )));
    }
    let segments = segments.into_iter().map(String::into_boxed_str).collect();
    Ok(Path { text: text.into(), segments })
}

fn parse_object(json: &str, at: &str) -> Result<Vec<(String, Box<RawValue>)>, Invalid> {
    if !json.trim_ascii_start().starts_with('{') {
        return Err(Invalid::new(format!("{at} must be an object, like {{\"amount\": {{\"$gte\": 100}}}}")));
    }
    let Entries(entries) =
        serde_json::from_str(json).map_err(|error| Invalid::new(format!("{at}: {error}")))?;
    if entries.is_empty() {
        return Err(Invalid::new(format!("{at} must have a condition")));
    }
    for (place, (name, _)) in entries.iter().enumerate() {
        if entries[..place].iter().any(|(earlier, _)| earlier == name) {
            return Err(Invalid::new(format!("{at} has {name:?} twice; combine the two with $and")));
        }
    }
    Ok(entries)
}

/// The entries of an object, also where a name comes twice.
struct Entries(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}
