use std::net::SocketAddr;
use std::str::FromStr;

use domain::Invalid;

/// Most name servers, of the configuration's or the system's, that are asked.
pub(crate) const MAX_NAME_SERVERS: usize = 8;

/// Addresses of name servers, separated by commas; none: the system's.
#[derive(Debug, Clone, Default)]
pub struct NameServers(pub Vec<SocketAddr>);

impl FromStr for NameServers {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let servers = text
            .split(',')
            .map(str::trim)
            .filter(|server| !server.is_empty())
            .map(|server| {
                let problem =
                    || Invalid::new(format!("{server:?} is not an address and port like 10.0.0.53:53"));
                server.parse().map_err(|_| problem())
            })
            .collect::<Result<Vec<_>, _>>()?;
        if servers.len() > MAX_NAME_SERVERS {
            return Err(Invalid::new(format!("must be at most {MAX_NAME_SERVERS} name servers")));
        }
        Ok(Self(servers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_addresses_with_ports() {
        let servers = |text: &str| text.parse::<NameServers>().map(|servers| servers.0.len());
        assert_eq!(servers(""), Ok(0));
        assert_eq!(servers("10.0.0.53:53, [fd00::53]:53"), Ok(2));
        assert!(servers(&["10.0.0.53:53"; 9].join(",")).is_err());
        for wrong in ["10.0.0.53", "dns.example.com:53", "10.0.0.53:53 10.0.0.54:53", "10.0.0.53:x"] {
            assert!(servers(wrong).unwrap_err().to_string().contains("10.0.0.53:53"), "{wrong}");
        }
    }
}
