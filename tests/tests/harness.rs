//! What the other tests stand on: the servers themselves, without the extension.

use std::time::{Duration, Instant};

use pgmq_mail_tests::{
    Action, Certificates, Cluster, ClusterOptions, LOGIN, Make, Phase, Sink, SmtpClient, Stop,
    available,
};
use postgres::error::SqlState;

const MAIL: &str = "Subject: hello\r\nFrom: app@example.test\r\n\r\nA line.\r\n";

fn cluster() -> Cluster {
    Cluster::with(&ClusterOptions::new().preload(false))
}

#[test]
fn a_cluster_starts_stops_and_leaves_nothing_behind() {
    let mut cluster = cluster();
    let data = cluster.data().to_owned();
    let one: i32 = cluster
        .connect("postgres")
        .query_one("SELECT 1", &[])
        .unwrap()
        .get(0);
    assert_eq!(one, 1);
    cluster.stop(Stop::Fast);
    assert!(cluster.try_connect("postgres").is_err());
    cluster.resume();
    drop(cluster);
    assert!(!data.exists());
}

#[test]
fn a_cluster_survives_every_kind_of_stop_with_what_was_committed() {
    let mut cluster = cluster();
    cluster
        .connect("postgres")
        .batch_execute("CREATE TABLE kept (n int)")
        .unwrap();
    for (n, how) in [Stop::Smart, Stop::Fast, Stop::Immediate, Stop::Crash]
        .into_iter()
        .enumerate()
    {
        let mut client = cluster.connect("postgres");
        client
            .execute("INSERT INTO kept VALUES ($1)", &[&(n as i32)])
            .unwrap();
        drop(client);
        cluster.restart(how);
        let count: i64 = cluster
            .connect("postgres")
            .query_one("SELECT count(*) FROM kept", &[])
            .unwrap()
            .get(0);
        assert_eq!(count, n as i64 + 1, "after {how:?}");
    }
}

#[test]
fn settings_change_by_a_reload_and_errors_have_their_code() {
    let mut cluster = cluster();
    cluster.set("work_mem", "5MB");
    cluster.reload();
    pgmq_mail_tests::until("the setting arrives", Duration::from_secs(10), || {
        let mut client = cluster.connect("postgres");
        client
            .query_one("SHOW work_mem", &[])
            .unwrap()
            .get::<_, String>(0)
            == "5MB"
    });
    let result = cluster
        .connect("postgres")
        .batch_execute("SELECT * FROM missing");
    assert_eq!(pgmq_mail_tests::code(result), SqlState::UNDEFINED_TABLE);
}

#[test]
fn the_sink_records_mails_as_they_were_sent() {
    let sink = Sink::start();
    let mut client = SmtpClient::connect(sink.port());
    client.say("MAIL FROM:<app@example.test> SIZE=100", 250);
    client.say("RCPT TO:<a@example.test>", 250);
    client.say("RCPT TO:<b@example.test>", 250);
    client.say("DATA", 354);
    client.write(b"Subject: long\r\n one\r\n\r\n..hidden\r\nlast\r\n.\r\nNOOP\r\n");
    client.expect(250);
    client.expect(250);
    let mails = sink.wait_for(1, Duration::from_secs(5));
    assert_eq!(mails[0].sender, "app@example.test");
    assert_eq!(mails[0].parameters, "SIZE=100");
    assert_eq!(mails[0].recipients, ["a@example.test", "b@example.test"]);
    assert_eq!(mails[0].header("subject").as_deref(), Some("long one"));
    assert_eq!(mails[0].body(), ".hidden\r\nlast\r\n");
    assert_eq!(sink.connections(), 1);
}

