-- A tenant's events in the order of their acceptance. The index costs each event 23 bytes where few tenants publish at a time, 53
-- where each event is of another one (of 1,500), and 0.1 KB of WAL (of 1.5). It is made at once for the partitions that are there:
-- hand-overs wait meanwhile, in the queue.

CREATE INDEX events_by_tenant ON events (tenant_id, batch_id);
