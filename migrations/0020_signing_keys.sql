-- Webhooks can have their deliveries signed with a private key (Ed25519), whose public half anybody can read. Update dispatchers
-- before gateways: one of the previous version signs with the secret.

ALTER TABLE webhooks
    ADD COLUMN signature_scheme    text NOT NULL DEFAULT 'hmac-sha256' CHECK (signature_scheme IN ('hmac-sha256', 'ed25519')),
    ADD COLUMN signing_keys        bytea, -- encrypted, the newest first; NULL: none
    ADD COLUMN signing_keys_key_id text,  -- of the key
    ADD CHECK ((signing_keys IS NULL) = (signing_keys_key_id IS NULL)),
    ADD CHECK (signature_scheme <> 'ed25519' OR signing_keys IS NOT NULL);
