//! Silence, broken connections and cancelled sends: nothing is taken for accepted that was not, and what
//! may have been is called uncertain.

use std::{sync::Arc, time::Duration};

use mail_smtp::{Outcome, Phase, Timeouts};
use tokio::{sync::Notify, time::timeout};

use crate::{
    SHORT, brief, detail, message, message_saying, patient, send, session, session_with,
    support::{Act, Script, say, say_and_close},
};

#[tokio::test]
async fn silence_ends_the_session_and_says_where() {
    let short = |change: fn(&mut Timeouts)| {
        let mut timeouts = patient();
        change(&mut timeouts);
        timeouts
    };
    let envelope = short(|t| t.envelope = SHORT);
    let data = short(|t| t.data_init = SHORT);
    let done = short(|t| t.data_done = SHORT);
    for pipelining in [true, false] {
        for (phase, timeouts, result, says) in [
            (
                Phase::Mail,
                envelope,
                "Transient Mail -",
                "the reply to MAIL",
            ),
            (
                Phase::Rcpt,
                envelope,
                "Transient Rcpt -",
                "the reply to RCPT",
            ),
            (Phase::Data, data, "Transient Data -", "the reply to DATA"),
            (
                Phase::Dot,
                done,
                "Uncertain Dot -",
                "the reply to the final dot",
            ),
        ] {
            let script = Script::new(pipelining).on(phase, Act::Silence);
            let (server, mut session) = session_with(script, timeouts).await;
            let outcome = send(&mut session, &message(1)).await;
            assert_eq!(brief(&outcome), [result]);
            server.ended().await;
            assert_eq!(
                detail(&outcome),
                format!("timed out after 0.1 s waiting for {says}")
            );
            assert!(!session.is_usable());
            assert_eq!(session.maybe_accepted(), phase == Phase::Dot);
            let outcome = send(&mut session, &message(1)).await;
            assert_eq!(brief(&outcome), ["NotTried Mail -"]);
            assert!(detail(&outcome).contains("no longer usable"));
        }
    }
}

#[tokio::test]
async fn a_lost_connection_is_transient_before_the_dot_and_uncertain_after() {
    for pipelining in [true, false] {
        for (phase, result) in [
            (Phase::Mail, "Transient Mail -"),
            (Phase::Rcpt, "Transient Rcpt -"),
            (Phase::Data, "Transient Data -"),
            (Phase::Dot, "Uncertain Dot -"),
        ] {
            let (_server, mut session) =
                session(Script::new(pipelining).on(phase, Act::Close)).await;
            let outcome = send(&mut session, &message(1)).await;
            assert_eq!(brief(&outcome), [result], "{outcome:?}");
            assert!(detail(&outcome).contains("connection"), "{outcome:?}");
            assert!(!session.is_usable());
        }
    }
}

#[tokio::test]
async fn what_was_judged_stays_judged_when_the_connection_is_lost() {
    for pipelining in [true, false] {
        let script = Script::new(pipelining)
            .on(Phase::Rcpt, say("550 no"))
            .on(Phase::Data, Act::Close);
        let (_server, mut session) = session(script).await;
        let outcome = send(&mut session, &message(2)).await;
        assert_eq!(brief(&outcome), ["Permanent Rcpt 550", "Transient Data -"]);
    }
}

#[tokio::test]
async fn half_a_reply_is_no_reply() {
    for (words, result) in [
        (&b"250 queue"[..], "Uncertain Dot -"),
        (b"250-a\r\n", "Uncertain Dot -"),
    ] {
        let script = Script::new(true).on(Phase::Dot, Act::SayAndClose(words.to_vec()));
        let (_server, mut session) = session(script).await;
        assert_eq!(brief(&send(&mut session, &message(1)).await), [result]);
    }
}

#[tokio::test]
async fn a_kept_connection_that_breaks_before_it_answers_was_stale() {
    for pipelining in [true, false] {
        for (phase, result) in [
            (Phase::Mail, "NotTried Mail -"),
            (Phase::Rcpt, "Transient Rcpt -"),
        ] {
            let script = Script::new(pipelining)
                .on(phase, say("250 ok"))
                .on(phase, Act::Close);
            let (_server, mut session) = session(script).await;
            assert_eq!(
                brief(&send(&mut session, &message(1)).await),
                ["Delivered Dot 250"]
            );
            assert_eq!(brief(&send(&mut session, &message(1)).await), [result]);
            assert!(!session.is_usable());
        }
    }
}

#[tokio::test]
async fn a_relay_that_hangs_up_while_idle_has_tried_nothing() {
    for (words, result) in [
        (
            "250 queued\r\n421 4.4.2 idle for too long",
            "NotTried Mail 421",
        ),
        ("250 queued", "NotTried Mail -"),
    ] {
        let script = Script::new(true).on(Phase::Dot, say_and_close(words));
        let (server, mut session) = session(script).await;
        assert_eq!(
            brief(&send(&mut session, &message(1)).await),
            ["Delivered Dot 250"]
        );
        server.ended().await;
        assert_eq!(brief(&send(&mut session, &message(1)).await), [result]);
        assert!(!session.is_usable());
        assert_eq!(server.first().messages.len(), 1);
    }
}

#[tokio::test]
async fn a_reply_to_nothing_is_never_taken_for_an_answer() {
    let script = Script::new(true).on(Phase::Dot, say("250 queued\r\n250 and another"));
    let (server, mut session) = session(script).await;
    assert_eq!(
        brief(&send(&mut session, &message(1)).await),
        ["Delivered Dot 250"]
    );
    let outcome = send(&mut session, &message(1)).await;
    assert_eq!(brief(&outcome), ["NotTried Mail 250"]);
    assert!(detail(&outcome).contains("out of turn"), "{outcome:?}");
    assert_eq!(server.first().messages.len(), 1);
}

