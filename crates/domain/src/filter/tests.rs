use proptest::prelude::*;
use serde_json::json;

use super::evaluate::compare_numbers;
use super::*;
use crate::Invalid;

fn filter(json: &Value) -> Filter {
    json.to_string().parse().unwrap()
}

fn refused(json: &str) -> String {
    json.parse::<Filter>().map(|_| ()).map_err(|error: Invalid| error.to_string()).unwrap_err()
}

#[test]
fn each_operator_asks_what_it_says() {
    let data = json!({
        "amount": 150, "price": 9.5, "country": "DE", "vip": true, "note": null, "a.b": 1, "$x": 2,
        "customer": {"name": "Ada"}, "items": [{"sku": "x-1"}, {"sku": "y-2"}], "day": "2026-05-30T10:00:00Z",
    });
    for (wanted, json) in [
        (true, json!({"amount": 150})),
        (true, json!({"amount": 150.0})),
        (false, json!({"amount": "150"})),
        (true, json!({"country": "DE", "vip": true})),
        (false, json!({"country": "DE", "vip": false})),
        (true, json!({"note": null})),
        (false, json!({"absent": null})),
        (true, json!({"absent": {"$ne": null}})),
        (true, json!({"amount": {"$ne": "150"}})),
        (false, json!({"amount": {"$ne": 150}})),
        (true, json!({"country": {"$in": ["FR", "DE"]}})),
        (false, json!({"country": {"$in": ["FR", 7, null]}})),
        (false, json!({"absent": {"$in": [null]}})),
        (true, json!({"amount": {"$gt": 149, "$lte": 150}})),
        (false, json!({"amount": {"$gt": 150}})),
        (true, json!({"price": {"$gte": 9.5, "$lt": 10}})),
        (false, json!({"country": {"$gt": 1}})),
        (true, json!({"day": {"$gte": "2026-05-30", "$lt": "2026-06"}})),
        (true, json!({"country": {"$prefix": "D"}})),
        (false, json!({"amount": {"$prefix": "1"}})),
        (true, json!({"customer.name": "Ada"})),
        (false, json!({"customer.name.first": "Ada"})),
        (true, json!({"items.1.sku": {"$prefix": "y-"}})),
        (false, json!({"items.2.sku": {"$exists": true}})),
        (true, json!({"customer": {"$exists": true}, "absent": {"$exists": false}})),
        (true, json!({"note": {"$exists": true}})),
        (true, json!({"a\\.b": 1, "\\$x": 2})),
        (true, json!({"$or": [{"country": "FR"}, {"amount": {"$gt": 100}}]})),
        (false, json!({"$and": [{"country": "FR"}, {"amount": {"$gt": 100}}]})),
        (true, json!({"$not": {"country": "FR"}})),
        (false, json!({"country": "DE", "$not": {"vip": true}})),
    ] {
        assert_eq!(filter(&json).matches(&data), wanted, "{json}");
    }
    for scalar in [json!(7), json!("DE"), json!(null), json!([])] {
        assert!(!filter(&json!({"amount": {"$exists": true}})).matches(&scalar), "{scalar}");
    }
}

