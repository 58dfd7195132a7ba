use std::str::FromStr;

use crate::Invalid;

/// Longest name of an API key, in characters.
pub const MAX_API_KEY_NAME_CHARS: usize = 100;

/// What an API key is called, for people: who or what has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyName(Box<str>);

impl ApiKeyName {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ApiKeyName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.trim().is_empty() || text.chars().count() > MAX_API_KEY_NAME_CHARS {
            return Err(Invalid::new(format!("name must have 1 to {MAX_API_KEY_NAME_CHARS} characters")));
        }
        if text.chars().any(char::is_control) {
            return Err(Invalid::new("name must not contain control characters"));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_100_characters_and_is_one_line() {
        for good in ["CRM", "Büro Köln", &"€".repeat(100)] {
            assert_eq!(good.parse::<ApiKeyName>().unwrap().as_str(), good);
        }
        for bad in ["", "  ", "two\nlines", "nul\0", &"x".repeat(101)] {
            assert!(bad.parse::<ApiKeyName>().is_err(), "{bad:?}");
        }
    }
}
