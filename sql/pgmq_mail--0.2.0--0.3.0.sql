-- From 0.2.0 to 0.3.0. What a fresh 0.3.0 has stands in sql/[0-9][0-9]_*.sql: there are the reasons for what is made here.
--
-- First all locks, then what needs them.

-- As in the update to 0.2.0.

DO $$
DECLARE
    lock_timeout     text := current_setting('lock_timeout');
    deadlock_timeout text := current_setting('deadlock_timeout');
BEGIN
    FOR attempt IN 1..100 LOOP
        BEGIN
            PERFORM set_config('lock_timeout', least(attempt * 100, 500)::text, true);
            PERFORM set_config('deadlock_timeout', '50ms', true); -- after which autovacuum is asked to leave
            -- Views before tables, as those who read them; the queue before the rest, as those who enqueue. LOCK TABLE would need
            -- the rights of these views' owner on what they show; this changes nothing.
            ALTER VIEW mail.messages OWNER TO mail_views;
            ALTER VIEW mail.dead_letters OWNER TO mail_views;
            ALTER VIEW mail.events OWNER TO mail_views;
            LOCK TABLE mail.queue, mail.message, mail.event, mail.dead_letter, mail.lease;
            PERFORM set_config('lock_timeout', lock_timeout, true), set_config('deadlock_timeout', deadlock_timeout, true);
            RETURN;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            PERFORM pg_sleep(0.1);
        END;
    END LOOP;
    RAISE EXCEPTION 'transactions on tables of the mail queue stay open for too long'
        USING ERRCODE = '55P03', HINT = 'pg_locks shows who has locks on tables in schema mail. Nothing was changed: call it again.';
END
$$;

CREATE OR REPLACE FUNCTION mail._stays() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF session_user = 'mail_worker' THEN -- it may truncate partitions only
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '%.% cannot be truncated', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = '0A000', HINT = TG_ARGV[0];
END
$$;
COMMENT ON FUNCTION mail._stays() IS 'Refuses TRUNCATE, with that hint, of what must not be forgotten, but for the worker. Errors: 0A000.';

-- Partitions.
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

DROP FUNCTION mail._retain(bigint, integer);

