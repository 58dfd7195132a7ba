use proptest::prelude::*;

use super::*;

/// Every block of the IANA special-purpose registries and of what IANA keeps for other uses than unicast; see its head.
const REGISTRIES: &str = include_str!("../../testdata/special_purpose_addresses.txt");

fn blocks() -> impl Iterator<Item = IpNet> {
    let lines = REGISTRIES.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
}

fn refused(address: &str) -> bool {
    AddressPolicy::default().check(address.parse().unwrap()).is_err()
}

fn networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// An address of a block, with these bits behind its prefix.
fn within(block: IpNet, bits: u128) -> IpAddr {
    match block {
        IpNet::V4(net) => {
            let host = u32::try_from(bits >> 96).unwrap() & net.hostmask().to_bits();
            Ipv4Addr::from_bits(net.network().to_bits() | host).into()
        }
        IpNet::V6(net) => {
            Ipv6Addr::from_bits(net.network().to_bits() | bits & net.hostmask().to_bits()).into()
        }
    }
}

#[test]
fn the_ends_of_every_block_of_the_registries_are_refused() {
    assert!(blocks().count() > 45);
    for block in blocks() {
        for bits in [0, 1, u128::MAX - 1, u128::MAX] {
            let address = within(block, bits);
            assert!(AddressPolicy::default().check(address).is_err(), "{address} of {block}");
        }
    }
}

#[test]
fn what_lies_just_outside_of_the_blocks_is_not() {
    for address in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "191.255.255.255",
        "192.0.1.0",
        "192.0.3.0",
        "192.31.195.255",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "2000::",
        "2001:200::",
        "2001:db7:ffff::",
        "2001:db9::",
        "2001:ffff::",
        "2003::",
        "2620:4f:7fff::1",
        "2620:4f:8001::",
        "3ffe:ffff::",
        "3fff:1000::",
        "2606:4700::1111",
    ] {
        assert!(!refused(address), "{address}");
    }
}

#[test]
fn an_address_that_carries_another_is_refused() {
    for address in [
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "64:ff9b:1:7f00:0:100::",
        "2002:7f00:1::",
        "2001:0:808:808:0:0:80ff:fffe",
        "2a00:1450::5efe:7f00:1",
        "2a00:1450::200:5efe:7f00:1",
        "fd00:ec2::254",
        "fec0::1",
    ] {
        assert!(refused(address), "{address}");
    }
}

#[test]
fn an_allowed_network_is_allowed_in_its_mapped_form_too() {
    let policy = AddressPolicy::allowing(networks(&["127.0.0.0/8"]));
    assert!(policy.check("127.0.0.1".parse().unwrap()).is_ok());
    assert!(policy.check("::ffff:127.0.0.1".parse().unwrap()).is_ok());
    assert!(policy.check("::1".parse().unwrap()).is_err());
}

#[test]
fn a_denied_network_is_refused_whatever_else_is_said_of_it() {
    let policy = AddressPolicy::allowing(networks(&["10.0.0.0/8"]));
    let policy = policy.denying(networks(&["10.9.0.0/16", "8.8.8.0/24", "2606:4700::/32"]));
    for (address, is_allowed) in [
        ("10.1.0.1", true),
        ("10.9.0.1", false),
        ("::ffff:10.9.0.1", false),
        ("8.8.8.8", false),
        ("::ffff:8.8.8.8", false),
        ("8.8.4.4", true),
        ("2606:4700::1", false),
        ("2606:4701::1", true),
    ] {
        assert_eq!(policy.check(address.parse().unwrap()).is_ok(), is_allowed, "{address}");
    }
}

#[test]
fn through_an_allowed_translator_only_that_is_reached_which_is_reached_without_it() {
    let policy =
        AddressPolicy::allowing(networks(&["64:ff9b::/96", "2002::/16", "2001::/32", "2a00:1450::/32"]));
    let policy = policy.denying(networks(&["8.8.8.0/24"]));
    for (address, is_allowed) in [
        ("64:ff9b::1.1.1.1", true),
        ("64:ff9b::127.0.0.1", false),
        ("64:ff9b::8.8.8.8", false),
        ("2002:101:101::1", true),
        ("2002:a00:1::1", false),
        ("2001:0:1::fefe:fefe", true),
        ("2001:0:1::f5ff:fffe", false),
        ("2a00:1450::1", true),
        ("2a00:1450::5efe:a9fe:a9fe", false),
    ] {
        assert_eq!(policy.check(address.parse().unwrap()).is_ok(), is_allowed, "{address}");
    }
}

proptest! {
    #[test]
    fn no_address_of_a_special_block_passes(block: prop::sample::Index, bits: u128) {
        let blocks: Vec<IpNet> = blocks().collect();
        let address = within(blocks[block.index(blocks.len())], bits);
        prop_assert!(AddressPolicy::default().check(address).is_err(), "{address}");
    }

    #[test]
    fn any_other_unicast_address_does(bits: u128) {
        let v6 = Ipv6Addr::from_bits(bits >> 3 | 1 << 125);
        let v4 = Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap());
        for address in [IpAddr::from(v4), IpAddr::from(v6)] {
            let is_special = blocks().any(|block| block.contains(&address)) || is_isatap(v6);
            prop_assert_eq!(AddressPolicy::default().check(address).is_err(), is_special, "{}", address);
        }
    }

    #[test]
    fn a_mapped_address_is_judged_as_its_ipv4_self(bits: u32) {
        let v4 = Ipv4Addr::from_bits(bits);
        let policy = AddressPolicy::default();
        let mapped = policy.check(IpAddr::V6(v4.to_ipv6_mapped()));
        prop_assert_eq!(policy.check(IpAddr::V4(v4)), mapped);
    }

    #[test]
    fn no_spelling_of_an_address_gets_past_the_policy(bits: u32, allowed: bool) {
        let v4 = Ipv4Addr::from_bits(bits);
        let policy = if allowed { AddressPolicy::allowing(networks(&["0.0.0.0/0"])) } else { AddressPolicy::default() };
        let expected = policy.check(v4.into()).is_ok();
        let policy = crate::UrlPolicy { addresses: policy, ..crate::UrlPolicy::default() };
        let [a, b, c, d] = v4.octets();
        for host in [
            format!("{bits}"), format!("{bits:#x}"), format!("0{bits:o}"), format!("{a:#x}.{b:#o}.{c}.{d}").replace("0o", "0"),
            format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d)), format!("{a}.{}", bits & 0xff_ffff), format!("{v4}."),
            format!("[::ffff:{v4}]"),
            v4.to_string().chars().map(|c| char::from_u32(if c == '.' { 0x3002 } else { c as u32 + 0xfee0 }).unwrap()).collect(),
        ] {
            let url = crate::WebhookUrl::parse(&format!("https://{host}/"), &policy);
            prop_assert_eq!(url.is_ok(), expected, "{}", host);
        }
    }
}
