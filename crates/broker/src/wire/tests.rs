use proptest::prelude::*;

use super::*;

const TENANT: &str = "7b2e1c9a-4f1d-4d7e-9a55-0d3f6a1b2c3d";

fn event(id: &str) -> String {
    format!(
        r#"{{"id":"{id}","tenantId":"{TENANT}","type":"message.sent","occurredAt":"2026-05-30T10:00:00Z","data":{{"n": 1.0}}}}"#
    )
}

fn decode(body: impl AsRef<[u8]>) -> Decoded {
    decode_message(body.as_ref(), &AMQPProperties::default(), Some("message.sent"))
}

fn reasons(decoded: &Decoded) -> Vec<Reason> {
    decoded.rejections.iter().map(|rejection| rejection.reason).collect()
}

#[test]
fn one_event_and_an_array_are_read_and_data_is_kept_as_it_is() {
    let decoded = decode(event("a"));
    assert_eq!(decoded.events[0].id.as_str(), "a");
    assert!(decoded.events[0].body.ends_with(br#","data":{"n": 1.0}}"#));
    let decoded = decode(format!(" [{}, {}]", event("a"), event("b")));
    assert_eq!(decoded.events.len(), 2);
}

#[test]
fn what_the_gateway_encodes_is_what_dispatchers_decode() {
    let data = RawValue::from_string(r#"{ "x": 1e2 }"#.to_owned()).unwrap();
    let mut sent = decode(event("a")).events.remove(0);
    sent.session_id = Some("s \"1\"".parse().unwrap());
    sent.deliver_at = Some("2026-06-01T10:00:00.25Z".parse().unwrap());
    sent.tags = domain::parse_tags(&["user \"7\"", "b"]).unwrap();
    let received = decode(encode_event(&sent, &data)).events.remove(0);
    assert_eq!((&received.id, &received.session_id), (&sent.id, &sent.session_id));
    assert_eq!((received.deliver_at, &received.tags), (sent.deliver_at, &sent.tags));
    assert_eq!(received.body, render_body(&sent.id, &sent.event_type, sent.occurred_at, &data));
}

#[test]
fn an_event_is_part_of_its_own_trace_or_else_of_its_messages() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let other = PARENT.replace("0af7", "1111");
    let own = format!(r#"{{"traceparent":"{other}","tracestate":"a=1","id""#);
    let own = event("b").replace(r#"{"id""#, &own);
    let invalid = event("c").replace(r#"{"id""#, r#"{"traceparent":"no","id""#);
    let body = format!("[{},{own},{invalid}]", event("a"));
    let mut headers = FieldTable::default();
    headers.insert(TRACEPARENT_HEADER.into(), AMQPValue::LongString(PARENT.into()));
    let properties = AMQPProperties::default().with_headers(headers);
    let decoded = decode_message(body.as_bytes(), &properties, None);
    assert_eq!(reasons(&decoded), []);
    let trace = |place: usize| decoded.events[place].trace.as_ref().unwrap();
    assert_eq!(trace(0).traceparent(), PARENT);
    assert_eq!((trace(1).traceparent(), trace(1).state.as_deref()), (other, Some("a=1")));
    assert_eq!(trace(2).traceparent(), PARENT, "one that is not valid is none");
    let data = RawValue::from_string("1".to_owned()).unwrap();
    let again = decode(encode_event(&decoded.events[1], &data)).events.remove(0);
    assert_eq!(again.trace, decoded.events[1].trace);
    assert_eq!(decode(event("a")).events[0].trace, None);
}

#[test]
fn one_bad_event_of_an_array_is_rejected_alone() {
    let decoded = decode(format!("[{}, {{\"id\":\"b\"}}, {}]", event("a"), event("c.d")));
    assert_eq!(decoded.events.len(), 1);
    assert_eq!(reasons(&decoded), [Reason::BadEvent, Reason::BadEvent]);
    assert_eq!(decoded.rejections[0].body, r#"{"id":"b"}"#);
}

#[test]
fn bad_messages_are_rejected_whole_with_their_reason() {
    for (body, reason) in [
        (&b""[..], Reason::NotJson),
        (b"\xff", Reason::NotUtf8),
        (b"not json", Reason::NotJson),
        (b"[1", Reason::NotJson),
        (b"[]", Reason::BadEvent),
        (b"17", Reason::BadEvent),
        (&vec![b' '; MAX_MESSAGE_BYTES + 1], Reason::TooLarge),
        (format!("[{}]", vec!["1"; MAX_EVENTS_PER_MESSAGE + 1].join(",")).as_bytes(), Reason::TooLarge),
    ] {
        let decoded = decode(body);
        assert_eq!(reasons(&decoded), [reason], "{}", String::from_utf8_lossy(&body[..body.len().min(40)]));
        assert!(decoded.events.is_empty());
    }
}

#[test]
fn unknown_doubled_missing_and_invalid_fields_are_rejected() {
    for bad in [
        event("a").replace("\"id\"", "\"ID\""),
        format!(r#"[["a","{TENANT}","message.sent","2026-05-30T10:00:00Z",1,null]]"#),
        event("a").replace(r#""type""#, r#""id":"b","type""#),
        event("a").replace(TENANT, "acme"),
        event("a").replace("2026-05-30T10:00:00Z", "yesterday"),
        event("a").replace("2026-05-30T10:00:00Z", "2026-05-30T10:00:00"),
        event("a").replace("message.sent", "message.*"),
        event("a").replace(r#""data":"#, r#""sessionId":"","data":"#),
        event("a").replace(r#""a""#, "7"),
        event("a\\u0000"),
    ] {
        assert_eq!(reasons(&decode(&bad)), [Reason::BadEvent], "{bad}");
    }
}

#[test]
fn the_routing_key_must_be_the_type_unless_the_exchange_has_its_own() {
    let properties = AMQPProperties::default();
    let with_key = decode_message(event("a").as_bytes(), &properties, Some("message.received"));
    assert_eq!(reasons(&with_key), [Reason::RoutingKeyMismatch]);
    assert_eq!(decode_message(event("a").as_bytes(), &properties, None).events.len(), 1);
}

#[test]
fn reasons_are_counted_under_their_codes() {
    for (reason, labels) in Reason::ALL {
        assert_eq!(*labels, [("reason", reason.code())]);
    }
}

#[test]
fn when_a_message_was_published_is_what_the_gateway_says_or_else_the_property() {
    let now = Utc::now().timestamp_millis();
    let gateway = AMQPProperties::default().with_timestamp(7).with_headers(published_now());
    assert!((0..1000).contains(&(published_at(&gateway).unwrap().timestamp_millis() - now)));
    let service = AMQPProperties::default().with_timestamp(1_780_135_200);
    assert_eq!(published_at(&service).unwrap().to_rfc3339(), "2026-05-30T10:00:00+00:00");
    for silent in [AMQPProperties::default(), AMQPProperties::default().with_timestamp(u64::MAX)] {
        assert_eq!(published_at(&silent), None);
    }
}

#[test]
fn properties_are_checked() {
    let header = |value: AMQPValue| {
        let mut headers = FieldTable::default();
        headers.insert(VERSION_HEADER.into(), value);
        AMQPProperties::default().with_headers(headers)
    };
    let plain = AMQPProperties::default;
    for (properties, expected) in [
        (plain().with_content_type("application/json; charset=utf-8".into()), None),
        (plain().with_content_type("text/plain".into()), Some(Reason::BadContentType)),
        (plain().with_content_encoding("gzip".into()), Some(Reason::ContentEncoding)),
        (header(AMQPValue::LongInt(1)), None),
        (header(AMQPValue::LongString("1".into())), None),
        (header(AMQPValue::LongInt(2)), Some(Reason::UnknownVersion)),
        (header(AMQPValue::Boolean(true)), Some(Reason::BadHeader)),
    ] {
        let decoded = decode_message(event("a").as_bytes(), &properties, None);
        assert_eq!(reasons(&decoded).first().copied(), expected, "{properties:?}");
    }
}

/// A message of some events, and how many there are.
fn any_message() -> impl Strategy<Value = (String, usize)> {
    let item = prop_oneof![4 => "[a-z]{1,4}".prop_map(|id| event(&id)), 1 => Just("{\"id\":1}".to_owned())];
    proptest::collection::vec(item, 1..6).prop_map(|items| (format!("[{}]", items.join(",")), items.len()))
}

/// One byte changed, added or left out.
#[derive(Debug, Clone)]
enum Damage {
    Change(prop::sample::Index, u8),
    Add(prop::sample::Index, u8),
    Remove(prop::sample::Index),
}

fn any_damage() -> impl Strategy<Value = Damage> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\":,\\u0.-e".to_vec())];
    let place = any::<prop::sample::Index>;
    prop_oneof![
        (place(), byte.clone()).prop_map(|(at, byte)| Damage::Change(at, byte)),
        (place(), byte).prop_map(|(at, byte)| Damage::Add(at, byte)),
        place().prop_map(Damage::Remove),
    ]
}

proptest! {
    #[test]
    fn each_event_of_a_message_is_taken_or_rejected((message, count) in any_message()) {
        let decoded = decode(&message);
        prop_assert_eq!(decoded.events.len() + decoded.rejections.len(), count);
    }

    #[test]
    fn whatever_comes_is_taken_or_rejected_and_what_is_taken_can_be_sent_on(
        (message, _) in any_message(), damages in proptest::collection::vec(any_damage(), 0..4),
    ) {
        let mut bytes = message.into_bytes();
        for damage in damages {
            match damage {
                Damage::Change(at, byte) => { let at = at.index(bytes.len()); bytes[at] = byte; }
                Damage::Add(at, byte) => bytes.insert(at.index(bytes.len()), byte),
                Damage::Remove(at) => { bytes.remove(at.index(bytes.len())); }
            }
        }
        let decoded = decode(&bytes);
        prop_assert!(decoded.events.len() + decoded.rejections.len() > 0, "nothing vanishes");
        for event in &decoded.events {
            // Its body is JSON with data, which is what would go to the dead letters.
            let rejection = Rejection::of_event(Reason::UnknownTenant, String::new(), event);
            let again = decode(&rejection.body);
            prop_assert_eq!(&again.events, std::slice::from_ref(event));
        }
    }

    #[test]
    fn no_bytes_panic_or_vanish(bytes: Vec<u8>) {
        let decoded = decode(&bytes);
        prop_assert!(decoded.events.len() + decoded.rejections.len() > 0);
    }
}
