-- Events that are delivered later, and those of a person that can be found by a tag and erased. Update dispatchers before
-- gateways: one of the previous version puts what is to wait or has tags into the dead letters.

ALTER TABLE events
    ADD COLUMN deliver_at timestamptz, -- not before; NULL: at once
    ADD COLUMN tags       text[],      -- NULL: none
    ADD COLUMN erased_at  timestamptz; -- when its data was erased; NULL: it is there

-- Only of events that have tags.
CREATE TABLE event_tags (
    tenant_id uuid NOT NULL,
    event_day date NOT NULL,
    tag       text NOT NULL,
    event_id  text NOT NULL,
    PRIMARY KEY (tenant_id, tag, event_day, event_id)
);

CREATE INDEX event_tags_by_day ON event_tags (event_day);
