//! A database with a released version of the extension in it, and mail in every state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgmq_mail_tests::{Action, Cluster, Phase, Sink, all, one, reaches, run_sql, worker_of};
use postgres::Client;

/// Mail that waits, by what it waits for, and what belongs to it.
pub struct Filled {
    pub database: String,
    pub client: Client,
    pub sink: Sink,
    /// Whether the relay accepts what it refused at first.
    better: Arc<AtomicBool>,
    sent: i64,
    waiting: i64,
    templated: i64,
    attached: i64,
    scheduled: i64,
    deferred: i64,
    failed: i64,
    uncertain: i64,
    superseded: i64,
    captured: i64,
    /// Claimed from outside, with its token.
    claimed: (i64, i64),
}

/// Puts off, refuses, or falls silent after the final dot, as the recipient says, until it is better.
fn relay(better: &Arc<AtomicBool>) -> Sink {
    let better = Arc::clone(better);
    Sink::scripted(move |event| {
        let to = |name: &str| event.recipients.iter().any(|to| to.starts_with(name));
        match event.phase {
            _ if better.load(Ordering::SeqCst) => Action::Accept,
            Phase::Rcpt if event.address().starts_with("deferred@") => {
                Action::reply("450 4.2.1 not now")
            }
            Phase::Rcpt if event.address().starts_with("failed@") => {
                Action::reply("550 5.1.1 nobody")
            }
            Phase::Dot if to("uncertain@") => Action::Drop,
            _ => Action::Accept,
        }
    })
}

fn put(client: &mut Client, recipient: &str, queue: &str, more: &str) -> i64 {
    let query = format!(
        "SELECT mail.enqueue('{recipient}@b.test', '{recipient}', 'text of {recipient}', queue => '{queue}'{more})"
    );
    one(client, &query, &[])
}

