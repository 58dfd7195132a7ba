-- Webhook secrets are encrypted from now on. SQL has no key, so those from before stay as they are until they are changed
-- or `postrider keys rotate` is run. Update dispatchers before gateways: one of the previous version signs with what it finds.

ALTER TABLE webhooks ADD COLUMN secret_key_id text; -- of the key that `secret` is encrypted with; NULL: not encrypted
