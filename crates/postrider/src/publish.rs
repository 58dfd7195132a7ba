use anyhow::Context as _;
use reqwest::Method;
use serde_json::value::RawValue;

use crate::api::Connection;

/// Publish an event and print its id
///
/// The data is sent byte for byte as given. An event that is published again under the same --id is delivered once.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// The event type, for example message.received
    #[arg(long = "type")]
    event_type: String,
    /// Any JSON
    #[arg(long)]
    data: String,
    /// Names the event; made up when absent
    #[arg(long)]
    id: Option<String>,
    /// The session it came from
    #[arg(long)]
    session: Option<String>,
    /// When it happened, like 2026-05-30T10:00:00Z; now when absent
    #[arg(long)]
    occurred_at: Option<String>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    data: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<&'a str>,
}

#[expect(clippy::print_stdout, reason = "the command's output")]
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let event = Event {
        event_type: &args.event_type,
        data: RawValue::from_string(args.data.clone()).context("--data is not JSON")?,
        id: args.id.as_deref(),
        session_id: args.session.as_deref(),
        occurred_at: args.occurred_at.as_deref(),
    };
    let body = serde_json::to_string(&event)?;
    let answer = args.connection.call(Method::POST, "/api/events", Some(body)).await?;
    println!("{}", answer["data"]["id"].as_str().context("the answer has no id")?);
    Ok(())
}
