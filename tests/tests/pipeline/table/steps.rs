//! Replies out of step: too many, too few, and before their time. None is taken for the answer to something else.

use pgmq_mail_tests::Phase::{Data, Dot, Ehlo, Mail, Rcpt};

use super::Does::{Agrees, AgreesSilently, Both, Says};
use super::Mode::{Pipelined, Stepwise};
use super::{Case, Mails, ONE, in_both_modes, naming, once};

in_both_modes!(CASES);

const TWICE: super::Does = Both(&Agrees, &Agrees);

/// Put off, whatever the reason is called, and then sent.
const PUT_OFF: Case = Case {
    ends: &[("sent", 2)],
    story: &["deferred *", "sent 250 dot"],
    connections: Some(2),
    ..ONE
};

/// The second attempt shows that bob is not known there, and that alice is.
const ONE_OF_TWO: Case = Case {
    to: &["alice", "bob"],
    ends: &[("failed", 2)],
    story: &[
        "alice deferred *",
        "bob deferred *",
        "alice sent 250 dot",
        "bob failed 550 rcpt",
    ],
    copies: &[1, 0],
    ..ONE
};

/// Two mails, the second when the first has come to its end.
const IN_TURN: Case = Case {
    mails: Mails::InTurn(2),
    ends: &[("sent", 1), ("sent", 1)],
    copies: &[1, 1],
    ..ONE
};

const CASES: &[Case] = &[
    Case {
        name: "EHLO is answered twice",
        relay: &[once(Ehlo, TWICE)],
        story: &["released", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "MAIL is answered twice",
        relay: &[once(Mail, TWICE)],
        ..PUT_OFF
    },
    Case {
        name: "RCPT is answered twice",
        relay: &[once(Rcpt, TWICE)],
        ..PUT_OFF
    },
    Case {
        name: "MAIL is answered twice, so that alice's 250 seems to be bob's and bob's 550 DATA's",
        relay: &[
            once(Mail, TWICE),
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
        ],
        only: Some(Pipelined),
        ..ONE_OF_TWO
    },
    Case {
        name: "MAIL is answered twice, so that alice's 550 seems to be bob's",
        relay: &[
            once(Mail, TWICE),
            naming("alice", Rcpt, Says("550 5.1.1 No such user")),
            naming("alice", Rcpt, Says("550 5.1.1 No such user")),
        ],
        only: Some(Pipelined),
        story: &[
            "alice deferred *",
            "bob deferred *",
            "alice failed 550 rcpt",
            "bob sent 250 dot",
        ],
        copies: &[0, 1],
        ..ONE_OF_TWO
    },
    Case {
        name: "MAIL is answered twice, and bob is not known",
        relay: &[
            once(Mail, TWICE),
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
        ],
        only: Some(Stepwise),
        ..ONE_OF_TWO
    },
    Case {
        name: "MAIL is not answered, so that bob's 550 seems to be alice's",
        relay: &[
            once(Mail, AgreesSilently),
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
        ],
        only: Some(Pipelined),
        ..ONE_OF_TWO
    },
    Case {
        name: "alice is not answered, so that bob's 550 seems to be hers",
        relay: &[
            naming("alice", Rcpt, AgreesSilently),
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
        ],
        only: Some(Pipelined),
        ..ONE_OF_TWO
    },
    Case {
        name: "DATA is answered by 354 and by what looks like acceptance",
        relay: &[once(Data, Both(&Agrees, &Says("250 2.0.0 Ok: queued")))],
        ..PUT_OFF
    },
    Case {
        name: "DATA is answered by 354 and by what looks like a refusal",
        relay: &[once(Data, Both(&Agrees, &Says("554 5.7.1 Spam")))],
        ..PUT_OFF
    },
    Case {
        name: "DATA is answered by 354 twice",
        relay: &[once(Data, TWICE)],
        ..PUT_OFF
    },
    Case {
        name: "the dot is answered twice: the second reply is nobody's",
        relay: &[once(Dot, TWICE)],
        story: &["1: sent 250 dot", "2: released", "2: sent 250 dot"],
        ..IN_TURN
    },
    Case {
        name: "the dot is answered by 250 and then by 554: the first reply counts",
        relay: &[once(Dot, Both(&Agrees, &Says("554 5.7.1 Spam after all")))],
        story: &["1: sent 250 dot", "2: released", "2: sent 250 dot"],
        ..IN_TURN
    },
    Case {
        name: "the dot is answered by 554 and then by 250: the first reply counts",
        relay: &[once(
            Dot,
            Both(&Says("554 5.7.1 Spam"), &Says("250 2.0.0 Ok after all")),
        )],
        ends: &[("failed", 1), ("sent", 1)],
        story: &["1: failed 554 dot", "2: released", "2: sent 250 dot"],
        copies: &[0, 1],
        seen: Some(2),
        ..IN_TURN
    },
    Case {
        name: "the dot is answered twice, and the next mail's commands are out already",
        relay: &[once(Dot, TWICE)],
        mails: Mails::AtOnce(2),
        only: Some(Pipelined),
        ends: &[("sent", 1), ("sent", 2)],
        story: &["1: sent 250 dot", "2: deferred *", "2: sent 250 dot"],
        ..IN_TURN
    },
    Case {
        name: "the dot is answered twice, and the next mail is refused",
        relay: &[
            once(Dot, TWICE),
            once(Rcpt, Agrees),
            once(Rcpt, Says("550 5.1.1 No such user")),
            once(Rcpt, Says("550 5.1.1 No such user")),
        ],
        mails: Mails::AtOnce(2),
        only: Some(Pipelined),
        ends: &[("sent", 1), ("failed", 2)],
        story: &["1: sent 250 dot", "2: deferred *", "2: failed 550 rcpt"],
        copies: &[1, 0],
        ..IN_TURN
    },
    Case {
        name: "the dot is answered four times, as if the next mail had been let in",
        relay: &[
            once(
                Dot,
                Both(
                    &Both(&Agrees, &Agrees),
                    &Both(&Agrees, &Says("354 Go ahead")),
                ),
            ),
            once(Rcpt, Agrees),
            once(Rcpt, Says("550 5.1.1 No such user")),
            once(Rcpt, Says("550 5.1.1 No such user")),
        ],
        mails: Mails::AtOnce(2),
        only: Some(Pipelined),
        ends: &[("sent", 1), ("failed", 2)],
        story: &["1: sent 250 dot", "2: deferred *", "2: failed 550 rcpt"],
        copies: &[1, 0],
        ..IN_TURN
    },
];
