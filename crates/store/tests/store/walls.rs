//! The second wall between tenants: what the database shows a service, whatever it is asked.

use std::collections::BTreeSet;

use chrono::{Days, Utc};
use domain::{Event, GateSettings, TenantId};
use postrider_store::{SERVICE_ROLES, Store};
use test_support::TestDatabase;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::{event, lease, new_tenant, webhook};

/// Every table with a column `tenant_id`, partitions too, and those that belong to tenants in another way.
const TENANT_TABLES: &str = "SELECT c.oid, c.relname::text FROM pg_class c
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace = current_schema()::regnamespace
        AND (c.relname IN ('tenants', 'webhook_health')
            OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id'))";

async fn unprotected(client: &Client) -> Vec<String> {
    let query = format!(
        "SELECT t.relname FROM ({TENANT_TABLES}) t JOIN pg_class c ON c.oid = t.oid
        WHERE NOT (c.relrowsecurity AND c.relforcerowsecurity)
            OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = t.oid AND p.polcmd = '*'
                AND p.polroles = ARRAY['postrider_gateway'::regrole::oid] AND pg_get_expr(p.polqual, p.polrelid) <> 'true')
            OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = t.oid
                AND (p.polroles @> ARRAY[0::oid] OR pg_get_expr(p.polqual, p.polrelid) = 'true'
                    AND p.polroles @> ARRAY['postrider_gateway'::regrole::oid]))
            OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = t.oid
                AND p.polroles @> ARRAY['postrider_dispatcher'::regrole::oid])
        ORDER BY 1"
    );
    client.query(&query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// What tenants leave in the database: webhooks, events, deliveries, usage, sessions, news.
async fn live(database: &TestDatabase, tenant: TenantId) {
    let store = &database.store;
    let webhook = webhook(store, tenant, GateSettings { is_ordered: true, ..GateSettings::default() }).await;
    let connected = Event {
        event_type: "session.connected".parse().unwrap(),
        session_id: Some("session".parse().unwrap()),
        ..event(tenant, "connected")
    };
    let now = Utc::now();
    store.hand_over(&[&event(tenant, "sent"), &connected], now, lease(now), false).await.unwrap();
    store.pause_webhook(tenant, webhook.id, now).await.unwrap().unwrap();
    store.resume_webhook(tenant, webhook.id, None, now).await.unwrap().unwrap();
    let client = database.client().await;
    for statement in [
        "INSERT INTO deliveries (accepted_at, event_day, attempts, tenant_id, webhook_id, event_id)
            VALUES (now(), CURRENT_DATE, 1, $1, $2, 'sent')",
        "INSERT INTO delivery_attempts
            (started_at, duration_ms, attempt, event_day, tenant_id, webhook_id, event_id, event_type)
            VALUES (now(), 1, 1, CURRENT_DATE, $1, $2, 'sent', 'message.sent')",
        "INSERT INTO tenant_usage (events, requests, tenant_id, day)
            SELECT 1, 1, $1, CURRENT_DATE WHERE $2::uuid IS NOT NULL",
    ] {
        client.execute(statement, &[&tenant.0, &webhook.id.0]).await.unwrap();
    }
}

/// How many rows of a table a role sees, and how many of them are of other tenants than `tenant`; `None` where it may not look.
async fn seen(client: &Client, table: &str, tenant: TenantId) -> Option<(i64, i64)> {
    let column = if table == "tenants" { "id" } else { "tenant_id" };
    let query = match table {
        "webhook_health" => format!(
            "SELECT count(*), count(*) FILTER (WHERE w.tenant_id IS DISTINCT FROM '{tenant}')
            FROM webhook_health LEFT JOIN webhooks w ON w.id = webhook_id"
        ),
        _ => format!("SELECT count(*), count(*) FILTER (WHERE {column} <> '{tenant}') FROM {table}"),
    };
    match client.query_one(&query, &[]).await {
        Ok(row) => Some((row.get(0), row.get(1))),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => None,
        Err(error) => panic!("{table}: {error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_with_a_tenant_is_behind_the_wall_and_so_is_every_partition_to_come() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    assert_eq!(unprotected(&client).await, Vec::<String>::new(), "SELECT protect_tenant_table('…') them");
    let far = Utc::now().date_naive() + Days::new(40);
    let report = database.store_of("dispatcher").maintain_partitions(far, 2, 30).await.unwrap();
    assert!(report.created >= 6 && report.dropped >= 6, "{report:?}");
    assert_eq!(unprotected(&client).await, Vec::<String>::new());

    // A table that a migration adds, and a policy that somebody widens, are found.
    client.batch_execute("CREATE TABLE api_things (tenant_id uuid NOT NULL)").await.unwrap();
    client.batch_execute("ALTER POLICY one_tenant ON webhooks USING (true)").await.unwrap();
    assert_eq!(unprotected(&client).await, ["api_things", "webhooks"]);
    client.batch_execute("SELECT protect_tenant_table('api_things')").await.unwrap();
    assert_eq!(unprotected(&client).await, ["webhooks"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_sees_one_tenant_whatever_it_asks() {
    let database = TestDatabase::create().await;
    let (one, other) = (new_tenant(&database.store).await, new_tenant(&database.store).await);
    live(&database, one).await;
    live(&database, other).await;
    let owner = database.client().await;
    let rows = owner.query(TENANT_TABLES, &[]).await.unwrap();
    let tables: BTreeSet<&str> = rows.iter().map(|row| row.get(1)).collect();
    let gateway = database.client_of("gateway").await;
    let mut looked_at = 0;
    for table in tables {
        let (all, _) = seen(&owner, table, one).await.unwrap();
        let Some((unsaid, _)) = seen(&gateway, table, one).await else { continue };
        assert_eq!(unsaid, 0, "{table} shows rows to a transaction that names no tenant");
        gateway.batch_execute(&format!("BEGIN; SET LOCAL postrider.tenant = '{one}'")).await.unwrap();
        let (mine, not_mine) = seen(&gateway, table, one).await.unwrap();
        gateway.batch_execute("COMMIT").await.unwrap();
        assert_eq!(not_mine, 0, "{table} shows another tenant's rows");
        assert!(all == 0 || (mine > 0 && mine < all), "{table}: {mine} of {all}");
        assert_eq!(seen(&gateway, table, one).await.unwrap().0, 0, "{table} after the transaction");
        looked_at += usize::from(all > 0);
    }
    assert!(looked_at >= 9, "{looked_at} tables with rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_writes_nothing_of_another_tenants_and_goes_around_no_table() {
    let database = TestDatabase::create().await;
    let (one, other) = (new_tenant(&database.store).await, new_tenant(&database.store).await);
    live(&database, one).await;
    live(&database, other).await;
    let gateway = database.client_of("gateway").await;
    let confine = format!("SET LOCAL postrider.tenant = '{one}'");
    for (statement, refused) in [
        (
            format!(
                "INSERT INTO outbox (occurred_at, tenant_id, is_wanted, id, type, data) VALUES (now(), '{other}', true, 'x', 'x', '{{}}')"
            ),
            true,
        ),
        (format!("UPDATE webhooks SET tenant_id = '{other}'"), true),
        (format!("UPDATE webhooks SET url = 'x' WHERE tenant_id = '{other}'"), false),
        (format!("DELETE FROM webhooks WHERE tenant_id = '{other}'"), false),
        (format!("DELETE FROM deliveries WHERE tenant_id = '{other}'"), false),
        (format!("UPDATE tenants SET plan = 'unlimited' WHERE id = '{other}'"), false),
        (format!("SELECT FROM events_{}", Utc::now().format("%Y%m%d")), true),
        ("SELECT FROM events_default".to_owned(), true),
        ("ALTER TABLE webhooks NO FORCE ROW LEVEL SECURITY".to_owned(), true),
        ("SELECT create_partition('events', '2020-01-01')".to_owned(), true),
        ("SET ROLE postrider_dispatcher".to_owned(), true),
        ("SET row_security = off; SELECT FROM webhooks".to_owned(), true),
        ("UPDATE events SET type = 'x'".to_owned(), true),
        ("DELETE FROM tenants".to_owned(), true),
    ] {
        gateway.batch_execute("BEGIN").await.unwrap();
        gateway.batch_execute(&confine).await.unwrap();
        let done = gateway.batch_execute(&statement).await;
        gateway.batch_execute("COMMIT").await.unwrap();
        assert_eq!(done.is_err(), refused, "{statement}: {done:?}");
        if let Err(error) = done {
            assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}");
        }
    }
    let untouched = format!(
        "SELECT (SELECT count(*) FROM webhooks WHERE tenant_id = '{other}' AND url <> 'x')
            + (SELECT count(*) FROM deliveries WHERE tenant_id = '{other}')
            + (SELECT count(*) FROM tenants WHERE id = '{other}' AND plan = 'trial')"
    );
    assert_eq!(database.count(&untouched).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_owner_may_do_more_than_its_service_needs() {
    let database = TestDatabase::create().await;
    for (service, statement) in [
        ("dispatcher", "DELETE FROM webhooks"),
        ("dispatcher", "INSERT INTO plans (name, max_webhooks) VALUES ('x', 1)"),
        ("dispatcher", "UPDATE tenant_usage SET events = 0"),
        ("dispatcher", "DELETE FROM events"),
        ("dispatcher", "DELETE FROM delivery_attempts"),
        ("dispatcher", "DROP TABLE events_default"),
        ("dispatcher", "SELECT create_partition('webhooks', '2020-01-01')"),
        ("dispatcher", "SELECT drop_partition('webhooks', '2020-01-01')"),
        ("dispatcher", "CREATE TABLE mine ()"),
        ("reader", "UPDATE webhooks SET url = 'x'"),
        ("reader", "SELECT FROM usage_writers"),
        ("autoscaler", "SELECT event_id FROM deliveries"),
        ("autoscaler", "SELECT FROM webhooks"),
    ] {
        let done = database.client_of(service).await.batch_execute(statement).await;
        assert!(done.is_err(), "{service}: {statement}");
    }
    let roles = format!(
        "SELECT count(*) FROM pg_roles WHERE rolname IN ('{}')
            AND NOT (rolsuper OR rolbypassrls OR rolcanlogin OR rolcreaterole OR rolcreatedb OR rolreplication)",
        SERVICE_ROLES.join("', '")
    );
    assert_eq!(database.count(&roles).await, 4);
    let scaling = "SELECT count(*) FROM deliveries WHERE due_at < now()";
    database.client_of("autoscaler").await.query_one(scaling, &[]).await.unwrap();
}

/// A database whose owner is no superuser, as it should be anywhere.
pub(crate) async fn migrated_by_an_owner(database: &TestDatabase) -> (Store, String) {
    let name = database.url().rsplit_once('/').unwrap().1.to_owned();
    let owner = format!("owner_of_{name}");
    let admin = database.client().await;
    admin.batch_execute(&format!("CREATE ROLE {owner} LOGIN PASSWORD 'test'")).await.unwrap();
    admin.batch_execute(&format!("ALTER DATABASE {name} OWNER TO {owner}")).await.unwrap();
    let (_, place) = database.url().rsplit_once('@').unwrap();
    let keys = test_support::ENCRYPTION_KEYS.parse().unwrap();
    let url = format!("postgres://{owner}:test@{place}");
    let store = Store::new(&url, 2).unwrap().with_keys(keys);
    store.migrate(|_| ()).await.unwrap();
    (store, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_the_previous_version_go_on_as_the_owner_and_migrating_again_changes_nothing() {
    // Makes the roles of the server, if no test has yet.
    TestDatabase::create().await;
    let database = TestDatabase::create_empty().await;
    let (owner, _) = migrated_by_an_owner(&database).await;
    owner.maintain_partitions(Utc::now().date_naive(), 2, 30).await.unwrap();
    let (tenant, now) = (new_tenant(&owner).await, Utc::now());
    let webhook = webhook(&owner, tenant, GateSettings::default()).await;
    owner.hand_over(&[&event(tenant, "sent")], now, lease(now), false).await.unwrap();
    for store in [&owner, &database.store_of("gateway")] {
        assert_eq!(store.webhook(tenant, webhook.id).await.unwrap().unwrap().id, webhook.id);
        assert!(store.event(tenant, &"sent".parse().unwrap()).await.unwrap().is_some());
    }
    let policies = "SELECT string_agg(oid::text, ' ' ORDER BY oid) FROM pg_policy";
    let client = database.client().await;
    let before: String = client.query_one(policies, &[]).await.unwrap().get(0);
    assert_eq!(owner.migrate(|_| ()).await.unwrap(), 0);
    assert_eq!(owner.missing_roles().await.unwrap(), Vec::<String>::new());
    let after: String = client.query_one(policies, &[]).await.unwrap().get(0);
    assert_eq!(after, before);
    assert_eq!(unprotected(&client).await, Vec::<String>::new());
}
