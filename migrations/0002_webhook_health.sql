-- How each webhook's receiver has been doing, as the dispatchers tell each other. A webhook without a row is healthy.

CREATE TABLE webhook_health (
    webhook_id           uuid PRIMARY KEY REFERENCES webhooks ON DELETE CASCADE,
    failing_since        timestamptz,     -- NULL: the last attempt succeeded
    open_until           timestamptz,     -- NULL: requests flow
    updated_at           timestamptz NOT NULL,
    consecutive_failures integer NOT NULL,
    times_opened         integer NOT NULL
);

CREATE INDEX webhook_health_by_update ON webhook_health (updated_at);
