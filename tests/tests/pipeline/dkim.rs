//! Signatures, as others verify them.

use std::io::Write;
use std::process::{Command, Stdio};

use pgmq_mail_tests::{Sink, available};
use serde_json::json;

use crate::servers::Server;
use crate::{SOON, World, on_real_servers};

/// Verifies every signature of a message by dkimpy; `records` are lines of a name, a blank, and the TXT record.
const VERIFY: &str = r"
import sys, dkim
records = dict(line.split(' ', 1) for line in open(sys.argv[1]).read().splitlines())
find = lambda name, timeout=5: records[name.decode().rstrip('.')].encode()
message = sys.stdin.buffer.read()
count = message.lower().count(b'\ndkim-signature:') + message.lower().startswith(b'dkim-signature:')
verifier = dkim.DKIM(message)
def good(i):
    try:
        return verifier.verify(idx=i, dnsfunc=find)
    except dkim.ValidationError: # the body's hash differs
        return False
print(count, all([good(i) for i in range(count)]))
";

fn verified(message: &[u8], records: &[(String, String)]) -> String {
    let mut file = tempfile();
    for (name, value) in records {
        writeln!(file.1, "{name} {value}").expect("a file to write to");
    }
    let mut child = Command::new(python().expect("dkimpy"))
        .args(["-c", VERIFY, &file.0])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    child
        .stdin
        .take()
        .expect("its input")
        .write_all(message)
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    std::fs::remove_file(&file.0).expect("the file is there");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn tempfile() -> (String, std::fs::File) {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = std::env::temp_dir().join(format!(
        "dkim-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Relaxed)
    ));
    let file = std::fs::File::create(&path).expect("a file");
    (path.to_string_lossy().into_owned(), file)
}

/// Makes both kinds of keys; returns what to publish.
fn keys(world: &mut World<'_>, domain: &str) -> Vec<(String, String)> {
    ["rsa", "ed25519"]
        .map(|kind| {
            let row = world
                .client
                .query_one(
                    "SELECT * FROM mail.generate_dkim_key($1, $2, $2)",
                    &[&domain, &kind],
                )
                .expect("a key");
            assert_eq!(row.get::<_, String>("type"), "TXT");
            (row.get("name"), row.get("value"))
        })
        .into()
}

/// A Python that has dkimpy: Debian's is for its own.
fn python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let found = Command::new(python).args(["-c", "import dkim"]).output();
        found.is_ok_and(|output| output.status.success())
    })
}

fn has_verifier() -> bool {
    available("dkimpy", python().is_some())
}

on_real_servers! { signatures_survive_the_way_through_a_real_server }

fn signatures_survive_the_way_through_a_real_server(server: &'static Server) {
    if !has_verifier() {
        return;
    }
    let mut world = World::new();
    world.relay("main", &server.plain(), &[]);
    world.run("UPDATE mail.queue SET transport = 'smtp'");
    let records = keys(&mut world, "example.test");
    let mark = format!("signed {}", server.make().name());
    let message = json!({
        "from": "Shop <shop@mail.example.test>", "to": "alice@example.test", "subject": mark, "text": "Grüße\n\n.\n",
        "html": "<p>Grüße</p>", "attachments": [{"filename": "ä.bin", "content": "AAECAw=="}],
        "list_unsubscribe": {"url": "https://example.test/u/1"},
    });
    let id: i64 = world.one("SELECT mail.enqueue($1::jsonb)", &[&message]);
    world.reaches(id, "sent");
    let mails = server.wait_for("alice", &mark, 1);
    // Mailboxes may have line ends of their own.
    let mail = mails[0].replace("\r\n", "\n").replace('\n', "\r\n");
    assert_eq!(verified(mail.as_bytes(), &records), "2 True", "{mail}");
    assert_eq!(
        verified(mail.replace("AAECAw==", "AAECBA==").as_bytes(), &records),
        "2 False"
    );
}

#[test]
fn raw_mail_is_signed_too_and_lists_are_covered() {
    if !has_verifier() {
        return;
    }
    let sink = Sink::start();
    let mut world = World::with(&sink);
    let records = keys(&mut world, "example.test");
    let raw = "From: a@example.test\nTo: alice@example.test\nBcc: b@example.test\nSubject: x\n\nhello  \nworld\n\n\n";
    let id: i64 = world.one(
        "SELECT mail.enqueue(jsonb_build_object('raw', encode(convert_to($1, 'UTF8'), 'base64')))",
        &[&raw],
    );
    world.reaches(id, "sent");
    let message = json!({"from": "a@example.test", "to": "alice@example.test", "text": "x", "list_unsubscribe": {"url": "https://example.test/u"}});
    let id: i64 = world.one("SELECT mail.enqueue($1::jsonb)", &[&message]);
    world.reaches(id, "sent");
    let other = json!({"from": "a@other.test", "to": "alice@example.test", "text": "x"});
    let id: i64 = world.one("SELECT mail.enqueue($1::jsonb)", &[&other]);
    world.reaches(id, "sent");
    let mails = sink.wait_for(3, SOON);
    let of = |mark: &str| {
        mails
            .iter()
            .find(|mail| mail.text().contains(mark))
            .expect("the mail")
    };
    assert_eq!(verified(&of("hello").data, &records), "2 True");
    let list = of("List-Unsubscribe-Post");
    assert_eq!(verified(&list.data, &records), "2 True");
    let without = list
        .text()
        .replace("List-Unsubscribe: <https://example.test/u>\r\n", "");
    assert_eq!(verified(without.as_bytes(), &records), "2 False");
    assert!(!of("other.test").text().contains("DKIM-Signature"));
}

