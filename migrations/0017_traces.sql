-- Where events belong among traces, for the attempts that come later. The previous version leaves it empty.

ALTER TABLE events ADD COLUMN trace bytea; -- trace id, span id, flags and tracestate; NULL: its trace is not kept
