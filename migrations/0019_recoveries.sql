-- Jobs that make deliveries again: those that failed, or those that were never made. A dispatcher does them step by step; what a
-- step schedules is written in the transaction in which the job moves on.

CREATE TABLE recoveries (
    created_at     timestamptz NOT NULL,
    range_from     timestamptz NOT NULL,
    range_to       timestamptz NOT NULL,
    next_at        timestamptz NOT NULL,                 -- when its rate allows the next step
    leased_until   timestamptz NOT NULL DEFAULT 'epoch', -- one dispatcher at a time makes a step
    ended_at       timestamptz,
    position_at    timestamptz NOT NULL,                 -- failed: attempts up to here are done with
    position_batch bigint NOT NULL DEFAULT 0,            -- missing: events up to here are done with
    scheduled      bigint NOT NULL DEFAULT 0,            -- deliveries made due
    skipped        bigint NOT NULL DEFAULT 0,            -- deliveries that needed it no more, or were not finished
    estimated      bigint NOT NULL,                      -- deliveries to be made, when it was asked for
    id             uuid PRIMARY KEY,
    tenant_id      uuid NOT NULL,
    webhook_id     uuid NOT NULL,
    leased_by      uuid,
    rate           integer NOT NULL CHECK (rate > 0),    -- deliveries a second
    position_in_batch integer NOT NULL DEFAULT -1,
    is_estimate_exact boolean NOT NULL,                  -- no: there are that many at least
    kind           text NOT NULL CHECK (kind IN ('failed', 'missing')),
    state          text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'cancelled', 'failed')),
    reason         text,                                 -- why it failed
    event_type     text,                                 -- NULL: every type
    position_event text NOT NULL DEFAULT ''
);

CREATE INDEX recoveries_running ON recoveries (next_at) WHERE state = 'running';
CREATE UNIQUE INDEX recoveries_one_at_a_time ON recoveries (webhook_id) WHERE state = 'running';
CREATE INDEX recoveries_by_webhook ON recoveries (tenant_id, webhook_id, id);
