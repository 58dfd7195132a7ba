use domain::Webhook;
use signing::Secret;
use tracing::error;

/// A webhook, ready to be delivered to.
#[derive(Debug)]
pub struct Target {
    /// The webhook.
    pub webhook: Webhook,
    /// Its secret, or why it cannot be read. Then its deliveries wait, as they do for any fault of ours.
    pub secret: Result<Secret, String>,
}

impl Target {
    /// Prepares the webhook's secret for signing.
    pub fn new(webhook: Webhook) -> Self {
        let secret = match &webhook.secret {
            Ok(bytes) => Secret::from_bytes(bytes.expose()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = &secret {
            error!(webhook = %webhook.id, reason, "nothing can be signed for a webhook; its deliveries wait");
        }
        Self { webhook, secret }
    }
}
