//! Mail made from templates.

use pgmq_mail_tests::Sink;
use serde_json::json;

use crate::{SOON, World};

/// A world whose queue is halted, with a template in two languages and a layout.
fn halted(sink: &Sink) -> World<'_> {
    let mut world = World::with(sink);
    world.run(
        "INSERT INTO mail.template (name, html) VALUES
           ('layout', '<html><body>{% block body %}{% endblock %}<p>The shop</p></body></html>');
         INSERT INTO mail.template (name, subject, text, html) VALUES
           ('welcome', 'Welcome, {{ name }}', 'Hello {{ name }}', '{% extends \"layout\" %}{% block body %}<b>Hello {{ name }}</b>{% endblock %}');
         INSERT INTO mail.template (name, locale, subject, text) VALUES ('welcome', 'de', 'Willkommen, {{ name }}', 'Hallo {{ name }}');
         SELECT mail.pause('default')",
    );
    world
}

fn refused(world: &mut World<'_>, statement: &str) -> (String, String) {
    let error = world.client.batch_execute(statement).expect_err(statement);
    let error = error.as_db_error().expect("an answer of the server");
    (error.code().code().to_owned(), error.message().to_owned())
}

#[test]
fn a_mail_is_rendered_in_its_language_when_it_is_sent_and_remembers_the_version() {
    let sink = Sink::start();
    let mut world = halted(&sink);
    let put = |world: &mut World<'_>, more: &str| -> i64 {
        world.one(
            &format!("SELECT mail.enqueue('alice@example.test', template => 'welcome', params => '{{\"name\": \"<Ann>\"}}'{more})"),
            &[],
        )
    };
    let english = put(&mut world, "");
    let swiss = put(&mut world, ", locale => 'de-CH'");
    let french = put(&mut world, ", locale => 'fr'");
    let early = put(&mut world, ", render => 'enqueue'");
    world.run(
        "UPDATE mail.template SET text = 'Good day {{ name }}' WHERE (name, locale) = ('welcome', '');
         SELECT mail.resume('default')",
    );
    for id in [english, swiss, french, early] {
        world.reaches(id, "sent");
    }
    let mails = sink.wait_for(4, SOON);
    let text = |subject: &str, mark: &str| {
        mails
            .iter()
            .filter(|mail| {
                mail.header("Subject").as_deref() == Some(subject) && mail.text().contains(mark)
            })
            .count()
    };
    assert_eq!(
        text("Welcome, <Ann>", "Good day <Ann>"),
        2,
        "a correction reaches those that wait"
    );
    assert_eq!(
        text("Welcome, <Ann>", "Hello <Ann>"),
        1,
        "but not what was rendered before"
    );
    assert_eq!(text("Willkommen, <Ann>", "Hallo <Ann>"), 1);
    assert_eq!(
        text("Welcome, <Ann>", "<b>Hello &lt;Ann&gt;</b><p>The shop</p>"),
        3
    );
    let versions: Vec<(i64, i32)> = [(english, 2), (swiss, 1), (french, 2), (early, 1)].into();
    for (id, version) in versions {
        let noted: i32 = world.one(
            "SELECT template_version FROM mail.messages WHERE id = $1",
            &[&id],
        );
        assert_eq!(noted, version);
    }
    let locale: String = world.one(
        "SELECT template_locale FROM mail.messages WHERE id = $1",
        &[&swiss],
    );
    assert_eq!(locale, "de");
}

