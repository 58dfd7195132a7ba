use std::fmt;
use std::str::FromStr;

use crate::Invalid;

/// What a caller of the API may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// `webhooks:read`: see webhooks and their history.
    WebhooksRead,
    /// `webhooks:write`: create, change and delete webhooks.
    WebhooksWrite,
    /// `events:publish`: publish events.
    EventsPublish,
    /// `events:erase`: erase the data of events.
    EventsErase,
    /// `keys:manage`: create, list and revoke API keys.
    KeysManage,
    /// `audit:read`: see the audit log.
    AuditRead,
    /// `admin`: manage the installation. Does not include the others.
    Admin,
}

impl Scope {
    /// Every scope, in the order of the documents.
    pub const ALL: [Self; 7] = [
        Self::WebhooksRead,
        Self::WebhooksWrite,
        Self::EventsPublish,
        Self::EventsErase,
        Self::KeysManage,
        Self::AuditRead,
        Self::Admin,
    ];

    /// The name in a token's `scope` claim.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WebhooksRead => "webhooks:read",
            Self::WebhooksWrite => "webhooks:write",
            Self::EventsPublish => "events:publish",
            Self::EventsErase => "events:erase",
            Self::KeysManage => "keys:manage",
            Self::AuditRead => "audit:read",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The scopes that a token or an API key carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes([bool; Scope::ALL.len()]);

impl Scopes {
    /// Reads a space-separated `scope` claim. Names this version does not know grant nothing.
    pub fn from_claim(claim: &str) -> Self {
        let granted = |scope: Scope| claim.split(' ').any(|name| name == scope.as_str());
        Self(Scope::ALL.map(granted))
    }

    /// Those that were granted, in the order of the documents.
    pub fn iter(&self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().zip(self.0).filter_map(|(scope, granted)| granted.then_some(scope))
    }

    /// Whether the scope was granted.
    pub fn contains(&self, scope: Scope) -> bool {
        self.iter().any(|granted| granted == scope)
    }
}

impl FromStr for Scopes {
    type Err = Invalid;

    /// Like [`Scopes::from_claim`], for people: a name that is not a scope is a mistake, not nothing.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = |name: &&str| Scope::ALL.iter().any(|scope| scope.as_str() == *name);
        match text.split_whitespace().find(|name| !known(name)) {
            Some(unknown) => Err(Invalid::new(format!(
                "{unknown:?} is not a scope; choose from {}",
                Scope::ALL.map(Scope::as_str).join(", ")
            ))),
            None => Ok(Self::from_claim(text)),
        }
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let granted: Vec<&str> = self.iter().map(Scope::as_str).collect();
        f.write_str(&granted.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_grants_what_it_names_and_nothing_else() {
        let scopes = Scopes::from_claim("webhooks:read unknown events:publish");
        assert!(scopes.contains(Scope::WebhooksRead) && scopes.contains(Scope::EventsPublish));
        assert!(!scopes.contains(Scope::WebhooksWrite) && !scopes.contains(Scope::Admin));
        assert_eq!(scopes.to_string(), "webhooks:read events:publish");
        assert!("webhooks:read unknown".parse::<Scopes>().is_err());
    }

    #[test]
    fn the_readme_lists_every_scope() {
        let readme = include_str!("../../../README.md");
        let rows = readme.lines().skip_while(|line| !line.starts_with("| scope |")).skip(2);
        let names = rows.map_while(|row| row.strip_prefix("| `")?.split('`').next());
        assert_eq!(names.collect::<Vec<_>>(), Scope::ALL.map(Scope::as_str));
    }
}
