-- From 0.1.0 to 0.2.0. What a fresh 0.2.0 has stands in sql/[0-9][0-9]_*.sql: there are the reasons for what is made here.
--
-- First what nobody waits for, then all locks, then what needs them.

-- A schema of somebody else, or with somebody else's functions in it, could have its own ones called with our rights.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
               WHERE n.nspname = 'mail' AND NOT r.rolsuper)
       OR EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
                  WHERE p.pronamespace = 'mail'::pg_catalog.regnamespace AND NOT r.rolsuper)
       OR EXISTS (SELECT FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_roles r ON r.oid = o.oprowner
                  WHERE o.oprnamespace = 'mail'::pg_catalog.regnamespace AND NOT r.rolsuper)
    THEN
        RAISE EXCEPTION 'schema "mail", or a function or an operator in it, does not belong to a superuser'
            USING ERRCODE = '55000', HINT = 'Give it to the owner of the extension, or drop it.';
    END IF;
END
$$;

-- Stamps, settings, relays.
COMMENT ON FUNCTION mail._stamp() IS 'Identity of this database: system identifier and database oid, and a digest of pgmq_mail.token_file where that is set; NULL: that cannot be read.';

CREATE FUNCTION mail._token_trouble() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'token_trouble_wrapper';
COMMENT ON FUNCTION mail._token_trouble() IS 'Why pgmq_mail.token_file cannot be read; NULL: it can, or is not set.';

CREATE FUNCTION mail._redirect_trouble() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'redirect_trouble_wrapper';
COMMENT ON FUNCTION mail._redirect_trouble() IS 'What is wrong with pgmq_mail.redirect_to where pgmq_mail.delivery needs it; NULL: nothing.';

CREATE FUNCTION mail._stays() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '%.% cannot be truncated', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = '0A000', HINT = TG_ARGV[0];
END
$$;
COMMENT ON FUNCTION mail._stays() IS 'Refuses TRUNCATE, with that hint, of what must not be forgotten. Errors: 0A000.';

CREATE OR REPLACE FUNCTION mail._relay_check() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given  text := NEW.secret;
    -- A secret that comes with an INSERT is put by until it is known whether the row is inserted, or what ON CONFLICT makes
    -- of it: under this name where the relay is there already, else by the row's id.
    put_by text := NEW.name || ' given';
BEGIN
    -- Before anything is stored under them: an error of the table's own would show the row, or that of the secret.
    IF num_nulls(NEW.id, NEW.name) > 0 THEN
        RAISE EXCEPTION 'the % of a relay is null', CASE WHEN NEW.name IS NULL THEN 'name' ELSE 'id' END
            USING ERRCODE = '23502', COLUMN = CASE WHEN NEW.name IS NULL THEN 'name' ELSE 'id' END;
    ELSIF given = '' THEN
        RAISE EXCEPTION 'the secret of relay "%" is empty', NEW.name USING ERRCODE = '22023', COLUMN = 'secret';
    ELSIF given LIKE 'file:%' AND given !~ '^file:[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$' THEN
        RAISE EXCEPTION 'invalid secret reference for relay "%"', NEW.name
            USING ERRCODE = '22023', COLUMN = 'secret',
                  HINT = 'Write file:NAME, where NAME is a file in pgmq_mail.secrets_directory.';
    ELSIF given IS NOT NULL AND NEW.username IS NULL THEN
        RAISE EXCEPTION 'relay "%" has a secret but no username', NEW.name
            USING ERRCODE = '22023', COLUMN = 'username';
    END IF;
    PERFORM mail._check_relay_url(NEW.url);
    IF TG_OP = 'INSERT' THEN
        IF given NOT LIKE 'file:%' AND given <> '(stored)' THEN
            IF EXISTS (SELECT FROM mail.relay r WHERE r.name = NEW.name) THEN
                NEW.secret := '(given)';
            ELSE
                NEW.secret := '(stored)';
                put_by := 'given ' || NEW.id;
            END IF;
            DELETE FROM mail.relay_secret s WHERE s.relay = put_by;
            INSERT INTO mail.relay_secret VALUES (put_by, given, NEW.url, NEW.username, NEW.ca_file);
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.name <> OLD.name THEN
        UPDATE mail.relay_secret s SET relay = NEW.name WHERE s.relay = OLD.name;
    END IF;
    IF given = '(given)' AND EXISTS (SELECT FROM mail.relay_secret s WHERE s.relay = put_by) THEN
        NEW.secret := '(stored)';
        DELETE FROM mail.relay_secret s WHERE s.relay = NEW.name;
        UPDATE mail.relay_secret s SET (relay, url, username, ca_file) = ROW (NEW.name, NEW.url, NEW.username, NEW.ca_file) WHERE s.relay = put_by;
    ELSIF given IS NULL OR given LIKE 'file:%' THEN
        DELETE FROM mail.relay_secret s WHERE s.relay = NEW.name;
    ELSIF given <> '(stored)' THEN
        NEW.secret := '(stored)';
        DELETE FROM mail.relay_secret s WHERE s.relay = NEW.name;
        INSERT INTO mail.relay_secret VALUES (NEW.name, given, NEW.url, NEW.username, NEW.ca_file);
    ELSIF (NEW.url, NEW.username, NEW.ca_file) IS DISTINCT FROM (OLD.url, OLD.username, OLD.ca_file) THEN
        RAISE EXCEPTION 'relay "%" needs its secret again: its url, username or ca_file has changed', NEW.name
            USING ERRCODE = '22023', COLUMN = 'secret',
                  HINT = 'Set secret in the same UPDATE. Otherwise who may not read it could have it sent elsewhere.';
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION mail._relay_secrets_tidy() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM mail.relay_secret s WHERE NOT EXISTS (
        SELECT FROM mail.relay r
        WHERE r.name = s.relay AND (r.url, r.username, r.ca_file) IS NOT DISTINCT FROM (s.url, s.username, s.ca_file));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mail._relay_secrets_tidy() IS 'Forgets secrets that are no relay''s: it is gone, or is one to elsewhere, or ON CONFLICT did not take them.';

