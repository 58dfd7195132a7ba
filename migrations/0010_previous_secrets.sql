-- Secrets that were replaced and sign for a while yet. Update dispatchers before gateways: one of the previous version signs
-- with the newest alone.

ALTER TABLE webhooks
    ADD COLUMN previous_secrets        bytea, -- encrypted; NULL: none
    ADD COLUMN previous_secrets_key_id text,  -- of the key
    ADD CHECK ((previous_secrets IS NULL) = (previous_secrets_key_id IS NULL));
