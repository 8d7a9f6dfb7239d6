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

CREATE FUNCTION mail._retain(behind bigint, batch integer, OUT last bigint, OUT looked_at bigint)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old bigint[];
    up  bigint := mail._first_id(clock_timestamp()
              - (SELECT min(least(q.retain_sent, q.retain_body)) FROM mail.queue q));
BEGIN
    -- As many rows at a time as can be looked at quickly, whatever comes of them.
    SELECT max(s.id), count(*), array_agg(s.id) FILTER (WHERE s.done AND s.too_old) INTO last, looked_at, old
    FROM (SELECT m.id,
                 NOT EXISTS (SELECT FROM mail.pending p WHERE p.id = m.id)
                 AND NOT EXISTS (SELECT FROM mail.dead_letter d WHERE d.id = m.id) AS done,
                 m.enqueued_at < clock_timestamp() - q.retain_sent AS too_old
          FROM mail.message m JOIN mail.queue q ON q.id = m.queue_id
          WHERE m.id > behind AND m.id < up ORDER BY m.id LIMIT batch) s;
    IF old IS NOT NULL THEN
        DELETE FROM mail.event e WHERE e.message_id = ANY (old);
        DELETE FROM mail.capture c WHERE c.message_id = ANY (old);
        DELETE FROM mail.supersede s WHERE s.message_id = ANY (old)
            AND NOT EXISTS (SELECT FROM mail.pending p WHERE p.id = ANY (s.earlier));
        DELETE FROM mail.message_attachment a WHERE a.message_id = ANY (old);
        DELETE FROM mail.message m WHERE m.id = ANY (old);
    END IF;
    WITH bodies AS (
        UPDATE mail.message m SET content = NULL FROM mail.queue q
        WHERE m.id > behind AND m.id <= last AND q.id = m.queue_id AND m.content IS NOT NULL
          AND m.enqueued_at < clock_timestamp() - q.retain_body
          AND NOT EXISTS (SELECT FROM mail.pending p WHERE p.id = m.id)
          AND NOT EXISTS (SELECT FROM mail.dead_letter d WHERE d.id = m.id)
        RETURNING m.id),
    files AS (DELETE FROM mail.message_attachment a USING bodies b WHERE a.message_id = b.id)
    DELETE FROM mail.capture c USING bodies b WHERE c.message_id = b.id;
    DELETE FROM mail.idempotency i WHERE (i.queue_id, i.key) IN (
        SELECT t.queue_id, t.key FROM mail.idempotency t WHERE t.until < clock_timestamp() LIMIT batch);
    DELETE FROM mail.domain_pause d WHERE d.suspended_until < clock_timestamp();
END
$$;
COMMENT ON FUNCTION mail._retain(bigint, integer) IS 'Lets go of bodies and records whose time is over among the next batch messages behind an id, of idempotency keys, and of domains'' pauses; returns the last id it looked at, NULL if there was none.';

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
