-- How far the dispatchers have audited what they were given, and what came of it. One row.

CREATE TABLE audit_progress (
    is_only_row   boolean PRIMARY KEY DEFAULT true CHECK (is_only_row),
    audited_until timestamptz NOT NULL, -- events handed over before this
    leased_until  timestamptz NOT NULL, -- one dispatcher at a time is at it
    events        bigint NOT NULL DEFAULT 0,
    lost          bigint NOT NULL DEFAULT 0, -- deliveries found lost
    repaired      bigint NOT NULL DEFAULT 0  -- deliveries scheduled again
);