impl Filled {
    /// Fills one.
    pub fn new(cluster: &Cluster, version: &str) -> Self {
        let database = format!("v{}", version.replace('.', "_"));
        cluster.create_database(&database);
        let better = Arc::new(AtomicBool::new(false));
        let sink = relay(&better);
        let mut client = cluster.connect(&database);
        configure(&mut client, version, &sink);
        worker_of(&mut client);
        let [sent, deferred, failed] =
            ["sent", "deferred", "failed"].map(|to| put(&mut client, to, "work", ""));
        let uncertain = put(&mut client, "uncertain", "held", "");
        let captured = put(&mut client, "captured", "default", "");
        for (id, state) in [
            (sent, "sent"),
            (deferred, "deferred"),
            (failed, "failed"),
            (uncertain, "uncertain"),
            (captured, "sent"),
        ] {
            reaches(&mut client, id, state);
        }
        let waiting = put(
            &mut client,
            "waiting",
            "later",
            ", priority => 5, ordering_key => 'k', idempotency_key => 'once'",
        );
        let superseded = put(&mut client, "superseded", "later", ", supersede_key => 's'");
        let hour = ", send_at => now() + interval '1 hour'";
        let scheduled = put(&mut client, "scheduled", "work", hour);
        let templated = one(
            &mut client,
            "SELECT mail.enqueue('templated@b.test', template => 'hello', params => '{\"name\": \"Ada\"}', queue => 'later')",
            &[],
        );
        let attached = one(
            &mut client,
            "SELECT mail.enqueue(message => jsonb_build_object('to', 'attached@b.test', 'subject', 'attached', 'text', 'x', 'attachments',
                 jsonb_build_array(mail.attach('stored file', 'stored.txt'), jsonb_build_object('filename', 'given.txt', 'text', 'given file')))
                 , queue => 'later')",
            &[],
        );
        let outside = "SELECT mail.enqueue(message => '{\"a\": 1}', queue => 'outside')";
        let outside: i64 = one(&mut client, outside, &[]);
        let token = "SELECT c.token FROM mail.claim('outside', lease => '1 hour') c";
        let claimed = (outside, one(&mut client, token, &[]));
        Self {
            database,
            client,
            sink,
            better,
            sent,
            waiting,
            templated,
            attached,
            scheduled,
            deferred,
            failed,
            uncertain,
            superseded,
            captured,
            claimed,
        }
    }

    /// What nobody changes but who administers it, as it is stored; without columns that have come since.
    pub fn kept(&mut self) -> Vec<String> {
        let rows = [
            "SELECT to_jsonb(t)::text FROM mail.relay t",
            "SELECT (to_jsonb(t) - ARRAY['restrict_senders', 'owner'])::text FROM mail.queue t",
            "SELECT (to_jsonb(t) - ARRAY['url', 'username', 'ca_file'])::text FROM mail.relay_secret t",
            "SELECT to_jsonb(t)::text FROM mail.domain_limit t",
            "SELECT to_jsonb(t)::text FROM mail.template t",
            "SELECT to_jsonb(t)::text FROM mail.template_version t",
            "SELECT to_jsonb(t)::text FROM mail.dkim_key t",
            "SELECT to_jsonb(t)::text FROM mail.dkim_secret t",
            "SELECT to_jsonb(t)::text FROM mail.idempotency t",
            "SELECT to_jsonb(t)::text FROM mail.attachment t",
            "SELECT to_jsonb(t)::text FROM mail.message_attachment t",
            "SELECT to_jsonb(t)::text FROM mail.message t",
            "SELECT to_jsonb(t)::text FROM mail.capture t",
            "SELECT to_jsonb(t)::text FROM mail.dead_letter t",
        ];
        let mut kept = Vec::new();
        for query in rows {
            let mut found: Vec<String> = all(&mut self.client, query, &[]);
            assert!(!found.is_empty(), "there is something: {query}");
            found.sort();
            kept.append(&mut found);
        }
        kept
    }

    /// Everything comes to its end, and so does what is new.
    pub fn comes_to_its_end(&mut self) {
        self.better.store(true, Ordering::SeqCst);
        self.settle_by_hand();
        run_sql(&mut self.client, "SELECT mail.resume('later')");
        let new = put(&mut self.client, "new", "work", "");
        let first_of_key: i64 = one(
            &mut self.client,
            "SELECT mail.enqueue('again@b.test', 'x', 'x', queue => 'later', idempotency_key => 'once')",
            &[],
        );
        assert_eq!(self.waiting, first_of_key);
        for (id, state) in [
            (self.sent, "sent"),
            (self.captured, "sent"),
            (self.waiting, "sent"),
            (self.templated, "sent"),
            (self.attached, "sent"),
            (self.deferred, "sent"),
            (self.failed, "sent"),
            (self.uncertain, "sent"),
            (self.claimed.0, "sent"),
            (self.scheduled, "cancelled"),
            (self.superseded, "cancelled"),
            (new, "sent"),
        ] {
            reaches(&mut self.client, id, state);
        }
        self.arrived();
        let findings = crate::findings(&mut self.client);
        assert_eq!(findings, [""; 0]);
    }

    /// What a person or a program outside decides.
    fn settle_by_hand(&mut self) {
        let client = &mut self.client;
        for id in [self.failed, self.uncertain] {
            assert!(one::<bool>(client, "SELECT mail.retry($1)", &[&id]));
        }
        let (id, token) = self.claimed;
        assert!(one::<bool>(
            client,
            "SELECT mail.ack($1::bigint, $2)",
            &[&id, &token]
        ));
        let cancel = "SELECT mail.cancel($1)";
        assert!(one::<bool>(client, cancel, &[&self.scheduled]));
        put(client, "superseding", "later", ", supersede_key => 's'");
    }

    /// What the relay got of each, once, and signed.
    fn arrived(&self) {
        let mails = self.sink.mails();
        let of = |to: &str| {
            let to = format!("{to}@b.test");
            let found: Vec<_> = mails
                .iter()
                .filter(|mail| mail.recipients.contains(&to))
                .collect();
            assert_eq!(found.len(), 1, "{to}");
            found[0].text()
        };
        for to in [
            "sent",
            "waiting",
            "deferred",
            "failed",
            "uncertain",
            "superseding",
            "new",
        ] {
            assert!(of(to).contains(&format!("text of {to}")));
            assert!(of(to).contains("DKIM-Signature:"));
        }
        assert!(of("templated").contains("Hello Ada"));
        assert!(of("attached").contains("stored.txt") && of("attached").contains("given.txt"));
        assert!(
            !mails
                .iter()
                .any(|mail| mail.recipients.concat().contains("superseded@"))
        );
    }
}

fn configure(client: &mut Client, version: &str, sink: &Sink) {
    let url = sink.url();
    run_sql(
        client,
        &format!(
            "CREATE EXTENSION pgmq_mail VERSION '{version}';
             INSERT INTO mail.relay (name, url, username, secret, auth) VALUES ('sink', '{url}?starttls=never', 'app', 'secret', 'none');
             INSERT INTO mail.queue (name, transport, default_sender, retry_base, max_attempts)
             VALUES ('work', 'smtp', 'a@a.test', '50 milliseconds', 1000), ('later', 'smtp', 'a@a.test', '1 second', 10);
             INSERT INTO mail.queue (name, transport, default_sender, on_uncertain) VALUES ('held', 'smtp', 'a@a.test', 'hold');
             INSERT INTO mail.queue (name, transport) VALUES ('outside', 'external');
             INSERT INTO mail.domain_limit (domain, concurrency) VALUES ('c.test', 3);
             INSERT INTO mail.template (name, subject, text) VALUES ('hello', 'templated', 'Hi {{{{ name }}}}');
             UPDATE mail.template SET text = 'Hello {{{{ name }}}}';
             SELECT mail.generate_dkim_key('a.test', 's1', 'ed25519');
             SELECT mail.pause('later')"
        ),
    );
}
