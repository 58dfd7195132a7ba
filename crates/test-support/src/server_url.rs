//! URLs of test servers: `scheme://user:password@127.0.0.1:port/name`.

use std::net::SocketAddr;

/// The server that a URL names.
pub fn server_of(url: &str) -> SocketAddr {
    let (_, place) = url.rsplit_once('@').unwrap();
    place.split_once('/').unwrap().0.parse().unwrap()
}

/// The same URL by way of another address, such as a proxy's.
pub fn through(url: &str, address: SocketAddr) -> String {
    let (user, place) = url.rsplit_once('@').unwrap();
    let (_, name) = place.split_once('/').unwrap();
    format!("{user}@{address}/{name}")
}
