//! `make demo`: a throwaway PostgreSQL, a real mail server, and what a person would type into psql.

use std::time::Duration;

use pgmq_mail_tests::{
    Certificates, Cluster, DOMAIN, Database, LOGIN, MailServer, Make, Sink, run, until,
};

/// Whatever can be had here, real servers first.
enum Server {
    Real(MailServer),
    Sink(Sink),
}

impl Server {
    fn start(certificates: &Certificates) -> Self {
        let makes = [Make::OpenSmtpd, Make::Postfix, Make::Exim];
        if let Some(make) = makes.into_iter().find(|make| make.is_available()) {
            return Self::Real(make.start(certificates));
        }
        Self::Sink(
            Sink::builder()
                .starttls(certificates)
                .auth(LOGIN.0, LOGIN.1)
                .start(),
        )
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Real(server) => server.make().name(),
            Self::Sink(_) => {
                "no real mail server without root's rights: a small one in this program"
            }
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Real(server) => server.submission(),
            Self::Sink(server) => server.port(),
        }
    }

    fn received(&self) -> Vec<String> {
        match self {
            Self::Real(server) => server.mailbox("alice"),
            Self::Sink(server) => server
                .mails()
                .iter()
                .map(pgmq_mail_tests::Mail::text)
                .collect(),
        }
    }
}

fn main() {
    say("Starting a throwaway PostgreSQL with pgmq_mail in shared_preload_libraries …");
    let cluster = Cluster::start();
    let database = Database::empty(&cluster);
    let certificates = Certificates::new();
    say("Starting a mail server that wants STARTTLS and a login …");
    let server = Server::start(&certificates);
    println!(
        "   {}, on 127.0.0.1:{}, for {DOMAIN}",
        server.name(),
        server.port()
    );

    say("An application's database, and the extension in it.");
    let psql = |statements: &str| psql(&database, statements);
    psql("CREATE TABLE orders (id int PRIMARY KEY, customer text);\nCREATE EXTENSION pgmq_mail;");

    say("The relay, and the queue that uses it. Both are rows, in effect at commit.");
    psql(&format!(
        "INSERT INTO mail.relay (name, url, username, secret, ca_file)\n    VALUES ('local', \
         'smtp://127.0.0.1:{}', '{}', '{}', '{}');\nUPDATE mail.queue SET transport = 'smtp', \
         default_sender = 'Shop <shop@{DOMAIN}>'\n    WHERE name = 'default';",
        server.port(),
        LOGIN.0,
        LOGIN.1,
        certificates.ca_file().display()
    ));

    say("A mail in a business transaction that commits …");
    psql(&format!(
        "BEGIN;\nINSERT INTO orders VALUES (1, 'Alice');\nSELECT mail.enqueue('Alice <alice@{DOMAIN}>', \
         'Your order 1',\n    E'Dear Alice,\\n\\nthank you for your order. Grüße!\\n');\nCOMMIT;"
    ));
    say("… one in a transaction that does not …");
    psql(&format!(
        "BEGIN;\nINSERT INTO orders VALUES (2, 'Alice');\nSELECT mail.enqueue('Alice <alice@{DOMAIN}>', \
         'Your order 2', 'This never was.');\nROLLBACK;"
    ));
    say("… and one to somebody whom the mail server does not know.");
    psql(&format!(
        "SELECT mail.enqueue('nobody@{DOMAIN}', 'Your order 3', 'Anybody there?');"
    ));
    database
        .connect()
        .execute("SELECT mail.wait_idle('default', '20 seconds')", &[])
        .expect("the queue empties");

    say("What became of them.");
    psql(
        "SELECT subject, state, recipients, attempts, last_code, last_error FROM mail.messages ORDER BY id;",
    );
    psql(
        "SELECT m.subject, e.kind, e.recipient, e.relay, e.code, e.status,\n       e.at - m.enqueued_at \
         AS after\n    FROM mail.events e JOIN mail.messages m ON m.id = e.message_id ORDER BY e.id;",
    );
    psql("SELECT severity, detail, hint FROM mail.health();");

    say("What Alice has in her mailbox.");
    until(
        "the mail is in the mailbox",
        Duration::from_secs(20),
        || !server.received().is_empty(),
    );
    for mail in server.received() {
        for line in mail.trim_end().lines() {
            println!("   │ {line}");
        }
    }
    say("Everything that was started is stopped and removed again.");
}

fn say(text: &str) {
    println!("\n── {text}");
}

/// Runs statements as a person would, and shows both sides.
fn psql(database: &Database<'_>, statements: &str) {
    println!();
    for line in statements.lines() {
        println!("   => {line}");
    }
    let output = run(
        database
            .cluster()
            .program("psql")
            .env("PGDATABASE", database.name())
            .args([
                "--no-psqlrc",
                "--quiet",
                "--set=ON_ERROR_STOP=1",
                "--pset=pager=off",
                "--pset=linestyle=unicode",
                "--command",
                statements,
            ]),
        Duration::from_mins(1),
    );
    for line in String::from_utf8_lossy(&output.stdout).trim_end().lines() {
        println!("   {line}");
    }
}
