//! After the final dot: the first digit decides, and what says nothing leaves the mail uncertain.

use pgmq_mail_tests::Phase::{Dot, Rcpt};

use super::Does::{Both, Chatters, HangsUp, Says, SaysAndHangsUp, TakesAndHangsUp, Writes};
use super::{Case, Mails, ONE, in_both_modes, naming, once};

in_both_modes!(CASES);

/// Perhaps accepted, and so repeated: at least once.
const REPEATED: Case = Case {
    ends: &[("sent", 2)],
    story: &["uncertain dot", "sent 250 dot"],
    seen: Some(2),
    ..ONE
};

/// Perhaps accepted, and so left to a person: at most once.
const HELD: Case = Case {
    queue: &[("on_uncertain", "hold")],
    ends: &[("uncertain", 1)],
    story: &["held dot"],
    seen: Some(1),
    ..ONE
};

const PUT_OFF: Case = Case {
    ends: &[("sent", 2)],
    seen: Some(2),
    ..ONE
};

const REFUSED: Case = Case {
    ends: &[("failed", 1)],
    copies: &[0],
    seen: Some(1),
    ..ONE
};

const CASES: &[Case] = &[
    Case {
        name: "250 as a code only",
        relay: &[once(Dot, Says("250"))],
        ..ONE
    },
    Case {
        name: "250 and a space",
        relay: &[once(Dot, Says("250 "))],
        ..ONE
    },
    Case {
        name: "250 with a bare line feed",
        relay: &[once(Dot, Writes(b"250 2.0.0 Ok\n"))],
        ..ONE
    },
    Case {
        name: "250 with its text right behind it",
        relay: &[once(Dot, Writes(b"250OK\r\n"))],
        ..ONE
    },
    Case {
        name: "250 with one CR too many",
        relay: &[once(Dot, Writes(b"250\r\r\n"))],
        ..ONE
    },
    Case {
        name: "554 with its text right behind it",
        relay: &[once(Dot, Writes(b"554-No\r\r\n554No\r\r\n"))],
        ends: &[("failed", 1)],
        story: &["failed 554 dot"],
        copies: &[0],
        seen: Some(1),
        ..ONE
    },
    Case {
        name: "250 in several lines",
        relay: &[once(
            Dot,
            Says("250-2.0.0 Ok\r\n250-\r\n250 queued as 12345"),
        )],
        ..ONE
    },
    Case {
        name: "251 is an acceptance",
        relay: &[once(Dot, Says("251 2.0.0 Will forward"))],
        story: &["sent 251 dot"],
        ..ONE
    },
    Case {
        name: "200 is an acceptance",
        relay: &[once(Dot, Says("200 Ok"))],
        story: &["sent 200 dot"],
        ..ONE
    },
    Case {
        name: "299 is an acceptance",
        relay: &[once(Dot, Says("299"))],
        story: &["sent 299 dot"],
        ..ONE
    },
    Case {
        name: "250 in bytes that are not UTF-8",
        relay: &[once(Dot, Writes(b"250 2.0.0 caf\xe9 \xff\xfe queued\r\n"))],
        ..ONE
    },
    Case {
        name: "250 with a zero byte in its text",
        relay: &[once(Dot, Writes(b"250 2.0.0 a\0b\r\n"))],
        ..ONE
    },
    Case {
        name: "250 that says 5.7.1",
        relay: &[once(Dot, Says("250 5.7.1 Refused"))],
        ..ONE
    },
    Case {
        name: "250 in 30 kB",
        relay: &[once(Dot, Chatters(250, 30_000))],
        ..ONE
    },
    Case {
        name: "250 in 200 kB",
        relay: &[once(Dot, Chatters(250, 200_000))],
        ..ONE
    },
    Case {
        name: "451 puts the mail off",
        relay: &[once(Dot, Says("451 4.3.0 Later"))],
        story: &["deferred 451 dot", "sent 250 dot"],
        connections: Some(1),
        ..PUT_OFF
    },
    Case {
        name: "452 puts the mail off",
        relay: &[once(Dot, Says("452-4.3.1 No\r\n452 4.3.1 room"))],
        story: &["deferred 452 dot", "sent 250 dot"],
        ..PUT_OFF
    },
    Case {
        name: "499 puts the mail off",
        relay: &[once(Dot, Says("499"))],
        story: &["deferred 499 dot", "sent 250 dot"],
        ..PUT_OFF
    },
    Case {
        name: "554 refuses the mail",
        relay: &[once(Dot, Says("554 5.7.1 Spam"))],
        story: &["failed 554 dot"],
        ..REFUSED
    },
    Case {
        name: "550 that says 2.0.0 refuses the mail",
        relay: &[once(Dot, Says("550 2.0.0 Ok"))],
        story: &["failed 550 dot"],
        ..REFUSED
    },
    Case {
        name: "a refusal of 200 kB refuses the mail",
        relay: &[once(Dot, Chatters(550, 200_000))],
        story: &["failed 550 dot"],
        ..REFUSED
    },
    Case {
        name: "421, and the connection closes",
        relay: &[once(Dot, SaysAndHangsUp("421 4.3.2 Going down"))],
        story: &["released", "sent 250 dot"],
        seen: Some(2),
        ..ONE
    },
    Case {
        name: "421, and the connection stays",
        relay: &[once(Dot, Says("421 4.3.2 Going down"))],
        story: &["released", "sent 250 dot"],
        seen: Some(2),
        connections: Some(2),
        ..ONE
    },
    Case {
        name: "354 once more",
        relay: &[once(Dot, Says("354 Still waiting"))],
        story: &["uncertain 354 dot", "sent 250 dot"],
        ..REPEATED
    },
    Case {
        name: "words that are no reply",
        relay: &[once(Dot, Says("What a nice day"))],
        ..REPEATED
    },
    Case {
        name: "words that are no reply, where nothing may be repeated",
        relay: &[once(Dot, Says("What a nice day"))],
        copies: &[0],
        ..HELD
    },
    Case {
        name: "an empty line and then 250",
        relay: &[once(Dot, Says("\r\n250 2.0.0 Ok"))],
        ..REPEATED
    },
    Case {
        name: "a code that does not exist",
        relay: &[once(Dot, Says("999 Beyond"))],
        ..REPEATED
    },
    Case {
        name: "a preliminary reply, which SMTP does not have",
        relay: &[once(Dot, Says("150 Just a moment"))],
        ..REPEATED
    },
    Case {
        name: "lines that contradict each other",
        relay: &[once(Dot, Says("250-2.0.0 Ok\r\n550 5.7.1 or not"))],
        copies: &[2],
        ..REPEATED
    },
    Case {
        name: "half a code, and the connection closes",
        relay: &[once(Dot, Both(&Writes(b"2"), &HangsUp))],
        copies: &[2],
        ..REPEATED
    },
    Case {
        name: "250 without a line end, and the connection closes",
        relay: &[once(Dot, Both(&Writes(b"250 2.0.0 O"), &HangsUp))],
        copies: &[2],
        ..REPEATED
    },
    Case {
        name: "the first of two lines, and the connection closes",
        relay: &[once(Dot, Both(&Writes(b"250-2.0.0 Ok\r\n"), &HangsUp))],
        copies: &[2],
        ..REPEATED
    },
    Case {
        name: "the first of two lines of a refusal, and the connection closes",
        relay: &[once(Dot, Both(&Writes(b"554-5.7.1 Spam\r\n"), &HangsUp))],
        ..REPEATED
    },
    Case {
        name: "the connection closes, the mail was accepted",
        relay: &[once(Dot, TakesAndHangsUp)],
        copies: &[2],
        ..REPEATED
    },
    Case {
        name: "the connection closes, the mail was not accepted",
        relay: &[once(Dot, HangsUp)],
        ..REPEATED
    },
    Case {
        name: "the connection closes, the mail was accepted, and nothing may be repeated",
        relay: &[once(Dot, TakesAndHangsUp)],
        ..HELD
    },
    Case {
        name: "the connection closes, the mail was not accepted, and nothing may be repeated",
        relay: &[once(Dot, HangsUp)],
        copies: &[0],
        ..HELD
    },
    Case {
        name: "the mail is refused for the one who was left",
        relay: &[
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
            once(Dot, Says("554 5.7.1 Spam")),
        ],
        to: &["alice", "bob"],
        story: &["alice failed 554 dot", "bob failed 550 rcpt"],
        copies: &[0, 0],
        ..REFUSED
    },
    Case {
        name: "the mail is put off for two",
        relay: &[once(Dot, Says("451 4.3.0 Later"))],
        to: &["alice", "bob"],
        story: &[
            "alice deferred 451 dot",
            "bob deferred 451 dot",
            "alice sent 250 dot",
            "bob sent 250 dot",
        ],
        copies: &[1, 1],
        ..PUT_OFF
    },
    Case {
        name: "the connection closes, and one of three had been refused",
        relay: &[
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
            once(Dot, TakesAndHangsUp),
        ],
        to: &["alice", "bob", "carol"],
        story: &["alice held dot", "bob failed 550 rcpt", "carol held dot"],
        copies: &[1, 0, 1],
        ..HELD
    },
    Case {
        name: "a refused mail costs the next one nothing",
        relay: &[once(Dot, Says("554 5.7.1 Spam"))],
        mails: Mails::AtOnce(2),
        ends: &[("failed", 1), ("sent", 1)],
        story: &["1: failed 554 dot", "2: sent 250 dot"],
        copies: &[0, 1],
        seen: Some(2),
        connections: Some(1),
        ..ONE
    },
];