#[tokio::test]
async fn a_354_that_comes_before_data_is_said_opens_nothing() {
    let script = Script::new(false)
        .on(Phase::Rcpt, say("250 ok"))
        .on(Phase::Rcpt, say("550 no\r\n354 go"))
        .on(Phase::Data, say("250 ok"));
    let (server, mut session) = session(script).await;
    let outcome = send(&mut session, &message(2)).await;
    assert_eq!(brief(&outcome), ["Transient Data 354"; 2]);
    assert!(!session.is_usable() && server.first().messages.is_empty());
}

#[tokio::test]
async fn a_connection_cut_within_the_text_has_accepted_nothing() {
    for pipelining in [true, false] {
        for (words, result) in [
            (&b""[..], "Transient Body -"),
            (b"552 5.3.4 too big\r\n", "Permanent Body 552"),
            (b"452 4.3.1 no room\r\n", "Transient Body 452"),
            (b"421 4.3.2 bye\r\n", "NotTried Body 421"),
            (b"250 thanks\r\n", "Transient Body 250"),
        ] {
            let script =
                Script::new(pipelining).on(Phase::Body, Act::CutBody(1000, words.to_vec()));
            let (_server, mut session) = session(script).await;
            let message = message_saying(1, &"0123456789\r\n".repeat(2_000_000));
            let outcome = send(&mut session, &message).await;
            assert_eq!(brief(&outcome), [result], "{outcome:?}");
            assert!(!session.is_usable() && !session.maybe_accepted());
        }
    }
}

#[tokio::test]
async fn a_relay_that_answers_within_the_text_and_stops_reading_is_heard_at_once() {
    let big = message_saying(2, &"0123456789\r\n".repeat(2_000_000));
    for pipelining in [true, false] {
        for (words, results) in [
            (
                &b"552 5.3.4 too big\r\n"[..],
                &["Permanent Rcpt 550", "Permanent Body 552"][..],
            ),
            (
                b"452 4.3.1 no room\r\n",
                &["Permanent Rcpt 550", "Transient Body 452"],
            ),
            (
                b"421 4.3.2 bye\r\n",
                &["Permanent Rcpt 550", "Untried Body 421"],
            ),
            (
                b"250 2.0.0 queued\r\n",
                &["Transient Body 250", "Transient Body 250"],
            ),
        ] {
            for limit in [1, 1_000_000] {
                let script = Script::new(pipelining)
                    .on(Phase::Rcpt, say("550 no"))
                    .on(Phase::Body, Act::BalkAt(limit, words.to_vec()));
                // The patience for a block is ten seconds.
                let (_server, mut session) = session(script).await;
                let outcome = timeout(Duration::from_secs(5), send(&mut session, &big))
                    .await
                    .expect("no waiting for the relay to read on");
                assert_eq!(brief(&outcome), results, "{outcome:?}");
                assert!(!session.is_usable() && !session.maybe_accepted());
            }
        }
    }
}

#[tokio::test]
async fn a_relay_that_stops_reading_within_the_text_times_out() {
    let told = Arc::new(Notify::new());
    let script = Script::new(true).on(Phase::Data, say("354 go"));
    let script = script.on(Phase::Body, Act::SayWhen(Arc::clone(&told), vec![]));
    let timeouts = Timeouts {
        data_block: SHORT,
        ..patient()
    };
    let (_server, mut session) = session_with(script, timeouts).await;
    let message = message_saying(1, &"0123456789\r\n".repeat(2_000_000));
    let outcome = send(&mut session, &message).await;
    assert_eq!(brief(&outcome), ["Transient Body -"]);
    assert_eq!(
        detail(&outcome),
        "timed out after 0.1 s sending the message"
    );
    assert!(!session.is_usable() && !session.maybe_accepted());
}

#[tokio::test]
async fn a_send_dropped_before_the_dot_has_accepted_nothing() {
    for pipelining in [true, false] {
        for (phase, verb) in [
            (Phase::Mail, "MAIL"),
            (Phase::Rcpt, "RCPT"),
            (Phase::Data, "DATA"),
        ] {
            let script = Script::new(pipelining).on(phase, Act::Silence);
            let (server, mut session) = session(script).await;
            let message = message(1);
            tokio::select! {
                _ = send(&mut session, &message) => panic!("the server is silent"),
                () = server.until(|c| c[0].verbs().contains(verb)) => {}
            }
            assert!(!session.is_usable() && !session.maybe_accepted());
            let outcome = send(&mut session, &message).await;
            assert!(matches!(outcome, Outcome::NotTried(_)));
        }
    }
}

#[tokio::test]
async fn a_send_dropped_after_the_dot_may_have_been_accepted() {
    for pipelining in [true, false] {
        let script = Script::new(pipelining).on(Phase::Dot, Act::Silence);
        let (server, mut session) = session(script).await;
        let message = message(1);
        tokio::select! {
            _ = send(&mut session, &message) => panic!("the server is silent"),
            () = server.until(|c| !c[0].messages.is_empty()) => {}
        }
        assert!(!session.is_usable() && session.maybe_accepted());
        session.quit().await;
        assert_eq!(server.ended().await.verbs(), "MAIL RCPT DATA .");
    }
}

#[tokio::test]
async fn quit_is_said_and_does_not_wait_for_ever() {
    let (server, session) = session(Script::new(true)).await;
    session.quit().await;
    assert_eq!(
        server.ended().await.commands.last().map(String::as_str),
        Some("QUIT")
    );

    let (_server, session) = crate::session(Script::new(true).on(Phase::Quit, Act::Silence)).await;
    timeout(Duration::from_secs(5), session.quit())
        .await
        .expect("a bounded goodbye");
}
