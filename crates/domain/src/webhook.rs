use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use chrono::{DateTime, Utc};
use url::{Host, Url};

use crate::{
    AddressPolicy, DeliverySettings, Description, Event, EventData, EventPattern, Filter, GateSettings,
    Invalid, Metadata, PortPolicy, PreviousSecret, SecretBytes, SecretUnreadable, SessionId, SigningKeys,
    TenantId, WebhookId,
};

/// Most event patterns one webhook may name.
pub const MAX_EVENTS_PER_WEBHOOK: usize = 100;
/// Most sessions one webhook may name.
pub const MAX_SESSIONS_PER_WEBHOOK: usize = 1000;

/// Where a webhook's deliveries go. Parsed once; keeps the text as its owner wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    text: Box<str>,
    url: Url,
}

/// Which receivers an installation allows.
#[derive(Debug, Clone, Default)]
pub struct UrlPolicy {
    /// Whether `http://` is allowed. Off unless the operator says otherwise: payloads would travel in clear text.
    pub allow_http: bool,
    /// Which ports may be connected to.
    pub ports: PortPolicy,
    /// Which addresses may be connected to.
    pub addresses: AddressPolicy,
}

impl WebhookUrl {
    /// Longest URL, in bytes.
    pub const MAX_BYTES: usize = 2048;

    /// Reads a URL and applies the policy to everything that can be known without looking the host up.
    pub fn parse(text: &str, policy: &UrlPolicy) -> Result<Self, Invalid> {
        let parsed = Self::parse_stored(text)?;
        parsed.check(policy)?;
        Ok(parsed)
    }

    /// Reads a URL that was accepted before. The policy may have changed since, so it is for [`WebhookUrl::check`].
    pub fn parse_stored(text: &str) -> Result<Self, Invalid> {
        if text.len() > Self::MAX_BYTES {
            return Err(Invalid::new(format!("url must be at most {} bytes long", Self::MAX_BYTES)));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Invalid::new("url must not contain spaces or control characters"));
        }
        let absolute = || Invalid::new("url must be an absolute URL like https://example.com/webhooks");
        let url = Url::parse(text).map_err(|_| absolute())?;
        // The parser mends what browsers mend, such as https:example.com. People who write that meant something else.
        let has_host = text.split_once("://").is_some_and(|(_, rest)| !rest.starts_with(['/', '\\']));
        if !has_host {
            return Err(absolute());
        }
        Ok(Self { text: text.into(), url })
    }

    /// Applies the policy again, before every attempt.
    pub fn check(&self, policy: &UrlPolicy) -> Result<(), Invalid> {
        match self.url.scheme() {
            "https" => {}
            "http" if policy.allow_http => {}
            "http" => return Err(Invalid::new("url must use https")),
            other => return Err(Invalid::new(format!("url must use https, not {other}"))),
        }
        if !self.url.username().is_empty() || self.url.password().is_some() {
            return Err(Invalid::new("url must not contain a user name or password"));
        }
        if self.url.fragment().is_some() {
            return Err(Invalid::new("url must not contain a fragment (#): it is never sent"));
        }
        policy.ports.check(self.port())?;
        let refuse = |refused: crate::Refused| {
            Invalid::new(format!("url must not point to a private network: {refused}"))
        };
        match self.url.host() {
            None => Err(Invalid::new("url must have a host")),
            Some(Host::Domain(name)) if name.trim_end_matches('.').is_empty() => {
                Err(Invalid::new("url must have a host"))
            }
            Some(Host::Ipv4(address)) => policy.addresses.check(address.into()).map_err(refuse),
            Some(Host::Ipv6(address)) => policy.addresses.check(address.into()).map_err(refuse),
            Some(Host::Domain(name)) if is_loopback_name(name) => policy
                .addresses
                .check(Ipv4Addr::LOCALHOST.into())
                .or_else(|_| policy.addresses.check(Ipv6Addr::LOCALHOST.into()))
                .map_err(refuse),
            Some(Host::Domain(_)) => Ok(()),
        }
    }

    /// The URL as its owner wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The URL to connect to.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The port to connect to; 0 for a scheme that has none.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or_default()
    }

    /// The address, where the host is one and needs no look-up.
    pub fn literal_address(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }
}