#[test]
fn what_is_missing_or_wrong_is_refused_with_its_name() {
    let sink = Sink::start();
    let mut world = halted(&sink);
    let (code, message) = refused(
        &mut world,
        "SELECT mail.enqueue('a@example.test', template => 'welcome')",
    );
    assert_eq!(code, "22023");
    assert!(message.contains("name"), "{message}");
    world.run("INSERT INTO mail.template (name, text) VALUES ('many', '{{ one }} {{ two.three }} {{ four|default(1) }} {% if no is defined %}{{ no }}{% endif %}')");
    let (code, message) = refused(
        &mut world,
        "SELECT mail.enqueue('a@example.test', template => 'many', params => '{\"two\": {}}')",
    );
    assert_eq!(code, "22023");
    assert!(
        message.contains("one") && message.contains("two.three") && !message.contains("four"),
        "{message}"
    );
    let (code, _) = refused(
        &mut world,
        "SELECT mail.enqueue('a@example.test', template => 'absent')",
    );
    assert_eq!(code, "42704");
    let (code, message) = refused(
        &mut world,
        "INSERT INTO mail.template (name, html) VALUES ('bad', E'<p>\\n  {% if x %}<b>{{ y }</b>{% endif %}')",
    );
    assert_eq!(code, "22023");
    assert!(message.contains("line 2"), "{message}");
    let (code, _) = refused(
        &mut world,
        "INSERT INTO mail.template (name) VALUES ('nothing')",
    );
    assert_eq!(code, "22023");
    let (code, _) = refused(
        &mut world,
        "SELECT mail.enqueue('a@example.test', text_body => 'x', params => '{}')",
    );
    assert_eq!(code, "22023");
}

#[test]
fn a_template_without_an_end_is_a_dead_letter_and_the_worker_goes_on() {
    let sink = Sink::start();
    let mut world = halted(&sink);
    world.run("INSERT INTO mail.template (name, text) VALUES ('endless', 'short {{ name }}')");
    let id: i64 = world.one(
        "SELECT mail.enqueue('a@example.test', template => 'endless', params => '{\"name\": 1}')",
        &[],
    );
    let gone: i64 = world.one(
        "SELECT mail.enqueue('a@example.test', template => 'welcome', params => '{\"name\": 1}')",
        &[],
    );
    world.run(
        "UPDATE mail.template SET text = '{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}x{% endfor %}{% endfor %}{% endfor %}' WHERE name = 'endless';
         DELETE FROM mail.template WHERE name = 'welcome';
         SELECT mail.resume('default')",
    );
    world.reaches(id, "failed");
    world.reaches(gone, "failed");
    let next = world.put("alice@example.test", "fine", "");
    world.reaches(next, "sent");
    world.run("UPDATE mail.template SET text = 'short' WHERE name = 'endless'");
    world.run(&format!("SELECT mail.retry({id})"));
    world.reaches(id, "sent");
}

#[test]
fn versions_are_kept_activated_and_rolled_back() {
    let mut world = World::new();
    world.run(
        "INSERT INTO mail.template (name, text) VALUES ('t', 'one');
         UPDATE mail.template SET text = 'two' WHERE name = 't';
         UPDATE mail.template SET text = 'three' WHERE name = 't'",
    );
    let now = |world: &mut World<'_>| -> String {
        world.one(
            "SELECT format('%s %s', version, text) FROM mail.template WHERE name = 't'",
            &[],
        )
    };
    assert_eq!(now(&mut world), "3 three");
    assert_eq!(
        world.one::<i32>("SELECT mail.rollback_template('t')", &[]),
        2
    );
    assert_eq!(now(&mut world), "2 two");
    assert_eq!(
        world.one::<i32>("SELECT mail.rollback_template('t')", &[]),
        1
    );
    world.run("SELECT mail.activate_template('t', 3)");
    assert_eq!(now(&mut world), "3 three");
    world.run("UPDATE mail.template SET text = 'four' WHERE name = 't'");
    assert_eq!(now(&mut world), "4 four");
    let history: Vec<String> = world.all("SELECT format('%s %s %s', version, text, active) FROM mail.template_history WHERE name = 't' ORDER BY version", &[]);
    assert_eq!(history, ["1 one f", "2 two f", "3 three f", "4 four t"]);
    assert_eq!(
        refused(&mut world, "SELECT mail.activate_template('t', 9)").0,
        "42704"
    );
    assert_eq!(
        refused(&mut world, "UPDATE mail.template SET version = 2").0,
        "22023"
    );
    world.run("DELETE FROM mail.template; SELECT mail.rollback_template('t')");
    assert_eq!(now(&mut world), "4 four");
}

