-- What the data of event types looks like, and which idempotency keys were used.

ALTER TABLE event_types
    ADD COLUMN schema  text, -- JSON Schema of the data; NULL: any data
    ADD COLUMN example text; -- the data of such an event, JSON; NULL: none

-- Counts the changes of the catalogue, so that who has read it knows whether there is anything new. One row.
CREATE TABLE event_types_version (
    is_only_row boolean PRIMARY KEY DEFAULT true CHECK (is_only_row),
    version     bigint NOT NULL DEFAULT 0
);

INSERT INTO event_types_version DEFAULT VALUES;

-- Written only by requests that have a key.
CREATE TABLE idempotency_keys (
    used_at     timestamptz NOT NULL,
    tenant_id   uuid NOT NULL,
    key         text NOT NULL,
    body_digest bytea NOT NULL,
    PRIMARY KEY (tenant_id, key)
);

CREATE INDEX idempotency_keys_by_time ON idempotency_keys (used_at);

UPDATE event_types t SET schema = s.schema, example = s.example FROM (VALUES
    ('message.received',
     '{"type":"object","required":["from"],"properties":{"from":{"type":"string","description":"Who sent it"},"text":{"type":"string"},"sessionId":{"type":"string","description":"The session that it came through"}}}',
     '{"sessionId":"session-1","from":"+15550100","text":"hi"}'),
    ('message.sent',
     '{"type":"object","required":["to"],"properties":{"to":{"type":"string","description":"Whom it was sent to"},"text":{"type":"string"},"sessionId":{"type":"string","description":"The session that it left through"}}}',
     '{"sessionId":"session-1","to":"+15550100","text":"hello"}'),
    ('session.connected',
     '{"type":"object","required":["sessionId"],"properties":{"sessionId":{"type":"string"}}}',
     '{"sessionId":"session-1"}'),
    ('session.disconnected',
     '{"type":"object","required":["sessionId"],"properties":{"sessionId":{"type":"string"},"reason":{"type":"string"}}}',
     '{"sessionId":"session-1","reason":"logged out"}'),
    ('campaign.completed',
     '{"type":"object","required":["campaignId"],"properties":{"campaignId":{"type":"string"},"sent":{"type":"integer","minimum":0,"description":"Messages that were sent"},"failed":{"type":"integer","minimum":0,"description":"Messages that could not be sent"}}}',
     '{"campaignId":"campaign-1","sent":100,"failed":0}'),
    ('delivery.failing',
     '{"type":"object","required":["webhookId","url","consecutiveFailures"],"properties":{"webhookId":{"type":"string","format":"uuid"},"url":{"type":"string"},"failingSince":{"type":["string","null"],"format":"date-time"},"consecutiveFailures":{"type":"integer","minimum":1}}}',
     '{"webhookId":"0190c0ff-ee7a-7b1c-8d2e-4f5061728394","url":"https://api.yourapp.com/webhooks","failingSince":"2026-05-30T10:00:00.000Z","consecutiveFailures":3}'),
    ('delivery.recovered',
     '{"type":"object","required":["webhookId","url"],"properties":{"webhookId":{"type":"string","format":"uuid"},"url":{"type":"string"},"failingSince":{"type":["string","null"],"format":"date-time"}}}',
     '{"webhookId":"0190c0ff-ee7a-7b1c-8d2e-4f5061728394","url":"https://api.yourapp.com/webhooks","failingSince":"2026-05-30T10:00:00.000Z"}'),
    ('delivery.exhausted',
     '{"type":"object","required":["webhookId","eventId","eventType","attempts"],"properties":{"webhookId":{"type":"string","format":"uuid"},"eventId":{"type":"string"},"eventType":{"type":"string"},"attempts":{"type":"integer","minimum":1},"statusCode":{"type":["integer","null"]},"error":{"type":["string","null"]}}}',
     '{"webhookId":"0190c0ff-ee7a-7b1c-8d2e-4f5061728394","eventId":"order-1042","eventType":"message.received","attempts":10,"statusCode":500,"error":"status"}')
) AS s (name, schema, example) WHERE t.name = s.name;

UPDATE event_types SET
    schema = '{"type":"object","required":["webhookId","url","events","isActive"],"properties":{"webhookId":{"type":"string","format":"uuid"},"url":{"type":"string"},"events":{"type":"array","items":{"type":"string"}},"isActive":{"type":"boolean"},"pausedAt":{"type":["string","null"],"format":"date-time"},"disabledReason":{"type":["string","null"]}}}',
    example = '{"webhookId":"0190c0ff-ee7a-7b1c-8d2e-4f5061728394","url":"https://api.yourapp.com/webhooks","events":["message.received"],"isActive":true,"pausedAt":null,"disabledReason":null}'
WHERE name LIKE 'webhook.%';
