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
-- Configuration: plain tables, validated by CHECK and trigger, in effect at commit.

CREATE SEQUENCE mail.id_seq MINVALUE 0 MAXVALUE 16777215 START 0 CYCLE;
COMMENT ON SEQUENCE mail.id_seq IS 'Low 24 bits of message ids; above them stand the node (8 bits) and the second since 2020 (31 bits).';
CREATE SEQUENCE mail.ordering_seq;
COMMENT ON SEQUENCE mail.ordering_seq IS 'Order of messages with an ordering_key.';
CREATE SEQUENCE mail.lease_seq;
COMMENT ON SEQUENCE mail.lease_seq IS 'Lease tokens.';

CREATE FUNCTION mail._stamp() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'stamp_wrapper';
COMMENT ON FUNCTION mail._stamp() IS 'Identity of this database: system identifier and database oid, and a digest of pgmq_mail.token_file where that is set; NULL: that cannot be read.';

CREATE FUNCTION mail._token_trouble() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'token_trouble_wrapper';
COMMENT ON FUNCTION mail._token_trouble() IS 'Why pgmq_mail.token_file cannot be read; NULL: it can, or is not set.';

CREATE FUNCTION mail._redirect_trouble() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'redirect_trouble_wrapper';
COMMENT ON FUNCTION mail._redirect_trouble() IS 'What is wrong with pgmq_mail.redirect_to where pgmq_mail.delivery needs it; NULL: nothing.';

CREATE FUNCTION mail._failing_since() RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'failing_since_wrapper';
COMMENT ON FUNCTION mail._failing_since() IS 'Since when the transactions of this database''s worker have failed; NULL: they do not, or the library is not preloaded.';

CREATE FUNCTION mail._preloaded() RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'preloaded_wrapper';
COMMENT ON FUNCTION mail._preloaded() IS 'Whether the library stands in shared_preload_libraries.';