#[test]
fn what_is_no_filter_is_refused_and_says_where() {
    let deep = |levels: usize| format!("{}{{\"a\":1}}{}", "{\"$not\":".repeat(levels), "}".repeat(levels));
    assert!(deep(MAX_FILTER_DEPTH - 1).parse::<Filter>().is_ok());
    let wide =
        |count: usize| json!({"$or": (0..count).map(|n| json!({"a": n})).collect::<Vec<_>>()}).to_string();
    assert!(wide(MAX_FILTER_NODES - 1).parse::<Filter>().is_ok());
    for (bad, reason) in [
        ("", "must be an object"),
        ("null", "must be an object"),
        ("[]", "must be an object"),
        ("{}", "must have a condition"),
        ("{\"a\":1", "EOF"),
        ("{\"a\":1}}", "trailing"),
        (r#"{"a":{}}"#, "filter.a must have a condition"),
        (r#"{"a":[1]}"#, "filter.a must be compared with"),
        (r#"{"a":{"b":1}}"#, "by its path"),
        (r#"{"a":{"$like":"x"}}"#, "filter.a.$like is not an operator"),
        (r#"{"$like":"x"}"#, "belong below a field"),
        (r#"{"a":{"$in":[]}}"#, "1 to 100 values"),
        (r#"{"a":{"$in":5}}"#, "1 to 100 values"),
        (r#"{"a":{"$in":[[1]]}}"#, "must be compared with"),
        (r#"{"a":{"$gt":true}}"#, "number or a text"),
        (r#"{"a":{"$prefix":5}}"#, "must be a text"),
        (r#"{"a":{"$exists":1}}"#, "true or false"),
        (r#"{"a":1e400}"#, "number out of range"),
        (r#"{"a":"\ud800"}"#, "hex escape"),
        (r#"{"a":1,"a":2}"#, "twice"),
        (r#"{"$and":[]}"#, "at least one"),
        (r#"{"$or":{"a":1}}"#, "at least one"),
        (r#"{"$or":[{"a":1},{"b":[]}]}"#, "filter.$or[1].b"),
        (r#"{"$not":[{"a":1}]}"#, "must be an object"),
        (r#"{"a..b":1}"#, "single dots"),
        (r#"{"":1}"#, "single dots"),
        (r#"{"a.":1}"#, "single dots"),
        (r#"{"a\\x":1}"#, "backslash"),
        (&deep(MAX_FILTER_DEPTH), "8 deep"),
        (&deep(900), "8 deep"),
        (&wide(MAX_FILTER_NODES), "64 conditions"),
        (&format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_FILTER_BYTES)), "8 KiB"),
    ] {
        let problem = refused(bad);
        assert!(problem.contains(reason), "{bad:.80}: {problem}");
    }
}

#[test]
fn an_explanation_names_what_the_result_rests_upon() {
    let filter =
        r#"{"country": "DE", "$or": [{"amount": {"$gt": 100}}, {"vip": true}]}"#.parse::<Filter>().unwrap();
    let decisive = |data: &Value| {
        let explanation = filter.explain(data);
        let fields = explanation.conditions.iter().filter(|condition| condition.is_decisive);
        (explanation.matches, fields.map(|condition| condition.field.to_owned()).collect::<Vec<_>>())
    };
    let fields = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(decisive(&json!({"country": "FR", "amount": 500})), (false, fields(&["country"])));
    assert_eq!(decisive(&json!({"country": "DE", "vip": true})), (true, fields(&["country", "vip"])));
    assert_eq!(decisive(&json!({"country": "DE", "amount": 5})), (false, fields(&["amount", "vip"])));
    let data = json!({"amount": 5});
    let explanation = filter.explain(&data);
    let amount = &explanation.conditions[1];
    assert_eq!((amount.operator, &amount.operand, amount.found), ("$gt", &json!(100), Some(&json!(5))));
}

#[test]
fn data_is_found_in_a_body_and_what_cannot_be_held_is_none() {
    let value = |body: &str| EventData::of_body(body.as_bytes()).value().cloned();
    assert_eq!(value(r#"{"id":"e","type":"t","timestamp":"","data":{"a":[1]}}"#), Some(json!({"a": [1]})));
    assert_eq!(value(r#"{"id":"e","data":null}"#), Some(Value::Null));
    for unheld in [r#"{"data":1e400}"#, r#"{"data":"\ud800"}"#, "", "[]", "{}"] {
        assert_eq!(value(unheld), None, "{unheld}");
    }
    let raw = serde_json::value::RawValue::from_string("7".to_owned()).unwrap();
    assert_eq!(EventData::published(&raw).value(), Some(&json!(7)));
}

#[test]
fn numbers_are_compared_by_value() {
    let number = |text: &str| serde_json::from_str::<Number>(text).unwrap();
    let ascending = [
        "-1e300",
        "-1e20",
        "-9223372036854775808",
        "-2.5",
        "-2",
        "-0.5",
        "0",
        "0.5",
        "1",
        "9007199254740992",
        "9007199254740993",
        "9223372036854775807",
        "18446744073709551615",
        "1e20",
        "1e300",
    ];
    for (left_place, left) in ascending.iter().enumerate() {
        for (right_place, right) in ascending.iter().enumerate() {
            assert_eq!(
                compare_numbers(&number(left), &number(right)),
                left_place.cmp(&right_place),
                "{left} {right}"
            );
        }
    }
    for (left, right) in [("0", "-0.0"), ("0.0", "-0.0"), ("1", "1.0"), ("1e2", "100"), ("-3", "-3.0")] {
        assert!(compare_numbers(&number(left), &number(right)).is_eq(), "{left} {right}");
    }
}

fn any_scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..3).prop_map(Value::from),
        (-3.0..3.0_f64).prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from),
    ]
}

fn any_field() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("c.d"), Just("c.0"), Just("absent")]
}

fn any_condition() -> impl Strategy<Value = Value> {
    let operator = prop_oneof![
        any_scalar().prop_map(|value| json!({"$eq": value})),
        any_scalar().prop_map(|value| json!({"$ne": value})),
        proptest::collection::vec(any_scalar(), 1..4).prop_map(|values| json!({"$in": values})),
        (-3_i64..3).prop_map(|value| json!({"$gt": value})),
        (-3_i64..3).prop_map(|value| json!({"$gte": value})),
        "[ab]{0,2}".prop_map(|value| json!({"$lt": value})),
        (-3.0..3.0_f64).prop_map(|value| json!({"$lte": value})),
        "[ab]{0,2}".prop_map(|value| json!({"$prefix": value})),
        any::<bool>().prop_map(|value| json!({"$exists": value})),
        any_scalar(),
    ];
    (any_field(), operator).prop_map(|(field, test)| json!({field: test}))
}

fn any_filter() -> impl Strategy<Value = Value> {
    any_condition().prop_recursive(3, 24, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 1..4).prop_map(|parts| json!({"$and": parts})),
            proptest::collection::vec(inner.clone(), 1..4).prop_map(|parts| json!({"$or": parts})),
            inner.prop_map(|part| json!({"$not": part})),
        ]
    })
}

fn any_data() -> impl Strategy<Value = Value> {
    let c = prop_oneof![
        any_scalar(),
        any_scalar().prop_map(|value| json!({"d": value})),
        any_scalar().prop_map(|value| json!([value])),
    ];
    (any_scalar(), any_scalar(), c).prop_map(|(a, b, c)| json!({"a": a, "b": b, "c": c}))
}

proptest! {
    #[test]
    fn no_text_panics_and_a_filter_keeps_its_text(text in "\\PC{0,60}") {
        if let Ok(filter) = text.parse::<Filter>() {
            prop_assert_eq!(filter.as_str(), text);
        }
    }

    #[test]
    fn an_explanation_comes_to_the_same_as_a_match(json in any_filter(), data in any_data()) {
        let filter = filter(&json);
        let explanation = filter.explain(&data);
        prop_assert_eq!(explanation.matches, filter.matches(&data));
        prop_assert!(explanation.conditions.iter().any(|condition| condition.is_decisive));
    }

    #[test]
    fn the_result_rests_upon_the_decisive_conditions_alone(
        json in any_filter(), data in any_data(), others in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let filter = filter(&json);
        let explanation = filter.explain(&data);
        let holds = explanation.conditions.iter().zip(others);
        let changed = holds.map(|(condition, other)| if condition.is_decisive { condition.holds } else { other });
        let (result, _) = filter.root.decide(&mut changed.collect::<Vec<_>>().into_iter().enumerate());
        prop_assert_eq!(result, explanation.matches);
    }

    #[test]
    fn not_turns_every_result_and_and_is_or_of_nots(
        one in any_filter(), other in any_filter(), data in any_data(),
    ) {
        let matches = |json: Value| filter(&json).matches(&data);
        prop_assert_eq!(matches(json!({"$not": one})), !matches(one.clone()));
        let both = matches(json!({"$and": [one, other]}));
        prop_assert_eq!(both, !matches(json!({"$or": [{"$not": one}, {"$not": other}]})));
    }

    #[test]
    fn of_less_equal_and_greater_just_one_holds(found: i64, bound: f64) {
        let data = json!({"n": found});
        let holds = |test: Value| filter(&json!({"n": test})).matches(&data);
        let (less, equal, greater) = (holds(json!({"$lt": bound})), holds(json!(bound)), holds(json!({"$gt": bound})));
        prop_assert_eq!(u8::from(less) + u8::from(equal) + u8::from(greater), 1);
        prop_assert_eq!(holds(json!({"$lte": bound})), less || equal);
        prop_assert_eq!(holds(json!({"$gte": bound})), greater || equal);
    }
}
