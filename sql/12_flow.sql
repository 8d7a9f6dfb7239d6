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
