-- Who did what, when and from where. A row is written in the transaction of what it tells of, and leaves after its time.

CREATE TABLE audit_log (
    sequence    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL,
    tenant_id   uuid NOT NULL, -- of who did it
    actor_kind  text NOT NULL, -- 'token' or 'api_key'
    actor       text NOT NULL, -- the subject of the token, or the id of the key
    action      text NOT NULL, -- such as 'webhook.updated'; before the dot is the kind of the resource
    resource_id text NOT NULL,
    changes     text NOT NULL, -- JSON: of each field that was changed, what it was and what it is; no secrets
    address     text,          -- of the client
    user_agent  text,
    request_id  text NOT NULL
);

CREATE INDEX audit_log_by_tenant ON audit_log (tenant_id, at, sequence);
CREATE INDEX audit_log_by_time ON audit_log (at);
