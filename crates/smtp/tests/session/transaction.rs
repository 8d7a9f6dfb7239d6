//! One message, with and without PIPELINING: replies become verdicts, recipient by recipient.

use std::sync::Arc;

use mail_smtp::{Dsn, Notify, Outcome, Phase, Ret};

use crate::{
    brief, detail, message, message_saying, send, session,
    support::{Act, Script, say},
};

/// What a message to two recipients comes to: replies by phase, verdicts, whether the session lives on,
/// and what the server heard, pipelined and one by one.
struct Case {
    says: &'static [(Phase, &'static str)],
    results: &'static [&'static str],
    usable: bool,
    pipelined: &'static str,
    single: &'static str,
}

const WHOLE: &str = "MAIL RCPT RCPT DATA .";
const OPEN: &str = "MAIL RCPT RCPT DATA";
const CONFIRMED: &str = "MAIL RCPT RCPT DATA RSET";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // The dot's reply is the verdict, whatever its form.
    Case { says: &[], results: &["Delivered Dot 250"; 2], usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Dot, "250")],
           results: &["Delivered Dot 250"; 2], usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Dot, "250-2.0.0 a\r\n250-\r\n250 b")],
           results: &["Delivered Dot 250"; 2], usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Dot, "299 done")],
           results: &["Delivered Dot 299"; 2], usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Dot, "451 4.3.0 later")],
           results: &["Transient Dot 451"; 2], usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Dot, "554 5.7.1 spam")],
           results: &["Permanent Dot 554"; 2], usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Dot, "354 again")],
           results: &["Uncertain Dot 354"; 2], usable: false, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Dot, "thank you")],
           results: &["Uncertain Dot -"; 2], usable: false, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Dot, "421 bye")],
           results: &["NotTried Dot 421"], usable: false, pipelined: WHOLE, single: WHOLE },
    // One recipient's refusal is its own.
    Case { says: &[(Phase::Rcpt, "550 5.1.1 who")], results: &["Permanent Rcpt 550", "Delivered Dot 250"],
           usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Rcpt, "250"), (Phase::Rcpt, "450 4.2.0 grey")],
           results: &["Delivered Dot 250", "Transient Rcpt 450"], usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Rcpt, "251 will forward"), (Phase::Rcpt, "252 perhaps")],
           results: &["Delivered Dot 250"; 2], usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Rcpt, "550 who"), (Phase::Dot, "451 later")],
           results: &["Permanent Rcpt 550", "Transient Dot 451"], usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Rcpt, "550 who"), (Phase::Dot, "421 bye")],
           results: &["Permanent Rcpt 550", "Untried Dot 421"], usable: false, pipelined: WHOLE, single: WHOLE },
    // Too many recipients, new and old.
    Case { says: &[(Phase::Rcpt, "250 ok"), (Phase::Rcpt, "452 4.5.3 too many")],
           results: &["Delivered Dot 250", "Transient Rcpt 452"], usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Rcpt, "250 ok"), (Phase::Rcpt, "552 too many")],
           results: &["Delivered Dot 250", "Transient Rcpt 552"], usable: true, pipelined: WHOLE, single: WHOLE },
    Case { says: &[(Phase::Rcpt, "552 full"), (Phase::Rcpt, "250 ok")],
           results: &["Permanent Rcpt 552", "Delivered Dot 250"], usable: true, pipelined: WHOLE, single: WHOLE },
    // All refused: no text goes out, but a DATA that was opened is closed.
    Case { says: &[(Phase::Rcpt, "550 no"), (Phase::Rcpt, "551 no"), (Phase::Data, "554 no recipients")],
           results: &["Permanent Rcpt 550", "Permanent Rcpt 551"], usable: true, pipelined: OPEN, single: "MAIL RCPT RCPT" },
    Case { says: &[(Phase::Rcpt, "550 no"), (Phase::Rcpt, "450 no")],
           results: &["Permanent Rcpt 550", "Transient Rcpt 450"], usable: true, pipelined: WHOLE, single: "MAIL RCPT RCPT RSET" },
    Case { says: &[(Phase::Mail, "550 5.1.8 no"), (Phase::Rcpt, "503 no"), (Phase::Rcpt, "503 no"), (Phase::Data, "503 no")],
           results: &["Permanent Mail 550"; 2], usable: true, pipelined: OPEN, single: "MAIL" },
    Case { says: &[(Phase::Mail, "451 4.3.2 no")],
           results: &["Transient Mail 451"; 2], usable: true, pipelined: WHOLE, single: "MAIL" },
    // DATA.
    Case { says: &[(Phase::Data, "451 no")],
           results: &["Transient Data 451"; 2], usable: true, pipelined: OPEN, single: OPEN },
    Case { says: &[(Phase::Data, "554 no")],
           results: &["Permanent Data 554"; 2], usable: true, pipelined: CONFIRMED, single: CONFIRMED },
    Case { says: &[(Phase::Data, "250 ok")],
           results: &["Transient Data 250"; 2], usable: false, pipelined: OPEN, single: OPEN },
    Case { says: &[(Phase::Data, "353 go")],
           results: &["Transient Data 353"; 2], usable: false, pipelined: OPEN, single: OPEN },
    Case { says: &[(Phase::Data, "354 go\r\n250 ok")],
           results: &["Transient Data 250"; 2], usable: false, pipelined: OPEN, single: OPEN },
    // Replies that answer nothing.
    Case { says: &[(Phase::Rcpt, "354 go")],
           results: &["Transient Rcpt 354"; 2], usable: false, pipelined: OPEN, single: "MAIL RCPT" },
    // 421 is the relay's state: whom it has judged before stays judged, the others were not tried.
    Case { says: &[(Phase::Mail, "421 4.3.2 bye")],
           results: &["NotTried Mail 421"], usable: false, pipelined: OPEN, single: "MAIL" },
    Case { says: &[(Phase::Rcpt, "250 ok"), (Phase::Rcpt, "421 bye")],
           results: &["NotTried Rcpt 421"], usable: false, pipelined: OPEN, single: "MAIL RCPT RCPT" },
    Case { says: &[(Phase::Rcpt, "550 who"), (Phase::Rcpt, "421 bye")],
           results: &["Permanent Rcpt 550", "Untried Rcpt 421"], usable: false, pipelined: OPEN, single: "MAIL RCPT RCPT" },
    Case { says: &[(Phase::Rcpt, "550 who"), (Phase::Data, "421 bye")],
           results: &["Permanent Rcpt 550", "Untried Data 421"], usable: false, pipelined: OPEN, single: OPEN },
    Case { says: &[(Phase::Rcpt, "450 grey"), (Phase::Data, "354 go\r\n421 bye")],
           results: &["Transient Rcpt 450", "Untried Data 421"], usable: false, pipelined: OPEN, single: OPEN },
    Case { says: &[(Phase::Data, "421 bye")],
           results: &["NotTried Data 421"], usable: false, pipelined: OPEN, single: OPEN },
];