CREATE FUNCTION mail._failing_since() RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'failing_since_wrapper';
COMMENT ON FUNCTION mail._failing_since() IS 'Since when the transactions of this database''s worker have failed; NULL: they do not, or the library is not preloaded.';

-- Who may send as whom.
CREATE FUNCTION mail._sender_pattern(sender text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'sender_pattern_wrapper';
COMMENT ON FUNCTION mail._sender_pattern(text) IS 'The canonical form of what mail.sender_grant.sender holds: lower case, domains in A-labels. Errors: 22023.';

CREATE TABLE mail.sender_grant (
    id     integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    role   text NOT NULL CHECK (role <> ''),
    queue  text,
    sender text NOT NULL
);

CREATE UNIQUE INDEX sender_grant_role_sender_queue_idx ON mail.sender_grant (role, sender, coalesce(queue, ''));
COMMENT ON TABLE mail.sender_grant IS 'Who may send as whom. As soon as there is a grant for a queue, whoever it is to, mail through that queue goes only from senders that are granted; a queue without any takes all senders, unless it has restrict_senders. From, Sender and the envelope sender are looked at; the queue''s default_sender and return_path, and the null sender, need no grant. Queues with transport external take all. A change takes effect at commit.';
COMMENT ON COLUMN mail.sender_grant.id IS 'Number.';
COMMENT ON COLUMN mail.sender_grant.role IS 'Name of the role that may; so may its members, and so superusers. One that does not exist (yet) is accepted: mail.health() tells of it.';
COMMENT ON COLUMN mail.sender_grant.queue IS 'Name of the queue; NULL: all queues. One that does not exist (yet) is accepted: mail.health() tells of it.';
COMMENT ON COLUMN mail.sender_grant.sender IS 'What it may send as: an address, a domain (example.com), all domains below one (*.example.com), or * for anybody. Stored in lower case, domains in A-labels.';

CREATE FUNCTION mail._sender_grant_check() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.sender := mail._sender_pattern(NEW.sender);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION mail._sender_grant_check() IS 'Brings the sender into its canonical form. Errors: 22023.';

CREATE TRIGGER sender_grant_check BEFORE INSERT OR UPDATE ON mail.sender_grant
    FOR EACH ROW EXECUTE FUNCTION mail._sender_grant_check();

CREATE TRIGGER sender_grant_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail.sender_grant
    FOR EACH STATEMENT EXECUTE FUNCTION mail._config_changed();

CREATE FUNCTION mail._queue_renamed() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE mail.sender_grant g SET queue = NEW.name WHERE g.queue = OLD.name;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mail._queue_renamed() IS 'Grants go with their queue, which would be open to all without them.';

-- Templates and DKIM keys.
CREATE OR REPLACE FUNCTION mail._template_check() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last    integer;
    as_kept boolean; -- it is a version that was in force before, in all that makes one
BEGIN
    NEW.locale := mail._canonical_locale(NEW.locale);
    IF NEW.name !~ '^[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}$' THEN
        RAISE EXCEPTION 'invalid name of a template: "%"', left(NEW.name, 100)
            USING ERRCODE = '22023', COLUMN = 'name', HINT = 'At most 100 letters of ASCII, digits, "_", "-", "." and "/".';
    ELSIF NEW.locale !~ '^([a-z]{2,8}(-[A-Za-z0-9]{1,8})*)?$' THEN
        RAISE EXCEPTION 'invalid locale of template "%": "%"', NEW.name, left(NEW.locale, 100)
            USING ERRCODE = '22023', COLUMN = 'locale', HINT = 'It is a language tag, as de or de-CH; empty for the default.';
    ELSIF num_nonnulls(NEW.subject, NEW.text, NEW.html, NEW.mjml) = 0 THEN
        RAISE EXCEPTION 'template "%" is empty', NEW.name
            USING ERRCODE = '22023', COLUMN = 'text', HINT = 'Give at least one of subject, text, html and mjml.';
    ELSIF num_nonnulls(NEW.html, NEW.mjml) = 2 THEN
        RAISE EXCEPTION 'template "%" has both html and mjml', NEW.name
            USING ERRCODE = '22023', COLUMN = 'mjml', HINT = 'MJML is turned into HTML: set the other to NULL.';
    END IF;
    SELECT coalesce(max(v.version), 0),
           coalesce(bool_or((v.version, v.saved_at, v.saved_by) = (NEW.version, NEW.saved_at, NEW.saved_by)
               AND (v.subject, v.text, v.html, v.mjml, v.previous) IS NOT DISTINCT FROM (NEW.subject, NEW.text, NEW.html, NEW.mjml, NEW.previous)), false)
    INTO last, as_kept FROM mail.template_version v WHERE (v.name, v.locale) = (NEW.name, NEW.locale);
    IF TG_OP = 'INSERT' THEN
        -- Put in force again as it was; restored from a dump, by the owner, before its other versions or after them; or new.
        IF as_kept THEN
            NULL;
        ELSIF num_nulls(NEW.version, NEW.saved_at, NEW.saved_by) = 0
              AND NOT EXISTS (SELECT FROM mail.template_version v WHERE (v.name, v.locale, v.version) = (NEW.name, NEW.locale, NEW.version))
              AND pg_has_role(session_user, (SELECT c.relowner FROM pg_class c WHERE c.oid = TG_RELID), 'USAGE') THEN
            NULL;
        ELSE
            NEW.version := last + 1;
            NEW.saved_at := clock_timestamp();
            NEW.saved_by := session_user;
            NEW.previous := (SELECT v.version FROM mail.template_version v WHERE (v.name, v.locale) = (NEW.name, NEW.locale)
                             ORDER BY v.ended_at DESC, v.version DESC LIMIT 1);
        END IF;
    ELSIF (NEW.name, NEW.locale) <> (OLD.name, OLD.locale) THEN
        RAISE EXCEPTION 'name and locale of template "%" cannot be changed', OLD.name USING ERRCODE = '22023', COLUMN = 'name',
            HINT = 'Messages that wait refer to it: insert another one.';
    ELSIF NEW.version <> OLD.version THEN
        IF NOT as_kept THEN
            RAISE EXCEPTION 'the version of template "%" cannot be set', NEW.name USING ERRCODE = '22023', COLUMN = 'version',
                HINT = 'Each change makes a new version; SELECT mail.activate_template(name, version) brings back an old one.';
        END IF;
    ELSIF (NEW.subject, NEW.text, NEW.html, NEW.mjml) IS DISTINCT FROM (OLD.subject, OLD.text, OLD.html, OLD.mjml) THEN
        NEW.version := greatest(last, OLD.version) + 1;
        NEW.saved_at := clock_timestamp();
        NEW.saved_by := session_user;
        NEW.previous := OLD.version;
    ELSE
        NEW.saved_at := OLD.saved_at;
        NEW.saved_by := OLD.saved_by;
        NEW.previous := OLD.previous;
    END IF;
    NEW.compiled := mail._compile_template(NEW.name, NEW.locale, NEW.subject, NEW.text, NEW.html, NEW.mjml);
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION mail._dkim_key_check() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given text := NEW.private_key;
    known text;
BEGIN
    IF NEW.domain IS NOT NULL AND NEW.selector IS NOT NULL THEN
        PERFORM mail._check_dkim_names(NEW.domain, NEW.selector);
    END IF;
    IF given LIKE 'file:%' THEN
        IF given !~ '^file:[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$' THEN
            RAISE EXCEPTION 'invalid reference to the private key of "%"', NEW.domain
                USING ERRCODE = '22023', COLUMN = 'private_key',
                      HINT = 'Write file:NAME, where NAME is a file in pgmq_mail.secrets_directory.';
        END IF;
        NEW.algorithm := NULL;
        NEW.dns_record := NULL;
    ELSIF given ~ '^[(]stored [0-9a-f-]{36}[)]$' THEN
        -- One that is stored already: unchanged, or taken over by ON CONFLICT, but nobody else's; or restored from a dump,
        -- which has none.
        SELECT s.private_key INTO known FROM mail.dkim_secret s WHERE format('(stored %s)', s.id) = given
            AND NOT EXISTS (SELECT FROM mail.dkim_key k WHERE k.private_key = given AND (k.domain, k.selector) <> (NEW.domain, NEW.selector)
                            AND NOT (TG_OP = 'UPDATE' AND (k.domain, k.selector) = (OLD.domain, OLD.selector)));
        IF known IS NULL AND (TG_OP = 'UPDATE' AND given <> OLD.private_key
                              OR EXISTS (SELECT FROM mail.dkim_secret s WHERE format('(stored %s)', s.id) = given)) THEN
            RAISE EXCEPTION 'no such stored key' USING ERRCODE = '22023', COLUMN = 'private_key';
        ELSIF known IS NOT NULL THEN
            SELECT f.algorithm, f.dns_record INTO NEW.algorithm, NEW.dns_record FROM mail._dkim_facts(known) f;
        ELSIF TG_OP = 'UPDATE' THEN
            NEW.algorithm := OLD.algorithm;
            NEW.dns_record := OLD.dns_record;
        END IF;
    ELSE
        NEW.private_key := '(given)'; -- nothing that goes wrong from here on can show it
        SELECT f.algorithm, f.dns_record INTO NEW.algorithm, NEW.dns_record FROM mail._dkim_facts(given) f;
        IF NEW.algorithm IS NULL THEN
            RAISE EXCEPTION 'the private key of "%" is missing', NEW.domain USING ERRCODE = '22023', COLUMN = 'private_key';
        END IF;
        INSERT INTO mail.dkim_secret AS s (private_key) VALUES (given) RETURNING format('(stored %s)', s.id) INTO NEW.private_key;
    END IF;
    RETURN NEW;
END
$$;

-- Whose queue it is. What is dropped is replaced by what is told the caller.
DROP FUNCTION mail._queue(text);
DROP FUNCTION mail._fenced(bigint, bigint);
DROP FUNCTION mail._cancel(bigint, text);

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

-- Produce.
COMMENT ON FUNCTION mail.enqueue(text, text, text, text, text, text, text, jsonb, text, timestamptz, timestamptz, integer, text, text, text, jsonb, text) IS
'Accepts a mail as part of the caller''s transaction and returns its id. recipient: one address or a comma-separated list, display names allowed; template, params, locale: a template instead of subject and bodies, rendered when it is sent, or at once with render => ''enqueue''; options: further fields of the JSON form. Waits for nobody unless an idempotency_key or supersede_key is given: then calls with the same key wait for each other''s transaction; and, for half a second at most, while somebody deletes a queue. With an idempotency_key seen within the queue''s window the first id comes back and nothing is added. Errors: 22023 bad value (the field is named), 42704 no such queue or template, 42501 a sender that the role may not use, 54000 too large.';
COMMENT ON FUNCTION mail.enqueue(jsonb, text, timestamptz, timestamptz, integer, text, text, text) IS
'As the text form, with the message as JSON: from, sender, to, cc, bcc, reply_to, return_path, subject, text, html, attachments, headers, in_reply_to, references, message_id, list_unsubscribe, dsn, template, params, locale, render, metadata, tags, raw. Unknown fields are an error. A queue with transport external takes any JSON. Errors: 22023, 42704, 42501, 54000.';

CREATE OR REPLACE FUNCTION mail.cancel(id bigint) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.cancel(bigint) IS
'True if the message was sent to nobody and now never will be; false if it was sent, is in flight or does not exist. What is left of a message that reached some of its recipients is cancelled too, and the answer is false. Waits for a transaction that is claiming it. Errors: 42501 when another role enqueued it and the caller does not administer its queue.';

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

-- Consume.
CREATE FUNCTION mail._claim(caller oid, queue text, batch integer, lease interval, wait interval) RETURNS SETOF mail.claimed
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    q        mail.queue;
    deadline timestamptz := clock_timestamp() + _claim.wait;
    due      timestamptz;
    ids      bigint[];
    free     bigint[];
    late     bigint[];
    rejected boolean;
    done     boolean := false;
    waiting  boolean := false;
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
            IF NOT q.paused THEN
                PERFORM mail._reap(q.id);
                ids := mail._lock_due(q.id, _claim.batch);
                free := ARRAY(SELECT u.id FROM unnest(ids) WITH ORDINALITY AS u (id, n)
                              WHERE u.id IN (SELECT c.id FROM mail._claimable(ids) c WHERE c.free) ORDER BY u.n);
                rejected := cardinality(free) < cardinality(ids);
                IF rejected THEN
                    PERFORM mail._note(p.queue_id, p.rank, min(p.due_at)) FROM mail.pending p
                    WHERE p.id = ANY (ids) AND p.id <> ALL (free) GROUP BY p.queue_id, p.rank;
                END IF;
                SELECT array_agg(m.id) INTO late FROM mail.message m
                WHERE m.id = ANY (free) AND m.expires_at <= clock_timestamp();
                IF late IS NOT NULL THEN
                    PERFORM mail._drop_pending(late, 'expired', 'expired', 'expired before it could be sent');
                END IF;
                RETURN QUERY
                WITH granted AS (
                    INSERT INTO mail.lease (token, queue_id, claimed_at, lease_until, ids)
                    SELECT nextval('mail.lease_seq'), q.id, clock_timestamp(),
                           clock_timestamp() + coalesce(_claim.lease, q.lease), ARRAY[p.id]
                    FROM mail.pending p WHERE p.id = ANY (free)
                    RETURNING token, lease_until, ids[1] AS id
                )
                SELECT m.id, g.token, p.attempts + 1, m.enqueued_at, g.lease_until, m.content::jsonb,
                       CASE WHEN cardinality(m.recipients) > 1 AND EXISTS (SELECT FROM mail.event e WHERE e.message_id = m.id)
                            THEN mail._outstanding(m.id) ELSE m.recipients END
                FROM granted g JOIN mail.pending p ON p.id = g.id JOIN mail.message m ON m.id = g.id
                ORDER BY array_position(free, g.id);
                done := FOUND;
            END IF;
            IF done THEN
                PERFORM mail._note_lease(clock_timestamp() + coalesce(_claim.lease, q.lease));
            ELSIF late IS NULL THEN
                RAISE EXCEPTION 'nothing' USING ERRCODE = 'ML000';
            END IF;
        EXCEPTION WHEN SQLSTATE 'ML000' THEN
            NULL;
        END;
        EXIT WHEN done OR clock_timestamp() >= deadline;
        IF NOT waiting THEN -- and look once more: something may have come before this backend could be woken
            PERFORM mail._await_begin(q.id);
            waiting := true;
            CONTINUE;
        END IF;
        SELECT least(deadline, clock_timestamp() + interval '5 seconds', -- a prepared transaction announces nothing
                     CASE WHEN rejected THEN clock_timestamp() + interval '10 milliseconds' END,
                     (SELECT min(p.due_at) FROM mail.pending p WHERE p.queue_id = q.id AND p.due_at > clock_timestamp()),
                     (SELECT greatest(min(l.lease_until), clock_timestamp() + interval '10 milliseconds')
                      FROM mail.lease l WHERE l.queue_id = q.id)) INTO due;
        PERFORM mail._await(q.id, due);
    END LOOP;
    IF waiting THEN
        PERFORM mail._await_end(q.id);
    END IF;
END
$$;
COMMENT ON FUNCTION mail._claim(oid, text, integer, interval, interval) IS 'mail.claim for a role.';

CREATE OR REPLACE FUNCTION mail.claim(
    queue text DEFAULT 'default', batch integer DEFAULT 1, lease interval DEFAULT NULL, wait interval DEFAULT '0'
) RETURNS SETOF mail.claimed
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';

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
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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

CREATE OR REPLACE FUNCTION mail.ack(id bigint, token bigint, response jsonb DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';

CREATE FUNCTION mail._ack(caller oid, ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF cardinality(ids) IS DISTINCT FROM cardinality(tokens) THEN
        RAISE EXCEPTION 'ids and tokens differ in length' USING ERRCODE = '22023';
    END IF;
    RETURN QUERY SELECT u.id FROM unnest(ids, tokens) AS u (id, token) WHERE mail._ack(caller, u.id, u.token, NULL);
END
$$;
COMMENT ON FUNCTION mail._ack(oid, bigint[], bigint[]) IS 'mail.ack for a role.';

CREATE OR REPLACE FUNCTION mail.ack(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'as_owner_wrapper';

CREATE FUNCTION mail._nack(caller oid, id bigint, token bigint, error text, retry_after interval, permanent boolean) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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

CREATE OR REPLACE FUNCTION mail.nack(
    id bigint, token bigint, error text DEFAULT NULL, retry_after interval DEFAULT NULL, permanent boolean DEFAULT false
) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';

CREATE FUNCTION mail._extend(caller oid, id bigint, token bigint, lease interval) RETURNS timestamptz
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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

CREATE OR REPLACE FUNCTION mail.extend(id bigint, token bigint, lease interval) RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';

CREATE FUNCTION mail._release(caller oid, id bigint, token bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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

CREATE OR REPLACE FUNCTION mail.release(id bigint, token bigint) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';

-- Administer.
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

CREATE OR REPLACE FUNCTION mail.pause(queue text) RETURNS boolean
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

CREATE OR REPLACE FUNCTION mail.resume(queue text) RETURNS boolean
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

CREATE OR REPLACE FUNCTION mail.retry(id bigint) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';

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

CREATE OR REPLACE FUNCTION mail.dismiss(id bigint) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';

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

CREATE OR REPLACE FUNCTION mail.retry_dead_letters(queue text DEFAULT NULL, since timestamptz DEFAULT '-infinity') RETURNS bigint
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

CREATE OR REPLACE FUNCTION mail.purge(queue text, finished boolean DEFAULT false) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.purge(text, boolean) IS 'Cancels every message of the queue that waits; returns how many. What is in flight ends by itself. With finished, the records of finished messages and dead letters are deleted too. Errors: 42704, 42501; 25001 unless in read committed.';

CREATE OR REPLACE FUNCTION mail.arm() RETURNS bigint
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

CREATE OR REPLACE FUNCTION mail.disarm(reason text DEFAULT NULL) RETURNS bigint
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

CREATE OR REPLACE FUNCTION mail.wait_idle(queue text DEFAULT 'default', timeout interval DEFAULT '10 seconds') RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';

-- Files.
CREATE TABLE mail.installation (
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO mail.installation DEFAULT VALUES;
COMMENT ON TABLE mail.installation IS 'One row, never dumped: since when the extension is in this database. In its first day no file is let go of, for a restore may still bring the messages that it goes with.';
COMMENT ON COLUMN mail.installation.since IS 'When it was created.';

CREATE OR REPLACE FUNCTION mail._retain_files(behind bigint, batch integer, OUT last bigint, OUT looked_at bigint)
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

-- Watch.
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
    SELECT 'warning', 'dead_letters', format('queue "%s" has %s dead letters', s.queue, s.failed),
           'See mail.dead_letters; mail.retry(id) and mail.retry_dead_letters(queue) put them back.'
    FROM mail.queue_stats s WHERE s.failed > 0
    UNION ALL
    SELECT 'warning', 'uncertain', format('queue "%s" holds %s messages that may have been delivered', s.queue, s.uncertain),
           'Look for message_id of mail.dead_letters in the relay''s log: where it is there mail.dismiss(id), where it is not mail.retry(id).'
    FROM mail.queue_stats s WHERE s.uncertain > 0;
$$;

-- Those functions belong to whom the rest belongs to, whoever updates. Nothing is granted to PUBLIC, and nothing stays
-- that ALTER DEFAULT PRIVILEGES gave to anybody. What was there before keeps the rights that it has.
DO $$
DECLARE
    owner     text := (SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)) FROM pg_catalog.pg_class c WHERE c.oid = 'mail.queue'::regclass);
    made      text[] := ARRAY[
        '_token_trouble', '_redirect_trouble', '_failing_since', '_stays', '_sender_pattern', '_sender_grant_check', '_queue_renamed',
        '_may_use', '_administers', '__may_read', '_may_read', '_queue', '_own_queue', '_cancel', '_claim', '_fenced', '_ack', '_nack', '_extend',
        '_release', '_pause', '_resume', '_retry', '_dismiss', '_retry_dead_letters', '_purge', '_wait_idle'];
    statement text;
BEGIN
    EXECUTE pg_catalog.format('ALTER TABLE mail.sender_grant OWNER TO %1$s; ALTER TABLE mail.installation OWNER TO %1$s', owner);
    FOR statement IN
        SELECT pg_catalog.format('ALTER FUNCTION %s OWNER TO %s', p.oid::regprocedure, owner)
        FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'mail'::regnamespace AND p.proname = ANY (made)
    LOOP
        EXECUTE statement;
    END LOOP;
    FOR statement IN
        SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %s %s FROM %s', o.kind, o.name,
                                          CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
        FROM (
            SELECT 'FUNCTION' AS kind, p.oid::regprocedure::text AS name, p.proowner AS owner,
                   coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) AS acl
            FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'mail'::regnamespace AND p.proname = ANY (made)
            UNION ALL
            SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass::text, c.relowner,
                   coalesce(c.relacl, pg_catalog.acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))
            FROM pg_catalog.pg_class c WHERE c.oid IN ('mail.sender_grant'::regclass, 'mail.sender_grant_id_seq'::regclass, 'mail.installation'::regclass)) o,
            pg_catalog.aclexplode(o.acl) a
        WHERE a.grantee <> o.owner
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

-- All locks, while mail is enqueued and delivered. Each is waited for briefly, a little longer each time: who waits here keeps
-- others waiting, and may wait for somebody who waits for it. Then all are given back, others go on, and it begins again.
DO $$
DECLARE
    lock_timeout     text := current_setting('lock_timeout');
    deadlock_timeout text := current_setting('deadlock_timeout');
BEGIN
    FOR attempt IN 1..100 LOOP
        BEGIN
            PERFORM set_config('lock_timeout', least(attempt * 100, 500)::text, true);
            PERFORM set_config('deadlock_timeout', '50ms', true); -- after which autovacuum is asked to leave
            LOCK TABLE pg_catalog.pg_authid IN SHARE ROW EXCLUSIVE MODE; -- one database at a time
            -- Views before tables, as those who read them; the queue before the rest, as those who enqueue. LOCK TABLE would need
            -- the rights of these views' owner on what they show.
            ALTER VIEW mail.messages OWNER TO CURRENT_USER;
            ALTER VIEW mail.dead_letters OWNER TO CURRENT_USER;
            ALTER VIEW mail.events OWNER TO CURRENT_USER;
            ALTER VIEW mail.captured OWNER TO CURRENT_USER;
            LOCK TABLE mail.queue_stats, mail.relay_stats, mail.queue, mail.message, mail.pending, mail.lease, mail.event, mail.dead_letter,
                mail.idempotency, mail.supersede, mail.capture, mail.attachment, mail.message_attachment, mail.template, mail.relay, mail.relay_secret, mail.dkim_secret;
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

-- Roles, as in 00_roles.sql.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = 'mail_tenant') THEN
        CREATE ROLE mail_tenant NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = 'mail_views') THEN
        CREATE ROLE mail_views NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = 'mail_worker' AND r.rolcanlogin AND r.rolconnlimit = 0 AND NOT r.rolsuper) THEN
        ALTER ROLE mail_worker LOGIN CONNECTION LIMIT 0 NOSUPERUSER;
    END IF;
    EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE %I TO mail_worker', pg_catalog.current_database());
