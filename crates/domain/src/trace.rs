//! Trace contexts, as [W3C Trace Context](https://www.w3.org/TR/trace-context/) has them.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

/// Longest `tracestate` that is carried on, in bytes. W3C asks for at least as much; of a longer one nothing is kept.
pub const MAX_TRACE_STATE_BYTES: usize = 512;
/// Bytes of a context without its `tracestate`.
const FIXED_BYTES: usize = 16 + 8 + 1;
/// The flag of a `traceparent` that says that the trace is kept.
const SAMPLED: u8 = 1;

/// Where in which trace something belongs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: NonZeroU128,
    /// The span that what follows is a child of.
    pub span_id: NonZeroU64,
    /// Whether the trace is kept.
    pub is_sampled: bool,
    /// What tracing systems on the way have added (`tracestate`).
    pub state: Option<Box<str>>,
}

impl TraceContext {
    /// Reads `traceparent` and `tracestate`. A `traceparent` that is not valid is none, and a `tracestate` that is not is left
    /// out, as W3C asks: neither is a reason to refuse what came with it.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let [version, trace_id, span_id, flags] = split_parent(traceparent)?;
        if version == 0xff || (version == 0 && traceparent.len() != 55) {
            return None;
        }
        Some(Self {
            trace_id: NonZeroU128::new(trace_id)?,
            span_id: NonZeroU64::new(u64::try_from(span_id).ok()?)?,
            is_sampled: flags & u128::from(SAMPLED) != 0,
            state: tracestate.and_then(check_state),
        })
    }

    /// The same place with another parent for what follows.
    pub fn child(&self, span_id: NonZeroU64) -> Self {
        Self { span_id, ..self.clone() }
    }

    /// The `traceparent` that leads here.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.is_sampled))
    }

    /// As it is stored: short.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES);
        bytes.extend_from_slice(&self.trace_id.get().to_be_bytes());
        bytes.extend_from_slice(&self.span_id.get().to_be_bytes());
        bytes.push(u8::from(self.is_sampled));
        bytes.extend_from_slice(self.state.as_deref().unwrap_or_default().as_bytes());
        bytes
    }

    /// Reads what was stored.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace_id, rest) = bytes.split_first_chunk()?;
        let (span_id, rest) = rest.split_first_chunk()?;
        let (flags, state) = rest.split_first()?;
        Some(Self {
            trace_id: NonZeroU128::new(u128::from_be_bytes(*trace_id))?,
            span_id: NonZeroU64::new(u64::from_be_bytes(*span_id))?,
            is_sampled: flags & SAMPLED != 0,
            state: std::str::from_utf8(state).ok().and_then(check_state),
        })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.traceparent())
    }
}

/// `version-trace_id-parent_id-flags`, each in lower-case hexadecimal. A later version may have more behind it.
fn split_parent(text: &str) -> Option<[u128; 4]> {
    let mut parts = text.split('-');
    let mut part = |digits: usize| {
        let part = parts.next()?;
        let is_hexadecimal = part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (part.len() == digits && is_hexadecimal).then(|| u128::from_str_radix(part, 16).ok())?
    };
    Some([part(2)?, part(32)?, part(16)?, part(2)?])
}

fn check_state(state: &str) -> Option<Box<str>> {
    let state = state.trim_matches([' ', '\t']);
    let is_printable = state.bytes().all(|b| (b' '..=b'~').contains(&b) || b == b'\t');
    let is_list = state.split(',').map(str::trim).filter(|member| !member.is_empty());
    let is_list =
        is_list.into_iter().all(|member| member.split_once('=').is_some_and(|(key, _)| !key.is_empty()));
    (!state.is_empty() && state.len() <= MAX_TRACE_STATE_BYTES && is_printable && is_list)
        .then(|| state.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written_as_w3c_says() {
        let context = TraceContext::parse(PARENT, Some(" congo=t61rcWkgMzE,rojo=00f0 ")).unwrap();
        assert_eq!(context.trace_id.get(), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(context.span_id.get(), 0xb7ad_6b71_6920_3331);
        assert!(context.is_sampled);
        assert_eq!(context.state.as_deref(), Some("congo=t61rcWkgMzE,rojo=00f0"));
        assert_eq!(context.traceparent(), PARENT);
        let unsampled = TraceContext::parse(&PARENT.replace("-01", "-02"), None).unwrap();
        assert!(!unsampled.is_sampled, "the other flags mean something else");
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-brings";
        assert_eq!(
            TraceContext::parse(later, None).unwrap().traceparent(),
            PARENT,
            "a later version is read"
        );
    }

    #[test]
    fn a_traceparent_that_is_not_valid_is_none() {
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "0+-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\u{e9}",
        ] {
            assert_eq!(TraceContext::parse(bad, None), None, "{bad}");
        }
    }

    #[test]
    fn a_tracestate_that_is_not_valid_is_left_out() {
        let long = "a".repeat(MAX_TRACE_STATE_BYTES);
        for bad in ["", "  ", "no value", "=v", "a=1\r\nx: y", "a=\u{e9}", &format!("k={long}")] {
            assert_eq!(TraceContext::parse(PARENT, Some(bad)).unwrap().state, None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(parent in ".{0,80}", state in ".{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = TraceContext::parse(&parent, Some(&state));
            let _ = TraceContext::from_bytes(&bytes);
        }

        #[test]
        fn what_is_written_is_read_again(trace in 1_u128.., span in 1_u64.., is_sampled: bool, state in "([a-z]{1,9}=[0-9a-z]{1,9})?") {
            let context = TraceContext {
                trace_id: NonZeroU128::new(trace).unwrap(),
                span_id: NonZeroU64::new(span).unwrap(),
                is_sampled,
                state: (!state.is_empty()).then(|| state.into()),
            };
            prop_assert_eq!(TraceContext::parse(&context.traceparent(), context.state.as_deref()), Some(context.clone()));
            prop_assert_eq!(TraceContext::from_bytes(&context.to_bytes()), Some(context));
        }
    }
}
