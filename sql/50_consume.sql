-- Consume: the same state machine that the built-in worker uses, for programs in any language.

CREATE TYPE mail.claimed AS (
    id bigint, token bigint, attempt integer, enqueued_at timestamptz, lease_until timestamptz, message jsonb, recipients text[]
);
COMMENT ON TYPE mail.claimed IS 'A message in the hands of a consumer.';
COMMENT ON COLUMN mail.claimed.id IS 'The message.';
COMMENT ON COLUMN mail.claimed.token IS 'Fence for ack, nack, extend and release.';
COMMENT ON COLUMN mail.claimed.attempt IS 'Which attempt this is, from 1.';
COMMENT ON COLUMN mail.claimed.enqueued_at IS 'When it was enqueued.';
COMMENT ON COLUMN mail.claimed.lease_until IS 'When it goes back by itself.';
COMMENT ON COLUMN mail.claimed.message IS 'The message in its JSON form.';
COMMENT ON COLUMN mail.claimed.recipients IS 'Envelope recipients that are outstanding.';

CREATE FUNCTION mail._await(queue_id integer, until timestamptz) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'await_queue_wrapper';
COMMENT ON FUNCTION mail._await(integer, timestamptz) IS 'Sleeps on the latch until the queue is touched or the time has come.';

CREATE FUNCTION mail._await_begin(queue_id integer) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'await_begin_wrapper';
COMMENT ON FUNCTION mail._await_begin(integer) IS 'From now on, commits that touch the queue set this backend''s latch.';
CREATE FUNCTION mail._await_end(queue_id integer) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'await_end_wrapper';
COMMENT ON FUNCTION mail._await_end(integer) IS 'Ends what mail._await_begin began.';

CREATE FUNCTION mail._lock_due(queue_id integer, batch integer) RETURNS bigint[]
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

-- Consumers have no right to the tables themselves: src/pg/owner.rs runs these functions with the owner's rights, and tells
-- them whom it does so for. Nobody else may call them. Their plans are made once for each session and walk the indexes,
-- whatever the statistics say of tables that fill and empty: planning takes several times as long as what is planned.
CREATE FUNCTION mail._claim(caller oid, queue text, batch integer, lease interval, wait interval) RETURNS SETOF mail.claimed
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
COMMENT ON FUNCTION mail._claim(oid, text, integer, interval, interval) IS 'mail.claim for a role.';

CREATE FUNCTION mail.claim(
    queue text DEFAULT 'default', batch integer DEFAULT 1, lease interval DEFAULT NULL, wait interval DEFAULT '0'
) RETURNS SETOF mail.claimed
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.claim(text, integer, interval, interval) IS
'Claims up to batch messages that are due, by priority and age, for the length of the lease (default: the queue''s); N concurrent claimers never get the same message. With wait it returns as soon as something is claimable or the wait is over, sleeping meanwhile. Commit before you work on them. Needs read committed. Errors: 42704 no such queue, 22023 bad argument, 25001 wrong isolation level.';

CREATE FUNCTION mail._fenced(caller oid, id bigint, token bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM mail.lease l
    WHERE l.token = _fenced.token AND l.ids @> ARRAY[_fenced.id] AND l.lease_until > clock_timestamp()
      AND (SELECT q.owner IS NULL OR mail._may_use(caller, q.owner) FROM mail.queue q WHERE q.id = l.queue_id) FOR UPDATE;
    RETURN NOT FOUND;
END
$$;
COMMENT ON FUNCTION mail._fenced(oid, bigint, bigint) IS 'True when that token no longer holds that message, or the role may not use its queue; otherwise its lease is locked.';

CREATE FUNCTION mail._ack(caller oid, id bigint, token bigint, response jsonb) RETURNS boolean
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
COMMENT ON FUNCTION mail._ack(oid, bigint, bigint, jsonb) IS 'mail.ack for a role.';

CREATE FUNCTION mail.ack(id bigint, token bigint, response jsonb DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.ack(bigint, bigint, jsonb) IS
'Ends a claimed message as sent; response is kept in its event (code, status and text are recognised). False, and nothing changed, when the lease has ended or passed to another.';

CREATE FUNCTION mail._ack(caller oid, ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql ROWS 100 SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
BEGIN
    IF cardinality(ids) IS DISTINCT FROM cardinality(tokens) THEN
        RAISE EXCEPTION 'ids and tokens differ in length' USING ERRCODE = '22023';
    END IF;
    RETURN QUERY SELECT u.id FROM unnest(ids, tokens) AS u (id, token) WHERE mail._ack(caller, u.id, u.token, NULL);
END
$$;
COMMENT ON FUNCTION mail._ack(oid, bigint[], bigint[]) IS 'mail.ack for a role.';

CREATE FUNCTION mail.ack(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.ack(bigint[], bigint[]) IS 'Acknowledges many; returns the ids that were acknowledged. Errors: 22023.';

CREATE FUNCTION mail._nack(caller oid, id bigint, token bigint, error text, retry_after interval, permanent boolean) RETURNS text
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
COMMENT ON FUNCTION mail._nack(oid, bigint, bigint, text, interval, boolean) IS 'mail.nack for a role.';

CREATE FUNCTION mail.nack(
    id bigint, token bigint, error text DEFAULT NULL, retry_after interval DEFAULT NULL, permanent boolean DEFAULT false
) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.nack(bigint, bigint, text, interval, boolean) IS
'Ends the attempt as failed: deferred until retry_after (default: the queue''s backoff), or failed when permanent or given up. Returns the new state; NULL, and nothing changed, when the lease has ended or passed to another. Errors: 22023.';

CREATE FUNCTION mail._extend(caller oid, id bigint, token bigint, lease interval) RETURNS timestamptz
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
COMMENT ON FUNCTION mail._extend(oid, bigint, bigint, interval) IS 'mail.extend for a role.';

CREATE FUNCTION mail.extend(id bigint, token bigint, lease interval) RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.extend(bigint, bigint, interval) IS
'Makes the lease end that long from now; returns when. NULL, and nothing changed, when it has ended or passed to another. Errors: 22023.';

CREATE FUNCTION mail._release(caller oid, id bigint, token bigint) RETURNS boolean
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
COMMENT ON FUNCTION mail._release(oid, bigint, bigint) IS 'mail.release for a role.';

CREATE FUNCTION mail.release(id bigint, token bigint) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.release(bigint, bigint) IS
'Gives a claimed message back at once; no attempt is counted. False, and nothing changed, when the lease has ended or passed to another.';
