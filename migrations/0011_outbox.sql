-- What happens to webhooks and deliveries themselves, on its way to the broker. A row is written with the change it tells of,
-- and goes when the broker has confirmed it. Update gateways before dispatchers: one of the previous version lists the types
-- below among the others.

CREATE TABLE outbox (
    sequence    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    occurred_at timestamptz NOT NULL,
    tenant_id   uuid NOT NULL,
    is_wanted   boolean NOT NULL, -- whether a webhook of the tenant's wants it
    id          text NOT NULL, -- of the event; the same however often the change is written or the row published
    type        text NOT NULL,
    data        text NOT NULL, -- JSON
    UNIQUE (tenant_id, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- One dispatcher at a time publishes. One row.
CREATE TABLE outbox_relay (
    is_only_row  boolean PRIMARY KEY DEFAULT true CHECK (is_only_row),
    leased_by    uuid NOT NULL,
    leased_until timestamptz NOT NULL
);

-- Whether delivery.failing was told, and delivery.recovered is still to be.
ALTER TABLE webhook_health ADD COLUMN is_announced boolean NOT NULL DEFAULT false;

INSERT INTO event_types (name, description) VALUES
    ('webhook.created', 'A webhook was created.'),
    ('webhook.updated', 'A webhook was changed by its owner.'),
    ('webhook.deleted', 'A webhook was deleted.'),
    ('webhook.paused', 'A webhook was paused: its deliveries wait.'),
    ('webhook.resumed', 'A paused webhook was resumed.'),
    ('webhook.disabled', 'A webhook was switched off by Postrider, because its receiver is gone or failed for days.'),
    ('webhook.secret_rotated', 'A webhook got a new secret.'),
    ('delivery.failing', 'Three attempts in a row to deliver to a webhook have failed.'),
    ('delivery.exhausted', 'The last attempt to deliver an event to a webhook has failed.'),
    ('delivery.recovered', 'A delivery to a webhook that was failing has succeeded.');
