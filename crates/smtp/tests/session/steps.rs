//! Replies out of step: one too many, one too few. None is taken for the answer to something else, and no
//! refusal is anyone's that might be another's.

use std::sync::Arc;

use mail_smtp::{Phase, Session};

use crate::{
    brief, detail, message, message_saying, send, session,
    support::{Act, Script, Server, defer, say},
};

/// A command is not answered.
fn unanswered() -> Act {
    Act::Say(vec![])
}

/// What a relay that lost count is told to say, and what becomes of two recipients.
type Case = (
    &'static str,
    Vec<(Phase, Act)>,
    [&'static str; 2],
    &'static str,
);

const TWICE: &str = "250 ok\r\n250 ok";

#[tokio::test]
async fn in_a_group_whose_replies_are_out_of_step_nobody_is_refused() {
    use Phase::{Data, Mail, Rcpt};
    let cases: Vec<Case> = vec![
        (
            "MAIL twice: the first's 250 seems to be the second's, and his 550 DATA's",
            vec![
                (Mail, say(TWICE)),
                (Rcpt, say("250 ok")),
                (Rcpt, say("550 no\r\n354 go")),
                (Data, unanswered()),
            ],
            ["Transient Data 354"; 2],
            "out of turn",
        ),
        (
            "MAIL twice: the first's 550 seems to be the second's",
            vec![(Mail, say(TWICE)), (Rcpt, say("550 no"))],
            ["Transient Data 250"; 2],
            "unexpected reply to DATA",
        ),
        (
            "the first twice, and the second's refusal seems to be DATA's, whose own comes later",
            vec![
                (Rcpt, say(TWICE)),
                (Rcpt, say("550 no")),
                (Data, defer("554 no")),
            ],
            ["Transient Data -"; 2],
            "unexpected reply to RSET (554 no)",
        ),
        (
            "the first is refused twice, the second put off",
            vec![
                (Rcpt, say("550 no\r\n550 no")),
                (Rcpt, say("450 later")),
                (Data, defer("554 no")),
            ],
            ["Transient Data -"; 2],
            "unexpected reply to RSET (554 no)",
        ),
        (
            "MAIL three times",
            vec![
                (Mail, say("250 ok\r\n250 ok\r\n250 ok")),
                (Rcpt, say("550 no")),
                (Rcpt, defer("250 ok")),
                (Data, defer("554 no")),
            ],
            ["Transient Data -"; 2],
            "out of turn (554 no)",
        ),
        (
            "MAIL not at all: the second's 550 seems to be the first's",
            vec![
                (Mail, unanswered()),
                (Rcpt, say("250 ok")),
                (Rcpt, say("550 no")),
            ],
            ["Transient Rcpt 354"; 2],
            "unexpected reply to RCPT",
        ),
        (
            "the first not at all: the second's 550 seems to be hers",
            vec![(Rcpt, unanswered()), (Rcpt, say("550 no"))],
            ["Transient Rcpt 354"; 2],
            "unexpected reply to RCPT",
        ),
        (
            "MAIL twice, and something that is no reply",
            vec![
                (Mail, say(TWICE)),
                (Rcpt, say("550 no")),
                (Rcpt, say("no such reply")),
            ],
            ["Transient Data -"; 2],
            "is not an SMTP reply",
        ),
        (
            "something that is no reply behind a refusal",
            vec![
                (Rcpt, say("550 no")),
                (Rcpt, say("550 no")),
                (Data, say("554 no\r\nand that is that")),
            ],
            ["Transient Data -"; 2],
            "out of turn",
        ),
    ];
    for (name, acts, results, says) in cases {
        let script = acts
            .into_iter()
            .fold(Script::new(true), |script, (phase, act)| {
                script.on(phase, act)
            });
        let (server, mut session) = session(script).await;
        let outcome = send(&mut session, &message(2)).await;
        assert_eq!(brief(&outcome), results, "{name}: {outcome:?}");
        assert!(detail(&outcome).contains(says), "{name}: {outcome:?}");
        assert!(!session.is_usable() && !session.maybe_accepted(), "{name}");
        assert!(server.first().messages.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn one_by_one_too_a_reply_too_many_makes_no_refusal() {
    let script = Script::new(false)
        .on(Phase::Mail, say(TWICE))
        .on(Phase::Rcpt, say("550 no"));
    let (_server, mut session) = session(script).await;
    let outcome = send(&mut session, &message(2)).await;
    assert_eq!(brief(&outcome), ["Transient Rcpt 250"; 2]);
    // MAIL's second reply comes when the first recipient has been named, and hers when the second has.
    let script = Script::new(false)
        .on(Phase::Rcpt, say("250 ok"))
        .on(Phase::Rcpt, say("550 no"))
        .on(Phase::Data, say("250 ok"));
    let (_server, mut session) = crate::session(script).await;
    let outcome = send(&mut session, &message(2)).await;
    assert_eq!(brief(&outcome), ["Transient Data 250"; 2]);
    let script = Script::new(false)
        .on(Phase::Rcpt, say("550 no"))
        .on(Phase::Rcpt, say("250 ok"))
        .on(Phase::Data, say("554 no\r\n354 go"));
    let (_server, mut session) = crate::session(script).await;
    let outcome = send(&mut session, &message(2)).await;
    assert_eq!(brief(&outcome), ["Transient Data 354"; 2]);
    assert!(!session.is_usable());
}

/// Sends a mail with another chained behind it, and that one.
async fn chained(script: Script) -> (Server, Session, [Vec<String>; 2]) {
    let (server, mut session) = session(script).await;
    let jobs = [1, 2].map(|_| Arc::new(message_saying(1, "x")));
    let (first, next) = session.send(&jobs[0], || Some(Arc::clone(&jobs[1]))).await;
    let second = session.send(&next.unwrap(), || None).await.0;
    let outcomes = [brief(&first), brief(&second)];
    (server, session, outcomes)
}

#[tokio::test]
async fn a_dot_answered_twice_does_not_refuse_the_chained_message() {
    let script = Script::new(true)
        .on(Phase::Dot, say("250 queued\r\n250 queued"))
        .on(Phase::Rcpt, say("250 ok"))
        .on(Phase::Rcpt, say("550 no"))
        .on(Phase::Data, say("354 go"))
        .on(Phase::Data, defer("554 no"));
    let (_server, session, outcomes) = chained(script).await;
    assert_eq!(outcomes[0], ["Delivered Dot 250"]);
    assert_eq!(outcomes[1], ["Transient Data -"]);
    assert!(!session.is_usable());

    let script = Script::new(true).on(Phase::Dot, say("250 queued\r\n550 spam after all"));
    let (server, session, outcomes) = chained(script).await;
    assert_eq!(outcomes[0], ["Delivered Dot 250"]);
    assert_eq!(outcomes[1], ["Transient Data 250"]);
    assert!(!session.is_usable() && server.first().messages.len() == 1);
}

#[tokio::test]
async fn replies_behind_the_dot_s_that_are_the_chained_message_s_are_in_step() {
    let script = Script::new(true)
        .on(Phase::Dot, defer("250 queued"))
        .on(Phase::Mail, say("250 ok"))
        .on(Phase::Mail, defer("250 ok"))
        .on(Phase::Rcpt, say("250 ok"))
        .on(Phase::Rcpt, defer("550 no"))
        .on(Phase::Data, say("354 go"))
        .on(Phase::Data, say("554 no valid recipients"));
    let (_server, session, outcomes) = chained(script).await;
    assert_eq!(outcomes, [["Delivered Dot 250"], ["Permanent Rcpt 550"]]);
    assert!(session.is_usable());
}

#[tokio::test]
async fn a_421_behind_a_refusal_is_the_relay_closing() {
    for pipelining in [true, false] {
        let script = Script::new(pipelining)
            .on(Phase::Rcpt, say("550 no"))
            .on(Phase::Data, say("554 no\r\n421 bye"));
        let (_server, mut session) = session(script).await;
        let outcome = send(&mut session, &message(2)).await;
        assert_eq!(
            brief(&outcome),
            ["Permanent Rcpt 550", "Permanent Data 554"]
        );
        assert!(!session.is_usable());
    }
}

#[tokio::test]
async fn a_doubtful_refusal_is_confirmed_by_a_reset_that_the_next_message_is_spared() {
    for pipelining in [true, false] {
        let script = Script::new(pipelining)
            .on(Phase::Rcpt, say("250 ok"))
            .on(Phase::Data, say("554 no"));
        let (server, mut session) = session(script).await;
        for result in ["Permanent Data 554", "Delivered Dot 250"] {
            assert_eq!(brief(&send(&mut session, &message(1)).await), [result]);
        }
        let heard = "MAIL RCPT DATA RSET MAIL RCPT DATA .";
        assert_eq!(server.first().verbs(), heard);
    }
}

#[tokio::test]
async fn a_relay_that_ends_after_a_doubtful_refusal_means_it() {
    for pipelining in [true, false] {
        for act in [Act::Close, say("421 bye")] {
            let script = Script::new(pipelining)
                .on(Phase::Data, say("554 no"))
                .on(Phase::Rset, act);
            let (_server, mut session) = session(script).await;
            let outcome = send(&mut session, &message(2)).await;
            assert_eq!(brief(&outcome), ["Permanent Data 554"; 2]);
            assert!(!session.is_usable());
        }
    }
}

#[tokio::test]
async fn a_relay_without_reset_is_believed_when_it_answers_quit_and_left() {
    for pipelining in [true, false] {
        for code in ["500", "502"] {
            for quit in [say("221 bye"), say("421 bye"), Act::Close] {
                let script = Script::new(pipelining)
                    .on(Phase::Rcpt, say("550 no"))
                    .on(Phase::Rcpt, say("450 later"))
                    .on(Phase::Rcpt, say("250 ok"))
                    .on(Phase::Data, say("451 later"))
                    .on(Phase::Rset, say(&format!("{code} what")))
                    .on(Phase::Quit, quit);
                let (server, mut session) = session(script).await;
                let outcome = send(&mut session, &message(3)).await;
                let results = [
                    "Permanent Rcpt 550",
                    "Transient Rcpt 450",
                    "Transient Data 451",
                ];
                assert_eq!(brief(&outcome), results);
                assert!(!session.is_usable());
                session.quit().await;
                let heard = "MAIL RCPT RCPT RCPT DATA RSET QUIT";
                assert_eq!(server.ended().await.verbs(), heard);
            }
        }
    }
}

#[tokio::test]
async fn a_500_or_502_that_is_not_the_answer_to_reset_betrays_itself_at_quit() {
    // DATA's reply is late: what follows is the answer to RSET, and not to QUIT.
    for (data, rset, quit) in [
        ("502 no recipients", "250 reset", "221 bye"),
        ("500 what", "500 what", "221 bye"),
        ("502 what", "oops", "221 bye"),
        ("502 what", "354 go", "250 ok"),
    ] {
        let script = Script::new(true)
            .on(Phase::Rcpt, say("550 no\r\n550 no"))
            .on(Phase::Rcpt, say("450 later"))
            .on(Phase::Data, defer(data))
            .on(Phase::Rset, say(rset))
            .on(Phase::Quit, say(quit));
        let (_server, mut session) = session(script).await;
        let outcome = send(&mut session, &message(2)).await;
        assert_eq!(brief(&outcome), ["Transient Data -"; 2], "{data} {rset}");
        assert!(detail(&outcome).contains("unexpected reply to RSET"));
        assert!(!session.is_usable());
    }
}

#[tokio::test]
async fn where_all_are_refused_for_good_nothing_is_waited_for() {
    let script = Script::new(true)
        .on(Phase::Rcpt, say("550 no"))
        .on(Phase::Rcpt, say("551 no"))
        .on(Phase::Data, say("554 no valid recipients"));
    let (server, mut session) = session(script).await;
    let outcome = send(&mut session, &message(2)).await;
    assert_eq!(
        brief(&outcome),
        ["Permanent Rcpt 550", "Permanent Rcpt 551"]
    );
    assert!(session.is_usable());
    assert_eq!(server.first().verbs(), "MAIL RCPT RCPT DATA");
}