#[test]
fn a_preview_shows_all_of_it_and_stores_nothing() {
    let sink = Sink::start();
    let mut world = halted(&sink);
    world.queue(
        "news",
        &[
            ("transport", "capture"),
            ("bulk", "true"),
            ("default_sender", "news@example.test"),
        ],
    );
    let row = world
        .client
        .query_one(
            "SELECT * FROM mail.preview('welcome', '{\"name\": \"Ann\"}', queue => 'news')",
            &[],
        )
        .expect("a preview");
    let (subject, text, html, mime): (String, String, String, String) = (
        row.get("subject"),
        row.get("text"),
        row.get("html"),
        row.get("mime"),
    );
    assert_eq!((&*subject, &*text), ("Welcome, Ann", "Hello Ann"));
    assert!(html.contains("<b>Hello Ann</b>"), "{html}");
    assert!(mime.contains("\r\nSubject: Welcome, Ann\r\n"), "{mime}");
    assert_eq!(
        row.get::<_, i32>("size"),
        i32::try_from(mime.len()).unwrap()
    );
    let warnings: Vec<String> = row.get("warnings");
    assert!(
        warnings.iter().any(|w| w.contains("unsubscribe")),
        "{warnings:?}"
    );
    assert!(
        warnings
            .iter()
            .any(|w| w.contains("example.test is not signed")),
        "{warnings:?}"
    );
    let message = json!({"to": "a@example.test", "subject": "x".repeat(100), "html": "<img src=\"https://example.test/x.png\">"});
    let warnings: Vec<String> =
        world.one("SELECT warnings FROM mail.preview($1::jsonb)", &[&message]);
    for word in ["alt", "subject", "text"] {
        assert!(
            warnings.iter().any(|w| w.contains(word)),
            "{word}: {warnings:?}"
        );
    }
    assert_eq!(
        world.one::<i64>("SELECT count(*) FROM mail.messages", &[]),
        0
    );
}

#[test]
fn versions_cannot_be_forged_and_locales_are_written_one_way() {
    let mut world = World::new();
    world.run(
        "INSERT INTO mail.template (name, text) VALUES ('t', 'one');
         UPDATE mail.template SET text = 'two';
         UPDATE mail.template SET saved_by = 'somebody else'",
    );
    let by: bool = world.one(
        "SELECT saved_by = session_user FROM mail.template WHERE name = 't'",
        &[],
    );
    assert!(by);
    let forged = "UPDATE mail.template t SET version = v.version, saved_at = v.saved_at, saved_by = v.saved_by, text = 'forged'
                  FROM mail.template_version v WHERE v.name = t.name";
    assert_eq!(refused(&mut world, forged).0, "22023");
    assert_eq!(refused(&mut world, "TRUNCATE mail.template").0, "0A000");
    world.run(
        "DELETE FROM mail.template; INSERT INTO mail.template (name, text, version) VALUES ('t', 'three', 2)",
    );
    let version: i32 = world.one("SELECT version FROM mail.template", &[]);
    assert_eq!(version, 3, "2 was another text");
    world.run("INSERT INTO mail.template (name, locale, text) VALUES ('t', 'DE_ch', 'x'), ('t', 'zh-hant-tw', 'y')");
    let locales: Vec<String> = world.all("SELECT locale FROM mail.template ORDER BY 1", &[]);
    assert_eq!(locales, ["", "de-CH", "zh-Hant-TW"]);
    let (code, message) = refused(
        &mut world,
        "SELECT mail.preview('{\"to\": \"a@example.test\"}')",
    );
    assert_eq!(code, "42704");
    assert!(message.contains("looks like a JSON message"), "{message}");
}

