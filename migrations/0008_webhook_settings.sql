-- What a webhook's requests are like, and what people and programs note about it. Headers can be credentials, so they are
-- encrypted as secrets are. Update dispatchers before gateways: one of the previous version knows nothing of these.

ALTER TABLE webhooks
    ADD COLUMN description     text,
    ADD COLUMN metadata        jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN headers         bytea,                          -- added to each request; NULL: none
    ADD COLUMN headers_key_id  text,                           -- of the key that `headers` is encrypted with
    ADD COLUMN timeout_ms      integer CHECK (timeout_ms > 0), -- of an attempt; NULL: the default
    ADD COLUMN retry_schedule  integer[],                      -- delays in seconds; NULL: the default
    ADD COLUMN is_thin         boolean NOT NULL DEFAULT false, -- bodies have a link in place of the data
    ADD COLUMN payload_version smallint NOT NULL DEFAULT 1,
    ADD CHECK ((headers IS NULL) = (headers_key_id IS NULL));
