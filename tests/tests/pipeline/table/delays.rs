//! Replies that take their time, and come in pieces.

use pgmq_mail_tests::Phase::{Connect, Data, Dot, Ehlo, Mail, Rcpt};

use super::Does::{Agrees, Both, HangsUp, Late, Says, TakesAndHangsUp, Writes};
use super::{Case, Mails, ONE, always, in_both_modes, naming, once};

in_both_modes!(CASES);

const CASES: &[Case] = &[
    Case {
        name: "everything comes late",
        relay: &[
            always(Connect, Late(100, &Agrees)),
            always(Ehlo, Late(100, &Agrees)),
            always(Mail, Late(100, &Agrees)),
            always(Rcpt, Late(100, &Agrees)),
            always(Data, Late(100, &Agrees)),
            always(Dot, Late(100, &Agrees)),
        ],
        to: &["alice", "bob"],
        mails: Mails::AtOnce(3),
        ends: &[("sent", 1), ("sent", 1), ("sent", 1)],
        story: &[
            "1: alice sent 250 dot",
            "1: bob sent 250 dot",
            "2: alice sent 250 dot",
            "2: bob sent 250 dot",
            "3: alice sent 250 dot",
            "3: bob sent 250 dot",
        ],
        copies: &[1; 6],
        connections: Some(1),
        ..ONE
    },
    Case {
        name: "the lines of EHLO come one by one",
        relay: &[always(
            Ehlo,
            Both(
                &Writes(b"250-sink.test\r\n250-SI"),
                &Late(100, &Writes(b"ZE 1000000\r\n250 HELP\r\n")),
            ),
        )],
        ..ONE
    },
    Case {
        name: "the reply to the dot comes in the middle of its code",
        relay: &[always(
            Dot,
            Both(&Writes(b"25"), &Late(100, &Writes(b"0 2.0.0 Ok\r\n"))),
        )],
        mails: Mails::AtOnce(2),
        ends: &[("sent", 1), ("sent", 1)],
        story: &["1: sent 250 dot", "2: sent 250 dot"],
        copies: &[1, 1],
        connections: Some(1),
        ..ONE
    },
    Case {
        name: "the reply to the dot comes in the middle of its line end",
        relay: &[always(
            Dot,
            Both(&Writes(b"250 2.0.0 Ok\r"), &Late(100, &Writes(b"\n"))),
        )],
        mails: Mails::AtOnce(2),
        ends: &[("sent", 1), ("sent", 1)],
        story: &["1: sent 250 dot", "2: sent 250 dot"],
        copies: &[1, 1],
        connections: Some(1),
        ..ONE
    },
    Case {
        name: "the last line of the reply to the dot is late",
        relay: &[once(
            Dot,
            Both(
                &Writes(b"550-5.7.1 No\r\n"),
                &Late(200, &Says("550 5.7.1 really not")),
            ),
        )],
        ends: &[("failed", 1)],
        story: &["failed 550 dot"],
        copies: &[0],
        seen: Some(1),
        ..ONE
    },
    Case {
        name: "one of two recipients is late, and refused",
        relay: &[naming(
            "alice",
            Rcpt,
            Late(300, &Says("550 5.1.1 No such user")),
        )],
        to: &["alice", "bob"],
        ends: &[("failed", 1)],
        story: &["alice failed 550 rcpt", "bob sent 250 dot"],
        copies: &[0, 1],
        ..ONE
    },
    Case {
        name: "421 is late",
        relay: &[once(Mail, Late(300, &Says("421 4.4.5 Too busy")))],
        story: &["released", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "the mail is put off late",
        relay: &[once(Dot, Late(300, &Says("451 4.3.0 Later")))],
        ends: &[("sent", 2)],
        story: &["deferred 451 dot", "sent 250 dot"],
        seen: Some(2),
        ..ONE
    },
    Case {
        name: "the connection closes a while after the dot",
        relay: &[once(Dot, Late(300, &HangsUp))],
        ends: &[("sent", 2)],
        story: &["uncertain dot", "sent 250 dot"],
        seen: Some(2),
        ..ONE
    },
    Case {
        name: "the mail is taken, and a while later the connection closes",
        relay: &[once(Dot, Late(300, &TakesAndHangsUp))],
        queue: &[("on_uncertain", "hold")],
        ends: &[("uncertain", 1)],
        story: &["held dot"],
        ..ONE
    },
];
