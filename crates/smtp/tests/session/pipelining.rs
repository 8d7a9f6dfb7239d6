//! Several commands, and several messages, in one write.

use std::sync::Arc;

use mail_smtp::{Message, Outcome, Phase, Session};

use crate::{
    brief, detail, message, message_saying, send, session,
    support::{Act, Script, defer, say, say_and_close},
};

fn job(recipients: usize, text: &str) -> Arc<Message> {
    Arc::new(message_saying(recipients, text))
}

/// Sends `jobs` one after the other, each with the next one behind it.
async fn send_all(session: &mut Session, jobs: &[Arc<Message>]) -> Vec<Outcome> {
    let mut waiting = jobs.iter().cloned();
    let (mut outcomes, mut job) = (vec![], waiting.next());
    while let Some(current) = job {
        let (outcome, next) = session.send(&current, || waiting.next()).await;
        outcomes.push(outcome);
        if !session.is_usable() {
            break;
        }
        job = next.or_else(|| waiting.next());
    }
    outcomes
}

#[tokio::test]
async fn a_group_goes_out_before_its_first_reply_comes() {
    let script = Script::new(true)
        .on(Phase::Mail, defer("250 ok"))
        .on(Phase::Rcpt, defer("250 ok"))
        .on(Phase::Rcpt, defer("550 no"));
    let (_server, mut session) = session(script).await;
    let outcome = send(&mut session, &message(2)).await;
    assert_eq!(brief(&outcome), ["Delivered Dot 250", "Permanent Rcpt 550"]);
}

#[tokio::test]
async fn without_pipelining_nothing_is_sent_ahead_and_no_next_message_asked_for() {
    let (server, mut session) = session(Script::new(false)).await;
    let (outcome, next) = session
        .send(&message(1), || unreachable!("only with PIPELINING"))
        .await;
    assert_eq!(
        (brief(&outcome), next.is_some()),
        (vec!["Delivered Dot 250".to_owned()], false)
    );
    assert_eq!(server.first().verbs(), "MAIL RCPT DATA .");
}

#[tokio::test]
async fn the_next_message_is_chained_behind_the_dot() {
    // The server answers the first message only once it has the next one's commands.
    let mut script = Script::new(true);
    for _ in 0..2 {
        script = script
            .on(Phase::Dot, defer("250 2.0.0 queued"))
            .on(Phase::Mail, defer("250 ok"))
            .on(Phase::Rcpt, defer("250 ok"));
    }
    script = script
        .on(Phase::Mail, defer("250 ok"))
        .on(Phase::Rcpt, defer("250 ok"));
    let (server, mut session) = session(script).await;
    let jobs = [job(1, "one"), job(1, "two"), job(1, "three")];
    for outcome in send_all(&mut session, &jobs).await {
        assert_eq!(brief(&outcome), ["Delivered Dot 250"]);
    }
    let heard = server.first();
    assert_eq!(heard.messages.len(), 3);
    assert!(heard.messages[1].ends_with(b"two\r\n"));
    assert_eq!(
        heard.verbs(),
        "MAIL RCPT DATA . MAIL RCPT DATA . MAIL RCPT DATA ."
    );
}

#[tokio::test]
async fn a_message_is_judged_before_the_chained_replies_come() {
    let script = Script::new(true)
        .on(Phase::Mail, say("250 ok"))
        .on(Phase::Mail, Act::Silence);
    let (_server, mut session) = session(script).await;
    let (first, second) = (job(1, "one"), job(1, "two"));
    let (outcome, next) = session.send(&first, || Some(second)).await;
    assert_eq!(brief(&outcome), ["Delivered Dot 250"]);
    assert!(next.is_some() && session.is_usable() && !session.maybe_accepted());
}

#[tokio::test]
async fn refusals_stay_with_their_message() {
    let script = Script::new(true)
        .on(Phase::Rcpt, say("250 ok"))
        .on(Phase::Rcpt, say("550 no"))
        .on(Phase::Rcpt, say("250 ok"))
        .on(Phase::Dot, say("554 spam"));
    let (server, mut session) = session(script).await;
    // The second's DATA is answered 354 all the same, so it ends with a lone dot.
    let jobs = [job(1, "one"), job(1, "two"), job(1, "three")];
    let outcomes = send_all(&mut session, &jobs).await;
    let brief: Vec<_> = outcomes.iter().flat_map(brief).collect();
    assert_eq!(
        brief,
        [
            "Permanent Dot 554",
            "Permanent Rcpt 550",
            "Delivered Dot 250"
        ]
    );
    let heard = server.first();
    assert!(heard.messages[1].is_empty());
    assert_eq!(
        heard.verbs(),
        "MAIL RCPT DATA . MAIL RCPT DATA . MAIL RCPT DATA ."
    );
}

