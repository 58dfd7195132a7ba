use domain::WebhookId;
use reqwest::Method;
use serde_json::Value;

use crate::api::Connection;
use crate::style;

/// Show the delivery attempts of a webhook, newest first
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// The webhook, a UUID
    webhook_id: WebhookId,
    /// Most attempts to show, 1 to 100
    #[arg(long, default_value_t = 20)]
    limit: u8,
}

#[expect(clippy::print_stdout, reason = "the command's output")]
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let path = format!("/api/webhooks/{}/history?limit={}", args.webhook_id, args.limit);
    let envelope = args.connection.call(Method::GET, &path, None).await?;
    let attempts = envelope["data"].as_array().cloned().unwrap_or_default();
    if attempts.is_empty() {
        println!("no attempts yet");
        return Ok(());
    }
    let header = format!(
        "{:<24}  {:<22}  {:<36}  {:>3}  {:>6}  {:>7}  {}",
        "AT", "EVENT", "EVENT ID", "TRY", "STATUS", "MS", "OUTCOME"
    );
    println!("{}", style::bold(&header));
    for attempt in &attempts {
        println!("{}", row(attempt));
    }
    if envelope["nextCursor"].is_string() {
        println!("{}", style::dim("older attempts follow; --limit shows more of them"));
    }
    Ok(())
}

fn row(attempt: &Value) -> String {
    let text = |name: &str| attempt[name].as_str().unwrap_or_default();
    let number = |name: &str| attempt[name].as_i64().map_or_else(|| "-".to_owned(), |n| n.to_string());
    let outcome = text("outcome");
    let mut explained = match outcome {
        "delivered" => style::green(outcome),
        "retrying" => style::yellow(&format!("{outcome} at {}", text("nextAttemptAt"))),
        _ => style::red(outcome),
    };
    if attempt["statusCode"].is_null() && !text("error").is_empty() {
        explained.push_str(&format!(" ({})", text("error")));
    }
    format!(
        "{:<24}  {:<22}  {:<36}  {:>3}  {:>6}  {:>7}  {explained}",
        text("deliveredAt"),
        text("event"),
        text("eventId"),
        number("attempt"),
        number("statusCode"),
        number("durationMs"),
    )
}