/// `localhost` and everything below it is loopback by RFC 6761, whatever a resolver says.
fn is_loopback_name(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// Why a webhook was switched off by Postrider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisabledReason {
    /// The receiver answered 410 Gone.
    Gone,
    /// Every attempt has failed for days.
    Failing,
}

impl DisabledReason {
    /// The name the API shows and the database keeps.
    pub fn code(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }
}

impl FromStr for DisabledReason {
    type Err = Invalid;

    fn from_str(code: &str) -> Result<Self, Invalid> {
        match code {
            "gone" => Ok(Self::Gone),
            "failing" => Ok(Self::Failing),
            other => Err(Invalid::new(format!("{other:?} is not a reason for disabling a webhook"))),
        }
    }
}

/// A tenant's subscription: which events go where, and how they are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Names the webhook.
    pub id: WebhookId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Where deliveries go.
    pub url: WebhookUrl,
    /// Wanted event types; one match is enough.
    pub events: Vec<EventPattern>,
    /// Wanted sessions; `None` wants all, also events of no session.
    pub session_ids: Option<Vec<SessionId>>,
    /// What it wants of an event's data; `None` wants all.
    pub filter: Option<Filter>,
    /// Signs the deliveries.
    pub secret: Result<SecretBytes, SecretUnreadable>,
    /// Those that it replaced and that sign yet, the newest first.
    pub previous_secrets: Result<Vec<PreviousSecret>, SecretUnreadable>,
    /// What signs in their place under [`crate::SignatureScheme::Ed25519`]; `None`: never made.
    pub signing_keys: Result<Option<SigningKeys>, SecretUnreadable>,
    /// Off means that nothing is delivered.
    pub is_active: bool,
    /// Why and when Postrider switched it off, if it did.
    pub disabled: Option<(DisabledReason, DateTime<Utc>)>,
    /// How it is delivered to.
    pub gate: GateSettings,
    /// What its requests are like.
    pub delivery: DeliverySettings,
    /// What it is for, as people say.
    pub description: Option<Description>,
    /// What its owner's programs keep with it.
    pub metadata: Metadata,
    /// Since when deliveries are held back, if they are.
    pub paused_at: Option<DateTime<Utc>>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When its owner, or Postrider, last changed it.
    pub updated_at: DateTime<Utc>,
}

