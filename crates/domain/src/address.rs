use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Which addresses Postrider connects to: global unicast ones, and those of the networks the operator allows.
///
/// A webhook service calls any URL a stranger gives it, from inside a network. So everything in the IANA special-purpose
/// registries is refused unless it is allowed by name (local runs, self-hosted receivers). What is public and yet the
/// operator's own, such as the addresses of a load balancer, can be denied besides.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
}

/// An address that Postrider does not connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is not an address that is delivered to")]
pub struct Refused {
    /// The address, IPv4-mapped ones in their IPv4 form.
    pub address: IpAddr,
}

impl AddressPolicy {
    /// A policy that allows these networks besides the public ones.
    pub fn allowing(allowed: Vec<IpNet>) -> Self {
        Self { allowed, denied: Vec::new() }
    }

    /// The same policy that refuses these networks, whatever else is said of them.
    pub fn denying(self, denied: Vec<IpNet>) -> Self {
        Self { denied, ..self }
    }

    /// Refuses an address that is denied, or neither public nor allowed. One that carries an IPv4 address is refused where
    /// that one is, too: allowing the network of a translator allows only what may be reached without it.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let address = address.to_canonical();
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        let is_refused = is_in(&self.denied) || !(is_in(&self.allowed) || is_public(address));
        if is_refused || carried(address).is_some_and(|v4| self.check(v4.into()).is_err()) {
            return Err(Refused { address });
        }
        Ok(())
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !SPECIAL_V4.iter().any(|network| network.contains(&v4)),
        IpAddr::V6(v6) => {
            GLOBAL_UNICAST_V6.contains(&v6)
                && !SPECIAL_V6.iter().any(|network| network.contains(&v6))
                && !is_isatap(v6)
        }
    }
}

/// The IPv4 address to which an IPv6 address leads, where that can be read off it.
fn carried(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)), // NAT64
        [0x2002, high, low, ..] => Some(v4(high, low)),               // 6to4
        [0x2001, 0, _, _, _, _, high, low] => Some(v4(!high, !low)),  // Teredo
        [.., high, low] if is_isatap(v6) => Some(v4(high, low)),
        _ => None,
    }
}

/// ISATAP hides an IPv4 address behind an interface identifier of `0:5efe` or `200:5efe`, under any prefix.
fn is_isatap(v6: Ipv6Addr) -> bool {
    let [.., high, low, _, _] = v6.segments();
    matches!(high, 0 | 0x200) && low == 0x5efe
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// Source: IANA IPv4 Special-Purpose Address Registry, and the multicast and reserved blocks.
const SPECIAL_V4: [Ipv4Net; 18] = [
    v4(0, 0, 0, 0, 8),       // this network
    v4(10, 0, 0, 0, 8),      // private
    v4(100, 64, 0, 0, 10),   // carrier-grade NAT
    v4(127, 0, 0, 0, 8),     // loopback
    v4(169, 254, 0, 0, 16),  // link-local, cloud metadata
    v4(172, 16, 0, 0, 12),   // private
    v4(192, 0, 0, 0, 24),    // protocol assignments
    v4(192, 0, 2, 0, 24),    // documentation
    v4(192, 31, 196, 0, 24), // AS112
    v4(192, 52, 193, 0, 24), // AMT
    v4(192, 88, 99, 0, 24),  // 6to4 relay
    v4(192, 168, 0, 0, 16),  // private
    v4(192, 175, 48, 0, 24), // AS112
    v4(198, 18, 0, 0, 15),   // benchmarking
    v4(198, 51, 100, 0, 24), // documentation
    v4(203, 0, 113, 0, 24),  // documentation
    v4(224, 0, 0, 0, 4),     // multicast
    v4(240, 0, 0, 0, 4),     // reserved, broadcast
];

/// Everything outside it (loopback, NAT64, unique local, link-local, site-local, multicast …) is refused as a whole.
const GLOBAL_UNICAST_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Source: IANA IPv6 Special-Purpose Address Registry, the blocks within global unicast.
const SPECIAL_V6: [Ipv6Net; 5] = [
    v6(0x2001, 0, 0, 23),         // protocol assignments: Teredo, ORCHID, benchmarking …
    v6(0x2001, 0xdb8, 0, 32),     // documentation
    v6(0x2002, 0, 0, 16),         // 6to4: carries an IPv4 address
    v6(0x2620, 0x4f, 0x8000, 48), // AS112
    v6(0x3fff, 0, 0, 20),         // documentation
];

#[cfg(test)]
mod tests;