END
$$;

-- Queues have owners, and may restrict senders.
ALTER TABLE mail.queue
    ADD COLUMN restrict_senders boolean NOT NULL DEFAULT false,
    ADD COLUMN owner text CHECK (owner <> ''),
    ADD CONSTRAINT queue_restricts_senders_of_mail CHECK (NOT (restrict_senders AND transport = 'external'));
COMMENT ON COLUMN mail.queue.restrict_senders IS 'True: nobody may send as another than the default_sender, unless mail.sender_grant says so; even while it says nothing. Not for transport external, whose messages say themselves who sends them.';
COMMENT ON COLUMN mail.queue.owner IS 'Name of the role that it belongs to: only members of that role, and of mail_admin, may use it; for all others it does not exist. Members of mail_tenant among them administer it. NULL: everybody may use it. A role that does not exist (yet) is accepted: mail.health() tells of it.';
CREATE TRIGGER queue_renamed AFTER UPDATE OF name ON mail.queue
    FOR EACH ROW WHEN (OLD.name <> NEW.name) EXECUTE FUNCTION mail._queue_renamed();
COMMENT ON COLUMN mail.relay.stamp IS 'Database in which this relay was configured, and pgmq_mail.token_file as it was then. Where it differs from the database it stands in (a restored dump, a copy), nothing is delivered until mail.arm().';

