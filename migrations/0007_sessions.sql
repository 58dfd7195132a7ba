-- The last known state of each session, as the events session.connected and session.disconnected tell it.

CREATE TABLE sessions (
    at           timestamptz NOT NULL, -- when the event occurred that told it
    tenant_id    uuid NOT NULL REFERENCES tenants,
    is_connected boolean NOT NULL,
    session_id   text NOT NULL,
    PRIMARY KEY (tenant_id, session_id)
);

CREATE INDEX sessions_by_time ON sessions (at);
