use bytes::Bytes;

/// What was said on both sides of an attempt, within limits. The request's body is made of its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The headers of the request, as they went over the wire; as they would have, where no connection came about. The values
    /// of a webhook's own headers are not there.
    pub request_headers: Headers,
    /// The answer, if at least its head came.
    pub response: Option<CapturedResponse>,
    /// Why there is no complete answer, for people.
    pub explanation: Option<String>,
}

/// Headers in their order: names in lower case, and values; what is not UTF-8 in a value is replaced.
pub type Headers = Vec<(String, String)>;

/// An answer, as far as it came and is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedResponse {
    /// Its status.
    pub status: u16,
    /// Its first headers.
    pub headers: Headers,
    /// Whether it had more headers.
    pub headers_cut: bool,
    /// The beginning of its body.
    pub body: Bytes,
    /// Whether the body went on, or broke off.
    pub body_cut: bool,
}

impl Exchange {
    /// Most bytes of an answer's body that are kept for the history.
    pub const MAX_BODY_BYTES: usize = 4 * 1024;

    /// As much of it as is kept for the history.
    #[must_use]
    pub fn for_history(mut self) -> Self {
        if let Some(response) = &mut self.response
            && response.body.len() > Self::MAX_BODY_BYTES
        {
            // A copy: the whole would stay in memory with a part of it.
            response.body = Bytes::copy_from_slice(&response.body[..Self::MAX_BODY_BYTES]);
            response.body_cut = true;
        }
        self
    }

    /// How much it takes in memory, in bytes, but for small change.
    pub fn bytes(&self) -> usize {
        let of_headers = |headers: &Headers| -> usize {
            headers.iter().map(|(name, value)| name.len() + value.len() + 2 * size_of::<String>()).sum()
        };
        let response = self.response.as_ref().map_or(0, |r| of_headers(&r.headers) + r.body.len());
        let explanation = self.explanation.as_ref().map_or(0, String::len);
        size_of::<Self>() + of_headers(&self.request_headers) + response + explanation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_keeps_the_beginning_of_a_body_and_says_so() {
        for (length, kept, is_cut) in [(0, 0, false), (4096, 4096, false), (4097, 4096, true)] {
            let response = CapturedResponse {
                status: 500,
                headers: Vec::new(),
                headers_cut: false,
                body: vec![b'x'; length].into(),
                body_cut: false,
            };
            let exchange =
                Exchange { request_headers: Vec::new(), response: Some(response), explanation: None };
            let exchange = exchange.for_history();
            let response = exchange.response.as_ref().unwrap();
            assert_eq!((response.body.len(), response.body_cut), (kept, is_cut));
            assert!((kept..kept + 300).contains(&exchange.bytes()));
        }
    }
}
