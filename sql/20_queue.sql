-- The queue: an insert-only message, a narrow row while it is pending, a log of events, and leases.

CREATE TABLE mail.message (
    id              bigint PRIMARY KEY,
    queue_id        integer NOT NULL,
    priority        integer NOT NULL,
    enqueued_at     timestamptz NOT NULL,
    send_at         timestamptz,
    expires_at      timestamptz,
    enqueued_by     text NOT NULL,
    envelope_from   text NOT NULL,
    recipients      text[] NOT NULL,
    subject         text,
    message_id      text,
    tags            text[],
    metadata        jsonb,
    idempotency_key text,
    ordering_key    text,
    supersede_key   text,
    content         text,
    template        jsonb,
    files           integer
);
-- Up to a page, a row stays in one piece and uncompressed: cheaper to write and to read than TOAST.
ALTER TABLE mail.message SET (toast_tuple_target = 8160);
COMMENT ON TABLE mail.message IS 'Messages as accepted; insert-only. See the view mail.messages.';
COMMENT ON COLUMN mail.message.id IS 'Time, node and a sequence: see mail.id_seq.';
COMMENT ON COLUMN mail.message.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.message.priority IS 'Higher goes first.';
COMMENT ON COLUMN mail.message.enqueued_at IS 'Time of the call.';
COMMENT ON COLUMN mail.message.send_at IS 'Not before.';
COMMENT ON COLUMN mail.message.expires_at IS 'Not after.';
COMMENT ON COLUMN mail.message.enqueued_by IS 'Role that enqueued it.';
COMMENT ON COLUMN mail.message.envelope_from IS 'Reverse path; empty: the null sender.';
COMMENT ON COLUMN mail.message.recipients IS 'Envelope recipients.';
COMMENT ON COLUMN mail.message.subject IS 'Subject.';
COMMENT ON COLUMN mail.message.message_id IS 'The Message-ID header, the same on every attempt.';
COMMENT ON COLUMN mail.message.tags IS 'Tags; never sent.';
COMMENT ON COLUMN mail.message.metadata IS 'Metadata; never sent.';
COMMENT ON COLUMN mail.message.idempotency_key IS 'As given.';
COMMENT ON COLUMN mail.message.ordering_key IS 'As given.';
COMMENT ON COLUMN mail.message.supersede_key IS 'As given.';
COMMENT ON COLUMN mail.message.content IS 'The message in its JSON form, files left out; NULL once retain_body is over.';
COMMENT ON COLUMN mail.message.template IS 'The template that it is made from: name, locale (as asked for), and where it was rendered when it was enqueued, version. NULL: none.';
COMMENT ON COLUMN mail.message.files IS 'How many files go with it; NULL: none.';

