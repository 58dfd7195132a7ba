//! What an operator can say about traces.

use std::str::FromStr;

use domain::Invalid;
use reqwest::Url;

/// Where the collector is, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(pub(crate) Option<Url>);

impl FromStr for Endpoint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let invalid =
            || Invalid::new("must be the URL of an OTLP/HTTP collector, like http://collector:4318");
        let mut url: Url = text.parse().map_err(|_| invalid())?;
        if !["http", "https"].contains(&url.scheme()) || url.query().is_some() || url.fragment().is_some() {
            return Err(invalid());
        }
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Ok(Self(Some(url)))
    }
}

/// The part of new traces that is kept, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(f64);

impl Ratio {
    /// Of the numbers below 2^63, those below this are kept.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 2^63, which is exact, and never negative"
    )]
    pub(crate) fn threshold(self) -> u64 {
        (self.0 * 9_223_372_036_854_775_808.0) as u64
    }
}

impl FromStr for Ratio {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Self(ratio)),
            _ => Err(Invalid::new("must be a number from 0 to 1")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_where_a_collector_takes_traces() {
        let taken = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.0.map(String::from));
        assert_eq!(taken(""), Ok(None));
        for text in ["http://collector:4318", "http://collector:4318/"] {
            assert_eq!(taken(text).unwrap().unwrap(), "http://collector:4318/v1/traces");
        }
        assert_eq!(taken("https://c.test/otlp/").unwrap().unwrap(), "https://c.test/otlp/v1/traces");
        for bad in ["collector:4318", "ftp://collector", "http://", "http://c?x=1", "no"] {
            assert!(taken(bad).is_err(), "{bad}");
        }
        for bad in ["-0.1", "1.1", "NaN", "some"] {
            assert!(bad.parse::<Ratio>().is_err(), "{bad}");
        }
    }
}
