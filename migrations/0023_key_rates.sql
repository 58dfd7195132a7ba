-- Keys can have a limit of their own.

ALTER TABLE api_keys
    ADD COLUMN requests_per_minute integer CHECK (requests_per_minute > 0); -- NULL: only what the plan allows