-- A secret serves what it was given for, and nothing else.
ALTER TABLE mail.relay_secret ADD COLUMN url text, ADD COLUMN username text, ADD COLUMN ca_file text;
UPDATE mail.relay_secret s SET (url, username, ca_file) = ROW (r.url, r.username, r.ca_file) FROM mail.relay r WHERE r.name = s.relay;
COMMENT ON COLUMN mail.relay_secret.url IS 'Where it was given for, as are username and ca_file: it is forgotten when the relay is another.';
COMMENT ON COLUMN mail.relay_secret.username IS 'As url.';
COMMENT ON COLUMN mail.relay_secret.ca_file IS 'As url.';
CREATE OR REPLACE TRIGGER relay_secrets_tidy AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail.relay
    FOR EACH STATEMENT EXECUTE FUNCTION mail._relay_secrets_tidy();

-- Whatever comes first in a restore.
ALTER TABLE mail.message_attachment DROP CONSTRAINT message_attachment_attachment_id_fkey;

-- Nothing that was accepted is truncated.
CREATE OR REPLACE TRIGGER template_stays BEFORE TRUNCATE ON mail.template
    FOR EACH STATEMENT EXECUTE FUNCTION mail._stays('DELETE keeps the versions.');
DROP FUNCTION mail._template_stays();
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['message', 'pending', 'lease', 'event', 'dead_letter', 'idempotency', 'supersede', 'attachment', 'message_attachment'] LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON mail.%I FOR EACH STATEMENT EXECUTE FUNCTION mail._stays(%L)',
                       name || '_stays', name, 'mail.purge(queue) cancels what waits; with finished => true it deletes the records, too.');
    END LOOP;
