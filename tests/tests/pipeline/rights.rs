//! Who may do what, with the mail going all the way.

use pgmq_mail_tests::{Action, Phase, Sink, code};
use postgres::error::SqlState;

use crate::World;

#[test]
fn a_sender_sends_and_sees_its_own_mail_and_nothing_else() {
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let other = world.put("alice@example.test", "of the superuser", "");
    let mut sender = world
        .database
        .connect_as("pipeline_sender", &["mail_sender"]);
    let id: i64 = sender
        .query_one(
            "SELECT mail.enqueue('alice@example.test', 'of the sender', 'x')",
            &[],
        )
        .expect("a sender may")
        .get(0);
    world.reaches(id, "sent");
    world.reaches(other, "sent");
    let own = sender
        .query("SELECT id, state, subject FROM mail.messages", &[])
        .expect("its own");
    assert_eq!(own.len(), 1);
    assert_eq!((own[0].get(0), own[0].get(1)), (id, "sent"));
    let own: i64 = sender
        .query_one("SELECT sum(message_id)::int8 FROM mail.events", &[])
        .expect("its own")
        .get(0);
    assert_eq!(own, id);
    let by: String = world.one(
        "SELECT enqueued_by FROM mail.messages WHERE id = $1",
        &[&id],
    );
    assert_eq!(by, "pipeline_sender");
    for query in [
        "SELECT * FROM mail.message",
        "SELECT * FROM mail.pending",
        "SELECT * FROM mail.relay",
        "SELECT * FROM mail.relay_secret",
        "SELECT * FROM mail.queue",
        "SELECT * FROM mail.captured",
        "SELECT * FROM mail.health()",
        "SELECT * FROM mail.claim()",
        "SELECT mail.arm()",
        "SELECT mail.pause('default')",
        "SELECT mail.retry(1)",
        "SELECT mail.purge('default')",
        "SELECT mail._settle(1, '[]')",
        "INSERT INTO mail.pending (id, due_at, queue_id, rank, size) VALUES (1, now(), 1, 0, 0)",
        "SET SESSION AUTHORIZATION mail_worker",
        "SET ROLE mail_worker",
    ] {
        let refused = code(sender.batch_execute(query));
        assert_eq!(refused, SqlState::INSUFFICIENT_PRIVILEGE, "{query}");
    }
    let refused = code(sender.query_one("SELECT mail.cancel($1)", &[&other]));
    assert_eq!(refused, SqlState::INSUFFICIENT_PRIVILEGE);
}

#[test]
fn an_administrator_sets_a_secret_that_he_cannot_read() {
    let certificates = pgmq_mail_tests::Certificates::new();
    let sink = Sink::builder()
        .starttls(&certificates)
        .auth("app", "very secret")
        .start();
    let mut world = World::new();
    let mut admin = world.database.connect_as("pipeline_admin", &["mail_admin"]);
    admin
        .execute(
            "INSERT INTO mail.relay (name, url, username, secret, ca_file) VALUES ('main', $1, 'app', 'very secret', $2)",
            &[&sink.url(), &certificates.ca_file().to_str()],
        )
        .expect("an administrator may");
    let id: i64 = admin
        .query_one("SELECT mail.enqueue('alice@example.test', 'x', 'x')", &[])
        .expect("an administrator may")
        .get(0);
    world.reaches(id, "sent");
    let shown: String = admin
        .query_one("SELECT secret FROM mail.relay", &[])
        .expect("a relay")
        .get(0);
    assert_eq!(shown, "(stored)");
    let refused = code(admin.query("SELECT * FROM mail.relay_secret", &[]));
    assert_eq!(refused, SqlState::INSUFFICIENT_PRIVILEGE);
    // What it does not know it can still replace, and keep when it changes something else.
    admin
        .batch_execute("UPDATE mail.relay SET max_connections = 3")
        .expect("an administrator may");
    let next: i64 = admin
        .query_one("SELECT mail.enqueue('alice@example.test', 'x', 'x')", &[])
        .expect("an administrator may")
        .get(0);
    world.reaches(next, "sent");
}

#[test]
fn the_worker_does_everything_as_a_role_that_owns_nothing() {
    let sink = Sink::scripted(|event| match (event.phase, event.address()) {
        (Phase::Rcpt, "gone@example.test") => Action::reply("550 5.1.1 No"),
        (Phase::Rcpt, "later@example.test") => Action::reply("450 4.2.1 Later"),
        _ => Action::Accept,
    });
    let mut world = World::with(&sink);
    world.run(
        "CREATE TABLE seen (who text, what text);
         GRANT INSERT ON seen TO PUBLIC;
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.seen VALUES (session_user || '' '' || current_user, TG_TABLE_NAME || '' '' || TG_OP); RETURN NULL; END';
         CREATE TRIGGER note AFTER INSERT ON mail.event FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER note AFTER INSERT OR DELETE ON mail.lease FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER note AFTER INSERT ON mail.capture FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER note AFTER DELETE OR UPDATE ON mail.pending FOR EACH ROW EXECUTE FUNCTION note();",
    );
    world.queue("kept", &[("transport", "capture")]);
    let ids = [
        (world.put("alice@example.test", "x", ""), "sent"),
        (world.put("gone@example.test", "x", ""), "failed"),
        (
            world.put(
                "later@example.test",
                "x",
                ", expires_at => now() + interval '2 seconds'",
            ),
            "deferred",
        ),
        (
            world.put("alice@example.test", "x", ", queue => 'kept'"),
            "sent",
        ),
    ];
    for (id, state) in ids {
        world.reaches(id, state);
    }
    world.reaches(ids[2].0, "expired");
    let who: Vec<String> = world.all("SELECT DISTINCT who FROM seen", &[]);
    assert_eq!(who, ["mail_worker mail_worker"]);
    let what: Vec<String> = world.all("SELECT DISTINCT what FROM seen ORDER BY 1", &[]);
    assert_eq!(
        what,
        [
            "capture INSERT",
            "event INSERT",
            "lease DELETE",
            "lease INSERT",
            "pending DELETE",
            "pending UPDATE"
        ]
    );
    let owned: i64 = world.one(
        "SELECT count(*) FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid AND d.refclassid = 'pg_authid'::regclass
         WHERE r.rolname = 'mail_worker' AND d.deptype = 'o'",
        &[],
    );
    assert_eq!(owned, 0);
    let role: bool = world.one(
        "SELECT rolsuper OR rolconnlimit <> 0 OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication FROM pg_roles
         WHERE rolname = 'mail_worker'",
        &[],
    );
    assert!(!role);
}
