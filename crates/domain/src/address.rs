use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Which addresses Postrider connects to: global unicast ones, and those of the networks the operator allows.
///
/// A webhook service calls any URL a stranger gives it, from inside a network. So everything in the IANA special-purpose
/// registries is refused unless it is allowed by name (local runs, self-hosted receivers).
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    allowed: Vec<IpNet>,
}

/// An address that Postrider does not connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is not a public address")]
pub struct Refused {
    /// The address, IPv4-mapped ones in their IPv4 form.
    pub address: IpAddr,
}

impl AddressPolicy {
    /// A policy that allows these networks besides the public ones.
    pub fn allowing(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Refuses an address that is neither public nor allowed.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let address = address.to_canonical();
        if self.allowed.iter().any(|network| network.contains(&address)) || is_public(address) {
            return Ok(());
        }
        Err(Refused { address })
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

/// ISATAP hides an IPv4 address behind an interface identifier of `0:5efe` or `200:5efe`, under any prefix.
fn is_isatap(v6: Ipv6Addr) -> bool {
    let [.., high, low, _, _] = v6.segments();
    matches!(high, 0 | 0x200) && low == 0x5efe
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
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
const GLOBAL_UNICAST_V6: Ipv6Net = v6(0x2000, 0, 3);

/// Source: IANA IPv6 Special-Purpose Address Registry, the blocks within global unicast.
const SPECIAL_V6: [Ipv6Net; 5] = [
    v6(0x2001, 0, 23),     // protocol assignments: Teredo, ORCHID, benchmarking …
    v6(0x2001, 0xdb8, 32), // documentation
    v6(0x2002, 0, 16),     // 6to4: carries an IPv4 address
    v6(0x2620, 0x4f, 32),  // AS112 (2620:4f:8000::/48)
    v6(0x3fff, 0, 20),     // documentation
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(address: &str) -> bool {
        AddressPolicy::default().check(address.parse().unwrap()).is_err()
    }

    #[test]
    fn special_addresses_are_refused() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2a00:1450::5efe:7f00:1",
            "2a00:1450::200:5efe:7f00:1",
            "3fff::1",
            "5f00::1",
        ] {
            assert!(refused(address), "{address}");
        }
    }

    #[test]
    fn public_addresses_are_not() {
        for address in
            ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "::ffff:8.8.8.8", "2606:4700::1111"]
        {
            assert!(!refused(address), "{address}");
        }
    }

    #[test]
    fn an_allowed_network_is_allowed_in_its_mapped_form_too() {
        let policy = AddressPolicy::allowing(vec!["127.0.0.0/8".parse().unwrap()]);
        assert!(policy.check("127.0.0.1".parse().unwrap()).is_ok());
        assert!(policy.check("::ffff:127.0.0.1".parse().unwrap()).is_ok());
        assert!(policy.check("::1".parse().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_judged_as_its_ipv4_self(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let policy = AddressPolicy::default();
            let mapped = policy.check(IpAddr::V6(v4.to_ipv6_mapped()));
            prop_assert_eq!(policy.check(IpAddr::V4(v4)), mapped);
        }

        #[test]
        fn no_private_or_loopback_ipv4_passes(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            if v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() {
                prop_assert!(AddressPolicy::default().check(v4.into()).is_err());
            }
        }
    }
}
