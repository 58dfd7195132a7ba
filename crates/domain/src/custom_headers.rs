use std::collections::BTreeMap;
use std::fmt;

use crate::Invalid;

/// Most headers one webhook may add.
pub const MAX_CUSTOM_HEADERS: usize = 20;
/// Names and values of a webhook's headers together, in bytes.
pub const MAX_CUSTOM_HEADER_BYTES: usize = 4 * 1024;

/// What is shown in place of a value, which can be a credential.
pub const REDACTED: &str = "********";

/// Headers that say how a request is framed, routed or read. They are Postrider's own.
const RESERVED: [&str; 16] = [
    "accept-encoding",
    "connection",
    "date",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-http-method",
    "x-http-method-override",
];
const RESERVED_PREFIXES: [&str; 3] = ["content-", "proxy-", "webhook-"];

/// The headers that a tenant adds to each request to a webhook. Values can be credentials: they are never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CustomHeaders(BTreeMap<Name, Box<str>>);

/// What a tenant changes of a webhook's headers: each named one gets a value, or is taken away.
#[derive(Clone, PartialEq, Eq)]
pub enum HeadersChange {
    /// All are taken away.
    Clear,
    /// Those that are not named stay as they are.
    Merge(Vec<(String, Option<String>)>),
}

/// A header's name: shown as its owner wrote it, and the same in any case.
#[derive(Clone)]
struct Name(Box<str>);

impl CustomHeaders {
    /// Checks names, values and limits.
    pub fn new(headers: impl IntoIterator<Item = (String, String)>) -> Result<Self, Invalid> {
        let mut checked = BTreeMap::new();
        for (name, value) in headers {
            check_value(&name, &value)?;
            let parsed = parse_name(&name)?;
            if checked.insert(parsed, value.into_boxed_str()).is_some() {
                return Err(Invalid::new(format!(
                    "headers names {name} twice; the case makes no difference"
                )));
            }
        }
        Self(checked).within_limits()
    }

    /// The headers after a change.
    pub fn change(&self, change: &HeadersChange) -> Result<Self, Invalid> {
        let HeadersChange::Merge(changes) = change else { return Ok(Self::default()) };
        let mut headers = self.0.clone();
        for (name, value) in changes {
            let name = parse_name(name)?;
            headers.remove(&name);
            if let Some(value) = value {
                headers.insert(name, value.as_str().into());
            }
        }
        Self(headers).within_limits()
    }

    /// Names, as they were given, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&*name.0, &**value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn within_limits(self) -> Result<Self, Invalid> {
        if self.0.len() > MAX_CUSTOM_HEADERS {
            return Err(Invalid::new(format!("headers must be at most {MAX_CUSTOM_HEADERS}")));
        }
        let bytes: usize = self.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_CUSTOM_HEADER_BYTES {
            let kib = MAX_CUSTOM_HEADER_BYTES / 1024;
            return Err(Invalid::new(format!("headers must be at most {kib} KiB in all, names and values")));
        }
        Ok(self)
    }
}

impl HeadersChange {
    /// Checks what can be checked without knowing the headers it will change.
    pub fn merge(changes: Vec<(String, Option<String>)>) -> Result<Self, Invalid> {
        let set = changes.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        CustomHeaders::new(set)?;
        for (name, _) in &changes {
            parse_name(name)?;
        }
        Ok(Self::Merge(changes))
    }
}

fn parse_name(name: &str) -> Result<Name, Invalid> {
    // A token of RFC 9110.
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_allowed) {
        return Err(Invalid::new(format!("{name:?} cannot be the name of a header")));
    }
    let lower = name.to_ascii_lowercase();
    let is_reserved = RESERVED.contains(&lower.as_str())
        || RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    if is_reserved {
        return Err(Invalid::new(format!(
            "the header {name} is reserved; Postrider sets it where it is needed"
        )));
    }
    Ok(Name(name.into()))
}

/// Never repeats the value.
fn check_value(name: &str, value: &str) -> Result<(), Invalid> {
    let is_allowed = |byte: u8| matches!(byte, b' '..=b'~' | b'\t');
    if value.is_empty() || !value.bytes().all(is_allowed) || value.trim() != value {
        return Err(Invalid::new(format!(
            "the value of {name:?} must be visible ASCII, without a line break or space at either end"
        )));
    }
    Ok(())
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let lower = |name: &'_ Self| name.0.bytes().map(|byte| byte.to_ascii_lowercase()).collect::<Vec<_>>();
        lower(self).cmp(&lower(other))
    }
}

