-- Rows of these tables come and go all the time. To give the space of those that went back to the system, a vacuum locks
-- the table against everybody, and results waited 23 ms to be written; the space is soon used again.

ALTER TABLE deliveries SET (vacuum_truncate = false);
ALTER TABLE open_batches SET (vacuum_truncate = false);
ALTER TABLE outbox SET (vacuum_truncate = false);
ALTER TABLE idempotency_keys SET (vacuum_truncate = false);
