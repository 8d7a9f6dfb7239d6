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