#[test]
fn a_private_key_is_seen_nowhere_and_can_be_exchanged() {
    let mut world = World::new();
    let records = keys(&mut world, "example.test");
    assert_eq!(records[0].0, "rsa._domainkey.example.test");
    assert!(
        records[0].1.starts_with("v=DKIM1; k=rsa; p="),
        "{records:?}"
    );
    assert!(
        records[1].1.starts_with("v=DKIM1; k=ed25519; p="),
        "{records:?}"
    );
    let shown: Vec<String> = world.all("SELECT private_key FROM mail.dkim_key", &[]);
    assert!(
        shown.iter().all(|shown| shown.starts_with("(stored ")),
        "{shown:?}"
    );
    let secrets =
        |world: &mut World<'_>| -> i64 { world.one("SELECT count(*) FROM mail.dkim_secret", &[]) };
    assert_eq!(secrets(&mut world), 2);
    let pem: String = world.one(
        "SELECT private_key FROM mail.dkim_secret ORDER BY id LIMIT 1",
        &[],
    );
    for statement in [
        "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('x.test', 's', $1)",
        "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('x.test', 's', $1)
         ON CONFLICT (domain, selector) DO UPDATE SET private_key = excluded.private_key",
        "UPDATE mail.dkim_key SET private_key = $1 WHERE domain = 'x.test'",
    ] {
        world
            .client
            .execute(statement, &[&pem])
            .expect("it is a key");
        assert_eq!(secrets(&mut world), 3, "{statement}");
    }
    for (statement, word) in [
        (
            "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('x.test', 't', 'SEKRET-not-a-key')",
            "private_key",
        ),
        (
            "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('x.test', 't', 'file:../SEKRET')",
            "reference",
        ),
        (
            "SELECT mail.generate_dkim_key('x.test', 't', 'dsa')",
            "algorithm",
        ),
    ] {
        let error = world.client.batch_execute(statement).expect_err(statement);
        let error = error.as_db_error().expect("an answer");
        let told = format!("{error:?}");
        assert!(
            error.message().contains(word) && !told.contains("SEKRET"),
            "{told}"
        );
    }
    world.run("DELETE FROM mail.dkim_key");
    assert_eq!(secrets(&mut world), 0);
}

#[test]
fn a_key_is_its_own_domains_and_has_a_name_that_can_be_published() {
    let mut world = World::new();
    keys(&mut world, "example.test");
    for statement in [
        "SELECT mail.generate_dkim_key('localhost', 's')",
        "SELECT mail.generate_dkim_key('example.test', 'a..b')",
        "SELECT mail.generate_dkim_key('example.test', '_s')",
        "INSERT INTO mail.dkim_key (domain, selector, private_key)
         SELECT 'other.test', selector, private_key FROM mail.dkim_key",
        "UPDATE mail.dkim_key k SET private_key = o.private_key FROM mail.dkim_key o WHERE o.selector <> k.selector",
    ] {
        let error = world.client.batch_execute(statement).expect_err(statement);
        assert_eq!(
            error.code().expect("an answer").code(),
            "22023",
            "{statement}"
        );
    }
    // As a dump brings it, which has no private keys.
    let gone = "(stored 00000000-0000-4000-8000-000000000000)";
    world
        .client
        .execute(
            "INSERT INTO mail.dkim_key (domain, selector, private_key) VALUES ('restored.test', 's', $1)",
            &[&gone],
        )
        .expect("it is restored");
    world.ails("dkim", "restored.test");
    world.run("DELETE FROM mail.dkim_key WHERE domain = 'restored.test'");
    world.until("SELECT NOT EXISTS (SELECT FROM mail.health() WHERE \"check\" = 'dkim')");
    world.run("UPDATE mail.dkim_key SET algorithm = NULL, dns_record = 'forged'");
    let records: Vec<String> = world.all("SELECT dns_record FROM mail.dkim_key", &[]);
    assert!(
        records.iter().all(|record| record.starts_with("v=DKIM1")),
        "{records:?}"
    );
}
