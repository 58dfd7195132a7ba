//! Secrets at rest: AES-256-GCM under one of several keys, bound to the row they belong to.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::NaiveDate;
use domain::{Invalid, SecretBytes, SecretUnreadable, TenantId, WebhookId};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// Most keys in a keyring.
const MAX_KEYS: usize = 16;
/// Longest name of a key, in bytes.
const MAX_ID_BYTES: usize = 16;
/// Length of a key: 256 bits.
const KEY_BYTES: usize = 32;
/// The first byte of what is stored: how the rest is laid out. This one: nonce, ciphertext, tag.
const VERSION: u8 = 1;

/// The keys that secrets are encrypted with. The first one encrypts; every one decrypts. Never printed.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Arc<[Key]>,
}

struct Key {
    id: Box<str>,
    key: LessSafeKey,
}

/// Whose a secret is. One that is copied to another row does not open there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) tenant: TenantId,
    pub(crate) webhook: WebhookId,
}

/// What is encrypted of a webhook. One does not open in place of another.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content {
    /// What signs its deliveries.
    Secret,
    /// What signed before that, and signs yet.
    PreviousSecrets,
    /// What signs in place of the secret, and signed before that.
    SigningKeys,
    /// What its owner adds to each request.
    Headers,
}

/// Something secret as it is stored; without bytes there is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stored {
    /// The key it is encrypted with; `None` is from before there were keys.
    pub(crate) key_id: Option<String>,
    pub(crate) bytes: Option<Vec<u8>>,
}

/// What a ciphertext is bound to.
pub(crate) type Binding = Aad<Vec<u8>>;

/// There is no key to encrypt with.
#[derive(Debug)]
pub(crate) struct NoKey;

impl Keyring {
    /// Makes a new key, in the form that a keyring is read from. Its name says when it was made.
    ///
    /// # Panics
    /// When the operating system has no randomness to give; nothing secret can be made then.
    pub fn generate_key(today: NaiveDate) -> String {
        format!("k-{}:{}", today.format("%Y%m%d"), STANDARD.encode(random::<KEY_BYTES>()))
    }

    /// The name of the key that encrypts.
    pub fn first_id(&self) -> Option<&str> {
        self.keys.first().map(|key| &*key.id)
    }

    /// Whether there is a key of this name.
    pub fn contains(&self, id: &str) -> bool {
        self.keys.iter().any(|key| &*key.id == id)
    }

    pub(crate) fn seal(&self, secret: &SecretBytes, binding: Binding) -> Result<Stored, NoKey> {
        let key = self.keys.first().ok_or(NoKey)?;
        let nonce = random::<NONCE_LEN>();
        let mut sealed = secret.expose().to_vec();
        key.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), binding, &mut sealed)
            .expect("a secret is far below the 64 GiB that GCM can encrypt");
        let bytes = [&[VERSION], &nonce[..], &sealed].concat();
        Ok(Stored { key_id: Some(key.id.to_string()), bytes: Some(bytes) })
    }

    pub(crate) fn open(
        &self,
        key_id: &str,
        sealed: &[u8],
        binding: Binding,
    ) -> Result<SecretBytes, SecretUnreadable> {
        let key = self
            .keys
            .iter()
            .find(|key| &*key.id == key_id)
            .ok_or_else(|| SecretUnreadable::UnknownKey { key_id: key_id.into() })?;
        open(&key.key, sealed, binding).ok_or_else(|| SecretUnreadable::Damaged { key_id: key_id.into() })
    }
}

fn open(key: &LessSafeKey, sealed: &[u8], binding: Binding) -> Option<SecretBytes> {
    let (&VERSION, rest) = sealed.split_first()? else { return None };
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>()?;
    let mut opened = ciphertext.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    Some(SecretBytes::new(&*key.open_in_place(nonce, binding, &mut opened).ok()?))
}

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

impl Place {
    /// The parts before the last have lengths of their own, so no two bindings are the same.
    pub(crate) fn of(self, content: Content) -> Binding {
        let Self { tenant, webhook } = self;
        let content: &[u8] = match content {
            Content::Secret => b"secret",
            Content::PreviousSecrets => b"previous_secrets",
            Content::SigningKeys => b"signing_keys",
            Content::Headers => b"headers",
        };
        Aad::from([b"webhooks", &tenant.0.as_bytes()[..], webhook.0.as_bytes(), content].concat())
    }
}

