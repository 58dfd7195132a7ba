use std::collections::BTreeMap;

use crate::Invalid;

/// Longest description, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 512;
/// Most entries of metadata.
pub const MAX_METADATA_KEYS: usize = 50;
/// Longest key of metadata, in characters.
pub const MAX_METADATA_KEY_CHARS: usize = 64;
/// Longest value of metadata, in bytes.
pub const MAX_METADATA_VALUE_BYTES: usize = 512;

/// What people say of a webhook, for other people. Postrider makes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description(Box<str>);

impl Description {
    /// Checks the length. Lines may break; other control characters are a slip.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text.chars().count() > MAX_DESCRIPTION_CHARS {
            return Err(Invalid::new(format!(
                "description must have 1 to {MAX_DESCRIPTION_CHARS} characters, or be null"
            )));
        }
        if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            return Err(Invalid::new("description must not contain control characters"));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a tenant's own programs keep with a webhook. Postrider makes nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(BTreeMap<String, String>);

/// What a tenant changes of a webhook's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataChange {
    /// All of it is taken away.
    Clear,
    /// Each named key gets a value, or is taken away; the others stay.
    Merge(BTreeMap<String, Option<String>>),
}

impl Metadata {
    /// Checks keys, values and their number.
    pub fn new(entries: BTreeMap<String, String>) -> Result<Self, Invalid> {
        if entries.len() > MAX_METADATA_KEYS {
            return Err(Invalid::new(format!("metadata must have at most {MAX_METADATA_KEYS} keys")));
        }
        for (key, value) in &entries {
            let length = key.chars().count();
            if !(1..=MAX_METADATA_KEY_CHARS).contains(&length) || key.chars().any(char::is_control) {
                return Err(Invalid::new(format!(
                    "a key of metadata must have 1 to {MAX_METADATA_KEY_CHARS} characters, none of them a control \
                     character"
                )));
            }
            if value.len() > MAX_METADATA_VALUE_BYTES || value.contains('\0') {
                return Err(Invalid::new(format!(
                    "the value of {key:?} must be at most {MAX_METADATA_VALUE_BYTES} bytes long, without NUL"
                )));
            }
        }
        Ok(Self(entries))
    }

    /// What is left after a change.
    pub fn change(&self, change: &MetadataChange) -> Result<Self, Invalid> {
        let MetadataChange::Merge(changes) = change else { return Ok(Self::default()) };
        let mut entries = self.0.clone();
        for (key, value) in changes {
            match value {
                Some(value) => entries.insert(key.clone(), value.clone()),
                None => entries.remove(key),
            };
        }
        Self::new(entries)
    }

    /// Keys and values.
    pub fn entries(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl MetadataChange {
    /// Checks what can be checked without knowing what it will change.
    pub fn merge(changes: BTreeMap<String, Option<String>>) -> Result<Self, Invalid> {
        let set = changes.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        Metadata::new(set.collect())?;
        Ok(Self::Merge(changes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize) -> BTreeMap<String, String> {
        (0..count).map(|n| (format!("key-{n}"), "value".to_owned())).collect()
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(Description::new(&"ä".repeat(512)).is_ok());
        for bad in ["", &"ä".repeat(513), "a\0b", "a\u{1b}[31mb"] {
            assert!(Description::new(bad).is_err(), "{bad:?}");
        }
        let one =
            |key: &str, value: &str| Metadata::new(BTreeMap::from([(key.to_owned(), value.to_owned())]));
        assert!(one(&"ä".repeat(64), &"x".repeat(512)).is_ok());
        for (key, value) in
            [("", "x"), (&*"x".repeat(65), "x"), ("a\nb", "x"), ("x", &*"x".repeat(513)), ("x", "\0")]
        {
            assert!(one(key, value).is_err(), "{key:?}");
        }
        assert!(Metadata::new(entries(50)).is_ok() && Metadata::new(entries(51)).is_err());
    }

    #[test]
    fn a_change_merges_and_the_limit_holds_for_what_comes_out() {
        let before = Metadata::new(entries(50)).unwrap();
        let merge = |key: &str, value: Option<&str>| {
            MetadataChange::merge(BTreeMap::from([(key.to_owned(), value.map(str::to_owned))])).unwrap()
        };
        assert_eq!(before.change(&merge("key-1", Some("new"))).unwrap().entries()["key-1"], "new");
        assert_eq!(before.change(&merge("key-1", None)).unwrap().entries().len(), 49);
        assert!(before.change(&merge("one-more", Some("value"))).is_err());
        assert_eq!(before.change(&MetadataChange::Clear).unwrap(), Metadata::default());
    }
}
