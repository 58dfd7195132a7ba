use chrono::Utc;
use store::{Store, schema_fingerprint};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::{ENCRYPTION_KEYS, variable};

/// Any number that nothing else on the server uses as an advisory lock.
const TEMPLATE_LOCK: i64 = 0x7465_7374;

/// Another schema is another template: a server may live longer than a schema.
fn template_name() -> String {
    format!("postrider_template_{:016x}", schema_fingerprint())
}

/// The password of the users below. They exist on test servers alone.
const PASSWORD: &str = "test";
/// What services connect as: users with nothing but the rights of their service's role.
const SERVICE_USERS: [(&str, &str); 4] = [
    ("test_gateway", "postrider_gateway"),
    ("test_dispatcher", "postrider_dispatcher"),
    ("test_reader", "postrider_reader"),
    ("test_autoscaler", "postrider_autoscaler"),
];

/// A database of one test's own, copied from a template that has the schema.
pub struct TestDatabase {
    url: String,
    /// The owner's way to it: for what a test prepares and looks up, whichever service does that.
    pub store: Store,
}

impl TestDatabase {
    /// Makes one.
    pub async fn create() -> Self {
        let server = variable("POSTRIDER_TEST_DATABASE_URL");
        let admin = connect(&server).await;
        ensure_template(&admin, &server).await;
        let name = format!("test_{}", Uuid::now_v7().simple());
        admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {}", template_name())).await.unwrap();
        let url = with_database(&server, &name);
        Self { store: store_with_keys(&url, ENCRYPTION_KEYS), url }
    }

    /// One without a schema.
    pub async fn create_empty() -> Self {
        let server = variable("POSTRIDER_TEST_DATABASE_URL");
        let name = format!("test_{}", Uuid::now_v7().simple());
        let admin = connect(&server).await;
        create_service_users(&admin).await;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let url = with_database(&server, &name);
        Self { store: store_with_keys(&url, ENCRYPTION_KEYS), url }
    }

    /// Where it is, for its owner.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it is, for a service: `gateway`, `dispatcher`, `reader` or `autoscaler`.
    pub fn url_of(&self, service: &str) -> String {
        service_url(&self.url, service)
    }

    /// A service's way to it, with no more rights than the service has.
    pub fn store_of(&self, service: &str) -> Store {
        self.store_of_with_keys(service, ENCRYPTION_KEYS)
    }

    /// A service's way to it, with other encryption keys.
    pub fn store_of_with_keys(&self, service: &str, keys: &str) -> Store {
        store_with_keys(&self.url_of(service), keys)
    }

    /// Another way to it, with other encryption keys.
    pub fn store_with_keys(&self, keys: &str) -> Store {
        store_with_keys(&self.url, keys)
    }

    /// A connection for a test's own questions, as the owner.
    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }

    /// A connection with the rights of a service.
    pub async fn client_of(&self, service: &str) -> Client {
        connect(&self.url_of(service)).await
    }

    /// The one number a query gives.
    pub async fn count(&self, query: &str) -> i64 {
        self.client().await.query_one(query, &[]).await.unwrap().get(0)
    }
}

/// The same database, for a service: `gateway`, `dispatcher`, `reader` or `autoscaler`.
pub fn service_url(url: &str, service: &str) -> String {
    let (_, place) = url.rsplit_once('@').unwrap();
    format!("postgres://test_{service}:{PASSWORD}@{place}")
}

fn store_with_keys(url: &str, keys: &str) -> Store {
    Store::new(url, 4).unwrap().with_keys(keys.parse().unwrap())
}

/// Several test processes may want it at once: the lock lets one make it.
async fn ensure_template(admin: &Client, server: &str) {
    let template = template_name();
    admin.execute("SELECT pg_advisory_lock($1)", &[&TEMPLATE_LOCK]).await.unwrap();
    let exists = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)";
    if !admin.query_one(exists, &[&template]).await.unwrap().get::<_, bool>(0) {
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {template}")).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {template}")).await.unwrap();
        create_service_users(admin).await;
        let store = Store::new(&with_database(server, &template), 1).unwrap();
        store.migrate(|_| ()).await.unwrap();
        store.maintain_partitions(Utc::now().date_naive(), 2, 30).await.unwrap();
        admin.batch_execute(&format!("ALTER DATABASE {template} IS_TEMPLATE true")).await.unwrap();
        drop(store);
        let disconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        admin.execute(disconnect, &[&template]).await.unwrap();
    }
    admin.execute("SELECT pg_advisory_unlock($1)", &[&TEMPLATE_LOCK]).await.unwrap();
}

/// Users belong to the server. Test runs of several versions may make them at once.
async fn create_service_users(admin: &Client) {
    for (user, role) in SERVICE_USERS {
        for create in
            [format!("ROLE {role}"), format!("ROLE {user} LOGIN PASSWORD '{PASSWORD}' IN ROLE {role}")]
        {
            let unless_there = format!(
                "DO $$ BEGIN CREATE {create}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
            );
            admin.batch_execute(&unless_there).await.unwrap();
        }
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The same server, another database: the last part of the URL's path.
fn with_database(url: &str, database: &str) -> String {
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{database}")
}
