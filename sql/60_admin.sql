-- Administer. As in 50_consume.sql: the functions in C run those behind them with the owner's rights, for whoever calls.

CREATE FUNCTION mail._pause(caller oid, queue text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    q mail.queue := mail._own_queue(caller, _pause.queue);
BEGIN
    UPDATE mail.queue t SET paused = true WHERE t.id = q.id AND NOT t.paused;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION mail._pause(oid, text) IS 'mail.pause for a role.';

CREATE FUNCTION mail.pause(queue text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.pause(text) IS 'Nothing of the queue is claimed until mail.resume; what is in flight ends. False if it was paused already. Errors: 42704 no such queue, 42501 it is not the caller''s to administer.';

CREATE FUNCTION mail._resume(caller oid, queue text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    q mail.queue := mail._own_queue(caller, _resume.queue);
BEGIN
    UPDATE mail.queue t SET paused = false WHERE t.id = q.id AND t.paused;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION mail._resume(oid, text) IS 'mail.resume for a role.';

CREATE FUNCTION mail.resume(queue text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.resume(text) IS 'Ends a pause. False if the queue was not paused. Errors: 42704, 42501.';

CREATE FUNCTION mail._retry(caller oid, id bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m mail.message;
    p mail.pending;
BEGIN
    UPDATE mail.pending t SET due_at = clock_timestamp() WHERE t.id = _retry.id AND t.due_at = 'infinity'
      AND mail._administers(caller, (SELECT q.owner FROM mail.queue q WHERE q.id = t.queue_id))
    RETURNING t.* INTO p;
    IF FOUND THEN
        INSERT INTO mail.event (message_id, queue_id, attempt, kind, text)
        VALUES (_retry.id, p.queue_id, p.attempts, 'released', format('let go by %s', session_user));
        RETURN true;
    END IF;
    DELETE FROM mail.dead_letter d WHERE d.id = _retry.id
        AND mail._administers(caller, (SELECT q.owner FROM mail.queue q WHERE q.id = d.queue_id));
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT * INTO STRICT m FROM mail.message t WHERE t.id = _retry.id;
    IF m.content IS NULL THEN
        RAISE EXCEPTION 'the body of message % is no longer kept', id
            USING ERRCODE = '55000', HINT = 'The queue''s retain_body says how long bodies are kept.';
    END IF;
    INSERT INTO mail.event (message_id, queue_id, attempt, kind, text)
    VALUES (_retry.id, m.queue_id, 0, 'retried', format('put back by %s', session_user));
    INSERT INTO mail.pending (id, due_at, queue_id, rank, size, expires_at, ordering_hash, ordering_seq)
    VALUES (_retry.id, clock_timestamp(), m.queue_id, -m.priority, octet_length(m.content), m.expires_at,
            CASE WHEN m.ordering_key IS NOT NULL THEN hashtextextended(m.ordering_key, m.queue_id) END,
            CASE WHEN m.ordering_key IS NOT NULL THEN nextval('mail.ordering_seq') END);
    RETURN true;
END
$$;
COMMENT ON FUNCTION mail._retry(oid, bigint) IS 'mail.retry for a role.';

CREATE FUNCTION mail.retry(id bigint) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.retry(bigint) IS 'Puts a dead letter back: due now, attempts from 0, to the recipients that it did not reach, at the end of its ordering key. Lets go of a message that a reply rule holds. False if it is neither. Errors: 55000 when its body is no longer kept.';

CREATE FUNCTION mail._dismiss(caller oid, id bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    d mail.dead_letter;
BEGIN
    DELETE FROM mail.dead_letter t WHERE t.id = _dismiss.id
        AND mail._administers(caller, (SELECT q.owner FROM mail.queue q WHERE q.id = t.queue_id))
    RETURNING t.* INTO d;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO mail.event (message_id, queue_id, attempt, kind, text)
    VALUES (d.id, d.queue_id, d.attempts, 'dismissed', format('dismissed by %s', session_user));
    RETURN true;
END
$$;
COMMENT ON FUNCTION mail._dismiss(oid, bigint) IS 'mail.dismiss for a role.';

CREATE FUNCTION mail.dismiss(id bigint) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.dismiss(bigint) IS 'Takes a message off the dead letters that needs nothing any more: it has arrived after all, or is not wanted. Its state and record stay. False if it is none.';

CREATE FUNCTION mail._retry_dead_letters(caller oid, queue text, since timestamptz) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    only_in integer := CASE WHEN _retry_dead_letters.queue IS NOT NULL THEN (mail._own_queue(caller, _retry_dead_letters.queue)).id END;
BEGIN
    RETURN (SELECT count(*) FILTER (WHERE mail._retry(caller, d.id))
            FROM (SELECT t.id FROM mail.dead_letter t JOIN mail.message m ON m.id = t.id AND m.content IS NOT NULL
                  WHERE (t.queue_id = only_in OR only_in IS NULL) AND t.state = 'failed' AND t.at >= since
                    AND mail._administers(caller, (SELECT q.owner FROM mail.queue q WHERE q.id = t.queue_id))
                  ORDER BY t.id) d);
END
$$;
COMMENT ON FUNCTION mail._retry_dead_letters(oid, text, timestamptz) IS 'mail.retry_dead_letters for a role.';

CREATE FUNCTION mail.retry_dead_letters(queue text DEFAULT NULL, since timestamptz DEFAULT '-infinity') RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.retry_dead_letters(text, timestamptz) IS 'Puts back all failed messages of a queue (default: all queues that the caller administers) that failed since then; returns how many. Not the uncertain ones: those may have been delivered, mail.retry puts back one. Errors: 42704, 42501.';

CREATE FUNCTION mail._purge(caller oid, queue text, finished boolean) RETURNS bigint
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
COMMENT ON FUNCTION mail._purge(oid, text, boolean) IS 'mail.purge for a role.';

CREATE FUNCTION mail.purge(queue text, finished boolean DEFAULT false) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.purge(text, boolean) IS 'Cancels every message of the queue that waits; returns how many. What is in flight ends by itself. With finished, the records of finished messages and dead letters are deleted too. Errors: 42704, 42501; 25001 unless in read committed.';

CREATE FUNCTION mail.arm() RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    total bigint;
BEGIN
    IF mail._stamp() IS NULL THEN
        RAISE EXCEPTION 'pgmq_mail.token_file cannot be used: %', mail._token_trouble()
            USING ERRCODE = '55000', HINT = 'Relays are armed with its content. It is a file outside the data directory that the server''s user can read.';
    END IF;
    UPDATE mail.relay r SET stamp = mail._stamp() WHERE r.stamp IS DISTINCT FROM mail._stamp();
    GET DIAGNOSTICS total = ROW_COUNT;
    RETURN total;
END
$$;
COMMENT ON FUNCTION mail.arm() IS 'Declares that this database shall deliver through its relays; returns how many were not armed. Needed after restoring a dump, copying a database, pg_upgrade, and a change of pgmq_mail.token_file. Errors: 55000 when that file cannot be used.';

CREATE FUNCTION mail.disarm(reason text DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    total bigint;
BEGIN
    -- Without a stamp, as while pgmq_mail.token_file cannot be read, nobody knows which are armed.
    UPDATE mail.relay r SET stamp = 'disarmed' || coalesce(': ' || reason, '')
    WHERE r.stamp = mail._stamp() OR mail._stamp() IS NULL AND r.stamp NOT LIKE 'disarmed%';
    GET DIAGNOSTICS total = ROW_COUNT;
    RETURN total;
END
$$;
COMMENT ON FUNCTION mail.disarm(text) IS 'Stops delivery through all relays until mail.arm(); returns how many were armed. The reason is shown by mail.health().';

CREATE FUNCTION mail._wait_idle(caller oid, queue text, timeout interval) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    q        mail.queue := mail._queue(caller, _wait_idle.queue);
    deadline timestamptz := clock_timestamp() + least(timeout, '100 years');
BEGIN
    PERFORM mail._need_read_committed('mail.wait_idle');
    WHILE EXISTS (
        SELECT FROM mail.pending p
        WHERE p.queue_id = q.id AND (
            p.due_at <= clock_timestamp() OR mail._leased(p.id)
            -- What waits for a slow domain has no time of its own; what waits for a domain's limit has.
            OR p.waits_for <> 0 AND p.waits_for NOT IN (
                SELECT hashtext(d.domain) FROM mail.domain_limit d WHERE d.rate_limit IS NOT NULL)))
    LOOP
        IF clock_timestamp() >= deadline THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN true;
END
$$;
COMMENT ON FUNCTION mail._wait_idle(oid, text, interval) IS 'mail.wait_idle for a role.';

CREATE FUNCTION mail.wait_idle(queue text DEFAULT 'default', timeout interval DEFAULT '10 seconds') RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.wait_idle(text, interval) IS 'Waits until nothing of the queue is due or in flight; false when the time is up first. For tests and scripts; call it outside the transaction that enqueues, and in read committed. Errors: 42704; 25001 unless in read committed.';

CREATE FUNCTION mail.start_worker() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'start_worker_wrapper';
COMMENT ON FUNCTION mail.start_worker() IS 'Starts this database''s delivery worker if none runs, until the next restart of the server. With shared_preload_libraries = ''pgmq_mail'' that happens by itself. True if one was started. Errors: 53000 when none could be, as when max_worker_processes is used up; 25006 on a standby.';

-- SECURITY DEFINER: the worker is a process of mail_worker, a role that nobody is a member of.
CREATE FUNCTION mail.stop_worker() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'stop_worker_wrapper';
COMMENT ON FUNCTION mail.stop_worker() IS 'Stops a worker that mail.start_worker() started; true if there was one. A worker of the launcher starts again by itself: use mail.pause or pgmq_mail.delivery = hold instead.';

CREATE FUNCTION mail._request_worker() RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'request_worker_wrapper';
COMMENT ON FUNCTION mail._request_worker() IS 'Asks the launcher, at commit, to see to this database.';