#[test]
fn a_rollback_leads_to_what_was_in_force_before() {
    let mut world = World::new();
    world.run(
        "INSERT INTO mail.template (name, locale, text) VALUES ('t', 'zh-Hant-TW', 'one');
         UPDATE mail.template SET text = 'two';
         UPDATE mail.template SET text = 'three, a bad one'",
    );
    let back = |world: &mut World<'_>| -> i32 {
        world.one("SELECT mail.rollback_template('t', 'zh_hant_tw')", &[])
    };
    assert_eq!(back(&mut world), 2);
    world.run("UPDATE mail.template SET text = 'four, as bad'");
    assert_eq!(back(&mut world), 2, "three was not in force before four");
    world.run("DELETE FROM mail.template");
    assert_eq!(back(&mut world), 2, "two was in force");
    assert_eq!(back(&mut world), 1);
    let (code, message) = refused(
        &mut world,
        "SELECT mail.rollback_template('t', 'zh_hant_tw')",
    );
    assert_eq!(code, "42704");
    assert_eq!(
        message,
        "template \"t\" (zh-Hant-TW) has no earlier version"
    );
    let (code, message) = refused(&mut world, "SELECT mail.rollback_template('nope')");
    assert_eq!(
        (&*code, &*message),
        ("42704", "template \"nope\" does not exist")
    );
    let ended: i64 = world.one(
        "SELECT count(ended_at) FROM mail.template_history WHERE NOT active",
        &[],
    );
    assert_eq!(ended, 3);
}

#[test]
fn a_template_that_is_replaced_while_it_is_deleted_goes_on_counting() {
    let mut world = World::new();
    world.run("INSERT INTO mail.template (name, text) VALUES ('t', 'one')");
    let mut deleting = world.database.connect();
    let mut inserting = world.database.connect();
    let mut delete = deleting.transaction().expect("a transaction begins");
    delete
        .batch_execute("DELETE FROM mail.template")
        .expect("it is deleted");
    std::thread::scope(|scope| {
        let insert = scope.spawn(move || {
            inserting.batch_execute("INSERT INTO mail.template (name, text) VALUES ('t', 'two')")
        });
        world.until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO mail.template%')");
        delete.commit().expect("it commits");
        insert.join().expect("no panic").expect("it is inserted");
    });
    world.run("UPDATE mail.template SET text = 'three'; DELETE FROM mail.template");
    let versions: Vec<i32> = world.all("SELECT version FROM mail.template_history ORDER BY 1", &[]);
    assert_eq!(versions, [1, 2, 3]);
}

#[test]
fn what_an_admin_copies_out_and_in_again_is_the_same_version() {
    let mut world = World::new();
    let mut admin = world.database.connect_as("template_admin", &["mail_admin"]);
    admin
        .batch_execute(
            "INSERT INTO mail.template (name, text, version, saved_by) VALUES ('t', 'one', 1000000000, 'somebody else');
             CREATE TEMPORARY TABLE copied AS SELECT * FROM mail.template;
             DELETE FROM mail.template;
             INSERT INTO mail.template SELECT * FROM copied;
             UPDATE mail.template SET text = 'two';
             DELETE FROM mail.template",
        )
        .expect("an admin may");
    let history: Vec<String> = world.all(
        "SELECT format('%s %s %s', version, text, saved_by) FROM mail.template_history ORDER BY version",
        &[],
    );
    assert_eq!(history, ["1 one template_admin", "2 two template_admin"]);
}

#[test]
fn html_that_leaves_everything_open_is_refused() {
    let mut world = World::new();
    let (code, message) = refused(
        &mut world,
        "INSERT INTO mail.template (name, html) VALUES ('t', '<style>p{color:red}</style>' || repeat('<div><object></div>', 8000))",
    );
    assert_eq!(code, "22023");
    assert!(message.contains("nested too deep"), "{message}");
}
