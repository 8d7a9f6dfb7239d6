-- All rights in one place. Nothing is granted to PUBLIC, and nothing stays that ALTER DEFAULT PRIVILEGES gave to anybody.
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT DISTINCT format('REVOKE ALL ON %s %s FROM %s', o.kind, o.name,
                               CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
        FROM (
            SELECT 'SCHEMA' AS kind, 'mail' AS name, n.nspowner AS owner, coalesce(n.nspacl, acldefault('n', n.nspowner)) AS acl
            FROM pg_namespace n WHERE n.nspname = 'mail'
            UNION ALL
            SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass::text, c.relowner,
                   coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))
            FROM pg_class c WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind IN ('r', 'v', 'S')
            UNION ALL
            SELECT 'FUNCTION', p.oid::regprocedure::text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
            FROM pg_proc p WHERE p.pronamespace = 'mail'::regnamespace
            UNION ALL
            SELECT 'TYPE', t.oid::regtype::text, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
            FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid
            WHERE t.typnamespace = 'mail'::regnamespace AND c.relkind = 'c') o, -- row types need the schema anyway, and pg_dump warns of each
            aclexplode(o.acl) a
        WHERE a.grantee <> o.owner
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA mail TO mail_sender, mail_consumer, mail_tenant, mail_reader, mail_admin, mail_worker, mail_views;

GRANT EXECUTE ON FUNCTION
    mail.enqueue(text, text, text, text, text, text, text, jsonb, text, timestamptz, timestamptz, integer, text, text, text, jsonb, text),
    mail.enqueue(jsonb, text, timestamptz, timestamptz, integer, text, text, text),
    mail.enqueue_batch(jsonb[], text, timestamptz, timestamptz, integer),
    mail._enqueue_element(bigint, jsonb, text, timestamptz, timestamptz, integer),
    mail.cancel(bigint), mail.attach(bytea, text, text, text, text), mail._check_attachment(text, text, text, text),
    mail._preview(jsonb, text), mail.preview(jsonb), mail.preview(text, jsonb, text, text)
    TO mail_sender, mail_admin;

-- A file belongs to the role that attached it; mail.enqueue takes no other's.
GRANT INSERT (filename, content_type, disposition, content_id, content), SELECT (id) ON mail.attachment TO mail_sender, mail_admin;
GRANT SELECT ON mail.attachment, mail.message_attachment TO mail_consumer, mail_reader, mail_admin;

GRANT USAGE ON TYPE mail.claimed TO mail_consumer, mail_admin;
GRANT EXECUTE ON FUNCTION
    mail.claim(text, integer, interval, interval), mail.ack(bigint, bigint, jsonb), mail.ack(bigint[], bigint[]),
    mail.nack(bigint, bigint, text, interval, boolean), mail.extend(bigint, bigint, interval), mail.release(bigint, bigint)
    TO mail_consumer, mail_admin;

-- These views belong to mail_views and not to a superuser, so that the policies hold for whoever uses them: a
-- mail_tenant sees there what is in its queues, a mail_sender what it enqueued itself. Nobody is a member of it: who owns
-- a view can have others run what he likes. What is asked once for a query stands in a subquery of its own.
GRANT SELECT ON mail.message, mail.event, mail.pending, mail.lease, mail.dead_letter, mail.capture TO mail_views, mail_reader;
GRANT SELECT ON mail.queue TO mail_views;
DO $$
DECLARE
    sees_all text := $q$(SELECT pg_catalog.pg_has_role(current_user, 'mail_reader', 'MEMBER') OR pg_catalog.pg_has_role(current_user, 'mail_admin', 'MEMBER'))$q$;
    own      text := $q$ARRAY(SELECT q.id FROM mail.queue q WHERE q.owner IS NOT NULL AND mail._administers(pg_catalog.quote_ident(current_user)::pg_catalog.regrole, q.owner))$q$;
