use chrono::{TimeDelta, Utc};
use domain::{GateSettings, TenantId};
use postrider_store::{Actor, AuditLogFilter, Origin};
use test_support::TestDatabase;

use crate::{new_tenant, webhook};

fn origin(tenant: TenantId, at: chrono::DateTime<Utc>) -> Origin {
    let actor = Actor::ApiKey("k1".to_owned());
    Origin { tenant, actor, address: None, user_agent: None, request_id: "r1".to_owned(), at }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_on_nobodys_behalf_is_not_in_the_audit_log() {
    let database = TestDatabase::create().await;
    let tenant = new_tenant(&database.store).await;
    webhook(&database.store, tenant, GateSettings::default()).await;
    let page = database.store.audit_log(tenant, &AuditLogFilter::default(), 10, None).await.unwrap();
    assert!(page.entries.is_empty() && page.next.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_leave_the_audit_log_when_their_time_is_over() {
    let database = TestDatabase::create().await;
    let store = &database.store;
    let tenant = new_tenant(store).await;
    let now = Utc::now();
    for days in [0, 1, 2, 3] {
        let then = store.on_behalf_of(origin(tenant, now - TimeDelta::days(days)));
        then.log_use("webhook.secret_read", &format!("{days}")).await.unwrap();
    }
    assert_eq!(store.forget_audit_log(now - TimeDelta::hours(36)).await.unwrap(), 2);
    let page = store.audit_log(tenant, &AuditLogFilter::default(), 10, None).await.unwrap();
    let left: Vec<_> = page.entries.iter().map(|entry| entry.resource_id.as_str()).collect();
    assert_eq!(left, ["0", "1"]);
    assert_eq!(page.entries[0].origin.actor_kind, "api_key");
}
