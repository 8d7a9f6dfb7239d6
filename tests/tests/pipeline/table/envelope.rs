//! MAIL.

use pgmq_mail_tests::Phase::Mail;

use super::Does::{HangsUp, Says, SaysAndHangsUp, Writes};
use super::{Case, Mails, ONE, always, in_both_modes, once};

in_both_modes!(CASES);

const CASES: &[Case] = &[
    Case {
        name: "the usual",
        seen: Some(1),
        connections: Some(1),
        ..ONE
    },
    Case {
        name: "MAIL is put off",
        relay: &[once(Mail, Says("451 4.3.0 Later"))],
        ends: &[("sent", 2)],
        story: &["deferred 451 mail", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "MAIL is put off twice, for want of room",
        relay: &[
            once(Mail, Says("452 4.3.1 No room")),
            once(Mail, Says("452-4.3.1 Still\r\n452 4.3.1 none")),
        ],
        ends: &[("sent", 3)],
        story: &["deferred 452 mail", "deferred 452 mail", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "MAIL is refused",
        relay: &[once(Mail, Says("550 5.7.1 Not from you"))],
        ends: &[("failed", 1)],
        story: &["failed 550 mail"],
        copies: &[0],
        ..ONE
    },
    Case {
        name: "MAIL is refused by a code only",
        relay: &[once(Mail, Says("553"))],
        ends: &[("failed", 1)],
        story: &["failed 553 mail"],
        copies: &[0],
        ..ONE
    },
    Case {
        name: "the size is refused at MAIL",
        relay: &[once(Mail, Says("552 5.3.4 Too large"))],
        ends: &[("failed", 1)],
        story: &["failed 552 mail"],
        copies: &[0],
        ..ONE
    },
    Case {
        name: "a refused MAIL costs the next mail nothing",
        relay: &[once(Mail, Says("550 5.7.1 Not from you"))],
        mails: Mails::AtOnce(2),
        ends: &[("failed", 1), ("sent", 1)],
        story: &["1: failed 550 mail", "2: sent 250 dot"],
        copies: &[0, 1],
        connections: Some(1),
        ..ONE
    },
    Case {
        name: "MAIL is put off for two recipients",
        relay: &[once(Mail, Says("451 4.3.0 Later"))],
        to: &["alice", "bob"],
        ends: &[("sent", 2)],
        story: &[
            "alice deferred 451 mail",
            "bob deferred 451 mail",
            "alice sent 250 dot",
            "bob sent 250 dot",
        ],
        copies: &[1, 1],
        ..ONE
    },
    Case {
        name: "421 to MAIL, and the connection closes",
        relay: &[once(Mail, SaysAndHangsUp("421 4.3.2 Going down"))],
        story: &["released", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "421 to MAIL, and the connection stays",
        relay: &[once(Mail, Says("421 4.3.2 Going down"))],
        story: &["released", "sent 250 dot"],
        connections: Some(2),
        ..ONE
    },
    Case {
        name: "354 to MAIL",
        relay: &[once(Mail, Says("354 Go ahead"))],
        ends: &[("sent", 2)],
        story: &["deferred 354 mail", "sent 250 dot"],
        connections: Some(2),
        ..ONE
    },
    Case {
        name: "a reply to MAIL that is none",
        relay: &[once(Mail, Says("fine with me"))],
        ends: &[("sent", 2)],
        story: &["deferred mail", "sent 250 dot"],
        connections: Some(2),
        ..ONE
    },
    Case {
        name: "the connection closes at MAIL",
        relay: &[once(Mail, HangsUp)],
        ends: &[("sent", 2)],
        story: &["deferred mail", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "MAIL is accepted in an unusual way",
        relay: &[always(Mail, Writes(b"250-2.1.0\n250-caf\xe9\r\n259\n"))],
        ..ONE
    },
];
