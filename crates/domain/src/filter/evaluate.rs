use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::{Comparison, Condition, Filter, Node, Path, Scalar, Test};

/// Why a filter wants some data, or does not.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation<'a> {
    /// Whether it wants the data.
    pub matches: bool,
    /// Every condition, in the order in which the filter has them.
    pub conditions: Vec<JudgedCondition<'a>>,
}

/// What one condition comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedCondition<'a> {
    /// The path of the field, as the filter has it.
    pub field: &'a str,
    /// `$eq`, `$gt` and so on.
    pub operator: &'static str,
    /// What the field is compared with.
    pub operand: Value,
    /// What is there; `None`: nothing.
    pub found: Option<&'a Value>,
    /// Whether the condition holds.
    pub holds: bool,
    /// Whether the result rests upon it: without the others it would be the same.
    pub is_decisive: bool,
}

impl Filter {
    /// Whether data is wanted.
    pub fn matches(&self, data: &Value) -> bool {
        self.root.matches(data)
    }

    /// Like [`Filter::matches`], with the reasons.
    pub fn explain<'a>(&'a self, data: &'a Value) -> Explanation<'a> {
        let mut conditions = Vec::new();
        self.root.each_condition(&mut |condition| {
            let found = condition.path.find(data);
            conditions.push(JudgedCondition {
                field: &condition.path.text,
                operator: condition.operator(),
                operand: condition.operand(),
                found,
                holds: condition.test.holds(found),
                is_decisive: false,
            });
        });
        let holds: Vec<bool> = conditions.iter().map(|condition| condition.holds).collect();
        let (matches, decisive) = self.root.decide(&mut holds.into_iter().enumerate());
        for place in decisive {
            conditions[place].is_decisive = true;
        }
        Explanation { matches, conditions }
    }
}

impl Node {
    fn matches(&self, data: &Value) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(data)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(data)),
            Self::Not(part) => !part.matches(data),
            Self::Condition(Condition { path, test }) => test.holds(path.find(data)),
        }
    }

    fn each_condition<'a>(&'a self, see: &mut impl FnMut(&'a Condition)) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.each_condition(see)),
            Self::Not(part) => part.each_condition(see),
            Self::Condition(condition) => see(condition),
        }
    }

    /// Takes the places of the conditions and whether each holds, in their order. Gives the result, and the places of those
    /// that it rests upon.
    pub(super) fn decide(&self, conditions: &mut impl Iterator<Item = (usize, bool)>) -> (bool, Vec<usize>) {
        match self {
            Self::All(parts) => combine(parts, conditions, true),
            Self::Any(parts) => combine(parts, conditions, false),
            Self::Not(part) => {
                let (result, decisive) = part.decide(conditions);
                (!result, decisive)
            }
            Self::Condition(_) => {
                conditions.next().map_or((false, Vec::new()), |(place, holds)| (holds, vec![place]))
            }
        }
    }
}

/// The first part that is not as `usual` decides; otherwise all of them do.
fn combine(
    parts: &[Node],
    conditions: &mut impl Iterator<Item = (usize, bool)>,
    usual: bool,
) -> (bool, Vec<usize>) {
    // Each takes its own conditions, also where the result is known before.
    let decided: Vec<(bool, Vec<usize>)> = parts.iter().map(|part| part.decide(conditions)).collect();
    match decided.iter().find(|(result, _)| *result != usual) {
        Some(exception) => exception.clone(),
        None => (usual, decided.into_iter().flat_map(|(_, decisive)| decisive).collect()),
    }
}

impl Path {
    fn find<'a>(&self, data: &'a Value) -> Option<&'a Value> {
        self.segments.iter().try_fold(data, |value, segment| match value {
            Value::Object(fields) => fields.get(&**segment),
            Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        })
    }
}

impl Test {
    /// What is not there equals nothing, and so differs from everything.
    fn holds(&self, found: Option<&Value>) -> bool {
        match self {
            Self::Equal(wanted) => found.is_some_and(|found| wanted.equals(found)),
            Self::NotEqual(unwanted) => !found.is_some_and(|found| unwanted.equals(found)),
            Self::In(wanted) => found.is_some_and(|found| wanted.iter().any(|wanted| wanted.equals(found))),
            Self::Compare(comparison, bound) => {
                found.and_then(|found| bound.compare(found)).is_some_and(|order| comparison.allows(order))
            }
            Self::Prefix(prefix) => {
                found.and_then(Value::as_str).is_some_and(|text| text.starts_with(&**prefix))
            }
            Self::Exists(wanted) => found.is_some() == *wanted,
        }
    }
}

impl Comparison {
    fn allows(self, order: Ordering) -> bool {
        match self {
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
        }
    }
}

impl Scalar {
    fn equals(&self, found: &Value) -> bool {
        match (self, found) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(wanted), Value::Bool(found)) => wanted == found,
            (Self::Number(wanted), Value::Number(found)) => compare_numbers(found, wanted).is_eq(),
            (Self::Text(wanted), Value::String(found)) => **wanted == **found,
            (Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_), _) => false,
        }
    }

    /// How what was found stands to this; only numbers and texts have an order, each among themselves.
    fn compare(&self, found: &Value) -> Option<Ordering> {
        match (self, found) {
            (Self::Number(bound), Value::Number(found)) => Some(compare_numbers(found, bound)),
            (Self::Text(bound), Value::String(found)) => Some(found.as_str().cmp(bound)),
            (Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_), _) => None,
        }
    }
}

/// By their values, whether or not they are written with a point. Whole numbers of 64 bits are compared exactly.
pub(super) fn compare_numbers(left: &Number, right: &Number) -> Ordering {
    let float = |number: &Number| number.as_f64().unwrap_or_default();
    match (left.as_i128(), right.as_i128()) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(left), None) => compare_whole(left, float(right)),
        (None, Some(right)) => compare_whole(right, float(left)).reverse(),
        (None, None) => compare_floats(float(left), float(right)),
    }
}

/// JSON has no NaN, which alone has no order.
fn compare_floats(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right).unwrap_or(Ordering::Equal)
}

/// `whole` has at most 64 bits and a sign.
fn compare_whole(whole: i128, float: f64) -> Ordering {
    const BEYOND: f64 = 1e20;
    if float >= BEYOND {
        return Ordering::Less;
    }
    if float <= -BEYOND {
        return Ordering::Greater;
    }
    #[expect(clippy::cast_possible_truncation, reason = "within the bounds above it is exact")]
    let truncated = float.trunc() as i128;
    whole.cmp(&truncated).then_with(|| compare_floats(0.0, float.fract()))
}
