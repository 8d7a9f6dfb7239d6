-- Try a relay.

-- SECURITY DEFINER is not used: the C function reads the relay as the owner, for the caller may not read its secret.
CREATE FUNCTION mail.test_relay(relay text, recipient text DEFAULT NULL, OUT elapsed interval, OUT who text, OUT text text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 30 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'test_relay_wrapper';
COMMENT ON FUNCTION mail.test_relay(text, text) IS
'Speaks with a relay as it is configured, enabled or not, from the caller''s session, and returns the whole conversation, a row for each line: the time since its beginning, who said it (us, relay, or note for what nobody said), and the text, secrets masked. The last note says what came of it. Without a recipient: connection, greeting, TLS, login, QUIT. With one, or a comma-separated list, a test message is really sent, from the default_sender of the first queue that uses the relay (one that names it, else default, else the oldest; else from postgres at the name given in EHLO), and a note for each recipient says how it fared. Reply rules, limits and suspensions play no part, and nothing is recorded. A relay that fails is no error. No phase takes longer than the relay''s timeout for it, and none longer than 30 seconds; cancelling the statement ends it at once. The transaction stays open meanwhile. Errors: 42704 for an unknown relay; 55000 when the relay is not armed (mail.arm), when it cannot be used as configured, as without its secret, and with a recipient unless pgmq_mail.delivery = on; 22023 for a bad recipient; 25006 with a recipient on a standby.';
