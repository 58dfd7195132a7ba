-- Deliveries that a tenant asks for again, and what made each attempt.

ALTER TABLE deliveries ADD COLUMN is_resend boolean NOT NULL DEFAULT false;

-- NULL: the first attempt of a delivery, or a retry, by its number.
ALTER TABLE delivery_attempts ADD COLUMN trigger text;
