use std::str::FromStr;

use url::Url;

use crate::{EventId, Invalid};

/// Makes the links by which thin bodies say where their event is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLinks {
    base: Url,
    /// Whether links leave out where the API is.
    is_relative: bool,
}

impl EventLinks {
    /// Where an event is: `GET` it with an access token.
    pub fn to(&self, event: &EventId) -> String {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "events", event.as_str()]);
        }
        if self.is_relative { url.path().to_owned() } else { url.into() }
    }
}

impl Default for EventLinks {
    /// Links relative to the API.
    fn default() -> Self {
        "".parse().expect("nothing is allowed")
    }
}

impl FromStr for EventLinks {
    type Err = Invalid;

    /// Reads the URL under which the API can be reached; nothing makes links relative to it.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let is_relative = text.is_empty();
        let text = if is_relative { "http://localhost" } else { text };
        let is_base = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        };
        let url = Url::parse(text).ok().filter(is_base);
        url.map(|url| Self { base: url, is_relative })
            .ok_or_else(|| Invalid::new("must be a URL like https://api.example.com, without query and user"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_carries_any_id_and_is_relative_without_a_base() {
        let link = |base: &str, id: &str| base.parse::<EventLinks>().unwrap().to(&id.parse().unwrap());
        assert_eq!(link("", "order-1"), "/api/events/order-1");
        assert_eq!(link("", "a/b?c#d %€"), "/api/events/a%2Fb%3Fc%23d%20%25%E2%82%AC");
        assert_eq!(link("https://api.example.com", "order-1"), "https://api.example.com/api/events/order-1");
        assert_eq!(link("http://10.0.0.1:8080/hooks/", "e"), "http://10.0.0.1:8080/hooks/api/events/e");
    }

    #[test]
    fn what_is_no_base_is_refused() {
        for bad in ["api.example.com", "/api", "ftp://x", "https://a:b@x/", "https://x/?q", "https://x/#f"] {
            assert!(bad.parse::<EventLinks>().is_err(), "{bad}");
        }
    }
}