#[tokio::test]
async fn replies_become_verdicts() {
    for (number, case) in CASES.iter().enumerate() {
        for pipelining in [true, false] {
            let mut script = Script::new(pipelining);
            for (phase, reply) in case.says {
                script = script.on(*phase, say(reply));
            }
            let (server, mut session) = session(script).await;
            let outcome = send(&mut session, &message(2)).await;
            let context = format!("case {number} {:?} pipelining {pipelining}", case.says);
            assert_eq!(brief(&outcome), case.results, "{context}");
            assert_eq!(session.is_usable(), case.usable, "{context}");
            session.quit().await;
            let heard = if pipelining {
                case.pipelined
            } else {
                case.single
            };
            let bye = if case.usable { " QUIT" } else { "" };
            // What the server had not read when we hung up does not count.
            let verbs = server.ended().await.verbs();
            let expected = format!("{heard}{bye}");
            let same = if case.usable {
                verbs == expected
            } else {
                expected.starts_with(&verbs)
            };
            assert!(same, "{context}: heard {verbs}, expected {expected}");
        }
    }
}

#[tokio::test]
async fn a_message_arrives_as_it_was_with_lines_ended_and_dots_doubled() {
    for pipelining in [true, false] {
        let (server, mut session) = session(Script::new(pipelining)).await;
        let mut message = message_saying(1, "a\n.\nb\r\n..c\rd");
        message.from = String::new();
        assert_eq!(
            brief(&send(&mut session, &message).await),
            ["Delivered Dot 250"]
        );
        let heard = server.first();
        let commands = [
            "EHLO client.example",
            "MAIL FROM:<>",
            "RCPT TO:<to0@example.com>",
            "DATA",
            ".",
        ];
        assert_eq!(heard.commands, commands);
        let text = "Subject: x\r\n\r\na\r\n..\r\nb\r\n...c\r\nd\r\n";
        assert_eq!(String::from_utf8_lossy(&heard.messages[0]), text);
    }
}

