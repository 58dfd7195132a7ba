use std::str::FromStr;

use crate::Invalid;

/// Which ports Postrider connects to: every one but those of other protocols, or only those the operator names.
///
/// What speaks such a protocol might take a request for commands of its own, so browsers refuse these ports, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortPolicy {
    /// None: every one but the bad ones.
    only: Vec<u16>,
}

impl PortPolicy {
    /// Most ports that can be named.
    pub const MAX_PORTS: usize = 100;

    /// Refuses a port that is not to be connected to.
    pub fn check(&self, port: u16) -> Result<(), Invalid> {
        let is_allowed =
            if self.only.is_empty() { !BAD_PORTS.contains(&port) } else { self.only.contains(&port) };
        if is_allowed { Ok(()) } else { Err(Invalid::new(format!("url must not name port {port}"))) }
    }
}

impl FromStr for PortPolicy {
    type Err = Invalid;

    /// Reads ports separated by commas; nothing stands for every one but the bad ones.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let ports = text.split(',').map(str::trim).filter(|port| !port.is_empty());
        let parse = |port: &str| {
            let port = port.parse().ok().filter(|port| *port != 0);
            port.ok_or_else(|| {
                Invalid::new("must be ports from 1 to 65535, separated by commas, like 443,8443")
            })
        };
        let only = ports.map(parse).collect::<Result<Vec<u16>, _>>()?;
        if only.len() > Self::MAX_PORTS {
            return Err(Invalid::new(format!("must be at most {} ports", Self::MAX_PORTS)));
        }
        Ok(Self { only })
    }
}

/// Source: the WHATWG's Fetch Standard, section "Port blocking".
const BAD_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103,
    104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514,
    515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723,
    2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(policy: &str, port: u16) -> bool {
        policy.parse::<PortPolicy>().unwrap().check(port).is_ok()
    }

    #[test]
    fn ports_of_other_protocols_are_refused_and_all_others_are_not() {
        for bad in [0, 22, 25, 53, 110, 143, 389, 587, 6000, 6667, 10080] {
            assert!(!allowed("", bad), "{bad}");
        }
        for good in [80, 443, 3000, 8080, 8443, 49152, 65535] {
            assert!(allowed("", good), "{good}");
        }
    }

    #[test]
    fn where_ports_are_named_only_those_are_allowed() {
        for (port, is_allowed) in [(443, true), (8443, true), (25, true), (80, false), (8080, false)] {
            assert_eq!(allowed("443, 8443,25", port), is_allowed, "{port}");
        }
        for wrong in ["0", "65536", "https", "443;80", "-1", &["443"; 101].join(",")] {
            assert!(wrong.parse::<PortPolicy>().is_err(), "{wrong}");
        }
    }
}
