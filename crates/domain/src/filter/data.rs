use std::cell::OnceCell;

use serde_json::Value;
use serde_json::value::RawValue;

/// The data of one event for the filters of any number of webhooks: parsed once, when the first one asks.
#[derive(Debug)]
pub struct EventData<'a> {
    source: Source<'a>,
    parsed: OnceCell<Option<Value>>,
}

#[derive(Debug)]
enum Source<'a> {
    Body(&'a [u8]),
    Data(&'a RawValue),
}

impl<'a> EventData<'a> {
    /// The data in a body that was rendered by [`crate::render_body`].
    pub fn of_body(body: &'a [u8]) -> Self {
        Self { source: Source::Body(body), parsed: OnceCell::new() }
    }

    /// Data as it is published.
    pub fn published(data: &'a RawValue) -> Self {
        Self { source: Source::Data(data), parsed: OnceCell::new() }
    }

    /// The data; `None` where it is JSON that no program can hold, such as `1e400` or half of a surrogate pair.
    pub fn value(&self) -> Option<&Value> {
        let parse = || match self.source {
            Source::Body(body) => {
                let mut fields: serde_json::Map<String, Value> = serde_json::from_slice(body).ok()?;
                fields.remove("data")
            }
            Source::Data(data) => serde_json::from_str(data.get()).ok(),
        };
        self.parsed.get_or_init(parse).as_ref()
    }
}