impl FromStr for Keyring {
    type Err = Invalid;

    /// Reads `id:base64,id:base64…`. Never repeats what it cannot read.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let keys = text.split(',').map(|key| parse_key(key.trim())).collect::<Result<Vec<Key>, _>>()?;
        if keys.len() > MAX_KEYS {
            return Err(Invalid::new(format!("must be at most {MAX_KEYS} keys")));
        }
        for (place, key) in keys.iter().enumerate() {
            if keys[..place].iter().any(|earlier| earlier.id == key.id) {
                return Err(Invalid::new(format!("has two keys named {}; rename the newer one", key.id)));
            }
        }
        Ok(Self { keys: keys.into() })
    }
}

fn parse_key(text: &str) -> Result<Key, Invalid> {
    let form =
        "must be keys like k-20260530:BASE64, separated by commas; `postrider keys generate` makes one";
    let (id, key) = text.split_once(':').ok_or_else(|| Invalid::new(form))?;
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if !(1..=MAX_ID_BYTES).contains(&id.len()) || !id.bytes().all(is_allowed) {
        return Err(Invalid::new(format!(
            "{form}. A key's name is 1 to {MAX_ID_BYTES} of a to z, 0 to 9 and -"
        )));
    }
    let bytes = STANDARD.decode(key).ok().filter(|bytes| bytes.len() == KEY_BYTES);
    let key = bytes.and_then(|bytes| UnboundKey::new(&AES_256_GCM, &bytes).ok()).ok_or_else(|| {
        Invalid::new(format!(
            "key {id} is not {KEY_BYTES} bytes in base64; `postrider keys generate` makes one"
        ))
    })?;
    Ok(Key { id: id.into(), key: LessSafeKey::new(key) })
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn keyring(ids: &[&str]) -> Keyring {
        let key = |id: &&str| format!("{id}:{}", STANDARD.encode([id.as_bytes()[0]; KEY_BYTES]));
        ids.iter().map(key).collect::<Vec<_>>().join(",").parse().unwrap()
    }

    fn place(tenant: u128, webhook: u128) -> Binding {
        content(tenant, webhook, Content::Secret)
    }

    fn content(tenant: u128, webhook: u128, content: Content) -> Binding {
        let place =
            Place { tenant: TenantId(Uuid::from_u128(tenant)), webhook: WebhookId(Uuid::from_u128(webhook)) };
        place.of(content)
    }

    #[test]
    fn the_first_key_encrypts_and_every_key_decrypts() {
        let secret = SecretBytes::new(*b"your-signing-secret");
        let before = keyring(&["old"]).seal(&secret, place(1, 2)).unwrap();
        let rotated = keyring(&["newer", "old"]);
        assert_eq!(rotated.open("old", before.bytes.as_ref().unwrap(), place(1, 2)), Ok(secret.clone()));
        assert_eq!(rotated.seal(&secret, place(1, 2)).unwrap().key_id.as_deref(), Some("newer"));
        let unknown = SecretUnreadable::UnknownKey { key_id: "old".into() };
        assert_eq!(
            keyring(&["newer"]).open("old", before.bytes.as_ref().unwrap(), place(1, 2)),
            Err(unknown)
        );
        assert!(Keyring::default().seal(&secret, place(1, 2)).is_err());
    }

    #[test]
    fn what_was_sealed_for_one_row_opens_in_no_other_and_under_no_other_key() {
        let secret = SecretBytes::new(*b"your-signing-secret");
        let keys = keyring(&["one", "three"]);
        let sealed = keys.seal(&secret, place(1, 2)).unwrap();
        for elsewhere in [place(1, 3), place(2, 2), place(2, 1), content(1, 2, Content::Headers)] {
            assert!(keys.open("one", sealed.bytes.as_ref().unwrap(), elsewhere).is_err());
        }
        assert!(keys.open("three", sealed.bytes.as_ref().unwrap(), place(1, 2)).is_err());
    }

    #[test]
    fn a_keyring_that_is_not_one_says_why_and_repeats_no_key() {
        let key = STANDARD.encode([7; KEY_BYTES]);
        for (text, reason) in [
            (String::new(), "postrider keys generate"),
            (key.clone(), "postrider keys generate"),
            (format!("K1:{key}"), "name"),
            (format!("a-name-that-is-too-long:{key}"), "name"),
            (format!(":{key}"), "name"),
            (format!("k1:{}", &key[..key.len() - 4]), "32 bytes"),
            ("k1:hunter2".to_owned(), "32 bytes"),
            (format!("k1:{key},k1:{key}"), "two keys named k1"),
            (format!("k1:{key},"), "postrider keys generate"),
            ((0..17).map(|n| format!("k{n}:{key}")).collect::<Vec<_>>().join(","), "at most 16"),
        ] {
            let error = text.parse::<Keyring>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains(&key[..8]) && !error.contains("hunter2"), "{error}");
        }
        let debug = format!("{:?}", keyring(&["one", "three"]));
        assert_eq!(debug, r#"["one", "three"]"#);
    }

    #[test]
    fn a_generated_key_is_one_and_no_two_are_alike() {
        let day = NaiveDate::from_ymd_opt(2026, 5, 30).unwrap();
        let (one, other) = (Keyring::generate_key(day), Keyring::generate_key(day));
        assert_eq!(one.parse::<Keyring>().unwrap().first_id(), Some("k-20260530"));
        assert_ne!(one, other);
    }

    #[test]
    fn wycheproofs_vectors_of_aes_256_gcm_open_or_do_not_as_they_must() {
        let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        let bytes = |hex: &str| -> Vec<u8> {
            if hex == "-" { Vec::new() } else { hex.as_bytes().chunks(2).map(byte).collect() }
        };
        let file = include_str!("../testdata/wycheproof/aes_256_gcm.txt");
        let (mut valid, mut invalid) = (0, 0);
        for line in file.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, result, key, nonce, aad, plain, cipher, tag] = fields[..] else {
                panic!("eight fields: {line}")
            };
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes(key)).unwrap());
            let sealed = [vec![VERSION], bytes(nonce), bytes(cipher), bytes(tag)].concat();
            let opened = open(&key, &sealed, Aad::from(bytes(aad)));
            match result {
                "valid" => {
                    assert_eq!(opened, Some(SecretBytes::new(bytes(plain))), "{line}");
                    valid += 1;
                }
                _ => {
                    assert_eq!(opened, None, "{line}");
                    invalid += 1;
                }
            }
        }
        assert!(valid > 30 && invalid > 20, "{valid}, {invalid}");
    }

    proptest! {
        #[test]
        fn a_secret_comes_back_and_does_not_show(secret in proptest::collection::vec(any::<u8>(), 8..256)) {
            let keys = keyring(&["one"]);
            let secret = SecretBytes::new(secret);
            let sealed = keys.seal(&secret, place(1, 2)).unwrap().bytes.unwrap();
            prop_assert!(!sealed.windows(secret.expose().len()).any(|window| window == secret.expose()));
            let again = keys.seal(&secret, place(1, 2)).unwrap().bytes.unwrap();
            prop_assert_ne!(&sealed, &again, "a nonce of its own each time");
            prop_assert_eq!(keys.open("one", &sealed, place(1, 2)), Ok(secret));
        }

        #[test]
        fn one_flipped_bit_or_missing_byte_is_noticed(bit: proptest::sample::Index, end: proptest::sample::Index) {
            let keys = keyring(&["one"]);
            let sealed = keys.seal(&SecretBytes::new(*b"your-signing-secret"), place(1, 2)).unwrap().bytes.unwrap();
            let damaged = Err(SecretUnreadable::Damaged { key_id: "one".into() });
            let mut flipped = sealed.clone();
            let bit = bit.index(sealed.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(keys.open("one", &flipped, place(1, 2)), damaged.clone());
            prop_assert_eq!(keys.open("one", &sealed[..end.index(sealed.len())], place(1, 2)), damaged);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            prop_assert!(keyring(&["one"]).open("one", &bytes, place(1, 2)).is_err());
        }
    }
}
