DO $$
BEGIN
    IF pg_catalog.getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'extension "pgmq_mail" needs a database with encoding UTF8, not %', pg_catalog.getdatabaseencoding()
            USING ERRCODE = '0A000', HINT = 'Mail is Unicode: a database of another encoding could not hold what is to be sent.';
    END IF;
END
$$;

-- Roles are shared by all databases of a cluster, so they may be there already, and they stay when the
-- extension is dropped.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['mail_sender', 'mail_consumer', 'mail_reader', 'mail_admin', 'mail_worker']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = name) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- made at the same moment from another database
            END;
        END IF;
    END LOOP;
END
$$;
COMMENT ON SCHEMA mail IS 'Transactional mail queue (extension pgmq_mail).';
