-- What pg_dump takes along with the extension. Not: secrets, leases, and what the worker knows of relays and domains.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'mail.relay', 'mail.relay_id_seq', 'mail.queue', 'mail.queue_id_seq', 'mail.domain_limit', 'mail.reply_rule', 'mail.sender_grant', 'mail.sender_grant_id_seq', 'mail.template', 'mail.template_version', 'mail.dkim_key',
        'mail.message', 'mail.attachment', 'mail.attachment_id_seq', 'mail.message_attachment', 'mail.pending',
        'mail.event', 'mail.event_id_seq', 'mail.dead_letter', 'mail.idempotency', 'mail.supersede', 'mail.capture', 'mail.capture_id_seq',
        'mail.ordering_seq', 'mail.id_seq', 'mail.lease_seq']
    LOOP
        PERFORM pg_catalog.pg_extension_config_dump(name::regclass, '');
    END LOOP;
    FOR name IN SELECT format('mail.%I', p.name) FROM mail.partition p WHERE p.turn IS NOT NULL LOOP
        PERFORM pg_catalog.pg_extension_config_dump(name::regclass, '');
    END LOOP;
END
$$;
