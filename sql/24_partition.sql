-- Partitions: messages, what is kept of them once their bodies are let go of, and events are each written into one table
-- of several, by turns, and a table in which everything is over is emptied as a whole. They are there from the start and
-- belong to the extension, so that nothing is ever created, attached or detached: no lock on what everybody reads and
-- writes, and dumps that hold what is in them. They inherit, so that what reads mail.message and mail.event reads all; in
-- which of them a row is makes no difference to it.

CREATE TABLE mail.partition (
    name      text PRIMARY KEY,
    holds     text NOT NULL CHECK (holds IN ('message', 'record', 'event')),
    turn      integer,
    current   boolean NOT NULL DEFAULT false CHECK (NOT current OR turn IS NOT NULL),
    since     timestamptz,
    clearing  boolean NOT NULL DEFAULT false,
    behind    bigint NOT NULL DEFAULT 0,
    rules     text,
    cleared   xid8,
    looked_at timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE UNIQUE INDEX partition_current_idx ON mail.partition (holds) WHERE current;
COMMENT ON TABLE mail.partition IS 'Tables that hold messages and events, and how far the worker has come in letting go of what is over. Not dumped: what is in a table tells when it is over.';
COMMENT ON COLUMN mail.partition.name IS 'The table.';
COMMENT ON COLUMN mail.partition.holds IS 'message: messages with their bodies; record: messages without; event: events.';
COMMENT ON COLUMN mail.partition.turn IS 'Its place among those that are written by turns; NULL: the table that they inherit from, which holds what stays longer than the rest, and what was there before there were partitions.';
COMMENT ON COLUMN mail.partition.current IS 'Whether it is the one that is written now.';
COMMENT ON COLUMN mail.partition.since IS 'Since when; of one that is not: when it was last written out of turn, as by a restore.';
COMMENT ON COLUMN mail.partition.clearing IS 'Whether it is gone through to be emptied.';
COMMENT ON COLUMN mail.partition.behind IS 'How far it was gone through: the id of a message; once that is done (cleared), of the newest that was in it.';
COMMENT ON COLUMN mail.partition.rules IS 'Digest of what the queues said about retention when this pass began: it begins anew when they say something else.';
COMMENT ON COLUMN mail.partition.cleared IS 'The transaction that moved the last of what has to stay; it is emptied once no snapshot is older.';
COMMENT ON COLUMN mail.partition.looked_at IS 'When it was gone through to its end.';

CREATE FUNCTION mail._written() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'written_wrapper';
COMMENT ON FUNCTION mail._written() IS 'BEFORE INSERT on partitions: one that is written though it is not its turn, as by a restore, is gone through from its beginning before it is emptied.';
CREATE FUNCTION mail._event_goes() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'event_goes_wrapper';
COMMENT ON FUNCTION mail._event_goes() IS 'BEFORE INSERT on mail.event: the row goes into the partition whose turn it is.';

DO $$
DECLARE
    parent text;
    part   text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['message', 'event'] LOOP
        INSERT INTO mail.partition (name, holds) VALUES (parent, parent);
    END LOOP;
    FOR parent, part IN
        SELECT CASE h WHEN 'record' THEN 'message' ELSE h END, h FROM unnest(ARRAY['message', 'record', 'event']) WITH ORDINALITY AS u (h, n) ORDER BY n
    LOOP
        FOR turn IN 1..6 LOOP
            INSERT INTO mail.partition (name, holds, turn, current, since)
            VALUES (format('%s_%s', part, turn), part, turn, turn = 1, CASE turn WHEN 1 THEN clock_timestamp() END);
            EXECUTE format('CREATE TABLE mail.%1$I (PRIMARY KEY (id)) INHERITS (mail.%2$I);
                            COMMENT ON TABLE mail.%1$I IS %3$L;
                            CREATE TRIGGER %4$I BEFORE INSERT ON mail.%1$I FOR EACH STATEMENT EXECUTE FUNCTION mail._written();
                            CREATE TRIGGER %5$I BEFORE TRUNCATE ON mail.%1$I FOR EACH STATEMENT EXECUTE FUNCTION mail._stays(%6$L)',
                           format('%s_%s', part, turn), parent,
                           format('Partition %s of mail.%s%s. Read that.', turn, parent, CASE part WHEN 'record' THEN ': messages whose bodies are no longer kept' ELSE '' END),
                           format('%s_%s_written', part, turn), format('%s_%s_stays', part, turn),
                           'The worker empties it when everything in it is over. mail.purge(queue) cancels what waits; with finished => true it deletes the records, too.');
            IF parent = 'event' THEN
                EXECUTE format('CREATE INDEX %2$I ON mail.%1$I (message_id, id)', format('%s_%s', part, turn), format('%s_%s_message_id_idx', part, turn));
            ELSE
                EXECUTE format('ALTER TABLE mail.%I SET (toast_tuple_target = 8160)', format('%s_%s', part, turn));
            END IF;
            EXECUTE format('ALTER TABLE mail.%1$I ENABLE ROW LEVEL SECURITY; CREATE POLICY %2$I ON mail.%1$I TO mail_worker USING (true)',
                           format('%s_%s', part, turn), format('%s_%s_worker', part, turn));
            EXECUTE format('ANALYZE mail.%I', format('%s_%s', part, turn)); -- else it is taken for one of ten pages
        END LOOP;
    END LOOP;
    FOR part IN
        SELECT format('COMMENT ON COLUMN %s.%I IS %L', i.inhrelid::regclass, a.attname, col_description(i.inhparent, a.attnum))
        FROM pg_inherits i JOIN pg_attribute a ON a.attrelid = i.inhparent
        WHERE i.inhparent IN ('mail.message'::regclass, 'mail.event'::regclass) AND a.attnum > 0 AND NOT a.attisdropped
    LOOP
        EXECUTE part;
    END LOOP;
END
$$;
CREATE TRIGGER event_goes BEFORE INSERT ON mail.event
    FOR EACH ROW EXECUTE FUNCTION mail._event_goes();
CREATE TRIGGER partition_changed AFTER UPDATE OF current ON mail.partition
    FOR EACH STATEMENT EXECUTE FUNCTION mail._config_changed();

CREATE FUNCTION mail._by_turns(holds text) RETURNS boolean
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'take_turns_wrapper';
COMMENT ON FUNCTION mail._by_turns(text) IS 'Whether what such partitions hold goes into them: not where triggers or indexes of somebody''s own on the table concern every row.';

CREATE FUNCTION mail._keep(holds text) RETURNS interval
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN bool_and(k.keep IS NOT NULL) THEN max(k.keep) END
    FROM (SELECT CASE holds WHEN 'message' THEN least(q.retain_body, q.retain_sent) ELSE q.retain_sent END AS keep FROM mail.queue q) k;
$$;
COMMENT ON FUNCTION mail._keep(text) IS 'How long all queues want to keep what such partitions hold; NULL: one of them for ever.';

CREATE FUNCTION mail._turn_length(keep interval) RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    RETURN greatest(keep / 4, interval '1 hour');
COMMENT ON FUNCTION mail._turn_length(interval) IS 'How long a partition is written that is to be kept so long: four of six are full, one is written, and one may wait to be emptied.';

CREATE FUNCTION mail._take_turns() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p    mail.partition;
    keep interval;
    next text;
BEGIN
    FOR p IN SELECT * FROM mail.partition t WHERE t.current ORDER BY t.name LOOP
        keep := mail._keep(p.holds);
        CONTINUE WHEN keep IS NULL OR clock_timestamp() < p.since + mail._turn_length(keep);
        next := (SELECT t.name FROM mail.partition t
                 WHERE t.holds = p.holds AND t.turn IS NOT NULL AND NOT t.current AND pg_relation_size(format('mail.%I', t.name)::regclass) = 0
                 ORDER BY t.turn < p.turn, t.turn LIMIT 1);
        IF next IS NULL OR pg_relation_size(format('mail.%I', p.name)::regclass) = 0 THEN
            CONTINUE; -- it goes on
        END IF;
        UPDATE mail.partition t SET current = false, since = NULL WHERE t.name = p.name;
        UPDATE mail.partition t SET current = true, since = clock_timestamp() WHERE t.name = next;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mail._take_turns() IS 'Has the next empty partition written where one was written long enough.';
