//! Requests behind which no valid token or key stands: so many of an address, and no more. Those of known callers are
//! bounded by their plans, and never count here: who shares an address with a noisy stranger is not hurt.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::{HttpMessage as _, HttpRequest, ResponseError as _};
use domain::{Rate, Throttle};
use tokio::time::Instant;

use crate::error::ApiError;
use crate::http::queries::ProtectedRoutes;
use crate::request_origin::Arrived;

/// Addresses remembered. Beyond that those are forgotten first that owe nothing, and then all.
const MAX_REMEMBERED: usize = 50_000;
/// Bits of an IPv6 address that tell networks apart. The rest is the choice of whoever has the network.
const IPV6_NETWORK_BITS: u32 = 64;

/// What addresses have used up of the rate.
pub(crate) struct Strangers {
    /// `None`: without limit.
    rate: Option<Rate>,
    started: Instant,
    throttles: Mutex<HashMap<IpAddr, Throttle>>,
}

impl Strangers {
    /// Of `per_second` requests; 0: of any number.
    pub(crate) fn new(per_second: u32) -> Self {
        let rate = (per_second > 0).then(|| Rate::per_minute(per_second.saturating_mul(60)));
        Self { rate, started: Instant::now(), throttles: Mutex::default() }
    }

    /// Counts a request of a public route, before it is served.
    pub(crate) fn admit(&self, request: &ServiceRequest, routes: &ProtectedRoutes) -> Result<(), ApiError> {
        if is_public(request, routes) { self.take(request.request()) } else { Ok(()) }
    }

    /// Counts an answer to a refused credential. Where there is no more room, the answer is 429.
    pub(crate) fn end(&self, response: ServiceResponse) -> ServiceResponse {
        if response.status() != StatusCode::UNAUTHORIZED {
            return response;
        }
        match self.take(response.request()) {
            Ok(()) => response,
            Err(error) => response.into_response(error.error_response()),
        }
    }

    fn take(&self, request: &HttpRequest) -> Result<(), ApiError> {
        let address = request.extensions().get::<Arrived>().and_then(|arrived| arrived.address);
        address.map_or(Ok(()), |address| self.take_of(address))
    }

    fn take_of(&self, address: IpAddr) -> Result<(), ApiError> {
        let Some(rate) = self.rate else { return Ok(()) };
        let now = self.started.elapsed();
        let mut throttles = self.lock();
        make_room(&mut throttles, rate, now);
        throttles.entry(network(address)).or_default().take(1, rate, now).map_err(|throttled| {
            let message = format!(
                "Your address may make {} requests a minute without a valid token or key",
                rate.calls_per_minute()
            );
            ApiError::rate_limited(message, "address", rate, throttled.wait)
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Throttle>> {
        self.throttles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(throttles: &mut HashMap<IpAddr, Throttle>, rate: Rate, now: Duration) {
    if throttles.len() < MAX_REMEMBERED {
        return;
    }
    throttles.retain(|_, throttle| throttle.remaining(rate, now) < rate.burst());
    // So many at a time are an attack from everywhere, against which this is no remedy; memory is not to be its victim.
    if throttles.len() >= MAX_REMEMBERED {
        throttles.clear();
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (u128::BITS - IPV6_NETWORK_BITS))).into()
        }
    }
}

/// Probes of the machines around ask for the health as often as they like.
fn is_public(request: &ServiceRequest, routes: &ProtectedRoutes) -> bool {
    if request.path().starts_with("/health/") {
        return false;
    }
    // To find the pattern of a path costs regular expressions, which the path of events can do without.
    let is_protected = |path: &str| routes.contains(path, request.method());
    !is_protected(request.path()) && !request.match_pattern().is_some_and(|pattern| is_protected(&pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_burst_and_then_its_rate_and_others_have_theirs() {
        let strangers = Strangers::new(20);
        let address = |last| IpAddr::from([192, 0, 2, last]);
        for _ in 0..100 {
            assert!(strangers.take_of(address(1)).is_ok());
        }
        let refused = (0..100).filter(|_| strangers.take_of(address(1)).is_err()).count();
        assert!(refused >= 90, "{refused}");
        assert!(strangers.take_of(address(2)).is_ok());
        assert!((0..1000).all(|_| Strangers::new(0).take_of(address(1)).is_ok()));
    }

    #[test]
    fn an_ipv6_network_is_one_and_a_mapped_address_is_the_ipv4_one() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }

    #[test]
    fn memory_is_bounded_whoever_calls() {
        let strangers = Strangers::new(20);
        for number in (0_u32..).take(MAX_REMEMBERED + 10) {
            assert!(strangers.take_of(IpAddr::from(number.to_be_bytes())).is_ok());
        }
        assert!(strangers.lock().len() <= MAX_REMEMBERED);
    }
}