#[test]
fn the_sink_refuses_delays_falls_silent_and_hangs_up_by_script() {
    let sink = Sink::scripted(|event| match (event.phase, event.address()) {
        (Phase::Rcpt, "no@example.test") => Action::reply("550-5.1.1 No\r\n550 5.1.1 such user"),
        (Phase::Rcpt, "slow@example.test") => {
            Action::reply("451 4.7.1 Later").after(Duration::from_millis(30))
        }
        (Phase::Noop, _) => Action::Drop,
        (Phase::Dot, _) => Action::AcceptAndDrop,
        _ => Action::Accept,
    });
    let mut client = SmtpClient::connect(sink.port());
    client.say("MAIL FROM:<>", 250);
    assert!(
        client
            .say("RCPT TO:<no@example.test>", 550)
            .ends_with("550 5.1.1 such user\r\n")
    );
    let begin = Instant::now();
    client.say("RCPT TO:<slow@example.test>", 451);
    assert!(begin.elapsed() >= Duration::from_millis(30));
    client.say("RCPT TO:<yes@example.test>", 250);
    client.say("DATA", 354);
    client.write(b"\r\n.\r\n");
    let mails = sink.wait_for(1, Duration::from_secs(5));
    assert_eq!(mails[0].recipients, ["yes@example.test"]);
    pgmq_mail_tests::until("the sink hung up", Duration::from_secs(5), || {
        sink.open() == 0
    });
}

#[test]
fn the_sink_speaks_tls_and_asks_for_a_login() {
    let certificates = Certificates::new();
    let sink = Sink::builder()
        .starttls(&certificates)
        .auth("app", "secret")
        .start();
    let mut client = SmtpClient::connect_tls(sink.port(), certificates.client());
    client.say("MAIL FROM:<app@example.test>", 530);
    client.say("AUTH PLAIN d3Jvbmc=", 535);
    client.say("AUTH LOGIN", 334);
    client.say("YXBw", 334);
    client.say("c2VjcmV0", 235);
    client.send("app@example.test", "a@example.test", MAIL);
    assert_eq!(sink.wait_for(1, Duration::from_secs(5))[0].text(), MAIL);
}

#[test]
fn the_sink_counts_tens_of_thousands_of_pipelined_mails_a_second() {
    const MAILS: usize = 20_000;
    let sink = Sink::builder().count_only().start();
    let mut client = SmtpClient::connect(sink.port());
    let body = format!(
        "Subject: x\r\n\r\n{}\r\n.\r\n",
        "0123456789abcdef\r\n".repeat(110)
    );
    let head = "MAIL FROM:<a@example.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n";
    let begin = Instant::now();
    client.write(head.as_bytes());
    for mail in 1..=MAILS {
        client.expect(250);
        client.expect(250);
        client.expect(354);
        let next = if mail < MAILS { head } else { "" };
        client.write(format!("{body}{next}").as_bytes());
        client.expect(250);
    }
    assert_eq!(sink.count(), MAILS);
    println!(
        "{MAILS} mails on one connection took {:.1?}",
        begin.elapsed()
    );
}

#[test]
fn postfix_takes_a_mail_under_starttls_and_auth_and_delivers_it() {
    delivers(Make::Postfix);
}

#[test]
fn opensmtpd_takes_a_mail_under_starttls_and_auth_and_delivers_it() {
    delivers(Make::OpenSmtpd);
}

#[test]
fn exim_takes_a_mail_under_starttls_and_auth_and_delivers_it() {
    delivers(Make::Exim);
}

fn delivers(make: Make) {
    if !available(make.name(), make.is_available()) {
        return;
    }
    let certificates = Certificates::new();
    let server = make.start(&certificates);
    let mut client = SmtpClient::connect_tls(server.submission(), certificates.client());
    client.login(LOGIN.0, LOGIN.1);
    client.send("app@example.test", "alice@example.test", MAIL);
    let mails = server.wait_for("alice", 1);
    let mail = mails[0].to_lowercase();
    assert!(mail.contains("with esmtpsa"), "{mail}");
    assert!(mails[0].contains("Subject: hello\n") && mails[0].ends_with("\nA line.\n"));
    client.say("MAIL FROM:<app@example.test>", 250);
    client.say("RCPT TO:<nobody@example.test>", 5);

    let mut plain = SmtpClient::connect(server.port());
    plain.send("app@example.test", "bob@example.test", MAIL);
    server.wait_for("bob", 1);
    plain.say("MAIL FROM:<app@example.test>", 250);
    plain.say("RCPT TO:<somebody@elsewhere.test>", 5);
    let mut refused = SmtpClient::connect_tls(server.submission(), certificates.client());
    refused.say("AUTH PLAIN AGFwcAB3cm9uZw==", 535);
}
