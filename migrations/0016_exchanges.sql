-- What was said on both sides of attempts that failed, and of tests, and finding what became of one event.

CREATE TABLE attempt_exchanges (
    started_at       timestamptz NOT NULL, -- as in delivery_attempts
    headers_cut      boolean NOT NULL,     -- whether the answer had more headers
    body_cut         boolean NOT NULL,     -- whether its body went on, or broke off
    response_status  smallint,             -- NULL: not even the head of an answer came
    tenant_id        uuid NOT NULL,
    webhook_id       uuid NOT NULL,
    event_id         text NOT NULL,
    request_headers  text NOT NULL,        -- JSON: names and values, in order
    response_headers text,
    response_body    bytea,
    explanation      text,                 -- why there is no complete answer
    UNIQUE (webhook_id, started_at, event_id)
) PARTITION BY RANGE (started_at);

CREATE TABLE attempt_exchanges_default PARTITION OF attempt_exchanges DEFAULT;

-- Every attempt but those that succeed at once, straight from their hand-over: these are found by the time of their event.
-- `trigger` is 'first' where the first attempt was made of a delivery that had waited as a row.
CREATE INDEX delivery_attempts_by_event ON delivery_attempts (tenant_id, event_id, webhook_id, started_at)
    WHERE error IS NOT NULL OR attempt > 1 OR trigger IS NOT NULL;
