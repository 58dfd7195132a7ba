//! Who may do what: one role for each service, and row-level security as the second wall between tenants.
//!
//! Applied after the migrations, and again each time: roles belong to the server, not to the database, and may come later.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::{Store, StoreError};

/// The roles that the services' users are members of. They cannot log in themselves.
pub const SERVICE_ROLES: [&str; 4] =
    ["postrider_gateway", "postrider_dispatcher", "postrider_reader", "postrider_autoscaler"];

/// What each of them may do.
pub(crate) const GRANTS: &str = include_str!("access.sql");

const MISSING_ROLES: &str = "-- missing_roles
SELECT name FROM unnest($1::text[]) AS name WHERE to_regrole(name) IS NULL";

const MAY_CREATE_ROLES: &str = "-- may_create_roles
SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user";

/// Whatever has a tenant. Partitions are tables of their own: what protects their parent does not protect them.
const TENANT_TABLES: &str = "-- tenant_tables
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE a.attname = 'tenant_id' AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
    AND c.relnamespace = current_schema()::regnamespace
ORDER BY 1";

/// Tables that belong to a tenant by another column. A webhook's health is as visible as the webhook.
const OTHER_TABLES: [&str; 2] = [
    "-- protect_tenants
SELECT protect_tenant_table('tenants', 'id = nullif(current_setting(''postrider.tenant'', true), '''')::uuid')",
    "-- protect_webhook_health
SELECT protect_tenant_table('webhook_health', 'EXISTS (SELECT FROM webhooks w WHERE w.id = webhook_id)')",
];

/// What the gateway may do over tenants, in transactions that say so: manage them, count what they use, look up
/// whose a key is, and learn which of them want order or an event type.
const OVER_TENANTS: [&str; 5] = [
    "-- tenants_over_tenants
SELECT put_policy('tenants', 'over_tenants', 'ALL', '{postrider_gateway}',
    'current_setting(''postrider.over_tenants'', true) = ''on''')",
    "-- tenant_usage_over_tenants
SELECT put_policy('tenant_usage', 'over_tenants', 'ALL', '{postrider_gateway}',
    'current_setting(''postrider.over_tenants'', true) = ''on''')",
    "-- api_keys_over_tenants
SELECT put_policy('api_keys', 'over_tenants', 'SELECT', '{postrider_gateway}',
    'current_setting(''postrider.over_tenants'', true) = ''on''')",
    "-- api_key_use_over_tenants
SELECT put_policy('api_keys', 'use_over_tenants', 'UPDATE', '{postrider_gateway}',
    'current_setting(''postrider.over_tenants'', true) = ''on''')",
    "-- webhooks_over_tenants
SELECT put_policy('webhooks', 'over_tenants', 'SELECT', '{postrider_gateway}',
    'current_setting(''postrider.over_tenants'', true) = ''on''')",
];

impl Store {
    /// Which of [`SERVICE_ROLES`] the server does not have. Without all of them services can only run as the owner.
    pub async fn missing_roles(&self) -> Result<Vec<String>, StoreError> {
        let client = self.connection().await?;
        let rows = client.query(MISSING_ROLES, &[&SERVICE_ROLES.as_slice()]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// Protects every table of tenants, and grants the roles what they need. Each step is a transaction of its own, so that no
/// more than one table is locked at a time; where nothing is missing, none is.
pub(crate) async fn apply(client: &Client) -> Result<(), StoreError> {
    let has_roles = create_roles(client).await?;
    for row in client.query(TENANT_TABLES, &[]).await? {
        let table: &str = row.get(0);
        client.execute("SELECT protect_tenant_table($1)", &[&table]).await?;
    }
    for statement in OTHER_TABLES {
        client.batch_execute(statement).await?;
    }
    if has_roles {
        for statement in OVER_TENANTS {
            client.batch_execute(statement).await?;
        }
        client.batch_execute(GRANTS).await?;
    }
    Ok(())
}

/// Creates the roles where that is allowed. Says whether all are there.
async fn create_roles(client: &Client) -> Result<bool, StoreError> {
    let missing = client.query(MISSING_ROLES, &[&SERVICE_ROLES.as_slice()]).await?;
    if missing.is_empty() {
        return Ok(true);
    }
    if !client.query_one(MAY_CREATE_ROLES, &[]).await?.get::<_, bool>(0) {
        return Ok(false);
    }
    for row in missing {
        let role: &str = row.get(0);
        match client.batch_execute(&format!("CREATE ROLE {role}")).await {
            // Another database of the same server is being migrated.
            Err(error)
                if [SqlState::DUPLICATE_OBJECT, SqlState::UNIQUE_VIOLATION]
                    .iter()
                    .any(|code| error.code() == Some(code)) => {}
            created => created?,
        }
    }
    Ok(true)
}
