-- Watch. Members of mail_reader and mail_admin see everything; a mail_tenant sees the queues that it owns; a mail_sender
-- sees what it enqueued itself: see the policies in 90_rights.sql, which cost nothing where a security barrier would keep
-- ORDER BY id LIMIT 10 off the index. What has no policy is looked up for rows that may be seen, and is not joined: a
-- function of the caller's in WHERE could be shown all of it.

CREATE VIEW mail.messages AS
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
COMMENT ON VIEW mail.messages IS 'Every message with its state: queued, sending, deferred, sent, failed, uncertain, cancelled, expired or suppressed.';
COMMENT ON COLUMN mail.messages.id IS 'As returned by mail.enqueue.';
COMMENT ON COLUMN mail.messages.queue IS 'Name of the queue; its id in parentheses where it is not there, as before the end of a restore.';
COMMENT ON COLUMN mail.messages.state IS 'queued (scheduled, if send_at is in the future), sending, deferred, sent, failed, uncertain, cancelled, expired or suppressed.';
COMMENT ON COLUMN mail.messages.recipients IS 'Envelope recipients.';
COMMENT ON COLUMN mail.messages.subject IS 'Subject.';
COMMENT ON COLUMN mail.messages.attempts IS 'Attempts that ended, since it was last retried by hand.';
COMMENT ON COLUMN mail.messages.enqueued_at IS 'When it was enqueued.';
COMMENT ON COLUMN mail.messages.send_at IS 'Not before.';
COMMENT ON COLUMN mail.messages.next_attempt_at IS 'When it may next be claimed; NULL when in flight or finished.';
COMMENT ON COLUMN mail.messages.finished_at IS 'When it reached its final state.';
COMMENT ON COLUMN mail.messages.last_code IS 'Last reply code.';
COMMENT ON COLUMN mail.messages.last_status IS 'Last enhanced status code. RFC 3463.';
COMMENT ON COLUMN mail.messages.last_error IS 'Why the last attempt did not succeed.';
COMMENT ON COLUMN mail.messages.message_id IS 'Message-ID header, the same on every attempt.';
COMMENT ON COLUMN mail.messages.tags IS 'Tags; never sent.';
COMMENT ON COLUMN mail.messages.metadata IS 'Metadata; never sent.';
COMMENT ON COLUMN mail.messages.priority IS 'Higher goes first.';
COMMENT ON COLUMN mail.messages.expires_at IS 'Not after.';
COMMENT ON COLUMN mail.messages.envelope_from IS 'Reverse path.';
COMMENT ON COLUMN mail.messages.enqueued_by IS 'Role that enqueued it.';
COMMENT ON COLUMN mail.messages.idempotency_key IS 'As given.';
COMMENT ON COLUMN mail.messages.ordering_key IS 'As given.';
COMMENT ON COLUMN mail.messages.supersede_key IS 'As given.';
COMMENT ON COLUMN mail.messages.size IS 'Bytes of its JSON form and of its files as they are sent; NULL when finished.';
COMMENT ON COLUMN mail.messages.template IS 'Name of the template that it is made from.';
COMMENT ON COLUMN mail.messages.template_locale IS 'Locale of the template that was used; before that, the one asked for.';
COMMENT ON COLUMN mail.messages.template_version IS 'Version of the template that rendered it last; NULL: not rendered yet.';
COMMENT ON COLUMN mail.messages.files IS 'How many files go with it; a raw message is one.';

CREATE VIEW mail.dead_letters AS
SELECT d.id, coalesce((SELECT q.name FROM mail.queue q WHERE q.id = d.queue_id), format('(%s)', d.queue_id)) AS queue, d.state, m.recipients, m.subject, d.attempts, m.enqueued_at, d.at AS failed_at,
       e.code AS last_code, e.status AS last_status, e.text AS last_error, m.message_id, m.tags, m.metadata,
       m.content IS NOT NULL AS retryable, m.template ->> 'name' AS template
FROM mail.dead_letter d
JOIN mail.message m ON m.id = d.id
LEFT JOIN LATERAL (SELECT x.code, x.status, x.text FROM mail.event x
                   WHERE x.message_id = d.id ORDER BY x.at DESC, x.kind = 'sent', x.id DESC LIMIT 1) e ON true;
COMMENT ON VIEW mail.dead_letters IS 'Messages that failed for good or whose delivery is uncertain; mail.retry(id) puts one back.';
COMMENT ON COLUMN mail.dead_letters.id IS 'The message.';
COMMENT ON COLUMN mail.dead_letters.queue IS 'Name of the queue.';
COMMENT ON COLUMN mail.dead_letters.state IS 'failed, or uncertain: the relay may have accepted it.';
COMMENT ON COLUMN mail.dead_letters.recipients IS 'Envelope recipients.';
COMMENT ON COLUMN mail.dead_letters.subject IS 'Subject.';
COMMENT ON COLUMN mail.dead_letters.attempts IS 'Attempts that were made.';
COMMENT ON COLUMN mail.dead_letters.enqueued_at IS 'When it was enqueued.';
COMMENT ON COLUMN mail.dead_letters.failed_at IS 'When it got here.';
COMMENT ON COLUMN mail.dead_letters.last_code IS 'Last reply code.';
COMMENT ON COLUMN mail.dead_letters.last_status IS 'Last enhanced status code. RFC 3463.';
COMMENT ON COLUMN mail.dead_letters.last_error IS 'Why.';
COMMENT ON COLUMN mail.dead_letters.message_id IS 'Message-ID header.';
COMMENT ON COLUMN mail.dead_letters.tags IS 'Tags.';
COMMENT ON COLUMN mail.dead_letters.metadata IS 'Metadata.';
COMMENT ON COLUMN mail.dead_letters.retryable IS 'False once its body is no longer kept.';
COMMENT ON COLUMN mail.dead_letters.template IS 'Name of the template that it is made from.';

