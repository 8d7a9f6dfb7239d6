-- All rights in one place. Nothing is granted to PUBLIC.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA mail FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA mail FROM PUBLIC;
REVOKE ALL ON TYPE mail.claimed FROM PUBLIC;

GRANT USAGE ON SCHEMA mail TO mail_sender, mail_consumer, mail_reader, mail_admin, mail_worker;

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

-- These views belong to mail_reader and not to a superuser, so that the policies hold for whoever uses them: a
-- mail_sender sees there what it enqueued itself.
GRANT SELECT ON mail.message, mail.event, mail.pending, mail.lease, mail.dead_letter, mail.capture TO mail_reader;
ALTER TABLE mail.message ENABLE ROW LEVEL SECURITY;
ALTER TABLE mail.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY message_visible ON mail.message FOR SELECT TO mail_reader USING (
    enqueued_by = current_user
    OR (SELECT pg_catalog.pg_has_role(current_user, 'mail_reader', 'MEMBER') OR pg_catalog.pg_has_role(current_user, 'mail_admin', 'MEMBER')));
CREATE POLICY event_visible ON mail.event FOR SELECT TO mail_reader USING (
    (SELECT pg_catalog.pg_has_role(current_user, 'mail_reader', 'MEMBER') OR pg_catalog.pg_has_role(current_user, 'mail_admin', 'MEMBER'))
    OR EXISTS (SELECT FROM mail.message m WHERE m.id = event.message_id AND m.enqueued_by = current_user));
ALTER TABLE mail.dead_letter ENABLE ROW LEVEL SECURITY;
CREATE POLICY dead_letter_visible ON mail.dead_letter FOR SELECT TO mail_reader USING (
    (SELECT pg_catalog.pg_has_role(current_user, 'mail_reader', 'MEMBER') OR pg_catalog.pg_has_role(current_user, 'mail_admin', 'MEMBER'))
    OR EXISTS (SELECT FROM mail.message m WHERE m.id = dead_letter.id AND m.enqueued_by = current_user));
CREATE POLICY dead_letter_worker ON mail.dead_letter TO mail_worker USING (true);
CREATE POLICY message_worker ON mail.message TO mail_worker USING (true);
CREATE POLICY event_worker ON mail.event TO mail_worker USING (true);
ALTER VIEW mail.messages OWNER TO mail_reader;
ALTER VIEW mail.dead_letters OWNER TO mail_reader;
ALTER VIEW mail.events OWNER TO mail_reader;
ALTER VIEW mail.captured OWNER TO mail_reader;
GRANT SELECT ON mail.messages, mail.dead_letters, mail.events TO mail_sender, mail_reader, mail_admin;
GRANT SELECT ON mail.queue_stats, mail.relay_stats, mail.domain_stats, mail.workers, mail.captured
    TO mail_reader, mail_admin;
GRANT EXECUTE ON FUNCTION mail.health(), mail._workers(), mail._event_before(timestamptz), mail._stamp(), mail._as_text(bytea) TO mail_reader, mail_admin;
GRANT EXECUTE ON FUNCTION mail.wait_idle(text, interval) TO mail_sender, mail_consumer, mail_reader, mail_admin;

GRANT SELECT, INSERT, UPDATE, DELETE ON mail.relay, mail.queue, mail.domain_limit, mail.reply_rule, mail.template, mail.dkim_key TO mail_admin;
GRANT USAGE ON SEQUENCE mail.relay_id_seq, mail.queue_id_seq TO mail_admin;
GRANT SELECT ON mail.relay, mail.queue, mail.domain_limit, mail.reply_rule, mail.template, mail.template_history, mail.dkim_key TO mail_reader;
GRANT SELECT ON mail.template_history TO mail_admin;
GRANT EXECUTE ON FUNCTION
    mail._check_address(text, text), mail._check_relay_url(text), mail._check_pattern(text), mail._has_group(text, text), mail._are_domains(text[]), mail._queue(text),
    mail.pause(text), mail.resume(text), mail.retry(bigint), mail.dismiss(bigint), mail.retry_dead_letters(text, timestamptz), mail.purge(text, boolean),
    mail.arm(), mail.disarm(text), mail.start_worker(), mail.stop_worker(), mail.test_relay(text, text),
    mail.activate_template(text, integer, text), mail.rollback_template(text, text), mail.generate_dkim_key(text, text, text), mail._new_dkim_key(text)
    TO mail_admin;

-- The worker owns nothing.
GRANT SELECT ON mail.template, mail.dkim_key, mail.dkim_secret, mail.attachment, mail.message_attachment TO mail_worker;
GRANT DELETE ON mail.attachment, mail.message_attachment TO mail_worker;
GRANT UPDATE ON mail.attachment TO mail_worker; -- to lock rows
GRANT SELECT, INSERT, DELETE ON mail.dkim_trouble TO mail_worker;
GRANT SELECT ON mail.relay, mail.relay_secret, mail.queue, mail.domain_limit, mail.reply_rule, mail.message TO mail_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON mail.pending, mail.lease, mail.event, mail.dead_letter, mail.idempotency, mail.supersede, mail.capture,
    mail.relay_trouble, mail.domain_pause TO mail_worker;
GRANT UPDATE (content), DELETE ON mail.message TO mail_worker;
GRANT USAGE ON SEQUENCE mail.lease_seq, mail.event_id_seq, mail.capture_id_seq TO mail_worker;
GRANT EXECUTE ON FUNCTION
    mail._stamp(), mail._backoff(interval, interval, integer), mail._claimable(bigint[]), mail._try_bucket(integer), mail._leased(bigint), mail._expire(integer), mail._outstanding(bigint),
    mail._born(bigint), mail._released(bigint, jsonb, interval),
    mail._log_results(bigint, integer, integer, jsonb, timestamptz, boolean, boolean, text, text, interval),
    mail._settle(bigint, jsonb, text, interval, interval, boolean, interval, text), mail._touch_successor(integer, bigint),
    mail._drop_pending(bigint[], text, text, text), mail._drop_from_leases(bigint[], bigint[]),
    mail._interrupted(bigint[], text, text), mail._reap(integer), mail._recover(), mail._relay_down(integer, interval, text, text),
    mail._domain_paused(text, interval, text, text, text),
    mail._retain(bigint, integer), mail._retain_files(bigint, integer), mail._first_id(timestamptz), mail._touch(), mail._note_sweep(integer), mail._workers(), mail._preloaded()
    TO mail_worker;

-- At the commit of CREATE EXTENSION the launcher starts this database's worker.
DO $$ BEGIN PERFORM mail._request_worker(); END $$;
