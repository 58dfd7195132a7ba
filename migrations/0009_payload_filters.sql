-- What a webhook wants of an event's data. Update dispatchers before gateways: one of the previous version delivers all.

ALTER TABLE webhooks ADD COLUMN filter text; -- JSON, as its owner wrote it; NULL: everything
