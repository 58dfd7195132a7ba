-- Tenants, event types, webhooks, events, deliveries, attempts.
--
-- A migration that has been released is never edited; a new one is added. Each runs in one transaction.

CREATE TABLE plans (
    name         text PRIMARY KEY,
    max_webhooks integer NOT NULL CHECK (max_webhooks >= 0)
);

INSERT INTO plans (name, max_webhooks) VALUES ('trial', 1000);

CREATE TABLE tenants (
    id               uuid PRIMARY KEY,
    plan             text NOT NULL DEFAULT 'trial' REFERENCES plans,
    -- Counts the changes to the tenant's webhooks, so that a dispatcher knows when its copy of them is stale.
    webhooks_version bigint NOT NULL DEFAULT 0,
    created_at       timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE event_types (
    name        text PRIMARY KEY,
    position    integer GENERATED ALWAYS AS IDENTITY, -- the order of the public list
    description text NOT NULL
);

INSERT INTO event_types (name, description) VALUES
    ('message.received', 'A message arrived in one of the tenant''s sessions.'),
    ('message.sent', 'A message left one of the tenant''s sessions.'),
    ('session.connected', 'A session came online.'),
    ('session.disconnected', 'A session went offline.'),
    ('campaign.completed', 'Every message of a campaign was handled.');

CREATE TABLE webhooks (
    id              uuid PRIMARY KEY,
    tenant_id       uuid NOT NULL REFERENCES tenants,
    url             text NOT NULL,
    events          text[] NOT NULL CHECK (cardinality(events) > 0),
    session_ids     text[],
    secret          bytea NOT NULL,
    is_active       boolean NOT NULL,
    disabled_reason text,
    disabled_at     timestamptz,
    -- A digest of URL and events. Both together are too long for an index.
    duplicate_key   text NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    CONSTRAINT webhooks_duplicate UNIQUE (tenant_id, duplicate_key)
);

CREATE INDEX webhooks_by_tenant ON webhooks (tenant_id, created_at, id);

-- An event is stored when a dispatcher takes it over from the broker. Columns are ordered so that none is padded.
CREATE TABLE events (
    batch_id    bigint NOT NULL,      -- the hand-over it came in
    occurred_at timestamptz NOT NULL, -- as its publisher says
    accepted_at timestamptz NOT NULL, -- when it was handed over
    day         date NOT NULL,        -- of accepted_at, UTC: the partition
    tenant_id   uuid NOT NULL,
    id          text NOT NULL,
    type        text NOT NULL,
    session_id  text,
    body        bytea NOT NULL,       -- the exact bytes that are signed and sent
    PRIMARY KEY (tenant_id, id, day)
) PARTITION BY RANGE (day);

CREATE INDEX events_by_batch ON events (batch_id);
CREATE TABLE events_default PARTITION OF events DEFAULT;

-- A hand-over whose deliveries are not all settled (recorded, or parked in `deliveries`) yet. The lease says which
-- dispatcher is at it; an expired one is taken over by any other.
CREATE TABLE open_batches (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    day          date NOT NULL, -- of its events
    leased_by    uuid NOT NULL,
    leased_until timestamptz NOT NULL
);

CREATE INDEX open_batches_by_lease ON open_batches (leased_until);

-- Unfinished deliveries only: those to retry, those that wait for their webhook's gate, and slow ones under way.
-- A lease is a `due_at` in the future with its holder in `leased_by`: once it has passed, the delivery is due again.
CREATE TABLE deliveries (
    accepted_at timestamptz NOT NULL, -- of the event
    due_at      timestamptz,          -- when it may be taken; NULL: when its webhook's gate lets it through
    event_day   date NOT NULL,
    attempts    integer NOT NULL,     -- made so far
    tenant_id   uuid NOT NULL,
    webhook_id  uuid NOT NULL,
    leased_by   uuid,
    event_id    text NOT NULL,
    PRIMARY KEY (webhook_id, event_id, event_day)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX deliveries_due ON deliveries (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_waiting ON deliveries (webhook_id, accepted_at) WHERE due_at IS NULL;

-- The history: one row for each HTTP request made, and one for a delivery that ended without another request.
CREATE TABLE delivery_attempts (
    started_at      timestamptz NOT NULL,
    next_attempt_at timestamptz,      -- NULL: this was the last one
    duration_ms     integer NOT NULL,
    attempt         integer NOT NULL, -- 1 is the first
    event_day       date NOT NULL,
    status_code     smallint,         -- NULL: no complete answer
    tenant_id       uuid NOT NULL,
    webhook_id      uuid NOT NULL,
    event_id        text NOT NULL,
    event_type      text NOT NULL,
    error           text,             -- NULL: delivered
    UNIQUE (webhook_id, started_at, event_id)
) PARTITION BY RANGE (started_at);

CREATE TABLE delivery_attempts_default PARTITION OF delivery_attempts DEFAULT;

-- Creates the partition of `parent` for one day unless it is there, and moves rows of that day that already fell into
-- the default partition. Says whether it did anything.
CREATE FUNCTION create_partition(parent text, of_day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    partition text := format('%s_%s', parent, to_char(of_day, 'YYYYMMDD'));
    from_value text;
    to_value text;
    partition_column text;
BEGIN
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN false;
    END IF;
    IF parent = 'events' THEN
        partition_column := 'day';
        from_value := of_day::text;
        to_value := (of_day + 1)::text;
    ELSE
        partition_column := 'started_at';
        from_value := of_day::text || ' 00:00:00+00';
        to_value := (of_day + 1)::text || ' 00:00:00+00';
    END IF;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
    EXECUTE format(
        'WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
        parent || '_default', partition_column, from_value, partition_column, to_value, partition);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        parent, partition, from_value, to_value);
    RETURN true;
END
$$;