impl Webhook {
    /// A new webhook that is on, and all else of which is as it is when nothing is said.
    pub fn new(
        tenant_id: TenantId,
        url: WebhookUrl,
        events: Vec<EventPattern>,
        secret: SecretBytes,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            id: WebhookId::generate(),
            tenant_id,
            url,
            events,
            session_ids: None,
            filter: None,
            secret: Ok(secret),
            previous_secrets: Ok(Vec::new()),
            signing_keys: Ok(None),
            is_active: true,
            disabled: None,
            gate: GateSettings::default(),
            delivery: DeliverySettings::default(),
            description: None,
            metadata: Metadata::default(),
            paused_at: None,
            created_at: now,
            updated_at: now,
        }
    }

    /// Whether each delivery goes through the database, where every dispatcher sees the same: only there can a limit hold
    /// for all of them together.
    pub fn is_metered(&self) -> bool {
        let GateSettings { rate_limit, concurrency, is_ordered, drain_rate: _ } = self.gate;
        rate_limit.is_some() || concurrency.is_some() || is_ordered || self.paused_at.is_some()
    }

    /// Whether the event, which has this data, goes to this webhook.
    pub fn matches(&self, event: &Event, data: &EventData<'_>) -> bool {
        self.subscribes_to(event) && self.wants_data(data)
    }

    /// Whether the event goes to this webhook, as far as type and session tell.
    pub fn subscribes_to(&self, event: &Event) -> bool {
        self.is_active && self.wants_type(event) && self.wants_session(event)
    }

    /// Whether one of its patterns is the event's type.
    pub fn wants_type(&self, event: &Event) -> bool {
        self.events.iter().any(|pattern| pattern.matches(&event.event_type))
    }

    /// Whether the event's session is one that it wants.
    pub fn wants_session(&self, event: &Event) -> bool {
        match (&self.session_ids, &event.session_id) {
            (None, _) => true,
            (Some(wanted), Some(session)) => wanted.contains(session),
            (Some(_), None) => false,
        }
    }

    /// Whether its filter wants the data. Data that cannot be judged it does: what it wants must not be missed.
    pub fn wants_data(&self, data: &EventData<'_>) -> bool {
        self.filter.as_ref().is_none_or(|filter| data.value().is_none_or(|data| filter.matches(data)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<WebhookUrl, Invalid> {
        WebhookUrl::parse(text, &UrlPolicy::default())
    }

    #[test]
    fn a_url_is_kept_as_it_was_written() {
        for url in [
            "https://api.yourapp.com/webhooks/actiwapi",
            "https://EXAMPLE.com",
            "https://bücher.example/ä?q=1",
        ] {
            assert_eq!(parse(url).unwrap().as_str(), url);
        }
    }

    #[test]
    fn every_spelling_of_a_private_address_is_refused() {
        for url in [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://１２７.0.0.1/",
            "https://127.0.0.1./",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:a00:1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://a.localhost/",
            "https://[fd00::1]/",
            "https://%31%32%37.0.0.1/",
            "https://0/",
            "https://0x7f000001/",
            "https://0X7F.0x0.0x0.0x1/",
            "https://017700000001/",
            "https://127.0.1/",
            "https://127。0。0。1/",
            "https://①②⑦.0.0.1/",
            "https://127.0.0.1:8443/",
            "https://10.1.2.3/",
            "https://100.64.0.1/",
            "https://192.168.0.1/",
            "https://172.16.0.1/",
            "https://224.0.0.1/",
            "https://240.0.0.1/",
            "https://255.255.255.255/",
            "https://[0:0:0:0:0:0:0:1]/",
            "https://[::]/",
            "https://[::127.0.0.1]/",
            "https://[::FFFF:7F00:1]/",
            "https://[64:ff9b::127.0.0.1]/",
            "https://[64:ff9b:1::127.0.0.1]/",
            "https://[2002:7f00:1::]/",
            "https://[2001:0:808:808::80ff:fffe]/",
            "https://[2a00:1450::5efe:127.0.0.1]/",
            "https://[fe80::1]/",
            "https://[fec0::1]/",
            "https://[ff02::1]/",
            "https://[100::1]/",
            "https://localhost.:8443/",
            "https://ｌｏｃａｌｈｏｓｔ/",
            "https://lo%63alhost/",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn other_schemes_credentials_and_malformed_urls_are_refused() {
        for url in [
            "",
            "example.com",
            "/path",
            "http://example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "https://",
            "https://user@example.com/",
            "https://user:pw@example.com/",
            "https:example.com",
            "https:///example.com/",
            "https://example.com/#part",
            "https://example.com:0/",
            "https://example.com:22/",
            "https://example.com:25/",
            "https://.",
            "https://../",
            "https://user:@example.com/",
            "https://:pw@example.com/",
            "https://example.com@127.0.0.1/",
            "https://example.com:80@127.0.0.1:443/",
            "https://:443/",
            "https://?",
            "https://#",
            "https:\\\\example.com",
            "https://exa\0mple.com/",
            "https://exa%00mple.com/",
            "https://example.com/\t",
            "\u{feff}https://example.com/",
            "https://example.com/\u{85}",
            "gopher://example.com/",
            "wss://example.com/",
            "data:text/plain,hi",
            "https://[::1",
            "https://[fe80::1%25eth0]/",
            "https://exa mple.com/",
            "https://example.com/\n",
            "https://example.com:99999/",
            &format!("https://example.com/{}", "x".repeat(2048)),
        ] {
            assert!(parse(url).is_err(), "{url:?}");
        }
    }

    #[test]
    fn a_local_run_can_allow_http_and_loopback() {
        let policy = UrlPolicy {
            allow_http: true,
            addresses: AddressPolicy::allowing(vec!["127.0.0.0/8".parse().unwrap()]),
            ..UrlPolicy::default()
        };
        for url in ["http://127.0.0.1:9000/hook", "http://localhost:9000/"] {
            assert!(WebhookUrl::parse(url, &policy).is_ok(), "{url}");
        }
        assert!(WebhookUrl::parse("http://10.0.0.1/", &policy).is_err());
    }

    /// What browsers' tests say of a URL.
    #[derive(serde::Deserialize)]
    struct Known {
        input: String,
        /// None where it is no URL.
        hostname: Option<String>,
    }

    #[test]
    fn the_host_that_is_judged_is_the_one_that_browsers_find_in_a_url() {
        let policy = UrlPolicy { allow_http: true, ..UrlPolicy::default() };
        let (mut accepted, mut no_url, mut refused) = (0, 0, 0);
        for line in include_str!("../testdata/urls.jsonl").lines() {
            let Known { input, hostname } = serde_json::from_str(line).unwrap();
            let url = WebhookUrl::parse(&input, &policy);
            let Some(hostname) = hostname else {
                assert!(url.is_err(), "{input:?} is no URL");
                no_url += 1;
                continue;
            };
            let address = hostname.trim_matches(['[', ']']).parse();
            match &url {
                Ok(url) => assert_eq!(url.url().host_str(), Some(&*hostname), "{input:?}"),
                Err(_) => refused += 1,
            }
            if let (Ok(url), Ok(address)) = (&url, address) {
                assert_eq!(policy.addresses.check(address), Ok(()), "{input:?}");
                assert_eq!(url.literal_address(), Some(address), "{input:?}");
            }
            accepted += usize::from(url.is_ok());
        }
        assert!(accepted > 40 && no_url > 100 && refused > 40, "{accepted}, {no_url}, {refused}");
    }

    fn any_url_like() -> impl Strategy<Value = String> {
        let scheme = prop::sample::select(vec!["https", "http", "HTTPS", "ftp", "https:", ""]);
        let slashes = prop::sample::select(vec!["://", ":/", ":", ":\\\\", ":///"]);
        let user = prop::sample::select(vec!["", "", "", "user@", "user:pass@", ":@", "a@b@"]);
        let host = prop_oneof![
            "[a-z0-9.-]{0,12}",
            "[0-9a-fx.]{1,14}",
            "\\[[0-9a-f:.]{2,20}\\]",
            "\\PC{1,8}",
            prop::sample::select(vec![
                "localhost",
                "example.com",
                "127.0.0.1",
                "%6c%6fcalhost",
                "１２７.1",
                "8.8.8.8",
                "[::1]"
            ])
            .prop_map(str::to_owned),
        ];
        let port = prop_oneof![
            Just(String::new()),
            any::<u16>().prop_map(|port| format!(":{port}")),
            Just(":".to_owned())
        ];
        let rest = prop_oneof![Just(String::new()), "[/?#\\\\]\\PC{0,8}", Just("/\n".to_owned())];
        (scheme, slashes, user, host, port, rest).prop_map(|(scheme, slashes, user, host, port, rest)| {
            format!("{scheme}{slashes}{user}{host}{port}{rest}")
        })
    }

    proptest! {
        #[test]
        fn what_is_accepted_keeps_every_rule(text in any_url_like()) {
            let Ok(accepted) = parse(&text) else { return Ok(()) };
            let url = accepted.url();
            prop_assert_eq!(url.scheme(), "https");
            prop_assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
            prop_assert!(url.host_str().is_some_and(|host| !host.is_empty() && host != "localhost"));
            prop_assert!(UrlPolicy::default().ports.check(accepted.port()).is_ok());
            prop_assert!(!text.contains(char::is_control) && text.len() <= WebhookUrl::MAX_BYTES);
            let address = accepted.literal_address();
            prop_assert!(address.is_none_or(|address| AddressPolicy::default().check(address).is_ok()));
            // What other programs may read out of the same text: no host that reads as a number is left as a name.
            let last = url.host_str().unwrap_or_default().trim_end_matches('.').rsplit('.').next().unwrap_or_default();
            prop_assert!(!last.is_empty() && (address.is_some() || !last.bytes().all(|byte| byte.is_ascii_digit())));
        }

        #[test]
        fn no_text_panics_and_what_parses_parses_again(text in "(https?://)?\\PC{0,60}") {
            if let Ok(url) = parse(&text) {
                prop_assert!(parse(url.as_str()).is_ok());
            }
        }
    }
}