CREATE TABLE mail.pending (
    id            bigint PRIMARY KEY,
    due_at        timestamptz NOT NULL,
    queue_id      integer NOT NULL,
    rank          integer NOT NULL,
    size          integer NOT NULL,
    attempts      integer NOT NULL DEFAULT 0,
    ordering_hash bigint,
    ordering_seq  bigint,
    expires_at    timestamptz,
    waits_for     integer
) WITH (
    -- Every row is deleted soon: vacuum for the dead, at once, and never for having been inserted.
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 0.5
);
CREATE INDEX pending_claim_idx ON mail.pending (queue_id, rank, due_at, id);
CREATE INDEX pending_ordering_idx ON mail.pending (ordering_hash, ordering_seq) WHERE ordering_hash IS NOT NULL;
CREATE INDEX pending_expires_at_idx ON mail.pending (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX pending_waits_for_idx ON mail.pending (queue_id, waits_for, rank, due_at, id) WHERE waits_for IS NOT NULL;
COMMENT ON TABLE mail.pending IS 'One narrow row for each message that is not finished; deleted at the end. A row in a live lease is in flight.';
COMMENT ON COLUMN mail.pending.id IS 'The message.';
COMMENT ON COLUMN mail.pending.due_at IS 'When it may next be claimed.';
COMMENT ON COLUMN mail.pending.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.pending.rank IS 'Negated priority, so that one ascending index gives the order.';
COMMENT ON COLUMN mail.pending.size IS 'Bytes of its content and of its files as they are sent.';
COMMENT ON COLUMN mail.pending.attempts IS 'Attempts that ended.';
COMMENT ON COLUMN mail.pending.ordering_hash IS 'Hash of queue and ordering_key.';
COMMENT ON COLUMN mail.pending.ordering_seq IS 'Place within that key.';
COMMENT ON COLUMN mail.pending.expires_at IS 'Not after.';
COMMENT ON COLUMN mail.pending.waits_for IS 'Put off, untried: a change of relays or limits makes it due. Hash of the recipient domain that may ask for it before; 0: none may. NULL: not put off since its last attempt.';

CREATE FUNCTION mail._touch() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'touch_wrapper';
COMMENT ON FUNCTION mail._touch() IS 'Marks the transaction: at its end the worker and waiting claimers are woken, and NOTIFY is sent where the queue wants it.';
-- A BEFORE row trigger costs a tenth of an AFTER statement trigger with its transition table, and no path that
-- makes a message claimable can forget it.
CREATE TRIGGER pending_touch BEFORE INSERT OR UPDATE ON mail.pending
    FOR EACH ROW EXECUTE FUNCTION mail._touch();

CREATE TABLE mail.lease (
    token       bigint PRIMARY KEY,
    queue_id    integer NOT NULL,
    holder      integer,
    claimed_at  timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    ids         bigint[] NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
-- Claims read what others have in flight, not what all had since the last vacuum: the worker what was claimed from outside,
-- where that is anything, and those outside what is in flight of their queue.
CREATE INDEX lease_holder_idx ON mail.lease (holder, queue_id, lease_until);
COMMENT ON TABLE mail.lease IS 'What is in flight: one row for each batch that the worker claimed, one for each message claimed from outside.';
COMMENT ON COLUMN mail.lease.token IS 'Fence: only who knows it may settle its messages.';
COMMENT ON COLUMN mail.lease.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.lease.holder IS 'Process id of the worker that holds it; NULL: claimed from outside.';
COMMENT ON COLUMN mail.lease.claimed_at IS 'When.';
COMMENT ON COLUMN mail.lease.lease_until IS 'When it ends by itself.';
COMMENT ON COLUMN mail.lease.ids IS 'Its messages; those that are finished have no row in mail.pending any more.';

CREATE TABLE mail.event (
    id         bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    message_id bigint NOT NULL,
    queue_id   integer NOT NULL,
    attempt    integer NOT NULL,
    code       integer,
    kind       text NOT NULL,
    state      text CHECK (state IN ('sent', 'failed', 'uncertain', 'cancelled', 'expired', 'suppressed')),
    recipient  text,
    relay      text,
    phase      text,
    status     text,
    text       text,
    duration   interval,
    tls        text,
    detail     jsonb
);
CREATE INDEX event_message_id_idx ON mail.event (message_id, id);
COMMENT ON TABLE mail.event IS 'Append-only log. See the view mail.events.';
COMMENT ON COLUMN mail.event.id IS 'Ascending number.';
COMMENT ON COLUMN mail.event.at IS 'When.';
COMMENT ON COLUMN mail.event.message_id IS 'The message.';
COMMENT ON COLUMN mail.event.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.event.attempt IS 'Which attempt, from 1; in events released, retried, cancelled and expired: how many were counted so far, from 0.';
COMMENT ON COLUMN mail.event.code IS 'Reply code. RFC 5321 section 4.2.';
COMMENT ON COLUMN mail.event.kind IS 'sent, deferred, failed, uncertain, held, released, interrupted, lease_ended, retried, dismissed, cancelled, expired or suppressed.';
COMMENT ON COLUMN mail.event.state IS 'The state that the message ended in with this event; NULL: it went on.';
COMMENT ON COLUMN mail.event.recipient IS 'The recipient; NULL: the whole message.';
COMMENT ON COLUMN mail.event.relay IS 'The relay.';
COMMENT ON COLUMN mail.event.phase IS 'Where in the SMTP session it was decided.';
COMMENT ON COLUMN mail.event.status IS 'Enhanced status code. RFC 3463.';
COMMENT ON COLUMN mail.event.text IS 'The reply, or what happened, in words.';
COMMENT ON COLUMN mail.event.duration IS 'How long the attempt took.';
COMMENT ON COLUMN mail.event.tls IS 'TLS version and cipher suite; NULL: none.';
COMMENT ON COLUMN mail.event.detail IS 'Further facts, by kind.';

CREATE TABLE mail.dead_letter (
    id       bigint PRIMARY KEY,
    queue_id integer NOT NULL,
    state    text NOT NULL CHECK (state IN ('failed', 'uncertain')),
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL
);
CREATE INDEX dead_letter_queue_id_at_idx ON mail.dead_letter (queue_id, at);
COMMENT ON TABLE mail.dead_letter IS 'Messages that a person should look at. See the view mail.dead_letters.';
COMMENT ON COLUMN mail.dead_letter.id IS 'The message.';
COMMENT ON COLUMN mail.dead_letter.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.dead_letter.state IS 'failed or uncertain.';
COMMENT ON COLUMN mail.dead_letter.at IS 'When it got here.';
COMMENT ON COLUMN mail.dead_letter.attempts IS 'Attempts that were made.';

CREATE TABLE mail.idempotency (
    queue_id   integer NOT NULL,
    key        text NOT NULL,
    message_id bigint NOT NULL,
    until      timestamptz NOT NULL,
    PRIMARY KEY (queue_id, key)
);
CREATE INDEX idempotency_until_idx ON mail.idempotency (until);
COMMENT ON TABLE mail.idempotency IS 'Idempotency keys within their window.';
COMMENT ON COLUMN mail.idempotency.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.idempotency.key IS 'The key.';
COMMENT ON COLUMN mail.idempotency.message_id IS 'The message that it stands for.';
COMMENT ON COLUMN mail.idempotency.until IS 'End of its window.';

-- A table of its own: an index on mail.message, partial or not, would cost every message something. One row for each key,
-- so that calls with the same key wait for each other, and fail where an old snapshot cannot show them.
CREATE TABLE mail.supersede (
    queue_id   integer NOT NULL,
    key        text NOT NULL,
    message_id bigint NOT NULL,
    earlier    bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (queue_id, key)
);
CREATE INDEX supersede_message_id_idx ON mail.supersede (message_id);
COMMENT ON TABLE mail.supersede IS 'The last message of each supersede_key.';
COMMENT ON COLUMN mail.supersede.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.supersede.key IS 'The key.';
COMMENT ON COLUMN mail.supersede.message_id IS 'The message.';
COMMENT ON COLUMN mail.supersede.earlier IS 'Messages with the same key before it that were in flight then, so that they may still wait for another attempt.';

CREATE TABLE mail.capture (
    id         bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    message_id bigint NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    recipients text[] NOT NULL,
    mime       bytea NOT NULL
);
CREATE INDEX capture_message_id_idx ON mail.capture (message_id);
COMMENT ON TABLE mail.capture IS 'What queues with transport capture delivered. See the view mail.captured.';
COMMENT ON COLUMN mail.capture.id IS 'Ascending number.';
COMMENT ON COLUMN mail.capture.message_id IS 'The message.';
COMMENT ON COLUMN mail.capture.at IS 'When.';
COMMENT ON COLUMN mail.capture.recipients IS 'Envelope recipients.';
COMMENT ON COLUMN mail.capture.mime IS 'The complete message as it would have been sent. RFC 5322.';