END
$$;

-- Views. Nobody is a member of the role that four of them belong to from now on.
CREATE OR REPLACE VIEW mail.messages AS
SELECT m.id, coalesce((SELECT q.name FROM mail.queue q WHERE q.id = m.queue_id), format('(%s)', m.queue_id)) AS queue,
       CASE WHEN p.id IS NULL THEN coalesce(f.state, 'unknown')
            WHEN p.id IN (SELECT unnest(l.ids) FROM mail.lease l) THEN 'sending'
            WHEN p.attempts > 0 THEN 'deferred'
            ELSE 'queued' END AS state,
       m.recipients, m.subject,
       CASE WHEN p.id IS NULL THEN coalesce(f.attempt, 0) ELSE p.attempts END AS attempts,
       m.enqueued_at, m.send_at,
       CASE WHEN p.id NOT IN (SELECT unnest(l.ids) FROM mail.lease l) THEN p.due_at END AS next_attempt_at,
       CASE WHEN p.id IS NULL THEN f.at END AS finished_at,
       e.code AS last_code, e.status AS last_status,
       CASE WHEN e.kind <> 'sent' THEN e.text END AS last_error,
       m.message_id, m.tags, m.metadata,
       m.priority, m.expires_at, m.envelope_from, m.enqueued_by,
       m.idempotency_key, m.ordering_key, m.supersede_key, p.size,
       m.template ->> 'name' AS template,
       coalesce(t.used ->> 'locale', m.template ->> 'locale') AS template_locale,
       coalesce(t.used -> 'version', m.template -> 'version')::integer AS template_version,
       coalesce(m.files, 0) AS files
