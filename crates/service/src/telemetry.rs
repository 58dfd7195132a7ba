//! Logs: JSON lines for machines, text for people.

use std::io::IsTerminal as _;
use std::str::FromStr;

use domain::Invalid;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl FromStr for LogFormat {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(Invalid::new("must be json or text")),
        }
    }
}

/// Begins logging to standard output. `directives` is in the syntax of `tracing`'s filter.
pub fn init(directives: &str, format: LogFormat) -> Result<(), Invalid> {
    // It logs every malformed request of any client as an error; whoever wants to see that can say so.
    let filter = EnvFilter::try_new(format!("actix_http=off,{directives}"))
        .map_err(|error| Invalid::new(error.to_string()))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match format {
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_span_list(false);
            builder.finish().with(filter_fn(is_harmless)).init();
        }
        LogFormat::Text => {
            let builder = builder.with_ansi(std::io::stdout().is_terminal());
            builder.finish().with(filter_fn(is_harmless)).init();
        }
    }
    Ok(())
}

/// At its finest the AMQP library logs each frame that it sends, the one with the password too, and the Postgres library
/// each parameter, customers' data among them. Nobody can ask for that.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    let finest = match metadata.target() {
        target if target.starts_with("lapin") => Level::DEBUG,
        target if target.starts_with("tokio_postgres") => Level::INFO,
        _ => Level::TRACE,
    };
    *metadata.level() <= finest
}