#[tokio::test]
async fn a_large_message_arrives_whole() {
    for pipelining in [true, false] {
        let (server, mut session) = session(Script::new(pipelining)).await;
        let line = "0123456789 0123456789 0123456789 0123456789\r\n";
        let message = message_saying(1, &line.repeat(100_000));
        assert_eq!(
            brief(&send(&mut session, &message).await),
            ["Delivered Dot 250"]
        );
        assert!(server.first().messages[0] == message.data.to_vec());
    }
}

#[tokio::test]
async fn a_reply_in_another_encoding_or_with_bare_line_feeds_is_understood() {
    for reply in [&b"250 angenommen f\xfcr Sie\n"[..], b"250-a\n250 b\n"] {
        let (_server, mut session) =
            session(Script::new(true).on(Phase::Dot, Act::Say(reply.to_vec()))).await;
        assert_eq!(
            brief(&send(&mut session, &message(1)).await),
            ["Delivered Dot 250"]
        );
        assert!(session.is_usable());
    }
}

#[tokio::test]
async fn an_over_long_reply_is_read_and_what_is_no_reply_after_the_dot_is_uncertain() {
    let long = format!("250 {}", "x".repeat(60_000));
    let longer = format!("250 {}", "x".repeat(700_000));
    let many = "250-x\r\n".repeat(50_000) + "250 x";
    let refusal = "450-x\r\n".repeat(50_000) + "550 x";
    let contradiction = "250-x\r\n".repeat(50_000) + "550 x";
    for pipelining in [true, false] {
        for (reply, result) in [
            (long.as_str(), "Delivered Dot 250"),
            (&longer, "Delivered Dot 250"),
            (&many, "Delivered Dot 250"),
            (&refusal.replace("450", "550"), "Permanent Dot 550"),
            (&refusal, "Uncertain Dot -"),
            (&contradiction, "Uncertain Dot -"),
            ("650 2.0.0 ok", "Uncertain Dot -"),
            ("25 ok", "Uncertain Dot -"),
            ("2500 ok", "Uncertain Dot -"),
            ("250OK", "Delivered Dot 250"),
            ("250\r", "Delivered Dot 250"),
            ("250-ok\r\r\n250queued\r", "Delivered Dot 250"),
            ("550No", "Permanent Dot 550"),
            ("450:later", "Transient Dot 450"),
            ("ok", "Uncertain Dot -"),
            ("", "Uncertain Dot -"),
            ("250-ok\r\n550 no", "Uncertain Dot -"),
            ("250-ok\r\nqueued", "Uncertain Dot -"),
            ("\u{0}250 ok", "Uncertain Dot -"),
        ] {
            let script = Script::new(pipelining).on(Phase::Dot, say(reply));
            let (server, mut session) = session(script).await;
            let outcome = send(&mut session, &message(1)).await;
            assert_eq!(brief(&outcome), [result], "{reply:.40}");
            let good = !result.starts_with("Uncertain");
            assert_eq!(session.is_usable(), good);
            assert_eq!(session.maybe_accepted(), !good);
            if !good {
                server.ended().await;
            }
        }
    }
}

#[tokio::test]
async fn the_enhanced_code_is_read_and_the_text_kept() {
    let script = Script::new(true).on(Phase::Rcpt, say("550-5.1.1 no such\r\n550 5.1.1 mailbox"));
    let (_server, mut session) = session(script).await;
    let Outcome::Judged(results) = send(&mut session, &message(1)).await else {
        panic!()
    };
    let reply = results[0].reply.clone().unwrap();
    let enhanced = reply.enhanced.unwrap();
    assert_eq!(
        (enhanced.class, enhanced.subject, enhanced.detail),
        (5, 1, 1)
    );
    assert_eq!(reply.text, "5.1.1 no such\n5.1.1 mailbox");
}

