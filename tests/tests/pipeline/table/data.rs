//! DATA: only 354 lets the text out.

use pgmq_mail_tests::Phase::{Data, Rcpt};

use super::Does::{HangsUp, Says, SaysAndHangsUp};
use super::{Case, Mails, ONE, always, in_both_modes, naming, once};

in_both_modes!(CASES);

const CASES: &[Case] = &[
    Case {
        name: "354 as a code only",
        relay: &[always(Data, Says("354"))],
        ..ONE
    },
    Case {
        name: "354 in several lines",
        relay: &[always(Data, Says("354-Go\r\n354 ahead"))],
        ..ONE
    },
    Case {
        name: "DATA is put off",
        relay: &[once(Data, Says("451 4.3.0 Later"))],
        ends: &[("sent", 2)],
        story: &["deferred 451 data", "sent 250 dot"],
        connections: Some(1),
        ..ONE
    },
    Case {
        name: "DATA is refused",
        relay: &[once(Data, Says("554 5.7.1 No"))],
        ends: &[("failed", 1)],
        story: &["failed 554 data"],
        copies: &[0],
        ..ONE
    },
    Case {
        name: "a refused DATA costs the next mail nothing",
        relay: &[once(Data, Says("554 5.7.1 No"))],
        mails: Mails::AtOnce(2),
        ends: &[("failed", 1), ("sent", 1)],
        story: &["1: failed 554 data", "2: sent 250 dot"],
        copies: &[0, 1],
        connections: Some(1),
        ..ONE
    },
    Case {
        name: "421 to DATA, and the connection closes",
        relay: &[once(Data, SaysAndHangsUp("421 4.3.2 Going down"))],
        story: &["released", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "421 to DATA, and the connection stays",
        relay: &[once(Data, Says("421 4.3.2 Going down"))],
        story: &["released", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "250 to DATA",
        relay: &[once(Data, Says("250 2.0.0 Ok"))],
        ends: &[("sent", 2)],
        story: &["deferred 250 data", "sent 250 dot"],
        connections: Some(2),
        ..ONE
    },
    Case {
        name: "350 to DATA",
        relay: &[once(Data, Says("350 Go on"))],
        ends: &[("sent", 2)],
        story: &["deferred 350 data", "sent 250 dot"],
        connections: Some(2),
        ..ONE
    },
    Case {
        name: "a reply to DATA that is none",
        relay: &[once(Data, Says("What a nice day"))],
        ends: &[("sent", 2)],
        story: &["deferred data", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "the connection closes at DATA",
        relay: &[once(Data, HangsUp)],
        ends: &[("sent", 2)],
        story: &["deferred data", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "DATA is refused after one of two recipients was",
        relay: &[
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
            once(Data, Says("554 5.7.1 No")),
        ],
        to: &["alice", "bob"],
        ends: &[("failed", 1)],
        story: &["alice failed 554 data", "bob failed 550 rcpt"],
        copies: &[0, 0],
        ..ONE
    },
    Case {
        name: "DATA is put off after one of two recipients was refused",
        relay: &[
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
            once(Data, Says("451 4.3.0 Later")),
        ],
        to: &["alice", "bob"],
        ends: &[("failed", 2)],
        story: &[
            "alice deferred 451 data",
            "bob failed 550 rcpt",
            "alice sent 250 dot",
        ],
        copies: &[1, 0],
        ..ONE
    },
    Case {
        name: "354 although every recipient was refused",
        relay: &[
            always(Rcpt, Says("550 5.1.1 No such user")),
            always(Data, Says("354 Go ahead")),
        ],
        to: &["alice", "bob"],
        ends: &[("failed", 1)],
        story: &["alice failed 550 rcpt", "bob failed 550 rcpt"],
        copies: &[0, 0],
        seen: Some(0),
        ..ONE
    },
    Case {
        name: "354 although every recipient was put off, and 250 to the empty text",
        relay: &[
            naming("alice", Rcpt, Says("450 4.2.0 Later")),
            naming("bob", Rcpt, Says("450 4.2.0 Later")),
            always(Data, Says("354 Go ahead")),
        ],
        to: &["alice", "bob"],
        ends: &[("sent", 2)],
        story: &[
            "alice deferred 450 rcpt",
            "bob deferred 450 rcpt",
            "alice sent 250 dot",
            "bob sent 250 dot",
        ],
        copies: &[1, 1],
        seen: Some(1),
        ..ONE
    },
];