CREATE FUNCTION mail._forget(ids bigint[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM mail.capture c WHERE c.message_id = ANY (ids);
    DELETE FROM mail.message_attachment a WHERE a.message_id = ANY (ids);
    DELETE FROM mail.supersede s WHERE s.message_id = ANY (ids)
        AND NOT EXISTS (SELECT FROM mail.pending p WHERE p.id = ANY (s.earlier));
END
$$;
COMMENT ON FUNCTION mail._forget(bigint[]) IS 'Lets go of what belongs to messages, but for their events.';

CREATE FUNCTION mail._retain_messages(p mail.partition, batch integer, OUT last bigint, OUT looked_at bigint)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation regclass := format('mail.%I', p.name)::regclass;
    columns  text := (SELECT string_agg(CASE a.attname WHEN 'content' THEN 'NULL' ELSE 'g.' || quote_ident(a.attname) END, ', ' ORDER BY a.attnum)
                      FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped);
    at       timestamptz := clock_timestamp();
    keep     interval := CASE WHEN p.turn IS NOT NULL THEN mail._keep(p.holds) END;
    -- What is over is left to be emptied as a whole, unless that would take too long.
    slack    interval := 1.25 * mail._turn_length(keep);
    newest   bigint;
    up       bigint;
    old      bigint[];
    over     bigint[];
    bodies   bigint[];
    others   bigint[];
BEGIN
    IF p.clearing AND NOT EXISTS (SELECT FROM mail.queue q WHERE q.retain_sent > keep OR q.retain_sent IS NULL) THEN
        -- All are over but those that wait: nobody looks at the others. Older ones elsewhere have no bodies any more either.
        newest := mail._newest(p);
        SELECT max(s.id), count(*), array_agg(s.id) FILTER (WHERE s.waits), array_agg(s.id) FILTER (WHERE NOT s.waits)
        INTO last, looked_at, others, over
        FROM (SELECT w.id, EXISTS (SELECT FROM mail.pending t WHERE t.id = w.id) OR EXISTS (SELECT FROM mail.dead_letter t WHERE t.id = w.id) AS waits
              FROM (SELECT t.id FROM mail.pending t UNION ALL SELECT t.id FROM mail.dead_letter t UNION ALL SELECT t.message_id FROM mail.capture t
                    UNION ALL SELECT t.message_id FROM mail.message_attachment t UNION ALL SELECT t.message_id FROM mail.supersede t) w
              WHERE w.id > p.behind AND w.id <= newest ORDER BY w.id LIMIT batch) s;
    ELSE
        SELECT CASE WHEN p.clearing THEN 9223372036854775807 ELSE mail._first_id(at - min(least(
                   CASE WHEN p.holds = 'message' AND (q.retain_body < q.retain_sent) IS NOT FALSE THEN q.retain_body END,
                   q.retain_sent + CASE WHEN q.retain_sent >= keep - slack THEN slack ELSE '0' END))) END
        INTO up FROM mail.queue q;
        EXECUTE format($q$
            SELECT max(s.id), count(*), array_agg(s.id) FILTER (WHERE s.over AND s.late), array_agg(s.id) FILTER (WHERE s.over),
                   array_agg(s.id) FILTER (WHERE s.stale AND NOT s.over), array_agg(s.id) FILTER (WHERE NOT s.stale AND NOT s.over)
            FROM (SELECT m.id, d.done AND coalesce(m.enqueued_at < $4 - q.retain_sent, false) AS over,
                         coalesce(q.retain_sent < $5 - $6, true) OR m.enqueued_at < $4 - q.retain_sent - $6 AS late,
                         $7 AND d.done AND coalesce(m.enqueued_at < $4 - q.retain_body, false) AS stale
                  FROM ONLY %s m LEFT JOIN mail.queue q ON q.id = m.queue_id,
                       LATERAL (SELECT NOT EXISTS (SELECT FROM mail.pending w WHERE w.id = m.id)
                                       AND NOT EXISTS (SELECT FROM mail.dead_letter w WHERE w.id = m.id) AS done) d
                  WHERE m.id > $1 AND m.id < $2 ORDER BY m.id LIMIT $3) s$q$, relation)
        INTO last, looked_at, old, over, bodies, others USING p.behind, up, batch, at, keep, slack, p.holds = 'message';
    END IF;
    IF old IS NOT NULL THEN
        DELETE FROM mail.event e WHERE e.message_id = ANY (old);
        PERFORM mail._forget(old);
        EXECUTE format('DELETE FROM ONLY %s m WHERE m.id = ANY ($1)', relation) USING old;
    END IF;
    IF bodies IS NOT NULL THEN
        DELETE FROM mail.capture c WHERE c.message_id = ANY (bodies);
        DELETE FROM mail.message_attachment a WHERE a.message_id = ANY (bodies);
        IF p.turn IS NULL THEN -- where triggers and keys of somebody's own may be
            UPDATE ONLY mail.message m SET content = NULL WHERE m.id = ANY (bodies) AND m.content IS NOT NULL;
        ELSE
            EXECUTE format('WITH gone AS (DELETE FROM ONLY %s m WHERE m.id = ANY ($1) RETURNING m.*) INSERT INTO mail.%I SELECT %s FROM gone g',
                           relation, (SELECT t.name FROM mail.partition t WHERE t.holds = 'record' AND t.current), columns) USING bodies;
        END IF;
    END IF;
    IF p.clearing THEN
        PERFORM mail._forget(over);
        EXECUTE format('WITH gone AS (DELETE FROM ONLY %s m WHERE m.id = ANY ($1) RETURNING m.*) INSERT INTO mail.message SELECT g.* FROM gone g', relation)
        USING others;
    END IF;
END
$$;
COMMENT ON FUNCTION mail._retain_messages(mail.partition, integer) IS 'Goes through the next batch messages of a table: what is over goes, what has lost its body stays as a record, and if the table is to be emptied, the rest goes to mail.message itself. Returns the last one, and how many there were.';

CREATE FUNCTION mail._retain_events(p mail.partition, batch integer, OUT last bigint, OUT looked_at bigint)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation regclass := format('mail.%I', p.name)::regclass;
    newest   bigint;
    found    bigint[];
BEGIN
    IF p.clearing THEN
        -- Few of these messages are left: nobody looks at the events of all others.
        newest := mail._newest(p);
        SELECT max(s.id), count(*), array_agg(s.id) INTO last, looked_at, found
        FROM (SELECT m.id FROM mail.message m WHERE m.id > p.behind AND m.id <= newest ORDER BY m.id LIMIT batch) s;
        EXECUTE format('WITH gone AS (DELETE FROM ONLY %s e WHERE e.message_id = ANY ($1) RETURNING e.*) INSERT INTO mail.event SELECT g.* FROM gone g', relation)
        USING found;
    ELSIF p.turn IS NULL THEN
        EXECUTE format('SELECT max(s.id), count(*), array_agg(DISTINCT s.id)
                        FROM (SELECT e.message_id AS id FROM ONLY %s e WHERE e.message_id > $1 AND e.message_id < $2 ORDER BY e.message_id LIMIT $3) s', relation)
        INTO last, looked_at, found USING p.behind, mail._first_id(clock_timestamp() - mail._keep('event')), batch;
        found := ARRAY(SELECT m.id FROM mail.message m WHERE m.id = ANY (found));
        EXECUTE format('DELETE FROM ONLY %s e WHERE e.message_id > $1 AND e.message_id <= $2 AND e.message_id <> ALL ($3)', relation)
        USING p.behind, last, found;
    END IF;
END
$$;
COMMENT ON FUNCTION mail._retain_events(mail.partition, integer) IS 'If the table is to be emptied, the events of the next batch messages that are still there move on; in mail.event itself, those go whose message is gone. Returns the last message, and how many there were.';

CREATE FUNCTION mail._newest(p mail.partition) RETURNS bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newest bigint;
BEGIN
    EXECUTE format('SELECT max(t.%I) FROM ONLY mail.%I t', CASE p.holds WHEN 'event' THEN 'message_id' ELSE 'id' END, p.name) INTO newest;
    RETURN newest;
END
$$;
COMMENT ON FUNCTION mail._newest(mail.partition) IS 'The last message that a table has, or has events of.';

CREATE FUNCTION mail._is_over(p mail.partition, at timestamptz) RETURNS boolean
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT p.current AND p.turn IS NOT NULL AND k.keep IS NOT NULL AND pg_relation_size(format('mail.%I', p.name)::regclass) > 0
       AND (mail._newest(p) < mail._first_id(at - k.keep
            -- Events are there as long as any message may be that they are about.
            - CASE p.holds WHEN 'event' THEN 1.5 * mail._turn_length(k.keep) ELSE '0' END)) IS NOT FALSE
       -- A restore may still bring what tells that something has to stay.
       AND (p.since < at - interval '1 day') IS NOT FALSE
       AND EXISTS (SELECT FROM mail.installation i WHERE i.since < at - interval '1 day')
       -- What has to stay would fire somebody's own triggers once more, or be in his own indexes twice.
       AND mail._by_turns(p.holds)
    FROM (SELECT mail._keep(p.holds) AS keep) k;
$$;
COMMENT ON FUNCTION mail._is_over(mail.partition, timestamptz) IS 'Whether a partition could be emptied at that time, but for exceptions, going by what the queues say now.';

-- SECURITY DEFINER: snapshots of others are shown to superusers only.
CREATE FUNCTION mail._seen_by_all(transaction xid8) RETURNS boolean
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (
        SELECT FROM pg_stat_activity a
        WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
          AND age(a.backend_xmin) >= pg_current_xact_id()::text::bigint - _seen_by_all.transaction::text::bigint);
$$;
COMMENT ON FUNCTION mail._seen_by_all(xid8) IS 'Whether every snapshot in this database is newer than that transaction: TRUNCATE hides rows from older ones.';

CREATE FUNCTION mail._try_lock(name text, mode text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms' AS $$
BEGIN
    EXECUTE format('LOCK TABLE ONLY mail.%I IN %s MODE', name, mode);
    RETURN true;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION mail._try_lock(text, text) IS 'Takes a lock on a table if that takes no more than a moment.';

-- SECURITY DEFINER: ANALYZE is for owners only. Without it the planner takes an empty table for one of ten pages.
CREATE FUNCTION mail._empty(name text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    relation regclass := (SELECT format('mail.%I', p.name)::regclass FROM mail.partition p WHERE p.name = _empty.name AND p.turn IS NOT NULL AND NOT p.current);
BEGIN
    EXECUTE format('TRUNCATE ONLY %1$s; ANALYZE %1$s', relation);
END
$$;
COMMENT ON FUNCTION mail._empty(text) IS 'Empties a partition whose turn it is not. For the worker, see mail._stays.';

CREATE FUNCTION mail._retain_table(p mail.partition, batch integer) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked text := (SELECT md5(string_agg(format('%s %s %s', q.id, q.retain_body, q.retain_sent), ',' ORDER BY q.id)) FROM mail.queue q);
    last   bigint;
    n      bigint;
    -- Before the rows are looked at: what comes after them is newer.
    newest bigint := coalesce(mail._newest(p), 0);
BEGIN
    -- Who chose the table by an old snapshot, when it was its turn, may have written it since.
    IF p.rules IS DISTINCT FROM asked OR p.cleared IS NOT NULL AND (newest > p.behind OR NOT mail._is_over(p, clock_timestamp())) THEN
        p.behind := 0;
        p.cleared := NULL;
    END IF;
    IF p.cleared IS NOT NULL THEN
        -- An insert that would come between waits for the lock, and is seen after it.
        IF mail._seen_by_all(p.cleared) AND mail._try_lock(p.name, 'ACCESS EXCLUSIVE')
           AND mail._is_over(p, clock_timestamp()) AND (mail._newest(p) > p.behind) IS NOT TRUE THEN
            PERFORM mail._empty(p.name);
            p.cleared := NULL;
        END IF;
    ELSE
        IF p.behind = 0 THEN
            -- Whoever has written it and not committed yet keeps it from being emptied.
            p.clearing := mail._is_over(p, clock_timestamp()) AND mail._try_lock(p.name, 'SHARE');
        END IF;
        IF p.holds = 'event' THEN
            SELECT r.last, r.looked_at INTO last, n FROM mail._retain_events(p, batch) r;
        ELSE
            SELECT r.last, r.looked_at INTO last, n FROM mail._retain_messages(p, batch) r;
        END IF;
        IF n = batch THEN
            UPDATE mail.partition t SET behind = last, clearing = p.clearing, rules = asked, cleared = NULL WHERE t.name = p.name;
            RETURN;
        ELSIF p.clearing THEN
            p.cleared := pg_current_xact_id();
        END IF;
    END IF;
    UPDATE mail.partition t
    SET behind = CASE WHEN p.cleared IS NULL THEN 0 WHEN p.clearing THEN newest ELSE p.behind END,
        clearing = false, rules = asked, cleared = p.cleared, looked_at = clock_timestamp()
    WHERE t.name = p.name;
END
$$;
COMMENT ON FUNCTION mail._retain_table(mail.partition, integer) IS 'Goes through the next batch rows of a table, or empties it if that was done before.';

CREATE FUNCTION mail._retain(batch integer, before timestamptz) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    p    mail.partition;
    keys bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'local', true); -- nobody waits for a standby behind these locks
    PERFORM mail._take_turns();
    DELETE FROM mail.domain_pause d WHERE d.suspended_until < clock_timestamp();
    WITH gone AS (
        DELETE FROM mail.idempotency i WHERE (i.queue_id, i.key) IN (
            SELECT t.queue_id, t.key FROM mail.idempotency t WHERE t.until < clock_timestamp() LIMIT batch)
        RETURNING 1)
    SELECT count(*) INTO keys FROM gone;
    SELECT * INTO p FROM mail.partition t WHERE t.looked_at < before
    ORDER BY t.behind = 0, t.looked_at, t.name LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN keys = batch;
    END IF;
    BEGIN
        PERFORM mail._retain_table(p, batch);
    EXCEPTION WHEN OTHERS THEN -- the other tables do not wait for this one
        RAISE WARNING 'could not let go of what is over in mail.%: %', p.name, SQLERRM;
        UPDATE mail.partition t SET looked_at = clock_timestamp() WHERE t.name = p.name;
    END;
    RETURN true;
END
$$;
COMMENT ON FUNCTION mail._retain(integer, timestamptz) IS 'Lets go of bodies and records whose time is over: goes through the next batch rows of a table that was not gone through since then; of idempotency keys and domains'' pauses, too. False if there is nothing more to do.';

CREATE OR REPLACE FUNCTION mail._purge(caller oid, queue text, finished boolean) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    q     mail.queue := mail._own_queue(caller, _purge.queue);
    ids   bigint[];
    total bigint;
BEGIN
    PERFORM mail._need_read_committed('mail.purge');
    SELECT array_agg(s.id) INTO ids FROM (
        SELECT p.id FROM mail.pending p
        WHERE p.queue_id = q.id AND p.id NOT IN (SELECT unnest(l.ids) FROM mail.lease l)
        FOR UPDATE SKIP LOCKED) s;
    PERFORM mail._note_locked(p.queue_id, p.rank, min(p.due_at)) FROM mail.pending p
    WHERE p.id = ANY (ids) GROUP BY p.queue_id, p.rank;
    -- A new statement, and so a new snapshot: it sees the lease of whoever held these rows' locks before.
    ids := ARRAY(SELECT i FROM unnest(ids) AS i WHERE i NOT IN (SELECT unnest(l.ids) FROM mail.lease l));
    total := mail._drop_pending(ids, 'cancelled', 'cancelled', format('purged by %s', session_user));
    IF finished THEN
        PERFORM FROM mail.partition t ORDER BY t.name FOR UPDATE; -- while rows are moved, this would see neither
        WITH gone AS (
            DELETE FROM mail.message m WHERE m.queue_id = q.id AND NOT EXISTS (SELECT FROM mail.pending p WHERE p.id = m.id)
            RETURNING m.id),
        letters AS (DELETE FROM mail.dead_letter d WHERE d.id IN (SELECT g.id FROM gone g)),
        captures AS (DELETE FROM mail.capture c WHERE c.message_id IN (SELECT g.id FROM gone g)),
        files AS (DELETE FROM mail.message_attachment a WHERE a.message_id IN (SELECT g.id FROM gone g)),
        superseded AS (
            DELETE FROM mail.supersede s WHERE s.message_id IN (SELECT g.id FROM gone g)
            AND NOT EXISTS (SELECT FROM mail.pending p WHERE p.id = ANY (s.earlier))),
        keys AS (DELETE FROM mail.idempotency i WHERE i.queue_id = q.id AND i.message_id IN (SELECT g.id FROM gone g))
        DELETE FROM mail.event e WHERE e.message_id IN (SELECT g.id FROM gone g);
    END IF;
    RETURN total;
END
$$;

-- Plans of consumers.
CREATE INDEX lease_holder_idx ON mail.lease (holder, queue_id, lease_until);

CREATE FUNCTION mail._in_flight(queues integer[]) RETURNS bigint[]
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(SELECT unnest(l.ids) FROM mail.lease l WHERE l.holder IS NULL AND l.queue_id = ANY (queues)
                 UNION ALL
                 SELECT unnest(l.ids) FROM mail.lease l WHERE l.holder IS NOT NULL AND l.queue_id = ANY (queues));
END
$$;
COMMENT ON FUNCTION mail._in_flight(integer[]) IS 'Messages of these queues that somebody has in flight by now.';

CREATE OR REPLACE FUNCTION mail._claimable(ids bigint[], OUT id bigint, OUT free boolean) RETURNS SETOF record
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    ordered boolean;
    queues  integer[];
    leased  bigint[];
    mine    bigint[];
    busy    bigint[];
BEGIN
    -- For an ordering key one claimer at a time decides: the keys share 1024 locks, so that a large batch does not need
    -- a large lock table. Who does not get the lock leaves the message alone for a moment.
    WITH locked AS MATERIALIZED (SELECT p.id, p.queue_id, p.ordering_hash FROM mail.pending p WHERE p.id = ANY (ids)),
    tried AS MATERIALIZED (
        SELECT b.bucket, mail._try_bucket(b.bucket) AS got
        FROM (SELECT DISTINCT (l.ordering_hash & 1023)::integer AS bucket
              FROM locked l WHERE l.ordering_hash IS NOT NULL) b)
    SELECT array_agg(l.id), bool_or(l.ordering_hash IS NOT NULL), array_agg(DISTINCT l.queue_id) INTO mine, ordered, queues
    FROM locked l LEFT JOIN tried t ON t.bucket = (l.ordering_hash & 1023)::integer
    WHERE l.ordering_hash IS NULL OR t.got;
    RETURN QUERY SELECT u.i, false FROM unnest(ids) AS u (i) WHERE u.i NOT IN (SELECT unnest(mine));
    -- With a new snapshot: it sees the lease of whoever held these rows' locks before. EXCEPT never
    -- compares each with each, however many leases are held.
    leased := mail._in_flight(queues);
    mine := ARRAY(SELECT unnest(mine) EXCEPT SELECT unnest(leased));
    IF ordered THEN
        busy := ARRAY(SELECT p.ordering_hash FROM unnest(leased) AS l (id) JOIN mail.pending p ON p.id = l.id
                      WHERE p.ordering_hash IS NOT NULL);
        mine := ARRAY(SELECT p.id FROM mail.pending p
                      WHERE p.id = ANY (mine) AND (p.ordering_hash IS NULL OR p.ordering_hash NOT IN (SELECT unnest(busy))));
    END IF;
    RETURN QUERY SELECT u.i, true FROM unnest(mine) AS u (i);
END
$$;

CREATE OR REPLACE FUNCTION mail._born(id bigint) RETURNS timestamptz
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    born timestamptz;
BEGIN
    SELECT max(e.at) INTO born FROM mail.event e WHERE e.message_id = _born.id AND e.kind = 'retried';
    IF born IS NULL THEN
        SELECT greatest(m.send_at, m.enqueued_at) INTO born FROM mail.message m WHERE m.id = _born.id;
    END IF;
    RETURN born;
END
$$;

CREATE OR REPLACE FUNCTION mail._settle(
    id bigint, results jsonb, relay text DEFAULT NULL, duration interval DEFAULT NULL, retry_after interval DEFAULT NULL,
    counted boolean DEFAULT true, untried interval DEFAULT NULL, waits_for text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p       mail.pending;
    q       mail.queue;
    m       record;
    n       integer;
    at      timestamptz := clock_timestamp();
    born    timestamptz;
    again   boolean;
    goes_on boolean;
    later   float8;
    asked   boolean;
    pause   interval;
    final   text;
BEGIN
    SELECT * INTO p FROM mail.pending t WHERE t.id = _settle.id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT * INTO STRICT q FROM mail.queue t WHERE t.id = p.queue_id;
    SELECT t.expires_at, cardinality(t.recipients) AS width INTO STRICT m FROM mail.message t WHERE t.id = _settle.id;
    n := p.attempts + 1;
    -- A rule may say when: then not before, for whichever of the recipients that is the latest.
    SELECT max((r ->> 'retry_after')::float8), coalesce(bool_or((r ->> 'by_reply')::boolean), false),
           coalesce(bool_or(r ->> 'verdict' = 'transient' OR q.on_uncertain = 'retry'), false)
    INTO later, asked, again
    FROM jsonb_array_elements(results) r WHERE r ->> 'verdict' IN ('transient', 'uncertain');
    IF again OR m.width > 1 THEN
        born := mail._born(_settle.id);
    END IF;
    goes_on := untried IS NOT NULL OR again AND (NOT counted OR n < q.max_attempts AND at < born + q.give_up_after);

    IF NOT goes_on THEN
        SELECT CASE max(v.badness) WHEN 0 THEN 'sent' WHEN 1 THEN 'failed' ELSE 'uncertain' END INTO final
        FROM (
            SELECT CASE WHEN r ->> 'verdict' = 'delivered' THEN 0
                        WHEN r ->> 'verdict' = 'uncertain' AND q.on_uncertain = 'hold' THEN 2 ELSE 1 END AS badness
            FROM jsonb_array_elements(results) r
            UNION ALL -- recipients settled by earlier attempts
            SELECT CASE e.kind WHEN 'held' THEN 2 ELSE 1 END
            FROM mail.event e
            WHERE m.width > 1 AND e.message_id = _settle.id AND e.recipient IS NOT NULL
              AND e.kind IN ('failed', 'held') AND e.at >= born
        ) v;
    END IF;

    PERFORM mail._log_results(_settle.id, p.queue_id, n, results, at, goes_on, q.on_uncertain = 'hold', final, _settle.relay,
        _settle.duration);

    IF goes_on THEN
        pause := CASE WHEN retry_after IS NOT NULL THEN retry_after
                      WHEN NOT counted THEN coalesce(untried, '0')
                      -- What a relay asks for is granted a few times; then it is no sooner than the queue would try.
                      WHEN later < 'Infinity' AND (n <= 3 OR NOT asked) THEN make_interval(secs => later)
                      ELSE greatest(make_interval(secs => nullif(later, 'Infinity')), mail._backoff(q.retry_base, q.retry_max, n)) END;
        UPDATE mail.pending t
        SET attempts = CASE WHEN counted THEN n ELSE p.attempts END,
            waits_for = CASE WHEN NOT counted AND untried IS NOT NULL THEN coalesce(hashtext(_settle.waits_for), 0) END,
            due_at = CASE WHEN later = 'Infinity' THEN 'infinity' ELSE least(at + pause, m.expires_at) END
        WHERE t.id = _settle.id;
        PERFORM mail._touch_successor(p.queue_id, p.ordering_hash);
        RETURN 'deferred';
    END IF;
    DELETE FROM mail.pending t WHERE t.id = _settle.id;
    IF final IN ('failed', 'uncertain') THEN
        INSERT INTO mail.dead_letter (id, queue_id, state, at, attempts) VALUES (_settle.id, p.queue_id, final, at, n);
    END IF;
    PERFORM mail._touch_successor(p.queue_id, p.ordering_hash);
    RETURN final;
END
$$;

CREATE OR REPLACE FUNCTION mail._reap(queue_id integer DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tokens bigint[];
BEGIN
    -- Mostly none is over; each of the two is one look into the index that begins with the holder.
    IF queue_id IS NOT NULL
       AND NOT EXISTS (SELECT FROM mail.lease t WHERE t.holder IS NULL AND t.queue_id = _reap.queue_id AND t.lease_until <= clock_timestamp())
       AND NOT EXISTS (SELECT FROM mail.lease t WHERE t.holder IS NOT NULL AND t.queue_id = _reap.queue_id AND t.lease_until <= clock_timestamp())
    THEN
        RETURN 0;
    END IF;
    tokens := ARRAY(
        SELECT t.token FROM mail.lease t
        WHERE t.lease_until <= clock_timestamp() AND (t.queue_id = _reap.queue_id OR _reap.queue_id IS NULL)
          AND (t.holder IS NULL OR t.holder NOT IN (SELECT w.pid FROM mail._workers() w))
        FOR UPDATE SKIP LOCKED);
    RETURN mail._interrupted(tokens, 'lease_ended', 'the lease ended without a result');
END
$$;

CREATE OR REPLACE FUNCTION mail._lock_due(queue_id integer, batch integer) RETURNS bigint[]
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_sort = off SET jit = off AS $$
DECLARE
    at    timestamptz := clock_timestamp();
    r     integer;
    more  bigint[];
    first timestamptz;
    ids   bigint[] := '{}';
    taken bigint[] := mail._in_flight(ARRAY[queue_id]);
BEGIN
    SELECT min(p.rank) INTO r FROM mail.pending p WHERE p.queue_id = _lock_due.queue_id;
    WHILE r IS NOT NULL LOOP
        -- What is in flight is hashed, however much it is: of an array the planner expects little. The other look, for keys
        -- that are busy, is made only where a message has a key.
        SELECT array_agg(s.id), min(s.due_at) INTO more, first FROM (
            SELECT p.id, p.due_at FROM mail.pending p
            WHERE p.queue_id = _lock_due.queue_id AND p.rank = r AND p.due_at <= at AND (p.expires_at IS NULL OR p.expires_at > at)
              AND p.id NOT IN (SELECT unnest(taken))
              AND (p.ordering_hash IS NULL OR NOT EXISTS (
                    SELECT FROM mail.pending e
                    WHERE e.ordering_hash = p.ordering_hash AND e.ordering_seq < p.ordering_seq)
                AND p.ordering_hash NOT IN (
                    SELECT b.ordering_hash FROM unnest(taken) AS i (id) JOIN mail.pending b ON b.id = i.id
                    WHERE b.ordering_hash IS NOT NULL))
            ORDER BY p.due_at, p.id LIMIT batch - cardinality(ids)
            FOR UPDATE OF p SKIP LOCKED) s;
        IF more IS NOT NULL THEN
            ids := ids || more;
            PERFORM mail._note_locked(_lock_due.queue_id, r, first);
        END IF;
        EXIT WHEN cardinality(ids) >= batch;
        SELECT min(p.rank) INTO r FROM mail.pending p WHERE p.queue_id = _lock_due.queue_id AND p.rank > r;
    END LOOP;
    RETURN ids;
END
$$;
COMMENT ON FUNCTION mail._lock_due(integer, integer) IS 'Locks and returns up to batch messages that are due and have not expired, best first, skipping what others hold.';

CREATE OR REPLACE FUNCTION mail._claim(caller oid, queue text, batch integer, lease interval, wait interval) RETURNS SETOF mail.claimed
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    q         mail.queue;
    deadline  timestamptz := clock_timestamp() + _claim.wait;
    due       timestamptz;
    ids       bigint[];
    free      bigint[];
    late      boolean;
    ends      timestamptz;
    -- Somebody else was just deciding on an ordering key; or has claimed a message after this looked for what is claimed.
    rejected  boolean;
    overtaken boolean;
    done      boolean := false;
    waiting   boolean := false;
BEGIN
    PERFORM mail._need_read_committed('mail.claim');
    IF _claim.batch IS NULL OR _claim.batch NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'invalid batch: %', _claim.batch USING ERRCODE = '22023', HINT = 'It must be from 1 to 10000.';
    END IF;
    IF _claim.lease < '10 milliseconds' OR _claim.lease > '7 days' THEN
        RAISE EXCEPTION 'invalid lease: %', _claim.lease USING ERRCODE = '22023', HINT = 'It must be from 10 ms to 7 days.';
    END IF;
    IF _claim.wait IS NULL OR _claim.wait < '0' THEN
        RAISE EXCEPTION 'invalid wait: %', _claim.wait USING ERRCODE = '22023', HINT = 'It must not be negative.';
    END IF;
    LOOP
        q := mail._queue(caller, _claim.queue);
        -- A look that finds nothing is undone, so that it holds no lock while it waits.
        BEGIN
            rejected := false;
            overtaken := false;
            late := false;
            IF NOT q.paused THEN
                PERFORM mail._reap(q.id);
                IF EXISTS (SELECT FROM mail.pending p WHERE p.expires_at <= clock_timestamp()) THEN
                    late := mail._expire(1000) > 0;
                END IF;
                ids := mail._lock_due(q.id, _claim.batch);
                SELECT coalesce(array_agg(u.id ORDER BY u.n) FILTER (WHERE c.free), '{}'), bool_or(NOT c.free), bool_or(c.id IS NULL)
                INTO free, rejected, overtaken
                FROM unnest(ids) WITH ORDINALITY AS u (id, n) LEFT JOIN mail._claimable(ids) c ON c.id = u.id;
                IF rejected OR overtaken THEN
                    PERFORM mail._note(p.queue_id, p.rank, min(p.due_at)) FROM mail.pending p
                    WHERE p.id = ANY (ids) AND p.id <> ALL (free) GROUP BY p.queue_id, p.rank;
                END IF;
                ends := clock_timestamp() + coalesce(_claim.lease, q.lease);
                RETURN QUERY
                WITH found AS MATERIALIZED ( -- without those whose message a restore may bring later
                    SELECT nextval('mail.lease_seq') AS token, m.id, p.attempts, m.enqueued_at, m.content, m.recipients
                    FROM unnest(free) WITH ORDINALITY AS u (id, n) JOIN mail.pending p ON p.id = u.id JOIN mail.message m ON m.id = u.id
                    ORDER BY u.n
                ), granted AS (
                    INSERT INTO mail.lease (token, queue_id, claimed_at, lease_until, ids)
                    SELECT f.token, q.id, clock_timestamp(), ends, ARRAY[f.id] FROM found f
                )
                SELECT f.id, f.token, f.attempts + 1, f.enqueued_at, ends, f.content::jsonb,
                       CASE WHEN cardinality(f.recipients) > 1 AND EXISTS (SELECT FROM mail.event e WHERE e.message_id = f.id)
                            THEN mail._outstanding(f.id) ELSE f.recipients END
                FROM found f ORDER BY f.token;
                done := FOUND;
            END IF;
            IF done THEN
                PERFORM mail._note_lease(ends);
            ELSIF NOT late THEN
                RAISE EXCEPTION 'nothing' USING ERRCODE = 'ML000';
            END IF;
        EXCEPTION WHEN SQLSTATE 'ML000' THEN
            NULL;
        END;
        EXIT WHEN done;
        CONTINUE WHEN overtaken;
        EXIT WHEN clock_timestamp() >= deadline;
        IF NOT waiting THEN -- and look once more: something may have come before this backend could be woken
            PERFORM mail._await_begin(q.id);
            waiting := true;
            CONTINUE;
        END IF;
        SELECT least(deadline, clock_timestamp() + interval '5 seconds', -- a prepared transaction announces nothing
                     CASE WHEN rejected THEN clock_timestamp() + interval '10 milliseconds' END,
                     (SELECT min(p.due_at) FROM mail.pending p WHERE p.queue_id = q.id AND p.due_at > clock_timestamp()),
                     (SELECT greatest(min(l.lease_until), clock_timestamp() + interval '10 milliseconds')
                      FROM mail.lease l WHERE l.holder IS NULL AND l.queue_id = q.id)) INTO due;
        PERFORM mail._await(q.id, due);
    END LOOP;
    IF waiting THEN
        PERFORM mail._await_end(q.id);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION mail._ack(caller oid, id bigint, token bigint, response jsonb) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
BEGIN
    IF id IS NULL OR token IS NULL OR mail._fenced(caller, id, token) THEN
        RETURN false;
    END IF;
    PERFORM mail._drop_from_leases(ARRAY[id], ARRAY[token]);
    RETURN mail._settle(id, jsonb_build_array(jsonb_build_object(
        'verdict', 'delivered', 'detail', response,
        'code', CASE WHEN response ->> 'code' ~ '^[2-5][0-9][0-9]$' THEN response ->> 'code' END,
        'status', response ->> 'status', 'text', response ->> 'text'))) IS NOT NULL;
END
$$;

CREATE OR REPLACE FUNCTION mail._ack(caller oid, ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql ROWS 100 SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
BEGIN
    IF cardinality(ids) IS DISTINCT FROM cardinality(tokens) THEN
        RAISE EXCEPTION 'ids and tokens differ in length' USING ERRCODE = '22023';
    END IF;
    RETURN QUERY SELECT u.id FROM unnest(ids, tokens) AS u (id, token) WHERE mail._ack(caller, u.id, u.token, NULL);
END
$$;

CREATE OR REPLACE FUNCTION mail._nack(caller oid, id bigint, token bigint, error text, retry_after interval, permanent boolean) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
BEGIN
    IF retry_after < '0' THEN
        RAISE EXCEPTION 'invalid retry_after: %', retry_after USING ERRCODE = '22023', HINT = 'It must not be negative.';
    END IF;
    IF id IS NULL OR token IS NULL OR mail._fenced(caller, id, token) THEN
        RETURN NULL;
    END IF;
    PERFORM mail._drop_from_leases(ARRAY[id], ARRAY[token]);
    RETURN mail._settle(id, jsonb_build_array(jsonb_build_object(
        'verdict', CASE WHEN permanent THEN 'permanent' ELSE 'transient' END, 'text', error)), retry_after => retry_after);
END
$$;

CREATE OR REPLACE FUNCTION mail._extend(caller oid, id bigint, token bigint, lease interval) RETURNS timestamptz
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    ends timestamptz;
BEGIN
    IF _extend.lease IS NULL OR _extend.lease < '10 milliseconds' OR _extend.lease > '7 days' THEN
        RAISE EXCEPTION 'invalid lease: %', _extend.lease USING ERRCODE = '22023', HINT = 'It must be from 10 ms to 7 days.';
    END IF;
    IF _extend.id IS NULL OR _extend.token IS NULL OR mail._fenced(caller, _extend.id, _extend.token) THEN
        RETURN NULL;
    END IF;
    UPDATE mail.lease l SET lease_until = clock_timestamp() + _extend.lease WHERE l.token = _extend.token
    RETURNING l.lease_until INTO ends;
    PERFORM mail._note_lease(ends);
    RETURN ends;
END
$$;

CREATE OR REPLACE FUNCTION mail._release(caller oid, id bigint, token bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    p mail.pending;
BEGIN
    IF id IS NULL OR token IS NULL OR mail._fenced(caller, id, token) THEN
        RETURN false;
    END IF;
    PERFORM mail._drop_from_leases(ARRAY[id], ARRAY[token]);
    UPDATE mail.pending t SET due_at = t.due_at WHERE t.id = _release.id RETURNING * INTO p; -- fires pending_touch
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM mail._touch_successor(p.queue_id, p.ordering_hash);
    RETURN true;
END
$$;

CREATE FUNCTION mail.__is_own(caller oid, message_id bigint) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM mail.message m WHERE m.id = __is_own.message_id AND m.enqueued_by = pg_get_userbyid(caller));
$$;
COMMENT ON FUNCTION mail.__is_own(oid, bigint) IS 'mail._is_own for a role.';
CREATE FUNCTION mail._is_own(message_id bigint) RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail._is_own(bigint) IS 'Whether the caller enqueued a message.';

-- Views and policies.
CREATE OR REPLACE VIEW mail.messages AS
SELECT m.id, coalesce((SELECT q.name FROM mail.queue q WHERE q.id = m.queue_id), format('(%s)', m.queue_id)) AS queue,
       CASE WHEN p.id IS NULL THEN coalesce((e.final).state, 'unknown')
            WHEN p.id IN (SELECT unnest(l.ids) FROM mail.lease l) THEN 'sending'
            WHEN p.attempts > 0 THEN 'deferred'
            ELSE 'queued' END AS state,
       m.recipients, m.subject,
       CASE WHEN p.id IS NULL THEN coalesce((e.final).attempt, 0) ELSE p.attempts END AS attempts,
       m.enqueued_at, m.send_at,
       CASE WHEN p.id NOT IN (SELECT unnest(l.ids) FROM mail.lease l) THEN p.due_at END AS next_attempt_at,
       CASE WHEN p.id IS NULL THEN (e.final).at END AS finished_at,
       (e.last).code AS last_code, (e.last).status AS last_status,
       CASE WHEN (e.last).kind <> 'sent' THEN (e.last).text END AS last_error,
       m.message_id, m.tags, m.metadata,
       m.priority, m.expires_at, m.envelope_from, m.enqueued_by,
       m.idempotency_key, m.ordering_key, m.supersede_key, p.size,
       m.template ->> 'name' AS template,
       coalesce(e.used ->> 'locale', m.template ->> 'locale') AS template_locale,
       coalesce(e.used -> 'version', m.template -> 'version')::integer AS template_version,
       coalesce(m.files, 0) AS files
FROM mail.message m
LEFT JOIN LATERAL (SELECT x.id, x.attempts, x.due_at, x.size FROM mail.pending x WHERE x.id = m.id OFFSET 0) p ON true
CROSS JOIN LATERAL ( -- one look into the partitions; of one attempt, rather what went wrong
    SELECT (array_agg(x ORDER BY x.at DESC, x.kind = 'sent', x.id DESC) FILTER (WHERE x.kind <> 'retried'))[1] AS last,
           (array_agg(x ORDER BY x.id DESC) FILTER (WHERE x.state IS NOT NULL))[1] AS final,
           (array_agg(x.detail -> 'template' ORDER BY x.id DESC) FILTER (WHERE x.detail ? 'template'))[1] AS used
    FROM mail.event x WHERE x.message_id = m.id) e;

CREATE OR REPLACE FUNCTION mail.health(OUT severity text, OUT "check" text, OUT detail text, OUT hint text) RETURNS SETOF record
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    -- Not what a rule asked for and is over before somebody could look: providers throttle like that all day.
    WITH trouble AS (
        SELECT t.* FROM mail.relay_trouble t
        WHERE t.rule IS NULL OR t.suspended_until > clock_timestamp() AND t.suspended_until >= t.since + interval '1 minute')
    SELECT 'critical', 'worker', 'no delivery worker runs in this database'
               || CASE WHEN w.n > 0 THEN format(' and %s messages are due', w.n) ELSE '' END,
           CASE WHEN NOT has_database_privilege('mail_worker', current_database(), 'CONNECT')
                THEN format('It connects as mail_worker, which may not: GRANT CONNECT ON DATABASE %I TO mail_worker.', current_database())
                WHEN NOT (SELECT r.rolcanlogin FROM pg_roles r WHERE r.rolname = 'mail_worker')
                THEN 'It connects as mail_worker, which may not: ALTER ROLE mail_worker LOGIN CONNECTION LIMIT 0.'
                WHEN mail._preloaded() THEN 'The launcher starts it within seconds; see the server log, and max_worker_processes.'
                ELSE 'Call mail.start_worker(), and set shared_preload_libraries = ''pgmq_mail'' so that it starts by itself.' END
    FROM (SELECT count(*) AS n FROM mail.pending p JOIN mail.queue q ON q.id = p.queue_id
          WHERE q.transport <> 'external' AND p.due_at <= clock_timestamp()) w
    WHERE NOT pg_is_in_recovery() AND NOT EXISTS (SELECT FROM mail.workers)
    UNION ALL
    SELECT 'critical', 'worker', format('the delivery worker cannot do its work since %s', date_trunc('second', f.since)),
           'The server log says why: look for "pgmq_mail worker". It tries again, and no mail is repeated as long as it runs.'
    FROM (SELECT mail._failing_since() AS since) f
    WHERE f.since < clock_timestamp() - interval '5 seconds' AND EXISTS (SELECT FROM mail.workers)
    UNION ALL
    SELECT 'warning', 'preload', 'the worker runs until the next restart of the server only',
           'Set shared_preload_libraries = ''pgmq_mail'' and restart when it suits.'
    WHERE NOT mail._preloaded() AND EXISTS (SELECT FROM mail.workers)
    UNION ALL
    SELECT 'critical', 'standby',
           format('commits wait for %s synchronous standby%s, and %s there: no mail goes out', s.needed, CASE s.needed WHEN 1 THEN '' ELSE 's' END,
                  CASE s.there WHEN 0 THEN 'none is' WHEN 1 THEN '1 is' ELSE s.there || ' are' END),
           'If it was promoted, this server is the old primary: stop it. Else bring it back, or take it out of synchronous_standby_names and reload; a failover can then lose what was confirmed.'
    FROM (SELECT coalesce(substring(n.names FROM '(?i)^[[:space:]]*(?:(?:any|first)[[:space:]]+)?([0-9]+)[[:space:]]*[(]'), '1')::bigint AS needed,
                 (SELECT count(*) FROM pg_stat_replication r WHERE r.sync_state IN ('sync', 'quorum')) AS there
          FROM (SELECT current_setting('synchronous_standby_names') AS names) n WHERE n.names <> '') s
    WHERE s.there < s.needed AND NOT pg_is_in_recovery()
    UNION ALL
    SELECT CASE WHEN s.trouble IS NULL THEN 'warning' ELSE 'critical' END, 'delivery',
           format('delivery is "%s" in this server''s configuration', s.delivery)
               || CASE WHEN s.trouble IS NOT NULL THEN ', and nothing goes out: ' || s.trouble
                       WHEN s.delivery = 'redirect' THEN ': all mail goes to ' || current_setting('pgmq_mail.redirect_to') ELSE '' END,
           CASE WHEN s.trouble IS NOT NULL THEN 'Set pgmq_mail.redirect_to and reload.'
                WHEN s.delivery = 'redirect' THEN 'Set pgmq_mail.delivery = on and reload when mail shall reach its recipients.'
                ELSE 'Set pgmq_mail.delivery = on and reload when mail shall go out.' END
    FROM (SELECT current_setting('pgmq_mail.delivery') AS delivery, mail._redirect_trouble() AS trouble) s WHERE s.delivery <> 'on'
    UNION ALL
    SELECT 'critical', 'armed',
           CASE WHEN r.stamp LIKE 'disarmed%' THEN format('relay "%s" was %s', r.name, r.stamp)
                WHEN mail._stamp() IS NULL
                THEN format('relay "%s" delivers nothing: pgmq_mail.token_file cannot be used: %s', r.name, mail._token_trouble())
                WHEN substring(r.stamp FROM '^[0-9]+:[0-9]+') = substring(mail._stamp() FROM '^[0-9]+:[0-9]+')
                THEN format('relay "%s" was armed with another pgmq_mail.token_file, or without one, and delivers nothing', r.name)
                WHEN r.stamp IS NULL THEN format('relay "%s" was configured while pgmq_mail.token_file could not be used, and delivers nothing', r.name)
                ELSE format('relay "%s" was configured in another database and delivers nothing', r.name) END,
           CASE WHEN mail._stamp() IS NULL THEN 'Bring the file back, or correct the setting, and reload. If it was taken away so that nothing is sent, leave it.'
                ELSE 'If this database shall send mail, call mail.arm(), which also sends what waits; in a copy leave it, or purge first.' END
    FROM mail.relay r WHERE r.enabled AND (r.stamp = mail._stamp()) IS NOT TRUE
    UNION ALL
    SELECT 'critical', 'secret', format('relay "%s" has a username but its secret is missing', r.name),
           'Set mail.relay.secret again: secrets are not part of a dump.'
    FROM mail.relay r
    WHERE r.enabled AND r.username IS NOT NULL AND r.auth <> 'none' AND coalesce(r.secret, '(stored)') = '(stored)'
      AND NOT EXISTS (SELECT FROM mail.relay_secret s WHERE s.relay = r.name)
    UNION ALL
    -- Critical where its mail has nowhere else to go.
    SELECT CASE WHEN r.sender_domains <> '{}' OR r.recipient_domains <> '{}' OR EXISTS (
                    SELECT FROM mail.queue q
                    WHERE q.transport = 'smtp' AND (q.relays = '{}' OR r.name = ANY (q.relays)) AND NOT EXISTS (
                        SELECT FROM mail.relay o
                        WHERE o.enabled AND o.stamp = mail._stamp() AND (q.relays = '{}' OR o.name = ANY (q.relays))
                          AND o.sender_domains = '{}' AND o.recipient_domains = '{}'
                          AND o.id NOT IN (SELECT u.relay_id FROM mail.relay_trouble u)))
                THEN 'critical' ELSE 'warning' END,
           'relay', format('relay "%s" has been down since %s: %s', r.name, date_trunc('second', t.since), t.error),
           CASE WHEN t.suspended_until = 'infinity' THEN 'Correct its row in mail.relay, or the file that it refers to and reload.'
                WHEN t.suspended_until <= clock_timestamp() THEN 'It is being tried; no attempts of messages are counted meanwhile.'
                ELSE format('It is tried again at %s; no attempts of messages are counted meanwhile.',
                            date_trunc('second', t.suspended_until)) END
    FROM trouble t JOIN mail.relay r ON r.id = t.relay_id WHERE r.enabled AND t.rule IS NULL
    UNION ALL
    SELECT 'warning', 'relay', format('relay "%s" is paused until %s by rule "%s": %s', r.name, date_trunc('second', t.suspended_until), t.rule, t.error),
           'Its mail takes other relays or waits; no attempts of messages are counted. A change of its row in mail.relay ends the pause.'
    FROM trouble t JOIN mail.relay r ON r.id = t.relay_id WHERE r.enabled AND t.rule IS NOT NULL
    UNION ALL
    SELECT 'warning', 'domain', format('mail for %s waits until %s because relay "%s" said: %s', d.domain, date_trunc('second', d.suspended_until), d.relay, d.reason),
           format('Rule "%s" understands that as a wish for a pause. It goes on by itself; a new worker forgets the pause: SELECT pg_terminate_backend(pid) FROM mail.workers.', d.rule)
    FROM mail.domain_stats d
    WHERE d.suspended_until >= d.since + interval '1 minute'
      AND EXISTS (SELECT FROM mail.pending p JOIN mail.message m ON m.id = p.id
                  WHERE (p.waits_for IS NOT NULL OR p.attempts > 0) AND p.due_at > clock_timestamp() AND p.due_at < 'infinity'
                    AND d.domain IN (SELECT lower(split_part(a, '@', -1)) FROM unnest(m.recipients) AS a))
    UNION ALL
    SELECT 'warning', 'rule', format('reply rule "%s" is for a relay "%s" that does not exist', u.name, u.relay),
           'Correct its relay, insert that relay, or switch the rule off.'
    FROM mail.reply_rule u WHERE u.enabled AND u.relay IS NOT NULL AND NOT EXISTS (SELECT FROM mail.relay r WHERE r.name = u.relay)
    UNION ALL
    SELECT 'warning', 'sender_grant',
           CASE WHEN g.role NOT IN (SELECT r.rolname FROM pg_roles r) THEN format('the grant to send as %s is for a role "%s" that does not exist', g.sender, g.role)
                ELSE format('the grant to send as %s is for a queue "%s" that does not exist', g.sender, g.queue) END,
           'Nobody may use it. Correct its row in mail.sender_grant, or delete it.'
    FROM mail.sender_grant g
    WHERE g.role NOT IN (SELECT r.rolname FROM pg_roles r)
       OR g.queue IS NOT NULL AND NOT EXISTS (SELECT FROM mail.queue q WHERE q.name = g.queue)
    UNION ALL
    SELECT 'warning', 'owner', format('queue "%s" belongs to a role "%s" that does not exist', q.name, q.owner),
           'Only members of mail_admin may use it. Correct its owner.'
    FROM mail.queue q WHERE q.owner IS NOT NULL AND q.owner NOT IN (SELECT r.rolname FROM pg_roles r)
    UNION ALL
    SELECT 'critical', 'dkim', format('key "%s" of %s cannot be used, so that mail from there goes without its signature: %s', k.selector, k.domain, t.error),
           'Correct its row in mail.dkim_key, or the file that it refers to and reload; a dump holds no private keys.'
    FROM mail.dkim_trouble t JOIN mail.dkim_key k ON (k.domain, k.selector) = (t.domain, t.selector) WHERE k.enabled
    UNION ALL
    SELECT 'critical', 'relays', format('queue "%s" has no relay to deliver through', q.name),
           'Insert a row into mail.relay, enable one, or correct the queue''s relays.'
    FROM mail.queue q
    WHERE q.transport = 'smtp'
      AND NOT EXISTS (SELECT FROM mail.relay r WHERE r.enabled AND (q.relays = '{}' OR r.name = ANY (q.relays)))
    UNION ALL
    -- Of each queue those that were put off first are looked at.
    SELECT 'critical', 'relays', format('%s messages in queue "%s" wait: %s', w.n, q.name, w.why),
           'Insert a relay for that domain, or correct the relays'' recipient_domains and sender_domains.'
    FROM mail.queue q CROSS JOIN LATERAL (
        SELECT count(*) AS n, min(e.text) AS why
        FROM (SELECT x.id FROM mail.pending x WHERE x.queue_id = q.id AND x.waits_for IS NOT NULL ORDER BY x.waits_for, x.rank, x.due_at, x.id LIMIT 1000) p
        CROSS JOIN LATERAL (SELECT v.text FROM mail.event v WHERE v.message_id = p.id ORDER BY v.id DESC LIMIT 1) e
        WHERE e.text LIKE 'no relay of its queue serves %') w
    WHERE w.n > 0
    UNION ALL
    SELECT CASE WHEN s.down > 0 THEN 'critical' ELSE 'warning' END, 'relays',
           format('all relays of queue "%s" are %s: %s', q.name,
                  CASE s.down WHEN s.of THEN 'down' WHEN 0 THEN 'paused by reply rules' ELSE 'down, or paused by reply rules' END,
                  CASE WHEN EXISTS (SELECT FROM mail.pending p WHERE p.queue_id = q.id) THEN 'its messages wait' ELSE 'new messages will wait' END),
           CASE s.down WHEN 0 THEN 'They go on by themselves; mail.relay_stats says when.'
                       ELSE 'See mail.relay_stats for what is wrong with them.' END
    FROM mail.queue q, LATERAL (
        SELECT count(*) AS of, count(t.relay_id) AS out, count(t.relay_id) FILTER (WHERE t.rule IS NULL) AS down
        FROM mail.relay r LEFT JOIN trouble t ON t.relay_id = r.id
        WHERE r.enabled AND (q.relays = '{}' OR r.name = ANY (q.relays))) s
    WHERE q.transport = 'smtp' AND s.of > 0 AND s.out = s.of
    UNION ALL
    SELECT 'warning', 'held', format('%s messages in queue "%s" are held by a reply rule', count(*), q.name),
           'See mail.events for why; mail.retry(id) lets one go, mail.cancel(id) ends it.'
    FROM mail.queue q, LATERAL (
        WITH RECURSIVE lane AS (
            (SELECT p.rank FROM mail.pending p WHERE p.queue_id = q.id ORDER BY p.rank LIMIT 1)
            UNION ALL
            SELECT (SELECT p.rank FROM mail.pending p WHERE p.queue_id = q.id AND p.rank > l.rank ORDER BY p.rank LIMIT 1)
            FROM lane l WHERE l.rank IS NOT NULL)
        SELECT p.id FROM lane l JOIN mail.pending p ON p.queue_id = q.id AND p.rank = l.rank AND p.due_at = 'infinity') h
    GROUP BY q.name
    UNION ALL
    SELECT 'warning', 'relays', format('queue "%s" names a relay "%s" that does not exist or is not enabled', q.name, n),
           'Correct the queue''s relays.'
    FROM mail.queue q, unnest(q.relays) AS n
    WHERE q.transport = 'smtp' AND NOT EXISTS (SELECT FROM mail.relay r WHERE r.enabled AND r.name = n)
    UNION ALL
    SELECT 'critical', 'queue', format('messages wait in a queue with the id %s, which is not there', l.queue_id),
           'Where a dump is being restored, mail.queue comes last. Otherwise insert it with that id.'
    FROM (WITH RECURSIVE lane AS (
            (SELECT p.queue_id FROM mail.pending p ORDER BY p.queue_id LIMIT 1)
            UNION ALL
            SELECT (SELECT p.queue_id FROM mail.pending p WHERE p.queue_id > l.queue_id ORDER BY p.queue_id LIMIT 1)
            FROM lane l WHERE l.queue_id IS NOT NULL)
          SELECT queue_id FROM lane WHERE queue_id IS NOT NULL) l
    WHERE l.queue_id NOT IN (SELECT q.id FROM mail.queue q)
    UNION ALL
    SELECT 'warning', 'sender', format('queue "%s" sends as %s where a message names no sender', q.name, q.default_sender),
           'Set the queue''s default_sender to an address of yours.'
    FROM mail.queue q WHERE q.transport = 'smtp' AND q.default_sender LIKE '%@localhost'
    UNION ALL
    SELECT 'warning', 'backlog', format('the oldest message due in queue "%s" has waited for %s', s.queue, date_trunc('second', s.oldest_age)),
           CASE s.transport WHEN 'external' THEN 'Nothing claims its messages fast enough.'
                ELSE 'See mail.relay_stats and mail.events for what holds it up.' END
    FROM mail.queue_stats s WHERE s.oldest_age > interval '5 minutes' AND NOT s.paused
    UNION ALL
    SELECT 'warning', 'paused', format('queue "%s" is paused and %s messages wait', s.queue, s.queued + s.deferred),
           format('SELECT mail.resume(%L) lets them go.', s.queue)
    FROM mail.queue_stats s WHERE s.paused AND s.queued + s.deferred > 0
    UNION ALL
    -- Emptying takes two looks, ten minutes apart; what runs for longer, as a dump, is over before its next turn would be.
    SELECT 'warning', 'retention', format('mail.%I (%s) is over and has not been emptied for longer than %s', p.name,
               pg_size_pretty(pg_total_relation_size(format('mail.%I', p.name)::regclass)), mail._turn_length(mail._keep(p.holds))),
           'An old snapshot keeps it (backend_xmin in pg_stat_activity), a transaction that was prepared and forgotten (pg_prepared_xacts), or what a WARNING in the server''s log tells.'
    FROM mail.partition p WHERE mail._is_over(p, clock_timestamp() - mail._turn_length(mail._keep(p.holds)))
    UNION ALL
    SELECT 'warning', 'dead_letters', format('queue "%s" has %s dead letters', s.queue, s.failed),
           'See mail.dead_letters; mail.retry(id) and mail.retry_dead_letters(queue) put them back.'
    FROM mail.queue_stats s WHERE s.failed > 0
    UNION ALL
    SELECT 'warning', 'uncertain', format('queue "%s" holds %s messages that may have been delivered', s.queue, s.uncertain),
           'Look for message_id of mail.dead_letters in the relay''s log: where it is there mail.dismiss(id), where it is not mail.retry(id).'
    FROM mail.queue_stats s WHERE s.uncertain > 0;
$$;

DO $$
DECLARE
    sees_all text := $q$(SELECT pg_catalog.pg_has_role(current_user, 'mail_reader', 'MEMBER') OR pg_catalog.pg_has_role(current_user, 'mail_admin', 'MEMBER'))$q$;
    own      text := $q$ARRAY(SELECT q.id FROM mail.queue q WHERE q.owner IS NOT NULL AND mail._administers(pg_catalog.quote_ident(current_user)::pg_catalog.regrole, q.owner))$q$;
BEGIN
    EXECUTE format('ALTER POLICY event_visible ON mail.event USING (%s OR queue_id = ANY (%s) OR mail._is_own(message_id))', sees_all, own);
    EXECUTE format('ALTER POLICY dead_letter_visible ON mail.dead_letter USING (%s OR queue_id = ANY (%s) OR mail._is_own(id))', sees_all, own);
END
$$;

-- Dumps take the partitions along.
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT format('mail.%I', p.name) FROM mail.partition p WHERE p.turn IS NOT NULL LOOP
        PERFORM pg_catalog.pg_extension_config_dump(name::regclass, '');
    END LOOP;
END
$$;

-- What was made belongs to the extension's owner, whoever calls this, and nobody has a right to it by default.
DO $$
DECLARE
    owner     text := (SELECT quote_ident(pg_get_userbyid(c.relowner)) FROM pg_class c WHERE c.oid = 'mail.queue'::regclass);
    made      text[] := ARRAY['__is_own', '_by_turns', '_empty', '_event_goes', '_forget', '_in_flight', '_is_over', '_is_own', '_keep', '_newest', '_retain', '_retain_events', '_retain_messages', '_retain_table', '_seen_by_all', '_take_turns', '_try_lock', '_turn_length', '_written'];
    statement text;
BEGIN
    EXECUTE format('ALTER TABLE mail.partition OWNER TO %s', owner);
    FOR statement IN
        SELECT format('ALTER TABLE %s OWNER TO %s', format('mail.%I', p.name)::regclass, owner) FROM mail.partition p WHERE p.turn IS NOT NULL
        UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO %s', p.oid::regprocedure, owner)
        FROM pg_proc p WHERE p.pronamespace = 'mail'::regnamespace AND p.proname = ANY (made)
    LOOP
        EXECUTE statement;
    END LOOP;
    FOR statement IN
        SELECT DISTINCT format('REVOKE ALL ON %s %s FROM %s', o.kind, o.name, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        FROM (
            SELECT 'FUNCTION' AS kind, p.oid::regprocedure::text AS name, p.proowner AS owner, coalesce(p.proacl, acldefault('f', p.proowner)) AS acl
            FROM pg_proc p WHERE p.pronamespace = 'mail'::regnamespace AND p.proname = ANY (made)
            UNION ALL
            SELECT 'TABLE', c.oid::regclass::text, c.relowner, coalesce(c.relacl, acldefault('r', c.relowner))
            FROM pg_class c JOIN mail.partition p ON p.name = c.relname AND p.turn IS NOT NULL WHERE c.relnamespace = 'mail'::regnamespace
            UNION ALL
            SELECT 'TABLE', c.oid::regclass::text, c.relowner, coalesce(c.relacl, acldefault('r', c.relowner))
            FROM pg_class c WHERE c.oid = 'mail.partition'::regclass) o,
            aclexplode(o.acl) a
        WHERE a.grantee <> o.owner
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

-- Rights.

GRANT INSERT, UPDATE (content), DELETE ON mail.message TO mail_worker;
GRANT SELECT, UPDATE ON mail.partition TO mail_worker;
GRANT SELECT ON mail.partition TO mail_reader;
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT p.name FROM mail.partition p WHERE p.turn IS NOT NULL LOOP
        EXECUTE format('GRANT SELECT, INSERT, DELETE ON mail.%I TO mail_worker', name);
    END LOOP;
END
$$;

GRANT EXECUTE ON FUNCTION mail._is_own(bigint) TO mail_views, mail_sender, mail_tenant, mail_reader, mail_admin;
GRANT EXECUTE ON FUNCTION
    mail._retain(integer, timestamptz), mail._retain_table(mail.partition, integer), mail._seen_by_all(xid8), mail._retain_messages(mail.partition, integer), mail._retain_events(mail.partition, integer),
    mail._forget(bigint[]), mail._newest(mail.partition), mail._is_over(mail.partition, timestamptz), mail._by_turns(text), mail._empty(text), mail._try_lock(text, text), mail._keep(text),
    mail._turn_length(interval), mail._take_turns(), mail._in_flight(integer[])
    TO mail_worker;

-- Sessions and the worker read the configuration anew: a statement that fires the trigger on mail.queue says so at commit.
UPDATE mail.queue SET paused = paused WHERE false;
