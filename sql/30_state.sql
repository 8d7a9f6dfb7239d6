-- The state machine. Everything that ends or repeats an attempt goes through here.

CREATE FUNCTION mail._note(queue_id integer, rank integer, due_at timestamptz) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'note_lane_wrapper';
COMMENT ON FUNCTION mail._note(integer, integer, timestamptz) IS 'Announces, at commit, that something in that lane may be claimable from then on.';
CREATE FUNCTION mail._note_sweep(queue_id integer) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'note_sweep_wrapper';
COMMENT ON FUNCTION mail._note_sweep(integer) IS 'Asks, at commit, all who wait for that queue to look again from its beginning.';
CREATE FUNCTION mail._note_lease(until timestamptz) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'note_lease_wrapper';
COMMENT ON FUNCTION mail._note_lease(timestamptz) IS 'Tells the worker, at commit, when a lease from outside ends.';
CREATE FUNCTION mail._note_locked(queue_id integer, rank integer, due_at timestamptz) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'note_locked_wrapper';
COMMENT ON FUNCTION mail._note_locked(integer, integer, timestamptz) IS 'Should this (sub)transaction roll back, announces the messages that others passed over because it had locked them.';

CREATE FUNCTION mail._may_use(caller oid, owner text) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN owner IS NULL OR pg_has_role(caller, 'mail_admin', 'MEMBER')
        OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = owner AND pg_has_role(caller, r.oid, 'MEMBER'));
COMMENT ON FUNCTION mail._may_use(oid, text) IS 'Whether a role may use the queues of that owner.';

CREATE FUNCTION mail._administers(caller oid, owner text) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN pg_has_role(caller, 'mail_admin', 'MEMBER')
        OR owner IS NOT NULL AND pg_has_role(caller, 'mail_tenant', 'MEMBER') AND mail._may_use(caller, owner);
COMMENT ON FUNCTION mail._administers(oid, text) IS 'Whether a role administers the queues of that owner.';

CREATE FUNCTION mail.__may_read(caller oid, message_id bigint) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM mail.message m JOIN mail.queue q ON q.id = m.queue_id
                   WHERE m.id = __may_read.message_id AND mail._may_use(caller, q.owner));
$$;
COMMENT ON FUNCTION mail.__may_read(oid, bigint) IS 'mail._may_read for a role.';
CREATE FUNCTION mail._may_read(message_id bigint) RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail._may_read(bigint) IS 'Whether the caller may use the queue of a message.';

CREATE FUNCTION mail.__is_own(caller oid, message_id bigint) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM mail.message m WHERE m.id = __is_own.message_id AND m.enqueued_by = pg_get_userbyid(caller));
$$;
COMMENT ON FUNCTION mail.__is_own(oid, bigint) IS 'mail._is_own for a role.';
CREATE FUNCTION mail._is_own(message_id bigint) RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail._is_own(bigint) IS 'Whether the caller enqueued a message.';

CREATE FUNCTION mail._queue(caller oid, name text) RETURNS mail.queue
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    q mail.queue;
BEGIN
    SELECT * INTO q FROM mail.queue t WHERE t.name = _queue.name
      AND (t.owner IS NULL OR mail._may_use(caller, t.owner)); -- most have none, and a call costs more than a look
    IF NOT FOUND THEN
        RAISE EXCEPTION 'queue "%" does not exist', name
            USING ERRCODE = '42704', HINT = 'The table mail.queue lists the queues; one that has an owner is there for its members only.';
    END IF;
    RETURN q;
END
$$;
COMMENT ON FUNCTION mail._queue(oid, text) IS 'The queue of that name, if that role may use it. Errors: 42704.';

CREATE FUNCTION mail._own_queue(caller oid, name text) RETURNS mail.queue
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    q mail.queue := mail._queue(caller, name);
BEGIN
    IF NOT mail._administers(caller, q.owner) THEN
        RAISE EXCEPTION 'queue "%" is not administered by role "%"', name, pg_get_userbyid(caller)
            USING ERRCODE = '42501', HINT = 'Members of mail_tenant administer the queues whose owner they are members of, members of mail_admin all.';
    END IF;
    RETURN q;
END
$$;
COMMENT ON FUNCTION mail._own_queue(oid, text) IS 'The queue of that name, if that role administers it. Errors: 42704, 42501.';

