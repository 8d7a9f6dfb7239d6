-- Produce. The functions in C check, compose the JSON form and insert with the owner's rights; see src/produce.rs. The
-- two that are called for every mail set no search_path, which would cost them a tenth: all names and operators in
-- their statements are qualified.

CREATE FUNCTION mail.enqueue(
    recipient text, subject text DEFAULT NULL, text_body text DEFAULT NULL, html_body text DEFAULT NULL,
    sender text DEFAULT NULL, queue text DEFAULT 'default', template text DEFAULT NULL, params jsonb DEFAULT NULL,
    locale text DEFAULT NULL, send_at timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL,
    priority integer DEFAULT 0, idempotency_key text DEFAULT NULL, ordering_key text DEFAULT NULL,
    supersede_key text DEFAULT NULL, options jsonb DEFAULT NULL, render text DEFAULT NULL
) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'enqueue_text_wrapper';
COMMENT ON FUNCTION mail.enqueue(text, text, text, text, text, text, text, jsonb, text, timestamptz, timestamptz, integer, text, text, text, jsonb, text) IS
'Accepts a mail as part of the caller''s transaction and returns its id. recipient: one address or a comma-separated list, display names allowed; template, params, locale: a template instead of subject and bodies, rendered when it is sent, or at once with render => ''enqueue''; options: further fields of the JSON form. Waits for nobody unless an idempotency_key or supersede_key is given: then calls with the same key wait for each other''s transaction; and, for half a second at most, while somebody deletes a queue. With an idempotency_key seen within the queue''s window the first id comes back and nothing is added. Errors: 22023 bad value (the field is named), 42704 no such queue or template, 42501 a sender that the role may not use, 54000 too large.';

CREATE FUNCTION mail.enqueue(
    message jsonb, queue text DEFAULT 'default', send_at timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL,
    priority integer DEFAULT 0, idempotency_key text DEFAULT NULL, ordering_key text DEFAULT NULL,
    supersede_key text DEFAULT NULL
) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'enqueue_json_wrapper';
COMMENT ON FUNCTION mail.enqueue(jsonb, text, timestamptz, timestamptz, integer, text, text, text) IS
'As the text form, with the message as JSON: from, sender, to, cc, bcc, reply_to, return_path, subject, text, html, attachments, headers, in_reply_to, references, message_id, list_unsubscribe, dsn, template, params, locale, render, metadata, tags, raw. Unknown fields are an error. A queue with transport external takes any JSON. Errors: 22023, 42704, 42501, 54000.';

CREATE FUNCTION mail._enqueue_element(
    element bigint, message jsonb, queue text, send_at timestamptz, expires_at timestamptz, priority integer
) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'enqueue_element_wrapper';
COMMENT ON FUNCTION mail._enqueue_element(bigint, jsonb, text, timestamptz, timestamptz, integer) IS
'mail.enqueue for one message of a list; errors say which one.';

CREATE FUNCTION mail.enqueue_batch(
    messages jsonb[], queue text DEFAULT 'default', send_at timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL,
    priority integer DEFAULT 0
) RETURNS SETOF bigint
    LANGUAGE sql VOLATILE PARALLEL UNSAFE ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
    SELECT mail._enqueue_element(u.element, u.message, enqueue_batch.queue, enqueue_batch.send_at, enqueue_batch.expires_at, enqueue_batch.priority)
    FROM unnest(messages) WITH ORDINALITY AS u (message, element);
$$;
COMMENT ON FUNCTION mail.enqueue_batch(jsonb[], text, timestamptz, timestamptz, integer) IS
'Accepts many messages, all or none; returns their ids in order. Errors: as mail.enqueue, with the place of the message, from 1: messages[3].';

-- Run with the owner's rights, as mail._cancel: see src/pg/owner.rs.
CREATE FUNCTION mail.cancel(id bigint) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.cancel(bigint) IS
'True if the message was sent to nobody and now never will be; false if it was sent, is in flight or does not exist. What is left of a message that reached some of its recipients is cancelled too, and the answer is false. Waits for a transaction that is claiming it. Errors: 42501 when another role enqueued it and the caller does not administer its queue.';

