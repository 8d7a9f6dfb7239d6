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
