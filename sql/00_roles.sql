DO $$
BEGIN
    IF pg_catalog.getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'extension "pgmq_mail" needs a database with encoding UTF8, not %', pg_catalog.getdatabaseencoding()
            USING ERRCODE = '0A000', HINT = 'Mail is Unicode: a database of another encoding could not hold what is to be sent.';
    END IF;
END
$$;

-- A schema of somebody else, or with somebody else's functions in it, could have its own ones called with our rights.
DO $$
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner WHERE n.nspname = 'mail')
       OR EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'mail'::pg_catalog.regnamespace)
       OR EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.typnamespace = 'mail'::pg_catalog.regnamespace)
       OR EXISTS (SELECT FROM pg_catalog.pg_operator o WHERE o.oprnamespace = 'mail'::pg_catalog.regnamespace)
    THEN
        RAISE EXCEPTION 'schema "mail" is there already and is not empty, or does not belong to a superuser'
            USING ERRCODE = '55000', HINT = 'Rename it or drop it: CREATE EXTENSION makes its own.';
    END IF;
END
$$;

-- Roles are shared by all databases of a cluster, so they may be there already, and they stay when the
-- extension is dropped.
DO $$
DECLARE
    names text[] := ARRAY['mail_sender', 'mail_consumer', 'mail_tenant', 'mail_reader', 'mail_admin', 'mail_worker', 'mail_views'];
    name  text;
BEGIN
    -- The worker connects as mail_worker, so that nothing that is run in it can get other rights. Background workers do not
    -- count towards the limit: no client can connect as it.
    IF (SELECT pg_catalog.count(*) FROM pg_catalog.pg_roles r WHERE r.rolname = ANY (names)
            AND (r.rolname <> 'mail_worker' OR r.rolcanlogin AND r.rolconnlimit = 0 AND NOT r.rolsuper)) < pg_catalog.cardinality(names)
    THEN
        LOCK TABLE pg_catalog.pg_authid IN SHARE ROW EXCLUSIVE MODE; -- one database at a time
        FOREACH name IN ARRAY names LOOP
            BEGIN
                IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = name) THEN
                    EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name);
                END IF;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- made by another database since an older snapshot
            END;
        END LOOP;
        ALTER ROLE mail_worker LOGIN CONNECTION LIMIT 0 NOSUPERUSER;
    END IF;
    -- Whatever becomes of the right that PUBLIC has by default.
    EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE %I TO mail_worker', pg_catalog.current_database());
END
$$;
COMMENT ON SCHEMA mail IS 'Transactional mail queue (extension pgmq_mail).';
