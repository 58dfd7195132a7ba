use anyhow::Context as _;
use chrono::Utc;
use domain::{Scopes, TenantId};
use service::access_token::{Caller, mint};
use service::values::JwtSecret;

use crate::values::Delay;

/// Mint an access token for a tenant (needs the signing secret)
///
/// Prints the token and nothing else, so that it can be used like this:
///
///   export POSTRIDER_TOKEN=$(postrider token --tenant UUID --scope "webhooks:read webhooks:write")
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The tenant, a UUID
    #[arg(long)]
    tenant: TenantId,
    /// What the token allows, separated by spaces: webhooks:read webhooks:write events:publish events:erase keys:manage audit:read admin
    #[arg(long, default_value = "webhooks:read webhooks:write events:publish")]
    scope: Scopes,
    /// How long it is valid: a number and s, m, h or d
    #[arg(long, default_value = "1h")]
    ttl: Delay,
    /// Whom it is for, the `sub` claim
    #[arg(long, default_value = "postrider-cli")]
    subject: String,
    // Parsed later: clap would repeat a value that it cannot read, and this one is secret.
    #[arg(long, env = "POSTRIDER_JWT_SECRET", hide_env_values = true)]
    jwt_secret: String,
    #[arg(long, env = "POSTRIDER_JWT_ISSUER")]
    jwt_issuer: String,
    #[arg(long, env = "POSTRIDER_JWT_AUDIENCE")]
    jwt_audience: String,
}

#[expect(clippy::print_stdout, reason = "the command's output")]
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let now = Utc::now();
    let expires_at =
        now.checked_add_signed(chrono::TimeDelta::from_std(args.ttl.0)?).context("--ttl is too long")?;
    let caller = Caller { subject: args.subject.clone(), tenant_id: args.tenant, scopes: args.scope };
    let secret: JwtSecret = args.jwt_secret.parse().context("POSTRIDER_JWT_SECRET")?;
    println!("{}", mint(&secret, &args.jwt_issuer, &args.jwt_audience, &caller, now, expires_at));
    Ok(())
}