CREATE FUNCTION mail._check_address(address text, field text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'check_address_wrapper';
COMMENT ON FUNCTION mail._check_address(text, text) IS 'True, or 22023 naming the field when the address is not one mailbox.';

CREATE FUNCTION mail._check_relay_url(url text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'check_relay_url_wrapper';
COMMENT ON FUNCTION mail._check_relay_url(text) IS 'True, or 22023 saying what is wrong with the URL.';

CREATE FUNCTION mail._config_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'config_changed_wrapper';
COMMENT ON FUNCTION mail._config_changed() IS 'Invalidates the cached configuration of all sessions and wakes the worker, at commit.';

CREATE FUNCTION mail._check_pattern(pattern text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'check_pattern_wrapper';
COMMENT ON FUNCTION mail._check_pattern(text) IS 'True, or 22023 saying what is wrong with the regular expression.';

CREATE FUNCTION mail._has_group(pattern text, name text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'has_group_wrapper';
COMMENT ON FUNCTION mail._has_group(text, text) IS 'Whether a regular expression has a group of that name. Errors: 22023 for one that is none.';

CREATE FUNCTION mail._are_domains(domains text[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    RETURN (SELECT coalesce(bool_and(d ~ '^\.?[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'), true) AND array_position(domains, NULL) IS NULL
            FROM unnest(domains) AS d);
COMMENT ON FUNCTION mail._are_domains(text[]) IS 'Whether these are domains in lower case, in A-labels, each perhaps with a dot before it.';

CREATE FUNCTION mail._stays() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '%.% cannot be truncated', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = '0A000', HINT = TG_ARGV[0];
END
$$;
COMMENT ON FUNCTION mail._stays() IS 'Refuses TRUNCATE, with that hint, of what must not be forgotten. Errors: 0A000.';

CREATE TABLE mail.relay (
    id                          integer GENERATED BY DEFAULT AS IDENTITY UNIQUE,
    name                        text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_.-]{1,63}$'),
    url                         text NOT NULL,
    username                    text CHECK (username !~ '[[:cntrl:]]'),
    secret                      text,
    auth                        text NOT NULL DEFAULT 'auto' CHECK (auth IN ('auto', 'plain', 'login', 'xoauth2', 'oauthbearer', 'none')),
    helo_name                   text CHECK (helo_name ~ '^[A-Za-z0-9.:_\[\]-]{1,255}$'),
    ca_file                     text CHECK (ca_file LIKE '/%'),
    tier                        integer NOT NULL DEFAULT 1 CHECK (tier BETWEEN 1 AND 100),
    weight                      integer NOT NULL DEFAULT 1 CHECK (weight BETWEEN 0 AND 1000),
    sender_domains              text[] NOT NULL DEFAULT '{}' CHECK (mail._are_domains(sender_domains)),
    recipient_domains           text[] NOT NULL DEFAULT '{}' CHECK (mail._are_domains(recipient_domains)),
    max_connections             integer NOT NULL DEFAULT 10 CHECK (max_connections BETWEEN 1 AND 1000),
    max_messages_per_connection integer NOT NULL DEFAULT 1000 CHECK (max_messages_per_connection >= 1),
    max_connection_age          interval NOT NULL DEFAULT '5 minutes' CHECK (max_connection_age BETWEEN '1 second' AND '1 day'),
    max_connection_idle         interval NOT NULL DEFAULT '15 seconds' CHECK (max_connection_idle BETWEEN '0' AND '1 day'),
    rate_limit                  integer CHECK (rate_limit >= 1),
    rate_window                 interval NOT NULL DEFAULT '1 second' CHECK (rate_window BETWEEN '10 milliseconds' AND '31 days'),
    connect_timeout             interval NOT NULL DEFAULT '30 seconds' CHECK (connect_timeout BETWEEN '10 milliseconds' AND '1 hour'),
    greeting_timeout            interval NOT NULL DEFAULT '5 minutes' CHECK (greeting_timeout BETWEEN '10 milliseconds' AND '1 hour'),
    command_timeout             interval NOT NULL DEFAULT '5 minutes' CHECK (command_timeout BETWEEN '10 milliseconds' AND '1 hour'),
    data_timeout                interval NOT NULL DEFAULT '2 minutes' CHECK (data_timeout BETWEEN '10 milliseconds' AND '1 hour'),
    block_timeout               interval NOT NULL DEFAULT '3 minutes' CHECK (block_timeout BETWEEN '10 milliseconds' AND '1 hour'),
    dot_timeout                 interval NOT NULL DEFAULT '10 minutes' CHECK (dot_timeout BETWEEN '10 milliseconds' AND '1 hour'),
    enabled                     boolean NOT NULL DEFAULT true,
    stamp                       text DEFAULT mail._stamp()
);
COMMENT ON TABLE mail.relay IS 'SMTP relays. A change takes effect at commit.';
COMMENT ON COLUMN mail.relay.id IS 'Number used inside; stays when the relay is renamed.';
COMMENT ON COLUMN mail.relay.name IS 'Name that queues refer to: letters, digits, "_", "-" and ".".';
COMMENT ON COLUMN mail.relay.url IS 'smtp://host[:port] (default port 587 with a username, else 25) or smtps://host[:port] (465), with ?starttls=required|opportunistic|never; lmtp://host[:port] (24) or lmtp:///path/of/socket for local delivery. Default: required with a username, else opportunistic (lmtp: never). RFC 8314, RFC 2033.';
COMMENT ON COLUMN mail.relay.username IS 'SASL user name; NULL: no AUTH.';
COMMENT ON COLUMN mail.relay.secret IS 'Password, or token for xoauth2 and oauthbearer: file:NAME (a file in pgmq_mail.secrets_directory), or the secret itself, which is moved at once to a table that only the extension''s owner can read; this column then shows "(stored)". A stored one is to be given again whenever url, username or ca_file change.';
COMMENT ON COLUMN mail.relay.auth IS 'SASL mechanism: auto (plain or login, as offered), plain, login, xoauth2, oauthbearer or none. RFC 4954, RFC 7628.';
COMMENT ON COLUMN mail.relay.helo_name IS 'Name given in EHLO or LHLO, as it is; default: the name of the host if it has a dot, else the address of each connection''s own end, as [192.0.2.1] (localhost on a Unix socket). RFC 5321 section 4.1.1.1.';
COMMENT ON COLUMN mail.relay.ca_file IS 'Absolute path of a PEM file with the trust anchors for this relay; default: those of the system.';
COMMENT ON COLUMN mail.relay.tier IS 'Of the relays that a message may take, those of the lowest tier in which one is up get it.';
COMMENT ON COLUMN mail.relay.weight IS 'Share of its tier''s mail; 0: only while all others of the tier are down or at their limit.';
COMMENT ON COLUMN mail.relay.sender_domains IS 'Domains of envelope senders that it serves, in lower case, .example.com with all below it; empty: any. Mail that a relay names goes to no other that does not.';
COMMENT ON COLUMN mail.relay.recipient_domains IS 'Domains of recipients that it serves, as sender_domains.';
COMMENT ON COLUMN mail.relay.max_connections IS 'Connections open at the same time.';
COMMENT ON COLUMN mail.relay.max_messages_per_connection IS 'Messages over one connection before it is closed.';
COMMENT ON COLUMN mail.relay.max_connection_age IS 'Age at which a connection takes no more messages.';
COMMENT ON COLUMN mail.relay.max_connection_idle IS 'How long a connection is kept without work.';
COMMENT ON COLUMN mail.relay.rate_limit IS 'Messages in each rate_window; NULL: no limit. Up to ten seconds'' windows are paced evenly; longer ones may be used up at once.';
COMMENT ON COLUMN mail.relay.rate_window IS 'Length of the window. It begins anew when the worker starts.';
COMMENT ON COLUMN mail.relay.connect_timeout IS 'Patience for the connection and for the TLS handshake, each.';
COMMENT ON COLUMN mail.relay.greeting_timeout IS 'Patience for the greeting. RFC 5321 section 4.5.3.2.1.';
COMMENT ON COLUMN mail.relay.command_timeout IS 'Patience for the reply to EHLO, STARTTLS, AUTH, MAIL, RCPT and RSET. RFC 5321 section 4.5.3.2.2 and 3.';
COMMENT ON COLUMN mail.relay.data_timeout IS 'Patience for the reply to DATA. RFC 5321 section 4.5.3.2.4.';
COMMENT ON COLUMN mail.relay.block_timeout IS 'Patience while a block of the text is sent. RFC 5321 section 4.5.3.2.5.';
COMMENT ON COLUMN mail.relay.dot_timeout IS 'Patience for the reply to the final dot; a short one makes duplicates. RFC 5321 section 4.5.3.2.6.';
COMMENT ON COLUMN mail.relay.enabled IS 'False: not used.';
COMMENT ON COLUMN mail.relay.stamp IS 'Database in which this relay was configured, and pgmq_mail.token_file as it was then. Where it differs from the database it stands in (a restored dump, a copy), nothing is delivered until mail.arm().';

-- Never dumped: see 80_dump.sql. By name and without a foreign key: the secret is moved here before the relay's row is
-- stored, so that no error that shows a failing row can show it.
CREATE TABLE mail.relay_secret (
    relay    text PRIMARY KEY,
    secret   text NOT NULL,
    url      text,
    username text,
    ca_file  text
);
COMMENT ON TABLE mail.relay_secret IS 'Secrets of relays; readable by the extension''s owner and its worker alone, left out of dumps.';
COMMENT ON COLUMN mail.relay_secret.relay IS 'Name of the relay.';
COMMENT ON COLUMN mail.relay_secret.secret IS 'The secret.';
COMMENT ON COLUMN mail.relay_secret.url IS 'Where it was given for, as are username and ca_file: it is forgotten when the relay is another.';
COMMENT ON COLUMN mail.relay_secret.username IS 'As url.';
COMMENT ON COLUMN mail.relay_secret.ca_file IS 'As url.';

-- SECURITY DEFINER: who may configure a relay may set a secret and still not read one.
CREATE FUNCTION mail._relay_check() RETURNS trigger
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
COMMENT ON FUNCTION mail._relay_check() IS 'Validates a relay and moves its secret out of sight. Errors: 22023 naming the column.';

-- SECURITY DEFINER: as above.
CREATE FUNCTION mail._relay_inserted() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE mail.relay_secret s SET relay = NEW.name WHERE s.relay = 'given ' || NEW.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mail._relay_inserted() IS 'Takes over the secret that came with a relay.';

-- SECURITY DEFINER: as above.
CREATE FUNCTION mail._relay_secrets_tidy() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM mail.relay_secret s WHERE NOT EXISTS (
        SELECT FROM mail.relay r
        WHERE r.name = s.relay AND (r.url, r.username, r.ca_file) IS NOT DISTINCT FROM (s.url, s.username, s.ca_file));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mail._relay_secrets_tidy() IS 'Forgets secrets that are no relay''s: it is gone, or is one to elsewhere, or ON CONFLICT did not take them.';

CREATE TRIGGER relay_check BEFORE INSERT OR UPDATE ON mail.relay
    FOR EACH ROW EXECUTE FUNCTION mail._relay_check();
CREATE TRIGGER relay_inserted AFTER INSERT ON mail.relay
    FOR EACH ROW EXECUTE FUNCTION mail._relay_inserted();
CREATE TRIGGER relay_secrets_tidy AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail.relay
    FOR EACH STATEMENT EXECUTE FUNCTION mail._relay_secrets_tidy();
CREATE TRIGGER relay_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail.relay
    FOR EACH STATEMENT EXECUTE FUNCTION mail._config_changed();

-- Written by the worker when a relay's state changes; one row for each relay in trouble.
CREATE TABLE mail.relay_trouble (
    relay_id        integer PRIMARY KEY REFERENCES mail.relay (id) ON DELETE CASCADE,
    since           timestamptz NOT NULL,
    suspended_until timestamptz NOT NULL,
    failures        integer NOT NULL,
    error           text NOT NULL,
    rule            text
);
COMMENT ON TABLE mail.relay_trouble IS 'Relays that are suspended, by the worker''s account.';
COMMENT ON COLUMN mail.relay_trouble.relay_id IS 'The relay.';
COMMENT ON COLUMN mail.relay_trouble.since IS 'When the trouble began.';
COMMENT ON COLUMN mail.relay_trouble.suspended_until IS 'When it is tried again.';
COMMENT ON COLUMN mail.relay_trouble.failures IS 'Failures, or pauses that rules asked for, in a row.';
COMMENT ON COLUMN mail.relay_trouble.error IS 'The last one.';
COMMENT ON COLUMN mail.relay_trouble.rule IS 'The reply rule that asked for the pause; NULL: it failed.';

CREATE TABLE mail.queue (
    id                 integer GENERATED BY DEFAULT AS IDENTITY UNIQUE,
    name               text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_.-]{1,63}$'),
    transport          text NOT NULL DEFAULT 'smtp' CHECK (transport IN ('smtp', 'capture', 'external')),
    relays             text[] NOT NULL DEFAULT '{}' CHECK (array_position(relays, NULL) IS NULL),
    default_sender     text,
    return_path        text,
    max_attempts       integer NOT NULL DEFAULT 100 CHECK (max_attempts BETWEEN 1 AND 10000),
    retry_base         interval NOT NULL DEFAULT '1 minute' CHECK (retry_base > '0' AND retry_base <= '100 years'),
    retry_max          interval NOT NULL DEFAULT '1 hour' CHECK (retry_max > '0' AND retry_max <= '100 years'),
    give_up_after      interval NOT NULL DEFAULT '4 days' CHECK (give_up_after > '0' AND give_up_after <= '100 years'),
    lease              interval NOT NULL DEFAULT '5 minutes' CHECK (lease BETWEEN '1 second' AND '1 day'),
    on_uncertain       text NOT NULL DEFAULT 'retry' CHECK (on_uncertain IN ('retry', 'hold')),
    rate_limit         integer CHECK (rate_limit >= 1),
    rate_window        interval NOT NULL DEFAULT '1 second' CHECK (rate_window BETWEEN '10 milliseconds' AND '31 days'),
    concurrency        integer CHECK (concurrency >= 1),
    paused             boolean NOT NULL DEFAULT false,
    idempotency_window interval NOT NULL DEFAULT '1 day' CHECK (idempotency_window > '0' AND idempotency_window <= '100 years'),
    retain_body        interval DEFAULT '30 days' CHECK (retain_body BETWEEN '0' AND '100 years'),
    retain_sent        interval DEFAULT '90 days' CHECK (retain_sent BETWEEN '0' AND '100 years'),
    notify             boolean,
    fresh              boolean,
    max_message_size   integer CHECK (max_message_size >= 1024),
    bulk               boolean NOT NULL DEFAULT false,
    restrict_senders   boolean NOT NULL DEFAULT false,
    owner              text CHECK (owner <> ''),
    CONSTRAINT queue_restricts_senders_of_mail CHECK (NOT (restrict_senders AND transport = 'external'))
);
COMMENT ON TABLE mail.queue IS 'Queues. A change takes effect at commit.';
COMMENT ON COLUMN mail.queue.id IS 'Number used inside; stays when the queue is renamed.';
COMMENT ON COLUMN mail.queue.name IS 'Name: letters, digits, "_", "-" and ".".';
COMMENT ON COLUMN mail.queue.transport IS 'smtp: delivered through relays; capture: delivered into mail.captured, nothing leaves the machine; external: left for programs that call mail.claim.';
COMMENT ON COLUMN mail.queue.relays IS 'Names of the relays that may be used, chosen by tier and weight; empty: all that are enabled.';
COMMENT ON COLUMN mail.queue.default_sender IS 'From address of messages that name none.';
COMMENT ON COLUMN mail.queue.return_path IS 'Envelope sender; default: the From address. RFC 5321 section 4.4.';
COMMENT ON COLUMN mail.queue.max_attempts IS 'Attempts after which a message becomes a dead letter.';
COMMENT ON COLUMN mail.queue.retry_base IS 'Pause before the second attempt; doubles with each, with a jitter of a tenth.';
COMMENT ON COLUMN mail.queue.retry_max IS 'Longest pause between attempts.';
COMMENT ON COLUMN mail.queue.give_up_after IS 'Age, from enqueue or send_at on, after which a message that fails becomes a dead letter. RFC 5321 section 4.5.4.1.';
COMMENT ON COLUMN mail.queue.lease IS 'How long a claim lasts unless it says otherwise.';
COMMENT ON COLUMN mail.queue.on_uncertain IS 'When a relay falls silent after the final dot: retry (at least once) or hold (at most once: state uncertain, waits for a person).';
COMMENT ON COLUMN mail.queue.rate_limit IS 'Messages in each rate_window; NULL: no limit. As mail.relay.rate_limit.';
COMMENT ON COLUMN mail.queue.rate_window IS 'Length of the window.';
COMMENT ON COLUMN mail.queue.concurrency IS 'Messages that the worker has in flight at once for this queue; NULL: a share of pgmq_mail.max_in_flight.';
COMMENT ON COLUMN mail.queue.paused IS 'True: nothing is claimed; enqueue still works.';
COMMENT ON COLUMN mail.queue.idempotency_window IS 'How long an idempotency_key is remembered.';
COMMENT ON COLUMN mail.queue.retain_body IS 'How long the body of a finished message is kept after its enqueue; NULL: for ever.';
COMMENT ON COLUMN mail.queue.retain_sent IS 'How long the record of a finished message is kept after its enqueue; NULL: for ever. Dead letters stay until somebody decides.';
COMMENT ON COLUMN mail.queue.notify IS 'Whether NOTIFY mail_queue tells when something becomes claimable; default: true for external, false otherwise.';
COMMENT ON COLUMN mail.queue.fresh IS 'True only for the queue that CREATE EXTENSION made and nobody has changed yet: a restored dump replaces it. Not to be set by hand.';

COMMENT ON COLUMN mail.queue.max_message_size IS 'Largest message that is accepted, in bytes, files as they were given; NULL: pgmq_mail.max_message_size, which is never exceeded.';
COMMENT ON COLUMN mail.queue.bulk IS 'True for newsletters and the like: mail.preview then expects a way to unsubscribe.';
COMMENT ON COLUMN mail.queue.restrict_senders IS 'True: nobody may send as another than the default_sender, unless mail.sender_grant says so; even while it says nothing. Not for transport external, whose messages say themselves who sends them.';
COMMENT ON COLUMN mail.queue.owner IS 'Name of the role that it belongs to: only members of that role, and of mail_admin, may use it; for all others it does not exist. Members of mail_tenant among them administer it. NULL: everybody may use it. A role that does not exist (yet) is accepted: mail.health() tells of it.';

CREATE FUNCTION mail._queue_check() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM mail._check_address(NEW.default_sender, 'default_sender');
    IF NEW.return_path <> '' THEN
        PERFORM mail._check_address(NEW.return_path, 'return_path');
    END IF;
    IF NEW.retry_max < NEW.retry_base THEN
        RAISE EXCEPTION 'retry_max of queue "%" is shorter than its retry_base', NEW.name
            USING ERRCODE = '22023', COLUMN = 'retry_max';
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.transport <> OLD.transport
        AND NEW.notify = OLD.notify AND OLD.notify = (OLD.transport = 'external') THEN
        NEW.notify := NULL; -- it was the default, and so it remains
    END IF;
    NEW.notify := coalesce(NEW.notify, NEW.transport = 'external');
    IF TG_OP = 'INSERT' THEN
        IF NEW.fresh IS NOT NULL THEN -- as only a dump says it
            DELETE FROM mail.queue q WHERE q.name = NEW.name AND q.fresh;
        END IF;
        NEW.fresh := coalesce(NEW.fresh, false);
    ELSE
        IF NEW.id <> OLD.id THEN
            RAISE EXCEPTION 'the id of queue "%" cannot be changed', OLD.name USING ERRCODE = '22023', COLUMN = 'id';
        END IF;
        NEW.fresh := false;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION mail._queue_check() IS 'Validates a queue and fills in defaults. Errors: 22023 naming the column.';

-- SECURITY DEFINER: who configures queues need not be able to read messages.
CREATE FUNCTION mail._queue_in_use() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'a queue can only be deleted in transaction isolation level read committed' USING ERRCODE = '25001',
            HINT = 'With an older snapshot its messages cannot be seen.';
    END IF;
    -- Whoever enqueues holds a lock that this one waits for; those that come wait for this transaction.
    BEGIN
        LOCK TABLE mail.queue IN EXCLUSIVE MODE;
    EXCEPTION WHEN lock_not_available THEN
        RAISE EXCEPTION 'a transaction that has enqueued messages, or changed queues, is still open' USING ERRCODE = '55P03',
            HINT = 'Only its end shows whether the queue is empty: try again.';
    END;
    IF TG_OP = 'TRUNCATE' THEN
        IF EXISTS (SELECT FROM mail.message) THEN
            RAISE EXCEPTION 'queues hold messages' USING ERRCODE = '55006', HINT = 'Delete those that are empty.';
        END IF;
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM mail.message m WHERE m.queue_id = OLD.id) THEN
        RAISE EXCEPTION 'queue "%" holds messages', OLD.name
            USING ERRCODE = '55006', HINT = 'Empty it with mail.purge(queue, finished => true) first, or pause it with mail.pause.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION mail._queue_in_use() IS 'Refuses to drop a queue whose messages would be forgotten. Errors: 55006; 55P03 when a transaction that enqueued stays open; 25001.';

CREATE TRIGGER queue_check BEFORE INSERT OR UPDATE ON mail.queue
    FOR EACH ROW EXECUTE FUNCTION mail._queue_check();
CREATE TRIGGER queue_in_use BEFORE DELETE ON mail.queue
    FOR EACH ROW EXECUTE FUNCTION mail._queue_in_use();
CREATE TRIGGER queues_in_use BEFORE TRUNCATE ON mail.queue
    FOR EACH STATEMENT EXECUTE FUNCTION mail._queue_in_use();
CREATE TRIGGER queue_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail.queue
    FOR EACH STATEMENT EXECUTE FUNCTION mail._config_changed();
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

CREATE TRIGGER queue_renamed AFTER UPDATE OF name ON mail.queue
    FOR EACH ROW WHEN (OLD.name <> NEW.name) EXECUTE FUNCTION mail._queue_renamed();
-- What recipient domains may get, and what replies ask for.

CREATE TABLE mail.domain_limit (
    domain      text PRIMARY KEY CHECK (mail._are_domains(ARRAY[domain]) AND domain NOT LIKE '.%'),
    concurrency integer CHECK (concurrency >= 1),
    rate_limit  integer CHECK (rate_limit >= 1),
    rate_window interval NOT NULL DEFAULT '1 second' CHECK (rate_window BETWEEN '10 milliseconds' AND '31 days')
);
COMMENT ON TABLE mail.domain_limit IS 'How much mail a recipient domain may get, over all queues and relays. A change takes effect at commit.';
COMMENT ON COLUMN mail.domain_limit.domain IS 'The domain, in lower case and A-labels; subdomains are others.';
COMMENT ON COLUMN mail.domain_limit.concurrency IS 'Messages on their way to it at the same time; NULL: no limit.';
COMMENT ON COLUMN mail.domain_limit.rate_limit IS 'Messages in each rate_window; NULL: no limit. As mail.relay.rate_limit.';
COMMENT ON COLUMN mail.domain_limit.rate_window IS 'Length of the window.';

CREATE TRIGGER domain_limit_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail.domain_limit
    FOR EACH STATEMENT EXECUTE FUNCTION mail._config_changed();

CREATE TABLE mail.reply_rule (
    name     text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_.-]{1,63}$'),
    position integer NOT NULL DEFAULT 100,
    relay    text,
    code     text CHECK (code ~ '^[45][0-9]{0,2}$'),
    status   text CHECK (status ~ '^[45](\.[0-9]{0,3}(\.[0-9]{0,3})?)?$'),
    pattern  text,
    action   text NOT NULL CHECK (action IN ('retry', 'suspend_relay', 'suspend_domain', 'fail', 'hold')),
    duration interval CHECK (duration BETWEEN '0' AND '31 days'),
    enabled  boolean NOT NULL DEFAULT true,
    fresh    boolean,
    CHECK (num_nonnulls(code, status, pattern) > 0),
    CONSTRAINT reply_rule_suspends_for_a_second_or_more CHECK (action NOT IN ('suspend_relay', 'suspend_domain') OR duration >= '1 second')
);
COMMENT ON TABLE mail.reply_rule IS 'What to do about a relay''s 4yz and 5yz replies beyond what their first digit says; the first rule that fits, by position and name, decides. A change takes effect at commit.';
COMMENT ON COLUMN mail.reply_rule.name IS 'Its name; events of recipients that it decided about carry it.';
COMMENT ON COLUMN mail.reply_rule.position IS 'Lower ones are tried first.';
COMMENT ON COLUMN mail.reply_rule.relay IS 'The only relay that it is for; NULL: all. One that does not exist (yet) is accepted: mail.health() tells of it.';
COMMENT ON COLUMN mail.reply_rule.code IS 'How the reply code begins, as 4, 45 or 451; NULL: any.';
COMMENT ON COLUMN mail.reply_rule.status IS 'How the enhanced status code begins, as 4.7. or 4.7.28; NULL: any, or none.';
COMMENT ON COLUMN mail.reply_rule.pattern IS 'Regular expression (that of the Rust crate regex), searched in the reply''s text, enhanced code included, without regard to case; NULL: any.';
COMMENT ON COLUMN mail.reply_rule.action IS 'retry: the message is tried again after duration; suspend_relay: the relay gets no mail for that long, and no attempt is counted; suspend_domain: mail for the recipient''s domain waits for that long; fail: the message fails; hold: it waits until mail.retry(id).';
COMMENT ON COLUMN mail.reply_rule.duration IS 'How long, at least a second where it suspends (a retry comes no sooner either), at most 31 days; NULL: as the text says, by the groups (?<n>number) and (?<unit>seconds, minutes or hours) of the pattern.';
COMMENT ON COLUMN mail.reply_rule.enabled IS 'False: not used.';
COMMENT ON COLUMN mail.reply_rule.fresh IS 'True for a rule that CREATE EXTENSION made and nobody has changed: a restored dump replaces it. Not to be set by hand.';

CREATE FUNCTION mail._reply_rule_check() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM mail._check_pattern(NEW.pattern);
    IF NEW.duration IS NULL AND NEW.action NOT IN ('fail', 'hold') AND mail._has_group(NEW.pattern, 'n') IS NOT TRUE THEN
        RAISE EXCEPTION 'rule "%" has no duration, and its pattern no group "n" to read one from', NEW.name
            USING ERRCODE = '22023', COLUMN = 'duration',
                  HINT = 'Give a duration, or mark the number in the pattern as (?<n>[0-9]+), and its unit, if there is one, as (?<unit>[smh]).';
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NEW.fresh IS NOT NULL THEN -- as only a dump says it
            DELETE FROM mail.reply_rule r WHERE r.name = NEW.name AND r.fresh;
        END IF;
        NEW.fresh := coalesce(NEW.fresh, false);
    ELSE
        NEW.fresh := false;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION mail._reply_rule_check() IS 'Validates a rule. Errors: 22023 for a pattern that is none, or a duration that nothing says.';

CREATE TRIGGER reply_rule_check BEFORE INSERT OR UPDATE ON mail.reply_rule
    FOR EACH ROW EXECUTE FUNCTION mail._reply_rule_check();
CREATE TRIGGER reply_rule_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail.reply_rule
    FOR EACH STATEMENT EXECUTE FUNCTION mail._config_changed();

INSERT INTO mail.reply_rule (name, position, code, status, pattern, action, duration, fresh) VALUES
    -- The relay's own quota: all mail through it waits.
    ('ses-sending-rate', 10, '454', NULL, 'throttling failure: maximum sending rate exceeded', 'suspend_relay', '1 second', true),
    ('ses-daily-quota', 10, '454', NULL, 'throttling failure: daily message quota exceeded', 'suspend_relay', '1 hour', true),
    ('google-daily-limit', 10, '550', '5.4.5', 'daily (user )?sending (limit|quota)', 'suspend_relay', '1 hour', true),
    ('google-relay-limit', 10, '550', '5.7.1', 'daily smtp relay (sending )?limit', 'suspend_relay', '1 hour', true),
    ('microsoft-quota', 10, '5', NULL, 'SubmissionQuotaExceeded|reached your daily limit for message recipients', 'suspend_relay', '1 hour', true),
    ('microsoft-threads', 10, '432', NULL, '(sender thread|concurrent connections) limit exceeded', 'suspend_relay', '1 minute', true),
    ('sendgrid-credits', 10, '451', NULL, 'maximum credits exceeded', 'suspend_relay', '1 hour', true),
    -- The receiver's opinion of the sender: mail for its domain waits.
    ('google-rate', 20, '4', '4.7.28', NULL, 'suspend_domain', '15 minutes', true),
    ('google-unusual-rate', 20, '421', NULL, 'unusual rate of unsolicited mail', 'suspend_domain', '15 minutes', true),
    ('yahoo-deferred', 20, '421', NULL, '\[TSS?[0-9]+\]', 'suspend_domain', '30 minutes', true),
    ('microsoft-rate', 20, '4', NULL, '4\.7\.65[0-2]|\bRP-00[1-3]\b|\(S775\)', 'suspend_domain', '15 minutes', true),
    ('microsoft-blocked', 20, '550', NULL, '5\.7\.(60[6-9]|6[1-4][0-9]|511)\b|\(S31[45]0\)', 'suspend_domain', '1 hour', true),
    ('icloud-rate', 20, '4', NULL, '\[CS[0-9]+\]', 'suspend_domain', '15 minutes', true),
    -- Whoever says when to come back.
    ('try-again-in', 30, '4', NULL, '(?:again|back|retry|wait)\D{0,40}?(?<n>[0-9]+)\s*(?<unit>s|m|h)(?:ec|in|our|r|\b)', 'retry', NULL, true);

-- Written by the worker when a rule suspends a domain. The pause itself is in its memory, and ends with it.
CREATE TABLE mail.domain_pause (
    domain          text PRIMARY KEY,
    since           timestamptz NOT NULL,
    suspended_until timestamptz NOT NULL,
    relay           text NOT NULL,
    rule            text NOT NULL,
    reason          text NOT NULL
);
COMMENT ON TABLE mail.domain_pause IS 'Recipient domains whose mail waits since a relay''s reply asked for it, by the worker''s account; also such as are over.';
COMMENT ON COLUMN mail.domain_pause.domain IS 'The domain, in lower case.';
COMMENT ON COLUMN mail.domain_pause.since IS 'When the pause began.';
COMMENT ON COLUMN mail.domain_pause.suspended_until IS 'When mail for it goes on.';
COMMENT ON COLUMN mail.domain_pause.relay IS 'Name of the relay whose reply it was.';
COMMENT ON COLUMN mail.domain_pause.rule IS 'The reply rule that decided.';
COMMENT ON COLUMN mail.domain_pause.reason IS 'The reply.';
-- The queue that is there from the beginning.

-- Its id is one that nobody else gives: what is restored meets a queue only when its own has come.
INSERT INTO mail.queue (id, name, transport, default_sender, fresh)
VALUES (1073741824 + (hashtext(gen_random_uuid()::text) & 1073741823), 'default', 'capture', 'postgres@localhost', true);
-- Templates: the version in force stands in mail.template, those that were before it in mail.template_version.

CREATE FUNCTION mail._compile_template(name text, locale text, subject text, text_part text, html text, mjml text) RETURNS text
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'compile_template_wrapper';
COMMENT ON FUNCTION mail._compile_template(text, text, text, text, text, text) IS
'Checks the parts of a template; returns its HTML with MJML turned into HTML and CSS inlined, or NULL where it has none. Errors: 22023 naming part, line and column.';

CREATE TABLE mail.template (
    name     text NOT NULL,
    locale   text NOT NULL DEFAULT '',
    version  integer NOT NULL CHECK (version BETWEEN 1 AND 1000000000),
    subject  text,
    text     text,
    html     text,
    mjml     text,
    compiled text,
    saved_at timestamptz NOT NULL,
    saved_by text NOT NULL,
    previous integer,
    PRIMARY KEY (name, locale)
);
COMMENT ON TABLE mail.template IS 'Templates in force: one row for each name and locale. A change takes effect at commit, also for messages that wait, and makes a new version.';
COMMENT ON COLUMN mail.template.name IS 'Name: letters, digits, "_", "-", "." and "/".';
COMMENT ON COLUMN mail.template.locale IS 'Language tag, as de or de-CH; empty: the default. A message in de-CH takes de-CH, else de, else the default. RFC 4647 section 3.4.';
COMMENT ON COLUMN mail.template.version IS 'Number, from 1; set by itself. See mail.activate_template.';
COMMENT ON COLUMN mail.template.subject IS 'Subject, in the syntax of MiniJinja (that of Jinja2).';
COMMENT ON COLUMN mail.template.text IS 'Plain text. Where there is none, it is made from the HTML.';
COMMENT ON COLUMN mail.template.html IS 'HTML; values are escaped. Styles in <style> are written into the elements when it is saved.';
COMMENT ON COLUMN mail.template.mjml IS 'MJML, instead of html; turned into HTML when it is saved.';
COMMENT ON COLUMN mail.template.compiled IS 'The HTML as made when it was saved. Not to be set by hand.';
COMMENT ON COLUMN mail.template.saved_at IS 'When this version was saved.';
COMMENT ON COLUMN mail.template.saved_by IS 'Role that saved it.';
COMMENT ON COLUMN mail.template.previous IS 'The version that was in force before it was saved: what mail.rollback_template goes back to.';

CREATE TABLE mail.template_version (
    name     text NOT NULL,
    locale   text NOT NULL,
    version  integer NOT NULL,
    subject  text,
    text     text,
    html     text,
    mjml     text,
    saved_at timestamptz NOT NULL,
    saved_by text NOT NULL,
    previous integer,
    ended_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, locale, version)
);
COMMENT ON TABLE mail.template_version IS 'Versions of templates that are not in force; see mail.template_history.';
COMMENT ON COLUMN mail.template_version.name IS 'Name.';
COMMENT ON COLUMN mail.template_version.locale IS 'Locale.';
COMMENT ON COLUMN mail.template_version.version IS 'Number.';
COMMENT ON COLUMN mail.template_version.subject IS 'Subject.';
COMMENT ON COLUMN mail.template_version.text IS 'Plain text.';
COMMENT ON COLUMN mail.template_version.html IS 'HTML.';
COMMENT ON COLUMN mail.template_version.mjml IS 'MJML.';
COMMENT ON COLUMN mail.template_version.saved_at IS 'When it was saved.';
COMMENT ON COLUMN mail.template_version.saved_by IS 'Role that saved it.';
COMMENT ON COLUMN mail.template_version.previous IS 'The version that was in force before it was saved.';
COMMENT ON COLUMN mail.template_version.ended_at IS 'When it last went out of force.';

CREATE VIEW mail.template_history AS
SELECT t.name, t.locale, t.version, true AS active, t.subject, t.text, t.html, t.mjml, t.saved_at, t.saved_by, t.previous, NULL::timestamptz AS ended_at
FROM mail.template t
UNION ALL
SELECT v.name, v.locale, v.version, false, v.subject, v.text, v.html, v.mjml, v.saved_at, v.saved_by, v.previous, v.ended_at
FROM mail.template_version v;
COMMENT ON VIEW mail.template_history IS 'All versions of all templates.';
COMMENT ON COLUMN mail.template_history.name IS 'Name of the template.';
COMMENT ON COLUMN mail.template_history.locale IS 'Its locale; empty: the default.';
COMMENT ON COLUMN mail.template_history.version IS 'Number, from 1 for each name and locale.';
COMMENT ON COLUMN mail.template_history.active IS 'Whether this is the version in force. A deleted template has none.';
COMMENT ON COLUMN mail.template_history.subject IS 'Subject.';
COMMENT ON COLUMN mail.template_history.text IS 'Plain text.';
COMMENT ON COLUMN mail.template_history.html IS 'HTML.';
COMMENT ON COLUMN mail.template_history.mjml IS 'MJML.';
COMMENT ON COLUMN mail.template_history.saved_at IS 'When it was saved.';
COMMENT ON COLUMN mail.template_history.saved_by IS 'Role that saved it.';
COMMENT ON COLUMN mail.template_history.previous IS 'The version that was in force before it was saved.';
COMMENT ON COLUMN mail.template_history.ended_at IS 'When it last went out of force.';

CREATE FUNCTION mail._canonical_locale(locale text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    RETURN (SELECT coalesce(string_agg(CASE WHEN u.n = 1 THEN lower(u.part) WHEN length(u.part) = 2 THEN upper(u.part)
                                            WHEN length(u.part) = 4 THEN initcap(u.part) ELSE lower(u.part) END, '-' ORDER BY u.n), '')
            FROM regexp_split_to_table(coalesce(locale, ''), '[-_]') WITH ORDINALITY AS u (part, n));
COMMENT ON FUNCTION mail._canonical_locale(text) IS 'A language tag as it is written: de, de-CH, zh-Hant-TW; empty for NULL. RFC 5646 section 2.1.1.';

-- SECURITY DEFINER: who may write templates need not be able to write their history.
CREATE FUNCTION mail._template_lock() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- One after the other: who inserts a template must see the versions of one that was just deleted.
    LOCK TABLE mail.template_version IN SHARE ROW EXCLUSIVE MODE;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mail._template_lock() IS 'Lets one transaction at a time change templates.';

-- SECURITY DEFINER: as above.
CREATE FUNCTION mail._template_check() RETURNS trigger
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
COMMENT ON FUNCTION mail._template_check() IS 'Checks a template and gives it its version. Errors: 22023 naming the column, for a syntax error part, line and column.';

-- SECURITY DEFINER: as above.
CREATE FUNCTION mail._template_kept() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND NEW.version <> OLD.version THEN
        INSERT INTO mail.template_version (name, locale, version, subject, text, html, mjml, saved_at, saved_by, previous)
        VALUES (OLD.name, OLD.locale, OLD.version, OLD.subject, OLD.text, OLD.html, OLD.mjml, OLD.saved_at, OLD.saved_by, OLD.previous);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        DELETE FROM mail.template_version v WHERE (v.name, v.locale, v.version) = (NEW.name, NEW.locale, NEW.version);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mail._template_kept() IS 'Keeps the version of a template that goes out of force, and takes the one that comes into force out of what is kept.';

CREATE TRIGGER template_stays BEFORE TRUNCATE ON mail.template
    FOR EACH STATEMENT EXECUTE FUNCTION mail._stays('DELETE keeps the versions.');
CREATE TRIGGER template_lock BEFORE INSERT OR UPDATE OR DELETE ON mail.template
    FOR EACH STATEMENT EXECUTE FUNCTION mail._template_lock();
CREATE TRIGGER template_check BEFORE INSERT OR UPDATE ON mail.template
    FOR EACH ROW EXECUTE FUNCTION mail._template_check();
CREATE TRIGGER template_kept AFTER INSERT OR UPDATE OR DELETE ON mail.template
    FOR EACH ROW EXECUTE FUNCTION mail._template_kept();
CREATE TRIGGER template_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail.template
    FOR EACH STATEMENT EXECUTE FUNCTION mail._config_changed();

CREATE FUNCTION mail._template_title(name text, locale text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    RETURN format('"%s"', name) || CASE WHEN locale <> '' THEN format(' (%s)', locale) ELSE '' END;
COMMENT ON FUNCTION mail._template_title(text, text) IS 'A template in messages: its name, and its locale where it has one.';

-- SECURITY DEFINER: callers may write templates, not their history.
CREATE FUNCTION mail.activate_template(name text, version integer, locale text DEFAULT '') RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tag text := mail._canonical_locale(activate_template.locale);
    wanted mail.template_version;
    active integer;
BEGIN
    LOCK TABLE mail.template_version IN SHARE ROW EXCLUSIVE MODE;
    SELECT t.version INTO active FROM mail.template t WHERE (t.name, t.locale) = (activate_template.name, tag);
    IF active = activate_template.version THEN
        RETURN;
    END IF;
    SELECT * INTO wanted FROM mail.template_version v
    WHERE (v.name, v.locale, v.version) = (activate_template.name, tag, activate_template.version);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'template % has no version %', mail._template_title(activate_template.name, tag), activate_template.version
            USING ERRCODE = '42704', HINT = 'The view mail.template_history lists the versions.';
    END IF;
    IF active IS NULL THEN
        INSERT INTO mail.template (name, locale, version, subject, text, html, mjml, saved_at, saved_by, previous)
        VALUES (wanted.name, wanted.locale, wanted.version, wanted.subject, wanted.text, wanted.html, wanted.mjml, wanted.saved_at,
                wanted.saved_by, wanted.previous);
    ELSE
        UPDATE mail.template t
        SET version = wanted.version, subject = wanted.subject, text = wanted.text, html = wanted.html, mjml = wanted.mjml,
            saved_at = wanted.saved_at, saved_by = wanted.saved_by, previous = wanted.previous
        WHERE (t.name, t.locale) = (wanted.name, wanted.locale);
    END IF;
END
$$;
COMMENT ON FUNCTION mail.activate_template(text, integer, text) IS
'Puts a version of a template in force, one of a deleted template too; what is in force now is kept. Errors: 42704 no such version.';

-- SECURITY DEFINER: as above.
CREATE FUNCTION mail.rollback_template(name text, locale text DEFAULT '') RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tag text := mail._canonical_locale(rollback_template.locale);
    before integer;
BEGIN
    LOCK TABLE mail.template_version IN SHARE ROW EXCLUSIVE MODE;
    SELECT t.previous INTO before FROM mail.template t WHERE (t.name, t.locale) = (rollback_template.name, tag);
    IF NOT FOUND THEN
        SELECT v.version INTO before FROM mail.template_version v WHERE (v.name, v.locale) = (rollback_template.name, tag)
        ORDER BY v.ended_at DESC, v.version DESC LIMIT 1;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'template % does not exist', mail._template_title(rollback_template.name, tag)
                USING ERRCODE = '42704', HINT = 'The view mail.template_history lists what there is.';
        END IF;
    ELSIF before IS NULL THEN
        RAISE EXCEPTION 'template % has no earlier version', mail._template_title(rollback_template.name, tag)
            USING ERRCODE = '42704', HINT = 'The view mail.template_history lists the versions.';
    END IF;
    PERFORM mail.activate_template(rollback_template.name, before, tag);
    RETURN before;
END
$$;
COMMENT ON FUNCTION mail.rollback_template(text, text) IS
'Puts the version back in force that was in force when the present one was saved, and returns its number; for a deleted template the one that was in force last. Errors: 42704 there is none.';
-- DKIM keys. The private one is moved out of sight before the row is stored, as a relay's secret is.

CREATE FUNCTION mail._dkim_facts(private_key text, OUT algorithm text, OUT dns_record text) RETURNS SETOF record
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', 'dkim_facts_wrapper';
COMMENT ON FUNCTION mail._dkim_facts(text) IS 'What a private key in PEM is: its algorithm, and the TXT record of its public key. Errors: 22023 for no usable key; the message never holds any of it.';

CREATE FUNCTION mail._check_dkim_names(domain text, selector text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'check_dkim_names_wrapper';
COMMENT ON FUNCTION mail._check_dkim_names(text, text) IS 'True, or 22023 saying why these are no domain and selector of a key. RFC 6376 section 3.1.';

CREATE FUNCTION mail._new_dkim_key(algorithm text) RETURNS text
    LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'new_dkim_key_wrapper';
COMMENT ON FUNCTION mail._new_dkim_key(text) IS 'A new private key in PEM. Errors: 22023 for an unknown algorithm.';

CREATE TABLE mail.dkim_key (
    domain      text NOT NULL,
    selector    text NOT NULL,
    private_key text NOT NULL,
    algorithm   text CHECK (algorithm IN ('rsa', 'ed25519')),
    dns_record  text,
    enabled     boolean NOT NULL DEFAULT true,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (domain, selector)
);
COMMENT ON TABLE mail.dkim_key IS 'Keys that mail is signed with, by the domain of From: with all keys of that domain, or else of the nearest one above it. RFC 6376, RFC 8463.';
COMMENT ON COLUMN mail.dkim_key.domain IS 'Domain (d=), in lower case and A-labels.';
COMMENT ON COLUMN mail.dkim_key.selector IS 'Selector (s=): the public key stands in DNS at selector._domainkey.domain.';
COMMENT ON COLUMN mail.dkim_key.private_key IS 'Private key in PEM (PKCS#8; RSA also PKCS#1) or, for Ed25519, its 32 octets in base64; or file:NAME (a file in pgmq_mail.secrets_directory). A key that is given is moved at once to a table that only the extension''s owner can read; this column then shows "(stored …)".';
COMMENT ON COLUMN mail.dkim_key.algorithm IS 'rsa or ed25519, read from the key; NULL: not known, as it is in a file.';
COMMENT ON COLUMN mail.dkim_key.dns_record IS 'The TXT record to publish, read from the key.';
COMMENT ON COLUMN mail.dkim_key.enabled IS 'False: not used.';
COMMENT ON COLUMN mail.dkim_key.created_at IS 'When.';

-- Never dumped: see 80_dump.sql. By an id that the key's row shows, unlike any in a database that it may be
-- restored into, and without a foreign key: it is here before that row is.
CREATE TABLE mail.dkim_secret (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    private_key text NOT NULL
);
COMMENT ON TABLE mail.dkim_secret IS 'Private keys; readable by the extension''s owner and its worker alone, left out of dumps.';
COMMENT ON COLUMN mail.dkim_secret.id IS 'The id that the key shows.';
COMMENT ON COLUMN mail.dkim_secret.private_key IS 'The key in PEM.';

CREATE TABLE mail.dkim_trouble (
    domain   text NOT NULL,
    selector text NOT NULL,
    error    text NOT NULL,
    PRIMARY KEY (domain, selector),
    FOREIGN KEY (domain, selector) REFERENCES mail.dkim_key ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON TABLE mail.dkim_trouble IS 'Keys that cannot be used, by the worker''s account.';
COMMENT ON COLUMN mail.dkim_trouble.domain IS 'Domain of the key.';
COMMENT ON COLUMN mail.dkim_trouble.selector IS 'Its selector.';
COMMENT ON COLUMN mail.dkim_trouble.error IS 'Why.';

-- SECURITY DEFINER: who may configure a key may set it and still not read one.
CREATE FUNCTION mail._dkim_key_check() RETURNS trigger
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
COMMENT ON FUNCTION mail._dkim_key_check() IS 'Reads a private key and moves it out of sight. Errors: 22023 naming the column.';

-- SECURITY DEFINER: as above.
CREATE FUNCTION mail._dkim_secrets_tidy() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM mail.dkim_secret s
    WHERE NOT EXISTS (SELECT FROM mail.dkim_key k WHERE k.private_key = format('(stored %s)', s.id));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mail._dkim_secrets_tidy() IS 'Forgets private keys that no row refers to any more.';

CREATE TRIGGER dkim_key_check BEFORE INSERT OR UPDATE ON mail.dkim_key
    FOR EACH ROW EXECUTE FUNCTION mail._dkim_key_check();
CREATE TRIGGER dkim_secrets_tidy AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail.dkim_key
    FOR EACH STATEMENT EXECUTE FUNCTION mail._dkim_secrets_tidy();
CREATE TRIGGER dkim_key_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON mail.dkim_key
    FOR EACH STATEMENT EXECUTE FUNCTION mail._config_changed();

CREATE FUNCTION mail.generate_dkim_key(domain text, selector text, algorithm text DEFAULT 'rsa',
                                       OUT name text, OUT type text, OUT value text) RETURNS record
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF num_nulls(domain, selector, algorithm) > 0 THEN
        RAISE EXCEPTION 'domain, selector and algorithm must be given' USING ERRCODE = '22023';
    END IF;
    INSERT INTO mail.dkim_key AS k (domain, selector, private_key)
    VALUES (lower(generate_dkim_key.domain), generate_dkim_key.selector, mail._new_dkim_key(generate_dkim_key.algorithm))
    RETURNING format('%s._domainkey.%s', k.selector, k.domain), 'TXT', k.dns_record INTO name, type, value;
END
$$;
COMMENT ON FUNCTION mail.generate_dkim_key(text, text, text) IS
'Makes a key (rsa: 2048 bits, or ed25519) that mail from the domain is signed with from the commit on, and returns the DNS record to publish. The private key never leaves the server. Errors: 22023 unknown algorithm, invalid domain or selector, 23505 there is one with that domain and selector.';
-- The queue: an insert-only message, a narrow row while it is pending, a log of events, and leases.

CREATE TABLE mail.message (
    id              bigint PRIMARY KEY,
    queue_id        integer NOT NULL,
    priority        integer NOT NULL,
    enqueued_at     timestamptz NOT NULL,
    send_at         timestamptz,
    expires_at      timestamptz,
    enqueued_by     text NOT NULL,
    envelope_from   text NOT NULL,
    recipients      text[] NOT NULL,
    subject         text,
    message_id      text,
    tags            text[],
    metadata        jsonb,
    idempotency_key text,
    ordering_key    text,
    supersede_key   text,
    content         text,
    template        jsonb,
    files           integer
);
-- Up to a page, a row stays in one piece and uncompressed: cheaper to write and to read than TOAST.
ALTER TABLE mail.message SET (toast_tuple_target = 8160);
COMMENT ON TABLE mail.message IS 'Messages as accepted; insert-only. See the view mail.messages.';
COMMENT ON COLUMN mail.message.id IS 'Time, node and a sequence: see mail.id_seq.';
COMMENT ON COLUMN mail.message.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.message.priority IS 'Higher goes first.';
COMMENT ON COLUMN mail.message.enqueued_at IS 'Time of the call.';
COMMENT ON COLUMN mail.message.send_at IS 'Not before.';
COMMENT ON COLUMN mail.message.expires_at IS 'Not after.';
COMMENT ON COLUMN mail.message.enqueued_by IS 'Role that enqueued it.';
COMMENT ON COLUMN mail.message.envelope_from IS 'Reverse path; empty: the null sender.';
COMMENT ON COLUMN mail.message.recipients IS 'Envelope recipients.';
COMMENT ON COLUMN mail.message.subject IS 'Subject.';
COMMENT ON COLUMN mail.message.message_id IS 'The Message-ID header, the same on every attempt.';
COMMENT ON COLUMN mail.message.tags IS 'Tags; never sent.';
COMMENT ON COLUMN mail.message.metadata IS 'Metadata; never sent.';
COMMENT ON COLUMN mail.message.idempotency_key IS 'As given.';
COMMENT ON COLUMN mail.message.ordering_key IS 'As given.';
COMMENT ON COLUMN mail.message.supersede_key IS 'As given.';
COMMENT ON COLUMN mail.message.content IS 'The message in its JSON form, files left out; NULL once retain_body is over.';
COMMENT ON COLUMN mail.message.template IS 'The template that it is made from: name, locale (as asked for), and where it was rendered when it was enqueued, version. NULL: none.';
COMMENT ON COLUMN mail.message.files IS 'How many files go with it; NULL: none.';

CREATE TABLE mail.pending (
    id            bigint PRIMARY KEY,
    due_at        timestamptz NOT NULL,
    queue_id      integer NOT NULL,
    rank          integer NOT NULL,
    size          integer NOT NULL,
    attempts      integer NOT NULL DEFAULT 0,
    ordering_hash bigint,
    ordering_seq  bigint,
    expires_at    timestamptz,
    waits_for     integer
) WITH (
    -- Every row is deleted soon: vacuum for the dead, at once, and never for having been inserted.
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 0.5
);
CREATE INDEX pending_claim_idx ON mail.pending (queue_id, rank, due_at, id);
CREATE INDEX pending_ordering_idx ON mail.pending (ordering_hash, ordering_seq) WHERE ordering_hash IS NOT NULL;
CREATE INDEX pending_expires_at_idx ON mail.pending (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX pending_waits_for_idx ON mail.pending (queue_id, waits_for, rank, due_at, id) WHERE waits_for IS NOT NULL;
COMMENT ON TABLE mail.pending IS 'One narrow row for each message that is not finished; deleted at the end. A row in a live lease is in flight.';
COMMENT ON COLUMN mail.pending.id IS 'The message.';
COMMENT ON COLUMN mail.pending.due_at IS 'When it may next be claimed.';
COMMENT ON COLUMN mail.pending.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.pending.rank IS 'Negated priority, so that one ascending index gives the order.';
COMMENT ON COLUMN mail.pending.size IS 'Bytes of its content and of its files as they are sent.';
COMMENT ON COLUMN mail.pending.attempts IS 'Attempts that ended.';
COMMENT ON COLUMN mail.pending.ordering_hash IS 'Hash of queue and ordering_key.';
COMMENT ON COLUMN mail.pending.ordering_seq IS 'Place within that key.';
COMMENT ON COLUMN mail.pending.expires_at IS 'Not after.';
COMMENT ON COLUMN mail.pending.waits_for IS 'Put off, untried: a change of relays or limits makes it due. Hash of the recipient domain that may ask for it before; 0: none may. NULL: not put off since its last attempt.';

CREATE FUNCTION mail._touch() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'touch_wrapper';
COMMENT ON FUNCTION mail._touch() IS 'Marks the transaction: at its end the worker and waiting claimers are woken, and NOTIFY is sent where the queue wants it.';
-- A BEFORE row trigger costs a tenth of an AFTER statement trigger with its transition table, and no path that
-- makes a message claimable can forget it.
CREATE TRIGGER pending_touch BEFORE INSERT OR UPDATE ON mail.pending
    FOR EACH ROW EXECUTE FUNCTION mail._touch();

CREATE TABLE mail.lease (
    token       bigint PRIMARY KEY,
    queue_id    integer NOT NULL,
    holder      integer,
    claimed_at  timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    ids         bigint[] NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE mail.lease IS 'What is in flight: one row for each batch that the worker claimed, one for each message claimed from outside.';
COMMENT ON COLUMN mail.lease.token IS 'Fence: only who knows it may settle its messages.';
COMMENT ON COLUMN mail.lease.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.lease.holder IS 'Process id of the worker that holds it; NULL: claimed from outside.';
COMMENT ON COLUMN mail.lease.claimed_at IS 'When.';
COMMENT ON COLUMN mail.lease.lease_until IS 'When it ends by itself.';
COMMENT ON COLUMN mail.lease.ids IS 'Its messages; those that are finished have no row in mail.pending any more.';

CREATE TABLE mail.event (
    id         bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    message_id bigint NOT NULL,
    queue_id   integer NOT NULL,
    attempt    integer NOT NULL,
    code       integer,
    kind       text NOT NULL,
    state      text CHECK (state IN ('sent', 'failed', 'uncertain', 'cancelled', 'expired', 'suppressed')),
    recipient  text,
    relay      text,
    phase      text,
    status     text,
    text       text,
    duration   interval,
    tls        text,
    detail     jsonb
);
CREATE INDEX event_message_id_idx ON mail.event (message_id, id);
COMMENT ON TABLE mail.event IS 'Append-only log. See the view mail.events.';
COMMENT ON COLUMN mail.event.id IS 'Ascending number.';
COMMENT ON COLUMN mail.event.at IS 'When.';
COMMENT ON COLUMN mail.event.message_id IS 'The message.';
COMMENT ON COLUMN mail.event.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.event.attempt IS 'Which attempt, from 1; in events released, retried, cancelled and expired: how many were counted so far, from 0.';
COMMENT ON COLUMN mail.event.code IS 'Reply code. RFC 5321 section 4.2.';
COMMENT ON COLUMN mail.event.kind IS 'sent, deferred, failed, uncertain, held, released, interrupted, lease_ended, retried, dismissed, cancelled, expired or suppressed.';
COMMENT ON COLUMN mail.event.state IS 'The state that the message ended in with this event; NULL: it went on.';
COMMENT ON COLUMN mail.event.recipient IS 'The recipient; NULL: the whole message.';
COMMENT ON COLUMN mail.event.relay IS 'The relay.';
COMMENT ON COLUMN mail.event.phase IS 'Where in the SMTP session it was decided.';
COMMENT ON COLUMN mail.event.status IS 'Enhanced status code. RFC 3463.';
COMMENT ON COLUMN mail.event.text IS 'The reply, or what happened, in words.';
COMMENT ON COLUMN mail.event.duration IS 'How long the attempt took.';
COMMENT ON COLUMN mail.event.tls IS 'TLS version and cipher suite; NULL: none.';
COMMENT ON COLUMN mail.event.detail IS 'Further facts, by kind.';

CREATE TABLE mail.dead_letter (
    id       bigint PRIMARY KEY,
    queue_id integer NOT NULL,
    state    text NOT NULL CHECK (state IN ('failed', 'uncertain')),
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL
);
CREATE INDEX dead_letter_queue_id_at_idx ON mail.dead_letter (queue_id, at);
COMMENT ON TABLE mail.dead_letter IS 'Messages that a person should look at. See the view mail.dead_letters.';
COMMENT ON COLUMN mail.dead_letter.id IS 'The message.';
COMMENT ON COLUMN mail.dead_letter.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.dead_letter.state IS 'failed or uncertain.';
COMMENT ON COLUMN mail.dead_letter.at IS 'When it got here.';
COMMENT ON COLUMN mail.dead_letter.attempts IS 'Attempts that were made.';

CREATE TABLE mail.idempotency (
    queue_id   integer NOT NULL,
    key        text NOT NULL,
    message_id bigint NOT NULL,
    until      timestamptz NOT NULL,
    PRIMARY KEY (queue_id, key)
);
CREATE INDEX idempotency_until_idx ON mail.idempotency (until);
COMMENT ON TABLE mail.idempotency IS 'Idempotency keys within their window.';
COMMENT ON COLUMN mail.idempotency.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.idempotency.key IS 'The key.';
COMMENT ON COLUMN mail.idempotency.message_id IS 'The message that it stands for.';
COMMENT ON COLUMN mail.idempotency.until IS 'End of its window.';

-- A table of its own: an index on mail.message, partial or not, would cost every message something. One row for each key,
-- so that calls with the same key wait for each other, and fail where an old snapshot cannot show them.
CREATE TABLE mail.supersede (
    queue_id   integer NOT NULL,
    key        text NOT NULL,
    message_id bigint NOT NULL,
    earlier    bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (queue_id, key)
);
CREATE INDEX supersede_message_id_idx ON mail.supersede (message_id);
COMMENT ON TABLE mail.supersede IS 'The last message of each supersede_key.';
COMMENT ON COLUMN mail.supersede.queue_id IS 'The queue.';
COMMENT ON COLUMN mail.supersede.key IS 'The key.';
COMMENT ON COLUMN mail.supersede.message_id IS 'The message.';
COMMENT ON COLUMN mail.supersede.earlier IS 'Messages with the same key before it that were in flight then, so that they may still wait for another attempt.';

CREATE TABLE mail.capture (
    id         bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    message_id bigint NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    recipients text[] NOT NULL,
    mime       bytea NOT NULL
);
CREATE INDEX capture_message_id_idx ON mail.capture (message_id);
COMMENT ON TABLE mail.capture IS 'What queues with transport capture delivered. See the view mail.captured.';
COMMENT ON COLUMN mail.capture.id IS 'Ascending number.';
COMMENT ON COLUMN mail.capture.message_id IS 'The message.';
COMMENT ON COLUMN mail.capture.at IS 'When.';
COMMENT ON COLUMN mail.capture.recipients IS 'Envelope recipients.';
COMMENT ON COLUMN mail.capture.mime IS 'The complete message as it would have been sent. RFC 5322.';
-- Attachments: each file is stored once, whatever becomes of the messages that it goes with.

CREATE TABLE mail.attachment (
    id           bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    filename     text,
    content_type text,
    disposition  text CHECK (disposition IN ('attachment', 'inline')),
    content_id   text,
    content      bytea NOT NULL,
    attached_by  text NOT NULL DEFAULT current_user,
    attached_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- Not compressed: files mostly are, and pieces of it can be read for themselves.
ALTER TABLE mail.attachment ALTER COLUMN content SET STORAGE EXTERNAL;
COMMENT ON TABLE mail.attachment IS 'Files that messages refer to. One that no message needs any more is let go of a day after it came.';
COMMENT ON COLUMN mail.attachment.id IS 'Number that mail.attach gives.';
COMMENT ON COLUMN mail.attachment.filename IS 'Name for the recipient.';
COMMENT ON COLUMN mail.attachment.content_type IS 'Media type. RFC 6838.';
COMMENT ON COLUMN mail.attachment.disposition IS 'attachment or inline. RFC 2183.';
COMMENT ON COLUMN mail.attachment.content_id IS 'What the HTML calls it by: cid:…. RFC 2392.';
COMMENT ON COLUMN mail.attachment.content IS 'The file; or, for a raw message, all of it.';
COMMENT ON COLUMN mail.attachment.attached_by IS 'Role that gave it.';
COMMENT ON COLUMN mail.attachment.attached_at IS 'When.';

-- Without a foreign key, which would make a restore depend on which table comes first: mail.enqueue locks the file instead.
CREATE TABLE mail.message_attachment (
    message_id    bigint NOT NULL,
    ordinal       integer NOT NULL,
    attachment_id bigint NOT NULL,
    PRIMARY KEY (message_id, ordinal)
);
CREATE INDEX message_attachment_attachment_idx ON mail.message_attachment (attachment_id);
COMMENT ON TABLE mail.message_attachment IS 'Which files go with a message, as long as its body is kept.';
COMMENT ON COLUMN mail.message_attachment.message_id IS 'The message.';
COMMENT ON COLUMN mail.message_attachment.ordinal IS 'Place among its attachments, from 0.';
COMMENT ON COLUMN mail.message_attachment.attachment_id IS 'The file.';

CREATE TABLE mail.installation (
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO mail.installation DEFAULT VALUES;
COMMENT ON TABLE mail.installation IS 'One row, never dumped: since when the extension is in this database. In its first day no file is let go of, for a restore may still bring the messages that it goes with.';
COMMENT ON COLUMN mail.installation.since IS 'When it was created.';

-- Not even by mistake: a message that was accepted is never forgotten, and neither is what became of it.
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

CREATE FUNCTION mail.attach(content bytea, filename text DEFAULT NULL, content_type text DEFAULT NULL, content_id text DEFAULT NULL,
                            disposition text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reference jsonb;
BEGIN
    PERFORM mail._check_attachment(attach.filename, attach.content_type, attach.content_id, attach.disposition);
    IF attach.content IS NULL THEN
        RAISE EXCEPTION 'content is null' USING ERRCODE = '22023', HINT = 'Was the file found?';
    ELSIF octet_length(attach.content) > 1024 * (SELECT s.setting::bigint FROM pg_settings s WHERE s.name = 'pgmq_mail.max_message_size') THEN
        RAISE EXCEPTION 'file of % bytes exceeds pgmq_mail.max_message_size', octet_length(attach.content) USING ERRCODE = '54000';
    END IF;
    INSERT INTO mail.attachment AS a (filename, content_type, content_id, disposition, content)
    VALUES (attach.filename, attach.content_type, attach.content_id, attach.disposition, attach.content)
    RETURNING jsonb_build_object('attachment', a.id::text) INTO reference;
    RETURN reference;
END
$$;
COMMENT ON FUNCTION mail.attach(bytea, text, text, text, text) IS
'Stores a file for the attachments of messages of the same role and returns what to put into their list: {"attachment": …}. It may go with any number of messages. With a content_id it is shown in the HTML (cid:…). Errors: 22023 naming the argument, 54000 too large.';
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

CREATE FUNCTION mail._claimable(ids bigint[], OUT id bigint, OUT free boolean) RETURNS SETOF record
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    mine bigint[];
BEGIN
    -- For an ordering key one claimer at a time decides: the keys share 1024 locks, so that a large batch does not need
    -- a large lock table. Who does not get the lock leaves the message alone for a moment.
    WITH locked AS MATERIALIZED (SELECT p.id, p.ordering_hash FROM mail.pending p WHERE p.id = ANY (ids)),
    tried AS MATERIALIZED (
        SELECT b.bucket, mail._try_bucket(b.bucket) AS got
        FROM (SELECT DISTINCT (l.ordering_hash & 1023)::integer AS bucket
              FROM locked l WHERE l.ordering_hash IS NOT NULL) b)
    SELECT array_agg(l.id) INTO mine
    FROM locked l LEFT JOIN tried t ON t.bucket = (l.ordering_hash & 1023)::integer
    WHERE l.ordering_hash IS NULL OR t.got;
    -- A new statement, and so a new snapshot: it sees the lease of whoever held these rows' locks before.
    RETURN QUERY
    WITH leased AS MATERIALIZED (SELECT unnest(l.ids) AS id FROM mail.lease l),
    busy AS MATERIALIZED (
        SELECT p.ordering_hash FROM leased l JOIN mail.pending p ON p.id = l.id WHERE p.ordering_hash IS NOT NULL)
    SELECT p.id, true FROM mail.pending p
    WHERE p.id = ANY (mine)
      AND p.id NOT IN (SELECT l.id FROM leased l)
      AND (p.ordering_hash IS NULL OR p.ordering_hash NOT IN (SELECT y.ordering_hash FROM busy y))
    UNION ALL
    SELECT u.id, false FROM unnest(ids) AS u (id) WHERE u.id <> ALL (coalesce(mine, '{}'));
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

CREATE FUNCTION mail._born(id bigint) RETURNS timestamptz
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT max(e.at) FROM mail.event e WHERE e.message_id = m.id AND e.kind = 'retried'),
                    greatest(m.send_at, m.enqueued_at))
    FROM mail.message m WHERE m.id = _born.id;
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
    born := mail._born(_settle.id);
    goes_on := untried IS NOT NULL OR (NOT counted OR n < q.max_attempts AND at < born + q.give_up_after) AND EXISTS (
        SELECT FROM jsonb_array_elements(results) r
        WHERE r ->> 'verdict' = 'transient' OR r ->> 'verdict' = 'uncertain' AND q.on_uncertain = 'retry');
    -- A rule may say when: then not before, for whichever of the recipients that is the latest.
    SELECT max((r ->> 'retry_after')::float8), coalesce(bool_or((r ->> 'by_reply')::boolean), false) INTO later, asked
    FROM jsonb_array_elements(results) r WHERE r ->> 'verdict' IN ('transient', 'uncertain');

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
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT mail._interrupted(d.tokens, 'lease_ended', 'the lease ended without a result')
    FROM (SELECT array_agg(l.token) AS tokens FROM (
            SELECT t.token FROM mail.lease t
            WHERE t.lease_until <= clock_timestamp() AND (t.queue_id = _reap.queue_id OR _reap.queue_id IS NULL)
              AND (t.holder IS NULL OR t.holder NOT IN (SELECT w.pid FROM mail._workers() w))
            FOR UPDATE SKIP LOCKED) l) d
    WHERE d.tokens IS NOT NULL;
$$;
COMMENT ON FUNCTION mail._reap(integer) IS 'Ends leases that are over, of one queue or of all; not those of a worker that is alive, which settles or gives back what it holds.';
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
-- Consume: the same state machine that the built-in worker uses, for programs in any language.

CREATE TYPE mail.claimed AS (
    id bigint, token bigint, attempt integer, enqueued_at timestamptz, lease_until timestamptz, message jsonb, recipients text[]
);
COMMENT ON TYPE mail.claimed IS 'A message in the hands of a consumer.';
COMMENT ON COLUMN mail.claimed.id IS 'The message.';
COMMENT ON COLUMN mail.claimed.token IS 'Fence for ack, nack, extend and release.';
COMMENT ON COLUMN mail.claimed.attempt IS 'Which attempt this is, from 1.';
COMMENT ON COLUMN mail.claimed.enqueued_at IS 'When it was enqueued.';
COMMENT ON COLUMN mail.claimed.lease_until IS 'When it goes back by itself.';
COMMENT ON COLUMN mail.claimed.message IS 'The message in its JSON form.';
COMMENT ON COLUMN mail.claimed.recipients IS 'Envelope recipients that are outstanding.';

CREATE FUNCTION mail._await(queue_id integer, until timestamptz) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'await_queue_wrapper';
COMMENT ON FUNCTION mail._await(integer, timestamptz) IS 'Sleeps on the latch until the queue is touched or the time has come.';

CREATE FUNCTION mail._await_begin(queue_id integer) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'await_begin_wrapper';
COMMENT ON FUNCTION mail._await_begin(integer) IS 'From now on, commits that touch the queue set this backend''s latch.';
CREATE FUNCTION mail._await_end(queue_id integer) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'await_end_wrapper';
COMMENT ON FUNCTION mail._await_end(integer) IS 'Ends what mail._await_begin began.';

CREATE FUNCTION mail._lock_due(queue_id integer, batch integer) RETURNS bigint[]
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_sort = off SET jit = off AS $$
DECLARE
    at    timestamptz := clock_timestamp();
    r     integer;
    more  bigint[];
    ids   bigint[] := '{}';
    taken bigint[];
    busy  bigint[];
BEGIN
    SELECT coalesce(array_agg(i), '{}') INTO taken FROM mail.lease l, unnest(l.ids) AS i WHERE l.queue_id = _lock_due.queue_id;
    SELECT coalesce(array_agg(p.ordering_hash), '{}') INTO busy
    FROM unnest(taken) AS i JOIN mail.pending p ON p.id = i WHERE p.ordering_hash IS NOT NULL;
    SELECT min(p.rank) INTO r FROM mail.pending p WHERE p.queue_id = _lock_due.queue_id;
    WHILE r IS NOT NULL LOOP
        SELECT array_agg(s.id) INTO more FROM (
            SELECT p.id FROM mail.pending p
            WHERE p.queue_id = _lock_due.queue_id AND p.rank = r AND p.due_at <= at
              AND p.id <> ALL (taken)
              AND (p.ordering_hash IS NULL OR p.ordering_hash <> ALL (busy) AND NOT EXISTS (
                    SELECT FROM mail.pending e
                    WHERE e.ordering_hash = p.ordering_hash AND e.ordering_seq < p.ordering_seq))
            ORDER BY p.due_at, p.id LIMIT batch - cardinality(ids)
            FOR UPDATE OF p SKIP LOCKED) s;
        ids := ids || coalesce(more, '{}');
        PERFORM mail._note_locked(p.queue_id, p.rank, min(p.due_at)) FROM mail.pending p
        WHERE p.id = ANY (more) GROUP BY p.queue_id, p.rank;
        EXIT WHEN cardinality(ids) >= batch;
        SELECT min(p.rank) INTO r FROM mail.pending p WHERE p.queue_id = _lock_due.queue_id AND p.rank > r;
    END LOOP;
    RETURN ids;
END
$$;
COMMENT ON FUNCTION mail._lock_due(integer, integer) IS 'Locks and returns up to batch messages that are due, best first, skipping what others hold.';

-- Consumers have no right to the tables themselves: src/pg/owner.rs runs these functions with the owner's rights, and tells
-- them whom it does so for. Nobody else may call them.
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

CREATE FUNCTION mail.claim(
    queue text DEFAULT 'default', batch integer DEFAULT 1, lease interval DEFAULT NULL, wait interval DEFAULT '0'
) RETURNS SETOF mail.claimed
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.claim(text, integer, interval, interval) IS
'Claims up to batch messages that are due, by priority and age, for the length of the lease (default: the queue''s); N concurrent claimers never get the same message. With wait it returns as soon as something is claimable or the wait is over, sleeping meanwhile. Commit before you work on them. Needs read committed. Errors: 42704 no such queue, 22023 bad argument, 25001 wrong isolation level.';

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

CREATE FUNCTION mail.ack(id bigint, token bigint, response jsonb DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.ack(bigint, bigint, jsonb) IS
'Ends a claimed message as sent; response is kept in its event (code, status and text are recognised). False, and nothing changed, when the lease has ended or passed to another.';

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

CREATE FUNCTION mail.ack(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.ack(bigint[], bigint[]) IS 'Acknowledges many; returns the ids that were acknowledged. Errors: 22023.';

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

CREATE FUNCTION mail.nack(
    id bigint, token bigint, error text DEFAULT NULL, retry_after interval DEFAULT NULL, permanent boolean DEFAULT false
) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.nack(bigint, bigint, text, interval, boolean) IS
'Ends the attempt as failed: deferred until retry_after (default: the queue''s backoff), or failed when permanent or given up. Returns the new state; NULL, and nothing changed, when the lease has ended or passed to another. Errors: 22023.';

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

CREATE FUNCTION mail.extend(id bigint, token bigint, lease interval) RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.extend(bigint, bigint, interval) IS
'Makes the lease end that long from now; returns when. NULL, and nothing changed, when it has ended or passed to another. Errors: 22023.';

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

CREATE FUNCTION mail.release(id bigint, token bigint) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'as_owner_wrapper';
COMMENT ON FUNCTION mail.release(bigint, bigint) IS
'Gives a claimed message back at once; no attempt is counted. False, and nothing changed, when the lease has ended or passed to another.';
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
-- What only the worker calls. Its hot statements stand in src/worker/store.rs.

CREATE FUNCTION mail._recover() RETURNS bigint
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT mail._interrupted(d.tokens, 'interrupted', 'the worker or the server stopped before the result was recorded')
    FROM (SELECT array_agg(l.token) AS tokens FROM mail.lease l WHERE l.holder IS NOT NULL) d
    WHERE d.tokens IS NOT NULL;
$$;
COMMENT ON FUNCTION mail._recover() IS 'Takes over from a worker that is gone: the attempts that it had in flight are counted.';

CREATE FUNCTION mail._relay_down(relay_id integer, pause interval, error text, rule text DEFAULT NULL) RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO mail.relay_trouble AS t (relay_id, since, suspended_until, failures, error, rule)
    SELECT r.id, clock_timestamp(), coalesce(clock_timestamp() + _relay_down.pause, 'infinity'), 1, _relay_down.error, _relay_down.rule
    FROM mail.relay r WHERE r.id = _relay_down.relay_id
    ON CONFLICT (relay_id) DO UPDATE
    SET suspended_until = excluded.suspended_until, failures = t.failures + 1, error = excluded.error, rule = excluded.rule,
        -- To fail and to ask for a pause are two troubles, and so are two pauses between which nothing wanted to be sent.
        since = CASE WHEN (t.rule IS NULL) <> (excluded.rule IS NULL)
                       OR t.rule IS NOT NULL AND t.suspended_until < clock_timestamp() - interval '5 minutes'
                     THEN excluded.since ELSE t.since END;
$$;
COMMENT ON FUNCTION mail._relay_down(integer, interval, text, text) IS 'Notes that a relay is suspended, by a rule or because it failed; pause NULL: until it is configured differently.';

CREATE FUNCTION mail._domain_paused(domain text, pause interval, relay text, rule text, reason text) RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM mail.domain_pause d WHERE d.suspended_until <= clock_timestamp();
    INSERT INTO mail.domain_pause AS d (domain, since, suspended_until, relay, rule, reason)
    VALUES (_domain_paused.domain, clock_timestamp(), clock_timestamp() + _domain_paused.pause, _domain_paused.relay,
            _domain_paused.rule, _domain_paused.reason)
    ON CONFLICT ON CONSTRAINT domain_pause_pkey DO UPDATE
    SET suspended_until = excluded.suspended_until, relay = excluded.relay, rule = excluded.rule, reason = excluded.reason;
$$;
COMMENT ON FUNCTION mail._domain_paused(text, interval, text, text, text) IS 'Notes that mail for a recipient domain waits, and forgets pauses that are over.';

CREATE FUNCTION mail._expire(batch integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    late bigint[];
BEGIN
    late := ARRAY(SELECT p.id FROM mail.pending p
                  WHERE p.expires_at <= clock_timestamp() AND p.id NOT IN (SELECT unnest(l.ids) FROM mail.lease l)
                  ORDER BY p.expires_at LIMIT batch FOR UPDATE SKIP LOCKED);
    -- A new statement, and so a new snapshot: it sees the lease of whoever held these rows' locks before.
    RETURN mail._drop_pending(
        ARRAY(SELECT i FROM unnest(late) AS i WHERE i NOT IN (SELECT unnest(l.ids) FROM mail.lease l)),
        'expired', 'expired', 'expired before it could be sent');
END
$$;
COMMENT ON FUNCTION mail._expire(integer) IS 'Ends messages whose time is over and which nobody has in flight, at most so many, whatever holds up their queue; returns how many.';

CREATE FUNCTION mail._first_id(at timestamptz) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    RETURN greatest(0, floor(extract(epoch FROM at))::bigint - 1577836800) << 32;
COMMENT ON FUNCTION mail._first_id(timestamptz) IS 'The lowest message id of that second: ids carry the time.';

CREATE FUNCTION mail._retain(behind bigint, batch integer, OUT last bigint, OUT looked_at bigint)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old bigint[];
    up  bigint := mail._first_id(clock_timestamp()
              - (SELECT min(least(q.retain_sent, q.retain_body)) FROM mail.queue q));
BEGIN
    -- As many rows at a time as can be looked at quickly, whatever comes of them.
    SELECT max(s.id), count(*), array_agg(s.id) FILTER (WHERE s.done AND s.too_old) INTO last, looked_at, old
    FROM (SELECT m.id,
                 NOT EXISTS (SELECT FROM mail.pending p WHERE p.id = m.id)
                 AND NOT EXISTS (SELECT FROM mail.dead_letter d WHERE d.id = m.id) AS done,
                 m.enqueued_at < clock_timestamp() - q.retain_sent AS too_old
          FROM mail.message m JOIN mail.queue q ON q.id = m.queue_id
          WHERE m.id > behind AND m.id < up ORDER BY m.id LIMIT batch) s;
    IF old IS NOT NULL THEN
        DELETE FROM mail.event e WHERE e.message_id = ANY (old);
        DELETE FROM mail.capture c WHERE c.message_id = ANY (old);
        DELETE FROM mail.supersede s WHERE s.message_id = ANY (old)
            AND NOT EXISTS (SELECT FROM mail.pending p WHERE p.id = ANY (s.earlier));
        DELETE FROM mail.message_attachment a WHERE a.message_id = ANY (old);
        DELETE FROM mail.message m WHERE m.id = ANY (old);
    END IF;
    WITH bodies AS (
        UPDATE mail.message m SET content = NULL FROM mail.queue q
        WHERE m.id > behind AND m.id <= last AND q.id = m.queue_id AND m.content IS NOT NULL
          AND m.enqueued_at < clock_timestamp() - q.retain_body
          AND NOT EXISTS (SELECT FROM mail.pending p WHERE p.id = m.id)
          AND NOT EXISTS (SELECT FROM mail.dead_letter d WHERE d.id = m.id)
        RETURNING m.id),
    files AS (DELETE FROM mail.message_attachment a USING bodies b WHERE a.message_id = b.id)
    DELETE FROM mail.capture c USING bodies b WHERE c.message_id = b.id;
    DELETE FROM mail.idempotency i WHERE (i.queue_id, i.key) IN (
        SELECT t.queue_id, t.key FROM mail.idempotency t WHERE t.until < clock_timestamp() LIMIT batch);
    DELETE FROM mail.domain_pause d WHERE d.suspended_until < clock_timestamp();
END
$$;
COMMENT ON FUNCTION mail._retain(bigint, integer) IS 'Lets go of bodies and records whose time is over among the next batch messages behind an id, of idempotency keys, and of domains'' pauses; returns the last id it looked at, NULL if there was none.';

CREATE FUNCTION mail._retain_files(behind bigint, batch integer, OUT last bigint, OUT looked_at bigint)
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
COMMENT ON FUNCTION mail._retain_files(bigint, integer) IS 'Lets go of files that nothing refers to among the next batch files behind an id; returns the last id it looked at, NULL if there was none.';
-- Try a relay.

-- SECURITY DEFINER is not used: the C function reads the relay as the owner, for the caller may not read its secret.
CREATE FUNCTION mail.test_relay(relay text, recipient text DEFAULT NULL, OUT elapsed interval, OUT who text, OUT text text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 30 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'test_relay_wrapper';
COMMENT ON FUNCTION mail.test_relay(text, text) IS
'Speaks with a relay as it is configured, enabled or not, from the caller''s session, and returns the whole conversation, a row for each line: the time since its beginning, who said it (us, relay, or note for what nobody said), and the text, secrets masked. The last note says what came of it. Without a recipient: connection, greeting, TLS, login, QUIT. With one, or a comma-separated list, a test message is really sent, from the default_sender of the first queue that uses the relay (one that names it, else default, else the oldest; else from postgres at the name given in EHLO), and a note for each recipient says how it fared. Reply rules, limits and suspensions play no part, and nothing is recorded. A relay that fails is no error. No phase takes longer than the relay''s timeout for it, and none longer than 30 seconds; cancelling the statement ends it at once. The transaction stays open meanwhile. Errors: 42704 for an unknown relay; 55000 when the relay is not armed (mail.arm), when it cannot be used as configured, as without its secret, and with a recipient unless pgmq_mail.delivery = on; 22023 for a bad recipient; 25006 with a recipient on a standby.';
-- What would be sent.

CREATE FUNCTION mail._check_attachment(filename text, content_type text, content_id text, disposition text) RETURNS boolean
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'check_attachment_wrapper';
COMMENT ON FUNCTION mail._check_attachment(text, text, text, text) IS 'True, or 22023 naming what is wrong with what goes with a file.';

CREATE FUNCTION mail._preview(
    message jsonb, queue text, OUT subject text, OUT text text, OUT html text, OUT mime text, OUT size integer, OUT warnings text[]
) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'preview_message_wrapper';
COMMENT ON FUNCTION mail._preview(jsonb, text) IS 'mail.preview for a message of that queue.';

CREATE FUNCTION mail.preview(
    message jsonb, OUT subject text, OUT text text, OUT html text, OUT mime text, OUT size integer, OUT warnings text[]
) RETURNS record
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.subject, p.text, p.html, p.mime, p.size, p.warnings
    FROM mail._preview(CASE jsonb_typeof(message) WHEN 'object' THEN message - 'queue' ELSE message END,
                       coalesce(message ->> 'queue', 'default')) p;
$$;
COMMENT ON FUNCTION mail.preview(jsonb) IS
'What mail.enqueue of that message would send: subject, text (made from the HTML where none is given), HTML, the complete message with its CR LF line ends as it would be composed now, its size in bytes, and warnings that a deliverability reviewer would give. Nothing is stored or sent, and the message is not signed. Beside the fields of the JSON form, queue names the queue (default: default). Errors: as mail.enqueue.';

CREATE FUNCTION mail.preview(
    template text, params jsonb DEFAULT NULL, locale text DEFAULT NULL, queue text DEFAULT 'default',
    OUT subject text, OUT text text, OUT html text, OUT mime text, OUT size integer, OUT warnings text[]
) RETURNS record
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF preview.template IS NULL THEN
        RAISE EXCEPTION 'template is null' USING ERRCODE = '22023', HINT = 'Give the name of a template, or a message (message => …).';
    END IF;
    SELECT p.subject, p.text, p.html, p.mime, p.size, p.warnings
    INTO preview.subject, preview.text, preview.html, preview.mime, preview.size, preview.warnings
    FROM mail._preview(jsonb_strip_nulls(jsonb_build_object('to', 'recipient@example.com', 'template', preview.template, 'locale', preview.locale))
                       || jsonb_build_object('params', coalesce(preview.params, '{}')), preview.queue) p;
END
$$;
COMMENT ON FUNCTION mail.preview(text, jsonb, text, text) IS 'As the other form, of a message from that template to recipient@example.com. Errors: 42704 no such template, 22023 naming the parameters that are missing.';
-- Watch. Members of mail_reader and mail_admin see everything; a mail_tenant sees the queues that it owns; a mail_sender
-- sees what it enqueued itself: see the policies in 90_rights.sql, which cost nothing where a security barrier would keep
-- ORDER BY id LIMIT 10 off the index. What has no policy is looked up for rows that may be seen, and is not joined: a
-- function of the caller's in WHERE could be shown all of it.

CREATE VIEW mail.messages AS
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
    SELECT 'warning', 'dead_letters', format('queue "%s" has %s dead letters', s.queue, s.failed),
           'See mail.dead_letters; mail.retry(id) and mail.retry_dead_letters(queue) put them back.'
    FROM mail.queue_stats s WHERE s.failed > 0
    UNION ALL
    SELECT 'warning', 'uncertain', format('queue "%s" holds %s messages that may have been delivered', s.queue, s.uncertain),
           'Look for message_id of mail.dead_letters in the relay''s log: where it is there mail.dismiss(id), where it is not mail.retry(id).'
    FROM mail.queue_stats s WHERE s.uncertain > 0;
$$;
COMMENT ON FUNCTION mail.health() IS 'One row for each finding (severity: critical or warning); none when all is well.';
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
END
$$;
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
        USING (%s OR queue_id = ANY (%s) OR EXISTS (SELECT FROM mail.message m WHERE m.id = event.message_id AND m.enqueued_by = current_user))', sees_all, own);
    EXECUTE format('CREATE POLICY dead_letter_visible ON mail.dead_letter FOR SELECT TO mail_views, mail_reader
        USING (%s OR queue_id = ANY (%s) OR EXISTS (SELECT FROM mail.message m WHERE m.id = dead_letter.id AND m.enqueued_by = current_user))', sees_all, own);
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
GRANT EXECUTE ON FUNCTION mail._may_use(oid, text), mail._administers(oid, text) TO mail_views, mail_sender, mail_tenant, mail_reader, mail_admin;
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