FROM mail.message m
LEFT JOIN LATERAL (SELECT x.id, x.attempts, x.due_at, x.size FROM mail.pending x WHERE x.id = m.id OFFSET 0) p ON true
LEFT JOIN LATERAL (SELECT x.code, x.status, x.text, x.kind FROM mail.event x
                   WHERE x.message_id = m.id AND x.kind <> 'retried'
                   ORDER BY x.at DESC, x.kind = 'sent', x.id DESC LIMIT 1) e ON true -- of one attempt, rather what went wrong
LEFT JOIN LATERAL (SELECT x.detail -> 'template' AS used FROM mail.event x
                   WHERE m.template IS NOT NULL AND x.message_id = m.id AND x.detail ? 'template' ORDER BY x.id DESC LIMIT 1) t ON true
LEFT JOIN LATERAL (SELECT x.state, x.attempt, x.at FROM mail.event x
                   WHERE x.message_id = m.id AND x.state IS NOT NULL AND p.id IS NULL ORDER BY x.id DESC LIMIT 1) f ON true;

CREATE OR REPLACE VIEW mail.dead_letters AS
SELECT d.id, coalesce((SELECT q.name FROM mail.queue q WHERE q.id = d.queue_id), format('(%s)', d.queue_id)) AS queue, d.state, m.recipients, m.subject, d.attempts, m.enqueued_at, d.at AS failed_at,
       e.code AS last_code, e.status AS last_status, e.text AS last_error, m.message_id, m.tags, m.metadata,
       m.content IS NOT NULL AS retryable, m.template ->> 'name' AS template
