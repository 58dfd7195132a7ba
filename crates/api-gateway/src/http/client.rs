//! Where a request comes from: its peer, or what proxies that are trusted say of it.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use actix_web::http::header::{FORWARDED, HeaderMap, HeaderName};
use domain::Invalid;
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Most proxies that are looked past.
const MAX_HOPS: usize = 32;

/// The proxies before the gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Which hosts they are.
    pub trusted: TrustedProxies,
    /// Where they say who the client is.
    pub header: ForwardedHeader,
}

/// Networks whose hosts are proxies of ours: what they say of where a request comes from is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// The header in which they say it. Only the one that they write themselves may be read: the other is the client's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded`, as RFC 7239 has it.
    Forwarded,
}

impl Proxies {
    /// The nearest host that is no proxy of ours. Whatever it says of others is its own business.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let hops = hops(self.header, headers);
        for hop in hops.iter().rev().take(MAX_HOPS) {
            if !self.trusted.contains(client) {
                return client;
            }
            // A proxy of ours that does not know, or does not say.
            let Some(next) = parse_hop(hop) else { return client };
            client = next;
        }
        client
    }
}

impl TrustedProxies {
    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for TrustedProxies {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let networks = text.split(',').map(str::trim).filter(|network| !network.is_empty());
        let parse = |network: &str| {
            let network = network
                .parse::<IpNet>()
                .or_else(|error| network.parse().map(IpAddr::into).map_err(|_| error));
            network.map(|network| network.trunc())
        };
        networks
            .map(|text| {
                parse(text).map_err(|_| {
                    Invalid::new(format!("{text:?} is not a network like 10.0.0.0/8 or fd00::/8"))
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl FromStr for ForwardedHeader {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.to_ascii_lowercase().as_str() {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            _ => Err(Invalid::new("must be X-Forwarded-For or Forwarded")),
        }
    }
}

/// What each hop says of the one before it, the nearest last.
fn hops(header: ForwardedHeader, headers: &HeaderMap) -> Vec<&str> {
    let name = match header {
        ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardedHeader::Forwarded => FORWARDED,
    };
    let values = headers.get_all(name).map(|value| value.to_str().unwrap_or_default());
    let elements = values.flat_map(|value| value.split(','));
    match header {
        ForwardedHeader::XForwardedFor => elements.map(str::trim).collect(),
        ForwardedHeader::Forwarded => elements.map(forwarded_for).collect(),
    }
}

/// The value of `for` in `for="[2001:db8::17]:4711";proto=https`.
fn forwarded_for(element: &str) -> &str {
    let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let found = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"));
    found.map_or("", |(_, value)| value.trim_matches('"'))
}

/// An address, in brackets and with a port or without. `unknown` and made-up names are none.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn client(proxies: &str, peer: &str, header: ForwardedHeader, values: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        let name = if header == ForwardedHeader::Forwarded { FORWARDED } else { X_FORWARDED_FOR };
        for value in values {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        let proxies = Proxies { trusted: proxies.parse().unwrap(), header };
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_client_is_the_nearest_host_that_is_no_proxy_of_ours() {
        let x = ForwardedHeader::XForwardedFor;
        for (proxies, peer, values, expected) in [
            ("", "203.0.113.9", &["1.2.3.4"][..], "203.0.113.9"),
            ("10.0.0.0/8", "203.0.113.9", &["1.2.3.4"], "203.0.113.9"),
            ("10.0.0.0/8", "10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.0/8", "10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.0/8", "10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            ("10.0.0.0/8", "10.0.0.1", &["6.6.6.6", "1.2.3.4,10.0.0.2"], "1.2.3.4"),
            ("10.0.0.0/8", "10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.0/8", "10.0.0.1", &["1.2.3.4, nonsense"], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", "::ffff:10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            ("fd00::/8", "fd00::1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("fd00::/8", "fd00::1", &["2001:db8::1"], "2001:db8::1"),
        ] {
            assert_eq!(client(proxies, peer, x, values), expected, "{proxies} {peer} {values:?}");
        }
    }

    #[test]
    fn forwarded_is_read_where_it_is_the_proxies_and_the_other_header_is_not() {
        let forwarded = ForwardedHeader::Forwarded;
        for (values, expected) in [
            (&["for=1.2.3.4"][..], "1.2.3.4"),
            (&["for=6.6.6.6, For=\"[2001:db8::17]:4711\";proto=https"], "2001:db8::17"),
            (&["proto=https;for=1.2.3.4:99;by=10.0.0.2"], "1.2.3.4"),
            (&["for=6.6.6.6, for=unknown"], "10.0.0.1"),
            (&["for=6.6.6.6, for=_hidden"], "10.0.0.1"),
            (&["by=10.0.0.2"], "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.0/8", "10.0.0.1", forwarded, values), expected, "{values:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED, HeaderValue::from_static("for=6.6.6.6"));
        let proxies = Proxies { trusted: "10.0.0.0/8".parse().unwrap(), ..Proxies::default() };
        let client = proxies.client([10, 0, 0, 1].into(), &headers);
        assert_eq!(client, IpAddr::from([10, 0, 0, 1]));
    }

    #[test]
    fn proxies_are_networks_or_addresses() {
        assert!("10.0.0.0/8, fd00::1".parse::<TrustedProxies>().is_ok());
        for wrong in ["10.0.0.0/33", "proxy.internal", "*"] {
            assert!(wrong.parse::<TrustedProxies>().is_err(), "{wrong}");
        }
        assert!("Via".parse::<ForwardedHeader>().is_err());
    }
}
