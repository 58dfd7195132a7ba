-- What a plan allows, whether a tenant's subscription is in force, and what it has used.

ALTER TABLE plans -- NULL: no limit
    ADD COLUMN events_per_minute   integer CHECK (events_per_minute > 0),
    ADD COLUMN events_per_day      bigint CHECK (events_per_day > 0),
    ADD COLUMN requests_per_minute integer CHECK (requests_per_minute > 0);

UPDATE plans SET events_per_minute = 6000, requests_per_minute = 6000 WHERE name = 'trial';
INSERT INTO plans (name, max_webhooks) VALUES ('unlimited', 10000);

ALTER TABLE tenants
    ADD COLUMN status        text NOT NULL DEFAULT 'active' CHECK (status IN ('trial', 'active', 'suspended')),
    ADD COLUMN trial_ends_at timestamptz; -- NULL: a trial has no end

-- No foreign key: what a tenant uses can be counted before the tenant is written down.
CREATE TABLE tenant_usage (
    events    bigint NOT NULL,
    requests  bigint NOT NULL,
    tenant_id uuid NOT NULL,
    day       date NOT NULL, -- UTC
    PRIMARY KEY (tenant_id, day)
);

CREATE INDEX tenant_usage_by_day ON tenant_usage (day);

-- The last count that each gateway wrote. It is written in the transaction of the count: one that is sent again counts once.
CREATE TABLE usage_writers (
    gateway_id uuid PRIMARY KEY,
    sequence   bigint NOT NULL,
    written_at timestamptz NOT NULL
);
