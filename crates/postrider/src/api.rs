//! Calls to the REST API.

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::{Client, Method};
use serde_json::Value;

/// Where the API is, and who calls.
#[derive(Args)]
pub(crate) struct Connection {
    /// Where the API is
    #[arg(long, env = "POSTRIDER_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// The access token; `postrider token` mints one
    #[arg(long, env = "POSTRIDER_TOKEN", hide_env_values = true)]
    token: String,
}

impl Connection {
    /// Calls the API and gives the whole envelope of a success.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        let mut request = Client::new().request(method, &url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.with_context(|| format!("{url} cannot be reached"))?;
        let status = response.status();
        let text = response.text().await?;
        let envelope: Value = serde_json::from_str(&text)
            .with_context(|| format!("{url} answered {status} with something that is not JSON"))?;
        if !status.is_success() {
            bail!("{}", explain(status.as_u16(), &envelope));
        }
        Ok(envelope)
    }
}

fn explain(status: u16, envelope: &Value) -> String {
    let text = |name: &str| envelope[name].as_str().unwrap_or_default().to_owned();
    let mut explained = format!("{} ({status} {})", text("message"), text("code"));
    for (field, problem) in envelope["errors"].as_object().into_iter().flatten() {
        explained.push_str(&format!("\n  {field}: {}", problem.as_str().unwrap_or_default()));
    }
    explained
}
