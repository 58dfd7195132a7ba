//! Tokens whose signature was found right, until they end. Verifying a public key's signature costs many times what all else
//! of a request to publish does (13 µs for RS256, 44 for ES256, 62 for EdDSA, where finding it here takes 2), and reading any
//! token makes some fifteen allocations.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest::{SHA256, digest};

use super::Caller;

/// Most tokens remembered.
const MAX_TOKENS: usize = 10_000;

/// The SHA-256 of a token.
pub(super) type Name = [u8; 32];

#[derive(Default)]
pub(super) struct Verified(Mutex<Tokens>);

#[derive(Default)]
struct Tokens {
    /// Counts the sets of keys there were.
    generation: u64,
    callers: HashMap<Name, (Caller, i64)>,
}

/// What a token is remembered by. All of it counts: another signature is another token.
pub(super) fn name(token: &str) -> Name {
    let mut name = [0; 32];
    name.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    name
}

impl Verified {
    /// To be asked before a token is checked, and said when it is kept.
    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Whose a token is, unless it ended before `now`, in seconds since 1970.
    pub(super) fn find(&self, name: &Name, now: i64) -> Option<Caller> {
        self.lock().callers.get(name).filter(|(_, ends_at)| *ends_at > now).map(|(caller, _)| caller.clone())
    }

    /// Remembers a token, unless the keys have changed since it was checked.
    pub(super) fn keep(&self, name: Name, caller: Caller, ends_at: i64, generation: u64) {
        let mut tokens = self.lock();
        if tokens.callers.len() >= MAX_TOKENS {
            tokens.callers.clear(); // rare, and dear to nobody: each is checked once more
        }
        if tokens.generation == generation {
            tokens.callers.insert(name, (caller, ends_at));
        }
    }

    pub(super) fn forget(&self) {
        let mut tokens = self.lock();
        tokens.generation += 1;
        tokens.callers.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Tokens> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use domain::{Scopes, TenantId};
    use uuid::Uuid;

    use super::*;

    fn caller() -> Caller {
        let (subject, tenant_id) = ("user-1".to_owned(), TenantId(Uuid::nil()));
        Caller { subject, tenant_id, scopes: Scopes::default() }
    }

    #[test]
    fn a_token_is_known_until_it_ends_or_the_keys_change() {
        let verified = Verified::default();
        let name = name("token");
        verified.keep(name, caller(), 100, verified.generation());
        assert_eq!(verified.find(&name, 99), Some(caller()));
        assert_eq!(verified.find(&name, 100), None);
        assert_eq!(verified.find(&super::name("tokem"), 99), None);
        let before = verified.generation();
        verified.forget();
        assert_eq!(verified.find(&name, 99), None);
        verified.keep(name, caller(), 100, before);
        assert_eq!(verified.find(&name, 99), None, "it was checked with the keys of before");
    }

    #[test]
    fn no_more_are_remembered_than_fit() {
        let verified = Verified::default();
        for number in 0..=MAX_TOKENS {
            verified.keep(name(&number.to_string()), caller(), 100, 0);
        }
        assert!(verified.lock().callers.len() <= MAX_TOKENS);
    }
}