CREATE VIEW mail.events AS
SELECT e.id, e.at, e.message_id, e.kind, e.recipient, e.attempt, e.relay, e.code, e.status, e.text,
       (SELECT q.name FROM mail.queue q WHERE q.id = e.queue_id) AS queue, e.state, e.phase, e.duration, e.detail, e.tls
FROM mail.event e;
COMMENT ON VIEW mail.events IS 'What happened, in order. That a message was enqueued is told by mail.messages.';
COMMENT ON COLUMN mail.events.id IS 'Ascending number.';
COMMENT ON COLUMN mail.events.at IS 'When.';
COMMENT ON COLUMN mail.events.message_id IS 'Id of the message.';
COMMENT ON COLUMN mail.events.kind IS 'sent, deferred, failed, uncertain (will be repeated), held (uncertain, waits for a person), released (no attempt counted), interrupted, lease_ended, retried, dismissed, cancelled, expired or suppressed.';
COMMENT ON COLUMN mail.events.recipient IS 'The recipient; NULL: the whole message.';
COMMENT ON COLUMN mail.events.attempt IS 'Which attempt, from 1; in events released, retried, cancelled and expired: how many were counted so far, from 0.';
COMMENT ON COLUMN mail.events.relay IS 'Name of the relay.';
COMMENT ON COLUMN mail.events.code IS 'Reply code. RFC 5321 section 4.2.';
COMMENT ON COLUMN mail.events.status IS 'Enhanced status code. RFC 3463.';
COMMENT ON COLUMN mail.events.text IS 'The reply, or what happened, in words.';
COMMENT ON COLUMN mail.events.queue IS 'Name of the queue.';
COMMENT ON COLUMN mail.events.state IS 'The state that the message ended in with this event; NULL: it went on.';
COMMENT ON COLUMN mail.events.phase IS 'Where in the SMTP session it was decided.';
COMMENT ON COLUMN mail.events.duration IS 'How long the attempt took.';
COMMENT ON COLUMN mail.events.detail IS 'Further facts, by kind; rule: the reply rule that decided; template: name, locale and version of the template that rendered it.';
COMMENT ON COLUMN mail.events.tls IS 'TLS version and cipher suite of the connection; NULL: none.';

CREATE FUNCTION mail._as_text(octets bytea) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN convert_from(octets, 'UTF8');
EXCEPTION WHEN character_not_in_repertoire THEN -- as a raw message may be
    RETURN convert_from(octets, 'LATIN1');
END
$$;
COMMENT ON FUNCTION mail._as_text(bytea) IS 'Octets as text: UTF-8, or where they are not, LATIN1.';

CREATE VIEW mail.captured AS
SELECT c.id, c.message_id, c.at, c.recipients, m.envelope_from AS sender, m.subject,
       mail._as_text(c.mime) AS mime, (SELECT q.name FROM mail.queue q WHERE q.id = m.queue_id) AS queue
FROM mail.capture c JOIN mail.message m ON m.id = c.message_id;
COMMENT ON VIEW mail.captured IS 'Mail that queues with transport capture delivered.';
COMMENT ON COLUMN mail.captured.id IS 'Ascending number.';
COMMENT ON COLUMN mail.captured.message_id IS 'Id of the message.';
COMMENT ON COLUMN mail.captured.at IS 'When.';
COMMENT ON COLUMN mail.captured.recipients IS 'Envelope recipients.';
COMMENT ON COLUMN mail.captured.sender IS 'Envelope sender.';
COMMENT ON COLUMN mail.captured.subject IS 'Subject.';
COMMENT ON COLUMN mail.captured.mime IS 'The complete message as it would have been sent, with its CR LF line ends. RFC 5322.';
COMMENT ON COLUMN mail.captured.queue IS 'Name of the queue.';

-- Walks back from the newest event: as many rows as are counted anyway, and no index on the time.
-- SECURITY DEFINER: it is called with the rights of whoever looks at the views below.
CREATE FUNCTION mail._event_before(at timestamptz) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT e.id FROM mail.event e WHERE e.at < _event_before.at ORDER BY e.id DESC LIMIT 1), 0);
$$;
COMMENT ON FUNCTION mail._event_before(timestamptz) IS 'Number of the last event before that time.';

