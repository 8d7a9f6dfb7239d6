//! Relays that say nothing any more: each step has its own patience, and what came of a mail depends on
//! where the silence began.

use pgmq_mail_tests::Phase::{Body, Connect, Data, Dot, Ehlo, Mail, Other, Rcpt, Rset};

use super::Does::{Agrees, AgreesSilently, Both, FallsSilent, HangsUp, Late, Says, Writes};
use super::{Case, Does, Mails, Mode, ONE, always, in_both_modes, naming, once};

in_both_modes!(CASES);

const GREETING: &[(&str, &str)] = &[("greeting_timeout", SHORT)];
const COMMAND: &[(&str, &str)] = &[("command_timeout", SHORT)];
const DATA: &[(&str, &str)] = &[("data_timeout", SHORT)];
const BLOCK: &[(&str, &str)] = &[("block_timeout", SHORT)];
const DOT: &[(&str, &str)] = &[("dot_timeout", SHORT)];
const SHORT: &str = "1 second";
const RELEASED: &[&str] = &["released", "sent 250 dot"];

/// Longer than the client's patience: it reads nothing and says nothing.
const STANDS_STILL: Does = Late(4000, &HangsUp);

const PUT_OFF: Case = Case {
    ends: &[("sent", 2)],
    ..ONE
};

const UNCERTAIN: Case = Case {
    columns: DOT,
    ends: &[("sent", 2)],
    story: &["uncertain dot", "sent 250 dot"],
    seen: Some(2),
    ..ONE
};

const CASES: &[Case] = &[
    Case {
        name: "no greeting",
        relay: &[once(Connect, FallsSilent)],
        columns: GREETING,
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "half a greeting",
        relay: &[once(
            Connect,
            Both(&Writes(b"220-sink.test\r\n220 si"), &FallsSilent),
        )],
        columns: GREETING,
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "no reply to EHLO",
        relay: &[once(Ehlo, FallsSilent)],
        columns: COMMAND,
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "EHLO is not known, and HELO is not answered",
        relay: &[
            once(Ehlo, Says("500 5.5.1 What?")),
            naming("HELO", Ehlo, FallsSilent),
        ],
        columns: COMMAND,
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "no reply to STARTTLS: it goes in plain text then",
        relay: &[
            always(Ehlo, Says("250-sink.test\r\n250 STARTTLS")),
            once(Other, FallsSilent),
            always(Other, Says("454 4.7.0 Not available")),
        ],
        columns: COMMAND,
        ..ONE
    },
    Case {
        name: "no reply to MAIL",
        relay: &[once(Mail, FallsSilent)],
        columns: COMMAND,
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "no reply to RCPT",
        relay: &[once(Rcpt, FallsSilent)],
        columns: COMMAND,
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "no reply to the second RCPT, the first was refused",
        relay: &[
            naming("alice", Rcpt, Says("550 5.1.1 No such user")),
            naming("bob", Rcpt, FallsSilent),
        ],
        columns: COMMAND,
        to: &["alice", "bob"],
        ends: &[("failed", 2)],
        story: &[
            "alice failed 550 rcpt",
            "bob deferred rcpt",
            "bob sent 250 dot",
        ],
        copies: &[0, 1],
        ..PUT_OFF
    },
    Case {
        name: "one reply too few, asked one by one",
        relay: &[once(Rcpt, AgreesSilently)],
        columns: COMMAND,
        only: Some(Mode::Stepwise),
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "one reply too few, asked in a group",
        relay: &[once(Rcpt, AgreesSilently)],
        columns: COMMAND,
        only: Some(Mode::Pipelined),
        story: &["deferred *", "sent 250 dot"],
        ..PUT_OFF
    },
    Case {
        name: "no reply to DATA",
        relay: &[once(Data, FallsSilent)],
        columns: DATA,
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "half a reply to DATA",
        relay: &[once(Data, Both(&Writes(b"354"), &FallsSilent))],
        columns: DATA,
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "the relay stops reading within the text",
        relay: &[once(Body, STANDS_STILL)],
        columns: BLOCK,
        large: true,
        story: &["deferred body", "sent 250 dot"],
        seen: Some(1),
        ..PUT_OFF
    },
    Case {
        name: "the relay refuses the text before its end, and stops reading",
        relay: &[once(
            Body,
            Both(&Says("552 5.3.4 Too large"), &STANDS_STILL),
        )],
        columns: BLOCK,
        large: true,
        ends: &[("failed", 1)],
        story: &["failed 552 body"],
        copies: &[0],
        ..ONE
    },
    Case {
        name: "no reply to the dot",
        relay: &[once(Dot, FallsSilent)],
        ..UNCERTAIN
    },
    Case {
        name: "no reply to the dot, where nothing may be repeated",
        relay: &[once(Dot, FallsSilent)],
        queue: &[("on_uncertain", "hold")],
        ends: &[("uncertain", 1)],
        story: &["held dot"],
        copies: &[0],
        seen: Some(1),
        ..UNCERTAIN
    },
    Case {
        name: "half a code in reply to the dot",
        relay: &[once(Dot, Both(&Writes(b"25"), &FallsSilent))],
        copies: &[2],
        ..UNCERTAIN
    },
    Case {
        name: "the first of two lines in reply to the dot",
        relay: &[once(Dot, Both(&Writes(b"250-2.0.0 Ok\r\n"), &FallsSilent))],
        copies: &[2],
        ..UNCERTAIN
    },
    Case {
        name: "a reply to the dot that trickles in more slowly than patience lasts",
        relay: &[once(
            Dot,
            Both(
                &Writes(b"250-2.0.0 O"),
                &Late(
                    700,
                    &Both(
                        &Writes(b"k\r\n250-2"),
                        &Late(700, &Writes(b".0.0 later\r\n250 on\r\n")),
                    ),
                ),
            ),
        )],
        copies: &[2],
        ..UNCERTAIN
    },
    Case {
        name: "no reply to the first dot, and a second mail waits",
        relay: &[once(Dot, FallsSilent)],
        mails: Mails::AtOnce(2),
        ends: &[("sent", 2), ("sent", 1)],
        story: &["1: uncertain dot", "1: sent 250 dot", "2: sent 250 dot"],
        copies: &[1, 1],
        seen: Some(3),
        ..UNCERTAIN
    },
    Case {
        name: "no reply to RSET",
        relay: &[
            once(Rcpt, Says("550 5.1.1 No such user")),
            once(Rset, FallsSilent),
        ],
        columns: COMMAND,
        mails: Mails::AtOnce(2),
        ends: &[("failed", 1), ("sent", 1)],
        story: &["1: failed 550 rcpt", "2: sent 250 dot"],
        copies: &[0, 1],
        ..ONE
    },
    Case {
        name: "each reply takes most of the patience for it, and all of them more",
        relay: &[
            always(Connect, Late(400, &Agrees)),
            always(Ehlo, Late(400, &Agrees)),
            always(Mail, Late(400, &Agrees)),
            always(Rcpt, Late(400, &Agrees)),
            always(Data, Late(400, &Agrees)),
            always(Dot, Late(400, &Agrees)),
        ],
        columns: &[
            ("greeting_timeout", "1500 milliseconds"),
            ("command_timeout", "1500 milliseconds"),
            ("data_timeout", "1500 milliseconds"),
            ("dot_timeout", "1500 milliseconds"),
        ],
        ..ONE
    },
];