FROM mail.dead_letter d
JOIN mail.message m ON m.id = d.id
LEFT JOIN LATERAL (SELECT x.code, x.status, x.text FROM mail.event x
                   WHERE x.message_id = d.id ORDER BY x.at DESC, x.kind = 'sent', x.id DESC LIMIT 1) e ON true;

CREATE OR REPLACE VIEW mail.events AS
SELECT e.id, e.at, e.message_id, e.kind, e.recipient, e.attempt, e.relay, e.code, e.status, e.text,
       (SELECT q.name FROM mail.queue q WHERE q.id = e.queue_id) AS queue, e.state, e.phase, e.duration, e.detail, e.tls
FROM mail.event e;

CREATE OR REPLACE VIEW mail.captured AS
SELECT c.id, c.message_id, c.at, c.recipients, m.envelope_from AS sender, m.subject,
       mail._as_text(c.mime) AS mime, (SELECT q.name FROM mail.queue q WHERE q.id = m.queue_id) AS queue
FROM mail.capture c JOIN mail.message m ON m.id = c.message_id;
ALTER VIEW mail.messages OWNER TO mail_views;
ALTER VIEW mail.dead_letters OWNER TO mail_views;
ALTER VIEW mail.events OWNER TO mail_views;
ALTER VIEW mail.captured OWNER TO mail_views;

CREATE OR REPLACE VIEW mail.queue_stats WITH (security_barrier) AS
SELECT q.name AS queue, q.transport, q.paused,
       coalesce(w.queued, 0) AS queued, coalesce(w.scheduled, 0) AS scheduled, coalesce(w.sending, 0) AS sending,
       coalesce(w.deferred, 0) AS deferred, coalesce(d.failed, 0) AS failed, coalesce(d.uncertain, 0) AS uncertain,
       w.oldest_age, coalesce(r.sent, 0) AS sent_last_minute, coalesce(r.not_sent, 0) AS failures_last_minute
FROM mail.queue q
LEFT JOIN (
    SELECT p.queue_id,
           count(*) FILTER (WHERE l.id IS NULL AND p.attempts = 0 AND p.due_at <= clock_timestamp()) AS queued,
           count(*) FILTER (WHERE l.id IS NULL AND p.attempts = 0 AND p.due_at > clock_timestamp()) AS scheduled,
           count(l.id) AS sending,
           count(*) FILTER (WHERE l.id IS NULL AND p.attempts > 0) AS deferred,
           clock_timestamp() - min(p.due_at) FILTER (WHERE p.due_at <= clock_timestamp()) AS oldest_age
    FROM mail.pending p LEFT JOIN (SELECT DISTINCT unnest(t.ids) AS id FROM mail.lease t) l ON l.id = p.id
    GROUP BY p.queue_id) w ON w.queue_id = q.id
LEFT JOIN (
    SELECT t.queue_id, count(*) FILTER (WHERE t.state = 'failed') AS failed,
           count(*) FILTER (WHERE t.state = 'uncertain') AS uncertain
    FROM mail.dead_letter t GROUP BY t.queue_id) d ON d.queue_id = q.id
LEFT JOIN (
    SELECT e.queue_id, count(*) FILTER (WHERE e.state = 'sent') AS sent,
           count(*) FILTER (WHERE e.kind IN ('deferred', 'failed', 'uncertain', 'held')) AS not_sent
    FROM mail.event e WHERE e.id > (SELECT mail._event_before(clock_timestamp() - interval '1 minute')) GROUP BY e.queue_id) r ON r.queue_id = q.id
WHERE (SELECT pg_has_role(current_user, 'mail_reader', 'MEMBER')) OR mail._administers(quote_ident(current_user)::regrole, q.owner);

CREATE OR REPLACE VIEW mail.relay_stats AS
SELECT r.name AS relay, r.enabled, coalesce(r.stamp = mail._stamp(), false) AS armed,
       CASE WHEN t.relay_id IS NULL THEN 'up' WHEN t.suspended_until > clock_timestamp() THEN 'suspended' ELSE 'probing' END AS state,
       t.since AS down_since, t.suspended_until, t.failures, t.error AS last_error,
       coalesce(e.sent, 0) AS sent_last_minute, coalesce(e.not_sent, 0) AS failures_last_minute, t.rule