-- A barrier, so that nothing is counted before the queue is known to be one that may be seen.
CREATE VIEW mail.queue_stats WITH (security_barrier) AS
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
COMMENT ON VIEW mail.queue_stats IS 'One row for each queue; for a mail_tenant, for each that it owns. Counts what waits: half a second for a million messages.';
COMMENT ON COLUMN mail.queue_stats.queue IS 'Name of the queue.';
COMMENT ON COLUMN mail.queue_stats.transport IS 'smtp, capture or external.';
COMMENT ON COLUMN mail.queue_stats.paused IS 'Whether it is paused.';
COMMENT ON COLUMN mail.queue_stats.queued IS 'Messages that are due and were not tried yet.';
COMMENT ON COLUMN mail.queue_stats.scheduled IS 'Of the queued, those whose send_at is still to come, or that were put off for a limit, a relay or a domain.';
COMMENT ON COLUMN mail.queue_stats.sending IS 'Messages in flight.';
COMMENT ON COLUMN mail.queue_stats.deferred IS 'Messages that wait for their next attempt.';
COMMENT ON COLUMN mail.queue_stats.failed IS 'Dead letters.';
COMMENT ON COLUMN mail.queue_stats.uncertain IS 'Messages that wait for a person, since they may have been delivered.';
COMMENT ON COLUMN mail.queue_stats.oldest_age IS 'How long the message that is due longest has been due.';
COMMENT ON COLUMN mail.queue_stats.sent_last_minute IS 'Messages sent in the last 60 seconds.';
COMMENT ON COLUMN mail.queue_stats.failures_last_minute IS 'Attempts that did not succeed in the last 60 seconds.';

CREATE VIEW mail.workers AS SELECT w.pid, w.started_at, w.activity, w.in_flight, w.preloaded FROM mail._workers() w;
COMMENT ON VIEW mail.workers IS 'The delivery worker of this database; no row when none runs.';
COMMENT ON COLUMN mail.workers.pid IS 'Process id.';
COMMENT ON COLUMN mail.workers.started_at IS 'When it started.';
COMMENT ON COLUMN mail.workers.activity IS 'idle or active, as in pg_stat_activity.';
COMMENT ON COLUMN mail.workers.in_flight IS 'Messages it has in flight.';
COMMENT ON COLUMN mail.workers.preloaded IS 'Whether the launcher keeps it running (shared_preload_libraries).';

CREATE VIEW mail.relay_stats AS
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
COMMENT ON VIEW mail.relay_stats IS 'One row for each relay.';
COMMENT ON COLUMN mail.relay_stats.relay IS 'Name of the relay.';
COMMENT ON COLUMN mail.relay_stats.enabled IS 'As configured.';
COMMENT ON COLUMN mail.relay_stats.armed IS 'False: configured in another database, nothing is delivered until mail.arm().';
COMMENT ON COLUMN mail.relay_stats.state IS 'up, suspended, or probing: one connection tries it.';
COMMENT ON COLUMN mail.relay_stats.down_since IS 'When its trouble began.';
COMMENT ON COLUMN mail.relay_stats.suspended_until IS 'When it is tried again.';
COMMENT ON COLUMN mail.relay_stats.failures IS 'Failures, or pauses that rules asked for, in a row.';
COMMENT ON COLUMN mail.relay_stats.last_error IS 'The last of them.';
COMMENT ON COLUMN mail.relay_stats.sent_last_minute IS 'Recipients accepted in the last 60 seconds.';
COMMENT ON COLUMN mail.relay_stats.failures_last_minute IS 'Recipients not accepted in the last 60 seconds.';
COMMENT ON COLUMN mail.relay_stats.rule IS 'The reply rule that asked for the pause; NULL: it failed, or is up.';

CREATE VIEW mail.domain_stats AS
SELECT d.domain, d.since, d.suspended_until, d.relay, d.rule, d.reason
FROM mail.domain_pause d WHERE d.suspended_until > clock_timestamp();
COMMENT ON VIEW mail.domain_stats IS 'One row for each recipient domain whose mail waits since a reply rule (suspend_domain) understood a relay so.';
COMMENT ON COLUMN mail.domain_stats.domain IS 'The domain, in lower case.';
COMMENT ON COLUMN mail.domain_stats.since IS 'When the pause began.';
COMMENT ON COLUMN mail.domain_stats.suspended_until IS 'When mail for it goes on.';
COMMENT ON COLUMN mail.domain_stats.relay IS 'The relay whose reply it was. Mail for the domain waits, whichever relay it would take.';
COMMENT ON COLUMN mail.domain_stats.rule IS 'The reply rule that decided.';
COMMENT ON COLUMN mail.domain_stats.reason IS 'The reply.';

-- SECURITY DEFINER: it looks at tables that a reader has no right to and tells only what it finds.
-- Compiling it (jit) takes a second, running it some milliseconds.
CREATE FUNCTION mail.health(OUT severity text, OUT "check" text, OUT detail text, OUT hint text) RETURNS SETOF record
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
COMMENT ON FUNCTION mail.health() IS 'One row for each finding (severity: critical or warning); none when all is well.';