CREATE FUNCTION mail._lock_idle(id bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    p mail.pending;
BEGIN
    SELECT * INTO p FROM mail.pending t WHERE t.id = _lock_idle.id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF mail._leased(id) THEN -- somebody claimed it meanwhile: let go of the row, or its settling would wait for us
        RAISE EXCEPTION 'in flight' USING ERRCODE = 'ML000';
    END IF;
    PERFORM mail._note_locked(p.queue_id, p.rank, p.due_at);
    RETURN true;
EXCEPTION WHEN SQLSTATE 'ML000' THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION mail._lock_idle(bigint) IS 'Locks a message that waits and is not in flight; false, and nothing is locked, otherwise.';

CREATE FUNCTION mail._cancel(caller oid, id bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m record;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'cannot cancel a message during recovery' USING ERRCODE = '25006';
    END IF;
    SELECT t.queue_id, t.enqueued_by = pg_get_userbyid(caller) AS own, q.owner INTO m
    FROM mail.message t LEFT JOIN mail.queue q ON q.id = t.queue_id WHERE t.id = _cancel.id;
    IF NOT FOUND OR NOT m.own AND NOT mail._may_use(caller, m.owner) THEN
        RETURN false;
    ELSIF NOT m.own AND NOT mail._administers(caller, m.owner) THEN
        RAISE EXCEPTION 'message % was enqueued by another role', id
            USING ERRCODE = '42501', HINT = 'Members of mail_admin may cancel any message, members of mail_tenant those in their queues.';
    END IF;
    IF mail._leased(id) THEN
        RETURN false;
    END IF;
    IF mail._lock_idle(id) THEN
        PERFORM mail._drop_pending(ARRAY[id], 'cancelled', 'cancelled', 'cancelled');
    ELSIF mail._leased(id) THEN
        RETURN false;
    ELSE
        DELETE FROM mail.dead_letter t WHERE t.id = _cancel.id AND t.state = 'failed';
        IF FOUND THEN
            INSERT INTO mail.event (message_id, queue_id, attempt, kind, state, text)
            VALUES (_cancel.id, m.queue_id, 0, 'cancelled', 'cancelled', 'cancelled as a dead letter');
        ELSIF coalesce((SELECT e.state FROM mail.event e WHERE e.message_id = _cancel.id AND e.state IS NOT NULL
                        ORDER BY e.id DESC LIMIT 1), 'sent') NOT IN ('cancelled', 'expired', 'suppressed') THEN
            RETURN false;
        END IF;
    END IF;
    RETURN NOT EXISTS (SELECT FROM mail.event e WHERE e.message_id = _cancel.id AND e.kind IN ('sent', 'held', 'uncertain'));
END
$$;
COMMENT ON FUNCTION mail._cancel(oid, bigint) IS 'mail.cancel for a role.';

CREATE FUNCTION mail._claim_key(queue_id integer, key text, id bigint) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first bigint;
BEGIN
    INSERT INTO mail.idempotency AS i (queue_id, key, message_id, until)
    SELECT q.id, _claim_key.key, _claim_key.id, clock_timestamp() + q.idempotency_window
    FROM mail.queue q WHERE q.id = _claim_key.queue_id
    ON CONFLICT ON CONSTRAINT idempotency_pkey DO UPDATE SET message_id = excluded.message_id, until = excluded.until
    WHERE i.until <= clock_timestamp();
    IF FOUND THEN
        RETURN NULL;
    END IF;
    SELECT i.message_id INTO STRICT first FROM mail.idempotency i
    WHERE i.queue_id = _claim_key.queue_id AND i.key = _claim_key.key;
    RETURN first;
END
$$;
COMMENT ON FUNCTION mail._claim_key(integer, text, bigint) IS 'Takes an idempotency key for a message, or returns the message that has it. Waits for a transaction that is about to take the same key.';

CREATE FUNCTION mail._supersede(queue_id integer, key text, by_id bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before bigint[];
    old    bigint;
    left_  bigint[];
BEGIN
    -- One at a time for each key, by the lock on its row.
    INSERT INTO mail.supersede AS s (queue_id, key, message_id) VALUES (_supersede.queue_id, _supersede.key, by_id)
    ON CONFLICT ON CONSTRAINT supersede_pkey
    DO UPDATE SET earlier = s.earlier || s.message_id, message_id = excluded.message_id
    RETURNING s.earlier INTO before;
    FOREACH old IN ARRAY before LOOP
        IF NOT mail._leased(old) AND mail._lock_idle(old) THEN
            PERFORM mail._drop_pending(ARRAY[old], 'cancelled', 'cancelled', 'superseded by message ' || by_id);
        END IF;
    END LOOP;
    left_ := ARRAY(SELECT p.id FROM mail.pending p WHERE p.id = ANY (before));
    IF left_ <> before THEN
        UPDATE mail.supersede s SET earlier = left_
        WHERE s.queue_id = _supersede.queue_id AND s.key = _supersede.key;
    END IF;
END
$$;
COMMENT ON FUNCTION mail._supersede(integer, text, bigint) IS 'Cancels unsent messages with that supersede_key and notes the new one. Waits for a transaction that does the same. Errors: 40001 when an older snapshot hides what that one did.';
