use chrono::{DateTime, Utc};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Most names of a certificate that are told.
const MAX_NAMES: usize = 20;
/// Most characters of a certificate's text that are told.
const MAX_CHARACTERS: usize = 256;

/// What a receiver's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who vouches for it.
    pub issuer: String,
    /// The names of hosts that it is for: the first 20.
    pub names: Vec<String>,
    /// Valid from then on.
    pub not_before: DateTime<Utc>,
    /// Until then.
    pub not_after: DateTime<Utc>,
}

impl Certificate {
    /// Reads one, if it can be read.
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        let names = alternatives.map(|names| &names.value.general_names[..]).unwrap_or_default();
        let name = |name: &GeneralName<'_>| {
            if let GeneralName::DNSName(name) = name { Some(shortened(name)) } else { None }
        };
        let validity = certificate.validity();
        Some(Self {
            subject: shortened(&certificate.subject().to_string()),
            issuer: shortened(&certificate.issuer().to_string()),
            names: names.iter().filter_map(name).take(MAX_NAMES).collect(),
            not_before: DateTime::from_timestamp(validity.not_before.timestamp(), 0)?,
            not_after: DateTime::from_timestamp(validity.not_after.timestamp(), 0)?,
        })
    }
}

fn shortened(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MAX_CHARACTERS).collect()
}
