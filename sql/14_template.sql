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
