-- What only the worker calls. Its hot statements stand in src/worker/store.rs.

CREATE FUNCTION mail._recover() RETURNS bigint
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT mail._interrupted(d.tokens, 'interrupted', 'the worker or the server stopped before the result was recorded')
    FROM (SELECT array_agg(l.token) AS tokens FROM mail.lease l WHERE l.holder IS NOT NULL) d
    WHERE d.tokens IS NOT NULL;
$$;
COMMENT ON FUNCTION mail._recover() IS 'Takes over from a worker that is gone: the attempts that it had in flight are counted.';

CREATE FUNCTION mail._relay_down(relay_id integer, pause interval, error text, rule text DEFAULT NULL) RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO mail.relay_trouble AS t (relay_id, since, suspended_until, failures, error, rule)
    SELECT r.id, clock_timestamp(), coalesce(clock_timestamp() + _relay_down.pause, 'infinity'), 1, _relay_down.error, _relay_down.rule
    FROM mail.relay r WHERE r.id = _relay_down.relay_id
    ON CONFLICT (relay_id) DO UPDATE
    SET suspended_until = excluded.suspended_until, failures = t.failures + 1, error = excluded.error, rule = excluded.rule,
        -- To fail and to ask for a pause are two troubles, and so are two pauses between which nothing wanted to be sent.
        since = CASE WHEN (t.rule IS NULL) <> (excluded.rule IS NULL)
                       OR t.rule IS NOT NULL AND t.suspended_until < clock_timestamp() - interval '5 minutes'
                     THEN excluded.since ELSE t.since END;
$$;
COMMENT ON FUNCTION mail._relay_down(integer, interval, text, text) IS 'Notes that a relay is suspended, by a rule or because it failed; pause NULL: until it is configured differently.';

CREATE FUNCTION mail._domain_paused(domain text, pause interval, relay text, rule text, reason text) RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM mail.domain_pause d WHERE d.suspended_until <= clock_timestamp();
    INSERT INTO mail.domain_pause AS d (domain, since, suspended_until, relay, rule, reason)
    VALUES (_domain_paused.domain, clock_timestamp(), clock_timestamp() + _domain_paused.pause, _domain_paused.relay,
            _domain_paused.rule, _domain_paused.reason)
    ON CONFLICT ON CONSTRAINT domain_pause_pkey DO UPDATE
    SET suspended_until = excluded.suspended_until, relay = excluded.relay, rule = excluded.rule, reason = excluded.reason;
$$;
COMMENT ON FUNCTION mail._domain_paused(text, interval, text, text, text) IS 'Notes that mail for a recipient domain waits, and forgets pauses that are over.';

CREATE FUNCTION mail._expire(batch integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    late bigint[];
BEGIN
    late := ARRAY(SELECT p.id FROM mail.pending p
                  WHERE p.expires_at <= clock_timestamp() AND p.id NOT IN (SELECT unnest(l.ids) FROM mail.lease l)
                  ORDER BY p.expires_at LIMIT batch FOR UPDATE SKIP LOCKED);
    -- A new statement, and so a new snapshot: it sees the lease of whoever held these rows' locks before.
    RETURN mail._drop_pending(
        ARRAY(SELECT i FROM unnest(late) AS i WHERE i NOT IN (SELECT unnest(l.ids) FROM mail.lease l)),
        'expired', 'expired', 'expired before it could be sent');
END
$$;
COMMENT ON FUNCTION mail._expire(integer) IS 'Ends messages whose time is over and which nobody has in flight, at most so many, whatever holds up their queue; returns how many.';

CREATE FUNCTION mail._first_id(at timestamptz) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    RETURN greatest(0, floor(extract(epoch FROM at))::bigint - 1577836800) << 32;
COMMENT ON FUNCTION mail._first_id(timestamptz) IS 'The lowest message id of that second: ids carry the time.';

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

CREATE FUNCTION mail._retain_files(behind bigint, batch integer, OUT last bigint, OUT looked_at bigint)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unused bigint[];
BEGIN
    SELECT max(s.id), count(*) INTO last, looked_at
    FROM (SELECT f.id FROM mail.attachment f WHERE f.id > behind ORDER BY f.id LIMIT batch) s;
    -- Who is just enqueuing with a file holds its row's lock.
    unused := ARRAY(
        SELECT f.id FROM mail.attachment f
        WHERE f.id > behind AND f.id <= last AND f.attached_at < clock_timestamp() - interval '1 day'
          AND EXISTS (SELECT FROM mail.installation i WHERE i.since < clock_timestamp() - interval '1 day')
          AND NOT EXISTS (SELECT FROM mail.message_attachment u WHERE u.attachment_id = f.id)
        FOR UPDATE OF f SKIP LOCKED);
    -- A new statement sees those that have committed since, and nobody else can get hold of these files any more.
    DELETE FROM mail.attachment a
    WHERE a.id = ANY (unused) AND NOT EXISTS (SELECT FROM mail.message_attachment u WHERE u.attachment_id = a.id);
END
$$;
COMMENT ON FUNCTION mail._retain_files(bigint, integer) IS 'Lets go of files that nothing refers to among the next batch files behind an id; returns the last id it looked at, NULL if there was none.';