#[tokio::test]
async fn what_the_relay_cannot_take_is_refused_without_a_word() {
    let mut to_utf8 = message(2);
    to_utf8.to[1] = "jürgen@example.com".to_owned();
    let mut from_utf8 = message(2);
    from_utf8.from = "jürgen@example.com".to_owned();
    let mut unsafe_to = message(2);
    unsafe_to.to[0] = "a@b>\r\nRCPT TO:<c@d".to_owned();
    let mail = ["Permanent Mail -"; 2];
    for pipelining in [true, false] {
        for (message, results, says, heard) in [
            (
                &message_saying(2, &"x".repeat(90)),
                &mail,
                "message is 104 bytes, the relay accepts 100",
                "",
            ),
            (&message_saying(2, "é"), &mail, "8BITMIME", ""),
            (&from_utf8, &mail, "SMTPUTF8", ""),
            (
                &to_utf8,
                &["Delivered Dot 250", "Permanent Rcpt -"],
                "",
                "MAIL RCPT DATA .",
            ),
            (
                &unsafe_to,
                &["Permanent Rcpt -", "Delivered Dot 250"],
                "control",
                "MAIL RCPT DATA .",
            ),
        ] {
            let (server, mut session) = session(Script::new(pipelining).offer(&["size 100"])).await;
            let outcome = send(&mut session, message).await;
            assert_eq!(brief(&outcome), results);
            assert!(detail(&outcome).contains(says), "{outcome:?}");
            assert!(session.is_usable());
            assert_eq!(server.first().verbs(), heard);
        }
    }
}

#[tokio::test]
async fn parameters_of_mail_follow_what_is_offered() {
    let offered = ["Size 100000", "8bitMIME", "smtputf8"];
    let (server, mut session) = session(Script::new(true).offer(&offered)).await;
    let mut message = message_saying(1, "é");
    message.to[0] = "jürgen@example.com".to_owned();
    assert_eq!(
        brief(&send(&mut session, &message).await),
        ["Delivered Dot 250"]
    );
    let mail = "MAIL FROM:<from@example.com> SIZE=16 BODY=8BITMIME SMTPUTF8";
    assert_eq!(server.first().commands[1], mail);
}

#[tokio::test]
async fn a_domain_beyond_ascii_needs_no_smtputf8() {
    for pipelining in [true, false] {
        for offered in [&["DSN"][..], &["SMTPUTF8"]] {
            let (server, mut session) = session(Script::new(pipelining).offer(offered)).await;
            let mut message = message(2);
            message.from = "from@bücher.example".to_owned();
            message.to[1] = "to@Bücher.example".to_owned();
            let outcome = send(&mut session, &message).await;
            assert_eq!(brief(&outcome), ["Delivered Dot 250"; 2]);
            let heard = [
                "MAIL FROM:<from@xn--bcher-kva.example>",
                "RCPT TO:<to0@example.com>",
                "RCPT TO:<to@xn--bcher-kva.example>",
            ];
            assert_eq!(server.first().commands[1..4], heard);
        }
    }
}

#[tokio::test]
async fn reports_are_asked_for_where_they_are_offered_and_chained_all_the_same() {
    let mut message = message(1);
    message.dsn = Dsn {
        ret: Some(Ret::Headers),
        envid: Some("order 7".to_owned()),
        notify: Notify::On {
            success: false,
            failure: true,
            delay: true,
        },
    };
    let message = Arc::new(message);
    for pipelining in [true, false] {
        for (offered, mail, rcpt) in [
            (
                "dsn",
                "MAIL FROM:<from@example.com> RET=HDRS ENVID=order+207",
                "RCPT TO:<to0@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;to0@example.com",
            ),
            (
                "X-DSN",
                "MAIL FROM:<from@example.com>",
                "RCPT TO:<to0@example.com>",
            ),
        ] {
            let (server, mut session) = session(Script::new(pipelining).offer(&[offered])).await;
            let (outcome, next) = session.send(&message, || Some(Arc::clone(&message))).await;
            assert_eq!(brief(&outcome), ["Delivered Dot 250"]);
            let outcome = send(&mut session, &next.unwrap_or_else(|| Arc::clone(&message))).await;
            assert_eq!(brief(&outcome), ["Delivered Dot 250"]);
            let heard = server.first().commands;
            let each = [mail, rcpt, "DATA", "."];
            assert_eq!(heard[1..], [each, each].concat());
        }
    }
}

#[tokio::test]
async fn a_message_to_nobody_is_judged_at_once() {
    let (server, mut session) = session(Script::new(true)).await;
    assert!(brief(&send(&mut session, &message(0)).await).is_empty());
    assert_eq!(server.first().verbs(), "");
}
