-- Keys to the API that programs of tenants have. Of each key only a hash is kept.

CREATE TABLE api_keys (
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz, -- NULL: never
    last_used_at timestamptz, -- to the minute
    revoked_at   timestamptz,
    id           uuid PRIMARY KEY,
    tenant_id    uuid NOT NULL REFERENCES tenants (id),
    hash         bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32), -- SHA-256
    name         text NOT NULL,
    prefix       text NOT NULL, -- how the key begins, for people
    scopes       text NOT NULL, -- separated by spaces
    created_by   text NOT NULL  -- the subject of the token, or the id of the key, that made it
);

CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, id);