FROM mail.relay r
LEFT JOIN mail.relay_trouble t ON t.relay_id = r.id
LEFT JOIN (
    SELECT x.relay, count(*) FILTER (WHERE x.kind = 'sent') AS sent,
           count(*) FILTER (WHERE x.kind IN ('deferred', 'failed', 'uncertain', 'held')) AS not_sent
    FROM mail.event x WHERE x.id > (SELECT mail._event_before(clock_timestamp() - interval '1 minute')) GROUP BY x.relay) e ON e.relay = r.name;
COMMENT ON VIEW mail.queue_stats IS 'One row for each queue; for a mail_tenant, for each that it owns. Counts what waits: half a second for a million messages.';

-- What a dump takes along.
SELECT pg_catalog.pg_extension_config_dump('mail.sender_grant', '');
SELECT pg_catalog.pg_extension_config_dump('mail.sender_grant_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('mail.lease_seq', '');

-- A mail_tenant sees what is in its queues.
DO $$
DECLARE
    sees_all text := $q$(SELECT pg_catalog.pg_has_role(current_user, 'mail_reader', 'MEMBER') OR pg_catalog.pg_has_role(current_user, 'mail_admin', 'MEMBER'))$q$;
    own      text := $q$ARRAY(SELECT q.id FROM mail.queue q WHERE q.owner IS NOT NULL AND mail._administers(pg_catalog.quote_ident(current_user)::pg_catalog.regrole, q.owner))$q$;
BEGIN
    EXECUTE format('ALTER POLICY message_visible ON mail.message TO mail_views, mail_reader
        USING (enqueued_by = current_user OR %s OR queue_id = ANY (%s))', sees_all, own);
    EXECUTE format('ALTER POLICY event_visible ON mail.event TO mail_views, mail_reader
        USING (%s OR queue_id = ANY (%s) OR EXISTS (SELECT FROM mail.message m WHERE m.id = event.message_id AND m.enqueued_by = current_user))', sees_all, own);
    EXECUTE format('ALTER POLICY dead_letter_visible ON mail.dead_letter TO mail_views, mail_reader
        USING (%s OR queue_id = ANY (%s) OR EXISTS (SELECT FROM mail.message m WHERE m.id = dead_letter.id AND m.enqueued_by = current_user))', sees_all, own);
    EXECUTE format('CREATE POLICY capture_visible ON mail.capture FOR SELECT TO mail_views, mail_reader
        USING (%s OR EXISTS (SELECT FROM mail.message m WHERE m.id = capture.message_id AND m.queue_id = ANY (%s)))', sees_all, own);
END
$$;
CREATE POLICY attachment_visible ON mail.attachment FOR SELECT TO mail_reader, mail_admin USING (true);
CREATE POLICY attachment_consumed ON mail.attachment FOR SELECT TO mail_consumer
    USING (EXISTS (SELECT FROM mail.message_attachment a WHERE a.attachment_id = attachment.id));
CREATE POLICY attachment_own ON mail.attachment TO mail_sender, mail_admin
    USING (attached_by = current_user) WITH CHECK (attached_by = current_user);
CREATE POLICY message_attachment_visible ON mail.message_attachment FOR SELECT TO mail_reader, mail_admin USING (true);
CREATE POLICY message_attachment_consumed ON mail.message_attachment FOR SELECT TO mail_consumer USING (mail._may_read(message_id));
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['capture', 'attachment', 'message_attachment', 'relay_secret', 'dkim_secret'] LOOP
        EXECUTE format('ALTER TABLE mail.%1$I ENABLE ROW LEVEL SECURITY; CREATE POLICY %2$I ON mail.%1$I TO mail_worker USING (true)', name, name || '_worker');
    END LOOP;
END
$$;

-- Rights.
GRANT USAGE ON SCHEMA mail TO mail_tenant, mail_views;
GRANT SELECT ON mail.message, mail.event, mail.pending, mail.lease, mail.dead_letter, mail.capture, mail.queue TO mail_views;
GRANT SELECT ON mail.messages, mail.dead_letters, mail.events, mail.captured TO mail_reader;
GRANT SELECT ON mail.messages, mail.dead_letters, mail.events, mail.queue_stats, mail.captured TO mail_tenant;
GRANT EXECUTE ON FUNCTION mail._may_use(oid, text), mail._administers(oid, text) TO mail_views, mail_sender, mail_tenant, mail_reader, mail_admin;
GRANT EXECUTE ON FUNCTION mail._may_read(bigint) TO mail_consumer, mail_admin;
GRANT EXECUTE ON FUNCTION mail._token_trouble(), mail._failing_since() TO mail_reader, mail_admin;
GRANT SELECT ON mail.installation TO mail_worker;
GRANT EXECUTE ON FUNCTION mail._event_before(timestamptz), mail._as_text(bytea) TO mail_tenant;
GRANT EXECUTE ON FUNCTION
    mail.pause(text), mail.resume(text), mail.retry(bigint), mail.dismiss(bigint), mail.retry_dead_letters(text, timestamptz), mail.purge(text, boolean),
    mail.cancel(bigint), mail.wait_idle(text, interval)
    TO mail_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON mail.sender_grant TO mail_admin;
GRANT USAGE ON SEQUENCE mail.sender_grant_id_seq TO mail_admin;
GRANT SELECT ON mail.sender_grant TO mail_reader;
GRANT EXECUTE ON FUNCTION mail._sender_pattern(text) TO mail_admin;

-- Sessions and the worker read the configuration anew: a statement that fires the trigger on mail.queue says so at commit.
UPDATE mail.queue SET paused = paused WHERE false;
