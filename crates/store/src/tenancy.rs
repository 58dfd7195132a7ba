//! Connections that see one tenant, or what concerns all of them, and say so to the database in each transaction.
//!
//! That is the second wall between tenants: row-level security shows the gateway nothing that its transaction does not say.
//! A query that is asked past this sees no tenant's rows at all. The dispatcher's role works over tenants, and needs none of it.

use deadpool_postgres::{Object, Transaction};
use domain::TenantId;
use futures_util::FutureExt as _;
use futures_util::future::join3;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use crate::{Store, StoreError};

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection each transaction of which says what it may see.
pub(crate) struct Confined {
    client: Object,
    /// The statement that says it.
    confine: String,
}

impl Store {
    /// A connection that sees what is this tenant's.
    pub(crate) async fn of_tenant(&self, tenant: TenantId) -> Result<Confined, StoreError> {
        Ok(Confined {
            client: self.connection().await?,
            confine: format!("SET LOCAL postrider.tenant = '{tenant}'"),
        })
    }

    /// A connection that sees what is managed and counted of all tenants, and nothing that is theirs but the audit log of who
    /// does it.
    pub(crate) async fn over_tenants(&self) -> Result<Confined, StoreError> {
        let mut confine = "SET LOCAL postrider.over_tenants = 'on'".to_owned();
        if let Some(origin) = &self.origin {
            confine += &format!("; SET LOCAL postrider.tenant = '{}'", origin.tenant);
        }
        Ok(Confined { client: self.connection().await?, confine })
    }
}

impl Confined {
    /// Asks in a transaction of its own, and in one round trip: everything is sent before anything is answered.
    pub(crate) async fn query(
        &self,
        query: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let statement = self.client.prepare_cached(query).await?;
        let begin = format!("BEGIN; {}", self.confine);
        // Who looks at what a connection did last sees the query's name.
        let commit = format!("{}\nCOMMIT", query.lines().next().unwrap_or_default());
        let (begun, rows, committed) = join3(
            self.client.batch_execute(&begin),
            self.client.query(&statement, parameters),
            self.client.batch_execute(&commit),
        )
        .await;
        begun?;
        let rows = rows?;
        committed?;
        Ok(rows)
    }

    /// The first row, if there is one.
    pub(crate) async fn query_opt(
        &self,
        query: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, Error> {
        Ok(self.query(query, parameters).await?.into_iter().next())
    }

    /// Begins a transaction of several statements. What confines it travels with the first of them.
    pub(crate) async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let transaction = self.client.transaction().await?;
        // Polled once, it is sent. Should it fail, so does what follows in the same transaction.
        let _ = transaction.batch_execute(&self.confine).now_or_never();
        Ok(transaction)
    }
}