CREATE FUNCTION mail._need_read_committed(function text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION '% needs transaction isolation level read committed', function USING ERRCODE = '25001',
            HINT = 'With an older snapshot it cannot see what others have claimed.';
    END IF;
END
$$;
COMMENT ON FUNCTION mail._need_read_committed(text) IS 'Refuses to go on with an older snapshot. Errors: 25001.';

CREATE FUNCTION mail._backoff(base interval, longest interval, attempt integer) RETURNS interval
    LANGUAGE sql VOLATILE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    RETURN least(longest, base * power(2, least(attempt - 1, 30))) * (0.9 + 0.2 * random());
COMMENT ON FUNCTION mail._backoff(interval, interval, integer) IS 'Pause after the given attempt (from 1): doubling, bounded, with a jitter of a tenth.';

CREATE FUNCTION mail._leased(id bigint) RETURNS boolean
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'leased_wrapper';
COMMENT ON FUNCTION mail._leased(bigint) IS 'Whether the message is in flight now, whatever snapshot the transaction keeps.';
CREATE FUNCTION mail._try_bucket(bucket integer) RETURNS boolean
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'try_bucket_wrapper';
COMMENT ON FUNCTION mail._try_bucket(integer) IS 'Takes the lock on a bucket of ordering keys until the end of the transaction; false if somebody else has it.';

CREATE FUNCTION mail._in_flight(queues integer[]) RETURNS bigint[]
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(SELECT unnest(l.ids) FROM mail.lease l WHERE l.holder IS NULL AND l.queue_id = ANY (queues)
                 UNION ALL
                 SELECT unnest(l.ids) FROM mail.lease l WHERE l.holder IS NOT NULL AND l.queue_id = ANY (queues));
END
$$;
COMMENT ON FUNCTION mail._in_flight(integer[]) IS 'Messages of these queues that somebody has in flight by now.';

CREATE FUNCTION mail._claimable(ids bigint[], OUT id bigint, OUT free boolean) RETURNS SETOF record
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
COMMENT ON FUNCTION mail._claimable(bigint[]) IS 'Of messages whose rows this transaction has locked: free, true: those that nobody has in flight; free, false: those whose ordering key another claimer is just deciding on. Read committed only.';

CREATE FUNCTION mail._drop_from_leases(gone bigint[], of_tokens bigint[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM mail.lease l WHERE l.token = ANY (of_tokens) AND l.ids <@ gone;
    UPDATE mail.lease l SET ids = ARRAY(SELECT i FROM unnest(l.ids) AS i WHERE i <> ALL (gone))
    WHERE l.token = ANY (of_tokens) AND l.ids && gone;
END
$$;
COMMENT ON FUNCTION mail._drop_from_leases(bigint[], bigint[]) IS 'Takes messages out of their leases and drops leases that are empty.';

CREATE FUNCTION mail._outstanding(id bigint) RETURNS text[]
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(u.recipient ORDER BY u.n), '{}')
    FROM mail.message m, unnest(m.recipients) WITH ORDINALITY AS u (recipient, n)
    WHERE m.id = _outstanding.id
      AND NOT EXISTS (
        SELECT FROM mail.event e
        WHERE e.message_id = m.id AND e.recipient = u.recipient
          AND (e.kind = 'sent' OR e.kind IN ('failed', 'held') AND e.id > coalesce(
                (SELECT max(r.id) FROM mail.event r WHERE r.message_id = m.id AND r.kind = 'retried'), 0)));
$$;
COMMENT ON FUNCTION mail._outstanding(bigint) IS 'Recipients for whom the message is neither sent nor settled as failed since it was last retried by hand.';

-- PL/pgSQL keeps its plans; a function in SQL is planned anew for every attempt that ends.
CREATE FUNCTION mail._born(id bigint) RETURNS timestamptz
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
COMMENT ON FUNCTION mail._born(bigint) IS 'Since when a message''s age counts: since it was to be sent, or was last retried by hand.';

CREATE FUNCTION mail._log_results(
    id bigint, queue_id integer, attempt integer, results jsonb, at timestamptz, goes_on boolean,
    holds boolean DEFAULT false, final text DEFAULT NULL, relay text DEFAULT NULL, duration interval DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    INSERT INTO mail.event
        (at, message_id, queue_id, attempt, code, kind, state, recipient, relay, phase, status, text, duration, tls, detail)
    SELECT at, _log_results.id, _log_results.queue_id, _log_results.attempt, (r.v ->> 'code')::integer,
           CASE WHEN r.v ->> 'verdict' = 'delivered' THEN 'sent'
                WHEN r.v ->> 'verdict' = 'permanent' THEN 'failed'
                WHEN r.v ->> 'verdict' = 'uncertain' AND holds THEN 'held'
                WHEN r.v ->> 'verdict' = 'uncertain' AND goes_on THEN 'uncertain'
                WHEN goes_on THEN 'deferred' ELSE 'failed' END,
           CASE WHEN r.place = jsonb_array_length(results) THEN final END,
           r.v ->> 'recipient', coalesce(r.v ->> 'relay', _log_results.relay), r.v ->> 'phase', r.v ->> 'status', r.v ->> 'text',
           coalesce(make_interval(secs => (r.v ->> 'seconds')::float8), _log_results.duration), r.v ->> 'tls',
           nullif(r.v -> 'detail', 'null')
    FROM jsonb_array_elements(results) WITH ORDINALITY AS r (v, place)
    ORDER BY r.place;
END
$$;
COMMENT ON FUNCTION mail._log_results(bigint, integer, integer, jsonb, timestamptz, boolean, boolean, text, text, interval) IS 'Writes one event for each result, as mail._settle has them; the last one carries the final state.';

CREATE FUNCTION mail._settle(
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
COMMENT ON FUNCTION mail._settle(bigint, jsonb, text, interval, interval, boolean, interval, text) IS 'Records an attempt that its caller holds the lease of; results: [{verdict: delivered|transient|permanent|uncertain, recipient, code, status, phase, text, relay, seconds, tls, retry_after (seconds, Infinity: until it is retried by hand), by_reply (the relay asked for that time, not a rule), detail}]. An attempt that is not counted goes on for those outstanding whatever the limits say, and so does one that left recipients untried: after so long if nobody else has to be tried again, or when the domain that it waits for asks for it. Returns the new state, NULL if the message is not pending.';

CREATE FUNCTION mail._released(id bigint, facts jsonb, pause interval) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p mail.pending;
BEGIN
    SELECT * INTO p FROM mail.pending t WHERE t.id = _released.id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF clock_timestamp() >= mail._born(p.id) + (SELECT q.give_up_after FROM mail.queue q WHERE q.id = p.queue_id) AND pause IS NOT NULL THEN
        PERFORM mail._settle(p.id, (
            SELECT jsonb_agg(facts || jsonb_build_object('verdict', 'transient', 'recipient', r))
            FROM unnest(mail._outstanding(p.id)) AS r));
        RETURN;
    END IF;
    INSERT INTO mail.event (message_id, queue_id, attempt, kind, relay, phase, code, status, text, duration, tls, detail)
    VALUES (p.id, p.queue_id, p.attempts, 'released', facts ->> 'relay', facts ->> 'phase', (facts ->> 'code')::integer,
            facts ->> 'status', facts ->> 'text', make_interval(secs => (facts ->> 'seconds')::float8), facts ->> 'tls',
            nullif(facts -> 'detail', 'null'));
    IF pause IS NOT NULL THEN
        UPDATE mail.pending t SET due_at = least(clock_timestamp() + pause, p.expires_at), waits_for = 0 WHERE t.id = p.id;
    END IF;
END
$$;
COMMENT ON FUNCTION mail._released(bigint, jsonb, interval) IS 'Records that a message was given back without an attempt, by one result as mail._settle has them. With a pause it is because of the message, or of nobody''s being there to take it: it gets its next time, and fails instead once give_up_after is over.';

CREATE FUNCTION mail._touch_successor(queue_id integer, ordering_hash bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF ordering_hash IS NULL THEN
        RETURN;
    END IF;
    -- Writing the row fires pending_touch: the next message of the key lies behind everybody's cursor.
    UPDATE mail.pending p SET due_at = p.due_at
    WHERE p.id = (SELECT e.id FROM mail.pending e WHERE e.ordering_hash = _touch_successor.ordering_hash
                  ORDER BY e.ordering_seq LIMIT 1);
    -- One that commits while this transaction is open is seen by neither side: whoever looks after the commit finds it.
    PERFORM mail._note_sweep(_touch_successor.queue_id);
END
$$;
COMMENT ON FUNCTION mail._touch_successor(integer, bigint) IS 'Announces the next message of an ordering key that has become free.';

CREATE FUNCTION mail._drop_pending(ids bigint[], kind text, state text, text text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p     mail.pending;
    total bigint := 0;
BEGIN
    FOR p IN DELETE FROM mail.pending t WHERE t.id = ANY (ids) RETURNING t.* LOOP
        INSERT INTO mail.event (message_id, queue_id, attempt, kind, state, text)
        VALUES (p.id, p.queue_id, p.attempts, _drop_pending.kind, _drop_pending.state, _drop_pending.text);
        PERFORM mail._touch_successor(p.queue_id, p.ordering_hash);
        total := total + 1;
    END LOOP;
    RETURN total;
END
$$;
COMMENT ON FUNCTION mail._drop_pending(bigint[], text, text, text) IS 'Ends pending messages that were never sent, with the given event and state.';

CREATE FUNCTION mail._interrupted(of_leases bigint[], kind text, text text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lost  bigint[];
    p     record;
    final text;
    total bigint := 0;
BEGIN
    WITH gone AS (DELETE FROM mail.lease l WHERE l.token = ANY (of_leases) RETURNING l.ids)
    SELECT array_agg(i) INTO lost FROM gone g, unnest(g.ids) AS i;
    FOR p IN
        SELECT t.*, q.on_uncertain, q.max_attempts FROM mail.pending t JOIN mail.queue q ON q.id = t.queue_id
        WHERE t.id = ANY (lost) FOR UPDATE OF t
    LOOP
        final := CASE WHEN p.on_uncertain = 'hold' THEN 'uncertain'
                      WHEN p.attempts + 1 >= p.max_attempts THEN 'failed' END;
        INSERT INTO mail.event (message_id, queue_id, attempt, kind, state, text)
        VALUES (p.id, p.queue_id, p.attempts + 1, _interrupted.kind, final, _interrupted.text);
        IF final IS NULL THEN
            UPDATE mail.pending t SET attempts = p.attempts + 1, due_at = clock_timestamp() WHERE t.id = p.id;
            PERFORM mail._touch_successor(p.queue_id, p.ordering_hash);
        ELSE
            DELETE FROM mail.pending t WHERE t.id = p.id;
            INSERT INTO mail.dead_letter (id, queue_id, state, attempts) VALUES (p.id, p.queue_id, final, p.attempts + 1);
            PERFORM mail._touch_successor(p.queue_id, p.ordering_hash);
        END IF;
        total := total + 1;
    END LOOP;
    RETURN total;
END
$$;
COMMENT ON FUNCTION mail._interrupted(bigint[], text, text) IS 'Ends leases whose holder is gone: the attempt counts, and the message goes on at once or, where the queue holds what is uncertain, waits for a person.';

-- SECURITY DEFINER: pg_stat_activity hides from ordinary roles what the view is to show.
CREATE FUNCTION mail._workers(OUT pid integer, OUT started_at timestamptz, OUT activity text, OUT in_flight bigint, OUT preloaded boolean)
    RETURNS SETOF record
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.pid, a.backend_start, coalesce(a.state, 'starting'),
           (SELECT count(*) FROM mail.lease l, unnest(l.ids) AS i JOIN mail.pending p ON p.id = i WHERE l.holder = a.pid),
           mail._preloaded()
    FROM pg_locks k JOIN pg_stat_activity a ON a.pid = k.pid
    WHERE k.locktype = 'userlock' AND k.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND k.classid = 1835100524 AND k.objid = 0 AND k.granted AND k.mode = 'ExclusiveLock';
$$;
COMMENT ON FUNCTION mail._workers() IS 'The delivery worker of this database, if it runs.';

CREATE FUNCTION mail._reap(queue_id integer DEFAULT NULL) RETURNS bigint
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
COMMENT ON FUNCTION mail._reap(integer) IS 'Ends leases that are over, of one queue or of all; not those of a worker that is alive, which settles or gives back what it holds.';
