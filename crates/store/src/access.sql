-- What each service may do: no more than its own queries need. Run by `postrider migrate` after the migrations, each time, once
-- there are the roles; so it only adds. A role of a previous version keeps what that needs until it is taken away by hand.
-- Nobody is granted anything on a partition: rows are reached through the table.

-- The gateway: one tenant at a time, which `protect_tenant_table` sees to,
GRANT SELECT ON schema_migrations, sessions, events TO postrider_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks, api_keys TO postrider_gateway;
GRANT SELECT, INSERT, UPDATE ON webhook_health, idempotency_keys, recoveries TO postrider_gateway;
GRANT SELECT, INSERT, DELETE ON deliveries TO postrider_gateway;
-- Not to change it, but since no row can be locked without: those that a dispatcher is writing are passed over.
GRANT UPDATE (is_resend) ON deliveries TO postrider_gateway;
GRANT SELECT, DELETE ON event_tags TO postrider_gateway;
GRANT UPDATE (body, session_id, ordering_key, tags, trace, erased_at) ON events TO postrider_gateway;
GRANT DELETE ON attempt_exchanges TO postrider_gateway;
GRANT SELECT, INSERT ON delivery_attempts, attempt_exchanges, outbox, audit_log TO postrider_gateway;
GRANT SELECT (id) ON open_batches TO postrider_gateway;
GRANT SELECT ON SEQUENCE open_batches_id_seq TO postrider_gateway;
-- and, where it says so, what operators manage and what plans limit.
GRANT SELECT, INSERT, UPDATE ON tenants TO postrider_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON plans, tenant_usage, usage_writers, event_types TO postrider_gateway;
GRANT SELECT, UPDATE ON event_types_version TO postrider_gateway;

-- The dispatcher: all tenants at once, without what only the gateway writes.
GRANT SELECT ON schema_migrations, event_types, event_types_version, events_default, delivery_attempts_default TO postrider_dispatcher;
GRANT SELECT, INSERT, UPDATE ON tenants, audit_progress, outbox_relay TO postrider_dispatcher;
GRANT SELECT, UPDATE ON webhooks TO postrider_dispatcher;
GRANT SELECT, INSERT ON events, delivery_attempts, attempt_exchanges TO postrider_dispatcher;
GRANT SELECT ON attempt_exchanges_default TO postrider_dispatcher;
GRANT SELECT, INSERT, DELETE ON outbox TO postrider_dispatcher;
GRANT SELECT, DELETE ON audit_log, idempotency_keys TO postrider_dispatcher;
GRANT SELECT, UPDATE, DELETE ON recoveries TO postrider_dispatcher;
GRANT SELECT, INSERT, DELETE ON event_tags TO postrider_dispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_health, sessions, open_batches, deliveries TO postrider_dispatcher;
GRANT EXECUTE ON FUNCTION create_partition, drop_partition TO postrider_dispatcher;

-- `postrider doctor` and `postrider audit`.
GRANT SELECT ON schema_migrations, tenants, event_types, webhooks, webhook_health, events, deliveries, delivery_attempts,
    open_batches, sessions, outbox, audit_progress TO postrider_reader;

-- What scales the dispatchers by how many deliveries are due.
GRANT SELECT (due_at) ON deliveries TO postrider_autoscaler;