BEGIN
    EXECUTE format('CREATE POLICY message_visible ON mail.message FOR SELECT TO mail_views, mail_reader
        USING (enqueued_by = current_user OR %s OR queue_id = ANY (%s))', sees_all, own);
    EXECUTE format('CREATE POLICY event_visible ON mail.event FOR SELECT TO mail_views, mail_reader
        USING (%s OR queue_id = ANY (%s) OR mail._is_own(message_id))', sees_all, own);
    EXECUTE format('CREATE POLICY dead_letter_visible ON mail.dead_letter FOR SELECT TO mail_views, mail_reader
        USING (%s OR queue_id = ANY (%s) OR mail._is_own(id))', sees_all, own);
    EXECUTE format('CREATE POLICY capture_visible ON mail.capture FOR SELECT TO mail_views, mail_reader
        USING (%s OR EXISTS (SELECT FROM mail.message m WHERE m.id = capture.message_id AND m.queue_id = ANY (%s)))', sees_all, own);
END
$$;
-- A consumer reads the files of messages in queues that it may use, a sender its own.
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
    FOREACH name IN ARRAY ARRAY['message', 'event', 'dead_letter', 'capture', 'attachment', 'message_attachment', 'relay_secret', 'dkim_secret'] LOOP
        EXECUTE format('ALTER TABLE mail.%1$I ENABLE ROW LEVEL SECURITY; CREATE POLICY %2$I ON mail.%1$I TO mail_worker USING (true)', name, name || '_worker');
    END LOOP;
END
$$;
ALTER VIEW mail.messages OWNER TO mail_views;
ALTER VIEW mail.dead_letters OWNER TO mail_views;
ALTER VIEW mail.events OWNER TO mail_views;
ALTER VIEW mail.captured OWNER TO mail_views;
GRANT SELECT ON mail.messages, mail.dead_letters, mail.events TO mail_sender, mail_tenant, mail_reader, mail_admin;
GRANT SELECT ON mail.queue_stats, mail.captured TO mail_tenant;
-- What policies and views ask, with the rights of whoever looks.
GRANT EXECUTE ON FUNCTION mail._may_use(oid, text), mail._administers(oid, text), mail._is_own(bigint) TO mail_views, mail_sender, mail_tenant, mail_reader, mail_admin;
GRANT EXECUTE ON FUNCTION mail._may_read(bigint) TO mail_consumer, mail_admin;
GRANT SELECT ON mail.queue_stats, mail.relay_stats, mail.domain_stats, mail.workers, mail.captured
    TO mail_reader, mail_admin;
GRANT EXECUTE ON FUNCTION mail.health(), mail._workers(), mail._stamp(), mail._token_trouble(), mail._failing_since() TO mail_reader, mail_admin;
GRANT EXECUTE ON FUNCTION mail._event_before(timestamptz), mail._as_text(bytea) TO mail_tenant, mail_reader, mail_admin;
GRANT EXECUTE ON FUNCTION
    mail.pause(text), mail.resume(text), mail.retry(bigint), mail.dismiss(bigint), mail.retry_dead_letters(text, timestamptz), mail.purge(text, boolean),
    mail.cancel(bigint)
    TO mail_tenant, mail_admin;
GRANT EXECUTE ON FUNCTION mail.wait_idle(text, interval) TO mail_sender, mail_consumer, mail_tenant, mail_reader, mail_admin;

GRANT SELECT, INSERT, UPDATE, DELETE ON mail.relay, mail.queue, mail.domain_limit, mail.reply_rule, mail.sender_grant, mail.template, mail.dkim_key TO mail_admin;
GRANT USAGE ON SEQUENCE mail.relay_id_seq, mail.queue_id_seq, mail.sender_grant_id_seq TO mail_admin;
GRANT SELECT ON mail.relay, mail.queue, mail.domain_limit, mail.reply_rule, mail.sender_grant, mail.template, mail.template_history, mail.dkim_key TO mail_reader;
GRANT SELECT ON mail.template_history TO mail_admin;
GRANT EXECUTE ON FUNCTION
    mail._check_address(text, text), mail._check_relay_url(text), mail._check_pattern(text), mail._has_group(text, text), mail._are_domains(text[]), mail._sender_pattern(text),
    mail.arm(), mail.disarm(text), mail.start_worker(), mail.stop_worker(), mail.test_relay(text, text),
    mail.activate_template(text, integer, text), mail.rollback_template(text, text), mail.generate_dkim_key(text, text, text), mail._new_dkim_key(text)
    TO mail_admin;

-- The worker owns nothing.
GRANT SELECT ON mail.template, mail.dkim_key, mail.dkim_secret, mail.attachment, mail.message_attachment, mail.installation TO mail_worker;
GRANT DELETE ON mail.attachment, mail.message_attachment TO mail_worker;
GRANT UPDATE ON mail.attachment TO mail_worker; -- to lock rows
GRANT SELECT, INSERT, DELETE ON mail.dkim_trouble TO mail_worker;
GRANT SELECT ON mail.relay, mail.relay_secret, mail.queue, mail.domain_limit, mail.reply_rule, mail.message TO mail_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON mail.pending, mail.lease, mail.event, mail.dead_letter, mail.idempotency, mail.supersede, mail.capture,
    mail.relay_trouble, mail.domain_pause TO mail_worker;
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
GRANT USAGE ON SEQUENCE mail.lease_seq, mail.event_id_seq, mail.capture_id_seq TO mail_worker;
GRANT EXECUTE ON FUNCTION
    mail._stamp(), mail._backoff(interval, interval, integer), mail._claimable(bigint[]), mail._in_flight(integer[]), mail._try_bucket(integer), mail._leased(bigint), mail._expire(integer), mail._outstanding(bigint),
    mail._born(bigint), mail._released(bigint, jsonb, interval),
    mail._log_results(bigint, integer, integer, jsonb, timestamptz, boolean, boolean, text, text, interval),
    mail._settle(bigint, jsonb, text, interval, interval, boolean, interval, text), mail._touch_successor(integer, bigint),
    mail._drop_pending(bigint[], text, text, text), mail._drop_from_leases(bigint[], bigint[]),
    mail._interrupted(bigint[], text, text), mail._reap(integer), mail._recover(), mail._relay_down(integer, interval, text, text),
    mail._domain_paused(text, interval, text, text, text),
    mail._retain(integer, timestamptz), mail._retain_table(mail.partition, integer), mail._seen_by_all(xid8), mail._retain_messages(mail.partition, integer), mail._retain_events(mail.partition, integer),
    mail._forget(bigint[]), mail._newest(mail.partition), mail._is_over(mail.partition, timestamptz), mail._by_turns(text), mail._empty(text), mail._try_lock(text, text), mail._keep(text),
    mail._turn_length(interval), mail._take_turns(), mail._retain_files(bigint, integer), mail._first_id(timestamptz), mail._touch(), mail._note_sweep(integer), mail._workers(), mail._preloaded()
    TO mail_worker;

-- At the commit of CREATE EXTENSION the launcher starts this database's worker.
DO $$ BEGIN PERFORM mail._request_worker(); END $$;
