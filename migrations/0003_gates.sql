-- What a tenant sets of a webhook's gate, what the dispatchers share of it, and deliveries in the order of their events.

ALTER TABLE webhooks
    ADD COLUMN rate_limit  integer CHECK (rate_limit > 0),  -- deliveries a second, all dispatchers together
    ADD COLUMN concurrency integer CHECK (concurrency > 0), -- requests at a time, all dispatchers together
    ADD COLUMN drain_rate  integer CHECK (drain_rate > 0),  -- deliveries a second of a backlog; NULL: the default
    ADD COLUMN is_ordered  boolean NOT NULL DEFAULT false,
    ADD COLUMN paused_at   timestamptz,                     -- NULL: not paused
    -- Each of its deliveries goes through `deliveries`, where every dispatcher sees the same.
    ADD COLUMN is_metered  boolean NOT NULL GENERATED ALWAYS AS
        (rate_limit IS NOT NULL OR concurrency IS NOT NULL OR is_ordered OR paused_at IS NOT NULL) STORED;

CREATE INDEX webhooks_ordered ON webhooks (tenant_id) WHERE is_ordered;

ALTER TABLE webhook_health
    ADD COLUMN next_at     timestamptz NOT NULL DEFAULT 'epoch', -- when its rate allows the next delivery
    ADD COLUMN is_draining boolean NOT NULL DEFAULT false,       -- a backlog leaves at the drain rate
    ADD COLUMN key_after   text;                                 -- where the search for ordering keys goes on

ALTER TABLE events
    ADD COLUMN ordering_key text,
    ADD COLUMN position     integer NOT NULL DEFAULT 0; -- within its batch

-- Whether deliveries that must keep their order may still be missing in `deliveries`. Later ones wait for them.
ALTER TABLE open_batches ADD COLUMN is_unplaced boolean NOT NULL DEFAULT false;

ALTER TABLE deliveries
    ADD COLUMN sequence     bigint, -- accepted order: batch and position; NULL: in no order
    ADD COLUMN ordering_key text;   -- deliveries of one webhook that share it are made one after another

CREATE INDEX deliveries_in_order ON deliveries (webhook_id, ordering_key, sequence) WHERE ordering_key IS NOT NULL;
CREATE INDEX deliveries_leased ON deliveries (webhook_id, due_at) WHERE leased_by IS NOT NULL;