#[tokio::test]
async fn when_the_relay_ends_after_the_dot_the_chained_message_was_never_tried() {
    let script = Script::new(true).on(Phase::Dot, say_and_close("421 done with you"));
    let (_server, mut session) = session(script).await;
    let (outcome, next) = session.send(&job(1, "one"), || Some(job(1, "two"))).await;
    assert_eq!(brief(&outcome), ["NotTried Dot 421"]);
    assert!(next.is_some() && !session.is_usable() && !session.maybe_accepted());

    let script = Script::new(true).on(Phase::Dot, say_and_close("250 queued"));
    let (_server, mut session) = crate::session(script).await;
    let (first, second) = (job(1, "one"), job(1, "two"));
    let (outcome, next) = session.send(&first, || Some(Arc::clone(&second))).await;
    assert_eq!(brief(&outcome), ["Delivered Dot 250"]);
    let outcome = session.send(&next.unwrap(), || None).await.0;
    assert_eq!(brief(&outcome), ["NotTried Mail -"]);
    assert!(!session.is_usable());
}

#[tokio::test]
async fn another_message_than_the_chained_one_is_never_sent_in_its_name() {
    let (server, mut session) = session(Script::new(true)).await;
    let (_, next) = session.send(&job(1, "one"), || Some(job(1, "two"))).await;
    assert!(next.is_some());
    let mut other = message(1);
    other.to[0] = "else@example.com".to_owned();
    let outcome = send(&mut session, &other).await;
    assert_eq!(brief(&outcome), ["NotTried Mail -"]);
    assert!(detail(&outcome).contains("already written"));
    drop(session);
    assert_eq!(server.ended().await.messages.len(), 1);
}

#[tokio::test]
async fn a_session_with_a_chained_message_is_left_without_quit() {
    let (server, mut session) = session(Script::new(true)).await;
    session.send(&job(1, "one"), || Some(job(1, "two"))).await;
    session.quit().await;
    let heard = server.ended().await;
    assert_eq!(heard.messages.len(), 1);
    assert!(!heard.verbs().contains("QUIT"));
}

#[tokio::test]
async fn a_next_message_that_cannot_be_chained_is_sent_by_itself() {
    for (recipients, bad) in [(150, false), (1, true)] {
        let (server, mut session) = session(Script::new(true)).await;
        let mut second = message(recipients);
        if bad {
            second.from = "a\r\n@b".to_owned();
        }
        let (_, next) = session
            .send(&job(1, "one"), || Some(Arc::new(second)))
            .await;
        assert_eq!(server.first().verbs(), "MAIL RCPT DATA .");
        let outcome = session.send(&next.unwrap(), || None).await.0;
        let expected = if bad {
            "Permanent Mail -"
        } else {
            "Delivered Dot 250"
        };
        assert_eq!(brief(&outcome), vec![expected; recipients]);
        assert!(session.is_usable());
    }
}

#[tokio::test]
async fn many_recipients_go_out_in_groups_and_keep_their_order() {
    for pipelining in [true, false] {
        let mut script = Script::new(pipelining);
        for i in 0..1000 {
            script = script.on(
                Phase::Rcpt,
                say(if i % 3 == 0 { "550 no" } else { "250 ok" }),
            );
        }
        let (server, mut session) = session(script).await;
        let expected: Vec<_> = (0..1000)
            .map(|i| {
                if i % 3 == 0 {
                    "Permanent Rcpt 550"
                } else {
                    "Delivered Dot 250"
                }
            })
            .collect();
        assert_eq!(brief(&send(&mut session, &message(1000)).await), expected);
        assert_eq!(server.first().messages.len(), 1);
    }
}

#[tokio::test]
async fn an_open_transaction_is_reset_before_the_next_message_and_in_its_write() {
    for pipelining in [true, false] {
        let mut script = Script::new(pipelining)
            .on(Phase::Rcpt, say("550 no"))
            .on(Phase::Data, say("554 no recipients"));
        if pipelining {
            script = script.on(Phase::Rset, defer("250 reset"));
        } else {
            script = Script::new(false).on(Phase::Rcpt, say("550 no"));
        }
        let (server, mut session) = session(script).await;
        assert_eq!(
            brief(&send(&mut session, &message(1)).await),
            ["Permanent Rcpt 550"]
        );
        assert_eq!(
            brief(&send(&mut session, &message(1)).await),
            ["Delivered Dot 250"]
        );
        assert_eq!(
            brief(&send(&mut session, &message(1)).await),
            ["Delivered Dot 250"]
        );
        let first = if pipelining {
            "MAIL RCPT DATA"
        } else {
            "MAIL RCPT"
        };
        let rest = "RSET MAIL RCPT DATA . MAIL RCPT DATA .";
        assert_eq!(server.first().verbs(), format!("{first} {rest}"));
    }
}

#[tokio::test]
async fn a_refused_reset_ends_the_session_and_counts_for_nothing() {
    // One that does not know RSET is in no trouble: that is no reply about the message or the relay.
    for (pipelining, says, result) in [
        (true, "500 what", "NotTried Rset -"),
        (false, "502 what", "NotTried Rset -"),
        (true, "503 what", "NotTried Rset 503"),
        (false, "451 what", "NotTried Rset 451"),
    ] {
        let script = Script::new(pipelining)
            .on(Phase::Data, say("451 later"))
            .on(Phase::Rset, say(says));
        let (server, mut session) = session(script).await;
        assert_eq!(
            brief(&send(&mut session, &message(1)).await),
            ["Transient Data 451"]
        );
        assert_eq!(brief(&send(&mut session, &message(1)).await), [result]);
        assert!(!session.is_usable());
        assert!(server.first().messages.is_empty());
    }
}