impl fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys().map(|name| &name.0)).finish()
    }
}

impl fmt::Debug for HeadersChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.write_str("Clear"),
            Self::Merge(changes) => f.debug_list().entries(changes.iter().map(|(name, _)| name)).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Result<CustomHeaders, Invalid> {
        CustomHeaders::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn reserved_names_in_any_case_are_refused() {
        for name in [
            "Host",
            "content-length",
            "Content-Type",
            "TRANSFER-ENCODING",
            "connection",
            "Webhook-Id",
            "webhook-anything",
            "user-agent",
            "Proxy-Authorization",
            "Expect",
            "TE",
        ] {
            assert!(headers(&[(name, "x")]).unwrap_err().to_string().contains("reserved"), "{name}");
        }
        assert!(headers(&[("Authorization", "Bearer x"), ("X-Env", "prod"), ("Cookie", "a=b")]).is_ok());
    }

    #[test]
    fn what_a_header_cannot_carry_is_refused_and_values_are_not_repeated() {
        for (name, value) in [
            ("", "x"),
            ("x y", "x"),
            ("x:y", "x"),
            ("x\r\ny", "x"),
            ("x\0", "x"),
            ("ünicode", "x"),
            ("x", ""),
            ("x", "secret\r\nHost: evil"),
            ("x", "secret\n"),
            ("x", "secret\0"),
            ("x", " secret"),
            ("x", "secrét"),
            ("x", "secret\u{7f}"),
        ] {
            let refused = headers(&[(name, value)]).unwrap_err().to_string();
            assert!(!refused.contains("secr"), "{name:?} {value:?}: {refused}");
        }
        assert!(headers(&[("X-Key", "a"), ("x-key", "b")]).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn there_are_at_most_so_many_and_so_large() {
        let many = |count: usize| (0..count).map(|n| (format!("x-{n}"), "v".to_owned()));
        assert!(CustomHeaders::new(many(MAX_CUSTOM_HEADERS)).is_ok());
        assert!(CustomHeaders::new(many(MAX_CUSTOM_HEADERS + 1)).is_err());
        let long = |bytes: usize| [("x".to_owned(), "v".repeat(bytes - 1))];
        assert!(CustomHeaders::new(long(MAX_CUSTOM_HEADER_BYTES)).is_ok());
        assert!(CustomHeaders::new(long(MAX_CUSTOM_HEADER_BYTES + 1)).is_err());
    }

    #[test]
    fn a_change_names_what_it_changes_and_leaves_the_rest() {
        let before = headers(&[("Authorization", "one"), ("X-Env", "prod")]).unwrap();
        let merge = |changes: &[(&str, Option<&str>)]| {
            let changes = changes.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
            before.change(&HeadersChange::merge(changes.collect()).unwrap()).unwrap()
        };
        assert_eq!(merge(&[]), before);
        let changed = merge(&[("authorization", Some("two")), ("x-env", None), ("x-absent", None)]);
        assert_eq!(changed.iter().collect::<Vec<_>>(), [("authorization", "two")]);
        assert!(before.change(&HeadersChange::Clear).unwrap().is_empty());
        let full =
            CustomHeaders::new((0..MAX_CUSTOM_HEADERS).map(|n| (format!("x-{n}"), "v".into()))).unwrap();
        let one_more = HeadersChange::merge(vec![("y".into(), Some("v".into()))]).unwrap();
        assert!(full.change(&one_more).is_err(), "the limit holds for what comes out");
        assert_eq!(format!("{before:?}"), r#"["Authorization", "X-Env"]"#);
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_a_line_of_a_request(name in "\\PC{0,12}", value in "[ -~\\n\\r\\t\\u{80}]{0,12}") {
            if let Ok(accepted) = headers(&[(&name, &value)]) {
                for (name, value) in accepted.iter() {
                    let line = format!("{name}: {value}");
                    prop_assert!(line.is_ascii() && line.lines().count() == 1 && !line.contains('\r'));
                    prop_assert_eq!(line.split_once(": "), Some((name, value)));
                }
            }
        }
    }
}
