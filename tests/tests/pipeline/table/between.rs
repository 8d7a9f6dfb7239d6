//! Between messages: a connection that is kept, and what may become of it.

use pgmq_mail_tests::Phase::{Data, Dot, Mail, Quit, Rcpt, Rset};

use super::Does::{
    Agrees, Both, FallsSilent, HangsUp, Late, Says, SaysAndHangsUp, TakesAndHangsUp,
};
use super::{Case, Mails, ONE, always, in_both_modes, naming, once};

in_both_modes!(CASES);

/// Two mails, committed together, that arrive at their first attempts.
const TWO: Case = Case {
    mails: Mails::AtOnce(2),
    ends: &[("sent", 1), ("sent", 1)],
    story: &["1: sent 250 dot", "2: sent 250 dot"],
    copies: &[1, 1],
    ..ONE
};

const CASES: &[Case] = &[
    Case {
        name: "two at once share a connection",
        connections: Some(1),
        ..TWO
    },
    Case {
        name: "two in turn share a connection",
        mails: Mails::InTurn(2),
        connections: Some(1),
        ..TWO
    },
    Case {
        name: "421 on an idle connection, which closes",
        relay: &[once(
            Dot,
            Both(
                &Agrees,
                &Late(50, &SaysAndHangsUp("421 4.4.2 Idle for too long")),
            ),
        )],
        mails: Mails::AfterClose(2),
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "421 on an idle connection, which stays",
        relay: &[once(
            Dot,
            Both(&Agrees, &Late(50, &Says("421 4.4.2 Idle for too long"))),
        )],
        mails: Mails::InTurn(2),
        ..TWO
    },
    Case {
        name: "an idle connection closes without a word",
        relay: &[once(Dot, Both(&Agrees, &Late(50, &HangsUp)))],
        mails: Mails::AfterClose(2),
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "421 right behind the 250, and the connection closes",
        relay: &[once(
            Dot,
            Both(&Agrees, &SaysAndHangsUp("421 4.7.0 One mail at a time")),
        )],
        mails: Mails::AfterClose(2),
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "421 to the second MAIL",
        relay: &[
            once(Mail, Agrees),
            once(Mail, SaysAndHangsUp("421 4.7.0 Enough for one connection")),
        ],
        story: &["1: sent 250 dot", "2: sent 250 dot"],
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "421 to the second MAIL after a rest",
        relay: &[
            once(Mail, Agrees),
            once(Mail, SaysAndHangsUp("421 4.4.2 Idle for too long")),
        ],
        mails: Mails::InTurn(2),
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "the connection closes at the second MAIL",
        relay: &[once(Mail, Agrees), once(Mail, HangsUp)],
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "the connection closes at the second RCPT",
        relay: &[once(Rcpt, Agrees), once(Rcpt, HangsUp)],
        ends: &[("sent", 1), ("sent", 2)],
        story: &["1: sent 250 dot", "2: deferred rcpt", "2: sent 250 dot"],
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "the second MAIL is put off",
        relay: &[once(Mail, Agrees), once(Mail, Says("451 4.7.0 Later"))],
        ends: &[("sent", 1), ("sent", 2)],
        story: &["1: sent 250 dot", "2: deferred 451 mail", "2: sent 250 dot"],
        ..TWO
    },
    Case {
        name: "the second of three is refused at MAIL",
        relay: &[once(Mail, Agrees), once(Mail, Says("550 5.7.1 No"))],
        mails: Mails::AtOnce(3),
        ends: &[("sent", 1), ("failed", 1), ("sent", 1)],
        story: &["1: sent 250 dot", "2: failed 550 mail", "3: sent 250 dot"],
        copies: &[1, 0, 1],
        connections: Some(1),
        ..TWO
    },
    Case {
        name: "the second of three is refused at the dot",
        relay: &[once(Dot, Agrees), once(Dot, Says("554 5.7.1 Spam"))],
        mails: Mails::AtOnce(3),
        ends: &[("sent", 1), ("failed", 1), ("sent", 1)],
        story: &["1: sent 250 dot", "2: failed 554 dot", "3: sent 250 dot"],
        copies: &[1, 0, 1],
        seen: Some(3),
        connections: Some(1),
        ..TWO
    },
    Case {
        name: "the connection closes after the first dot: the second mail was not begun",
        relay: &[once(Dot, TakesAndHangsUp)],
        ends: &[("sent", 2), ("sent", 1)],
        story: &["1: uncertain dot", "1: sent 250 dot", "2: sent 250 dot"],
        copies: &[2, 1],
        ..TWO
    },
    Case {
        name: "the connection closes after the first dot, where nothing may be repeated",
        relay: &[once(Dot, HangsUp)],
        queue: &[("on_uncertain", "hold")],
        ends: &[("uncertain", 1), ("sent", 1)],
        story: &["1: held dot", "2: sent 250 dot"],
        copies: &[0, 1],
        seen: Some(2),
        ..TWO
    },
    Case {
        name: "421 to the first dot: neither mail pays for it",
        relay: &[once(Dot, SaysAndHangsUp("421 4.3.2 Going down"))],
        story: &["1: released", "1: sent 250 dot", "2: sent 250 dot"],
        seen: Some(3),
        ..TWO
    },
    Case {
        name: "the first is put off at the dot, the second goes",
        relay: &[once(Dot, Says("451 4.3.0 Later"))],
        ends: &[("sent", 2), ("sent", 1)],
        story: &["1: deferred 451 dot", "1: sent 250 dot", "2: sent 250 dot"],
        seen: Some(3),
        connections: Some(1),
        ..TWO
    },
    Case {
        name: "RSET, after a refused recipient, is not known: a fresh connection does without",
        relay: &[
            once(Rcpt, Says("550 5.1.1 No such user")),
            always(Rset, Says("502 5.5.1 What?")),
        ],
        ends: &[("failed", 1), ("sent", 1)],
        story: &["1: failed 550 rcpt", "2: sent 250 dot"],
        copies: &[0, 1],
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "one is refused, the other put off, and RSET is not known",
        relay: &[
            naming("alice", Rcpt, Says("550 5.1.1 No such user")),
            naming("bob", Rcpt, Says("450 4.2.1 Later")),
            always(Rset, Says("502 5.5.1 What?")),
        ],
        to: &["alice", "bob"],
        mails: Mails::AtOnce(1),
        ends: &[("failed", 2)],
        story: &[
            "alice failed 550 rcpt",
            "bob deferred 450 rcpt",
            "bob sent 250 dot",
        ],
        copies: &[0, 1],
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "RSET, after a refused recipient, is refused",
        relay: &[
            once(Rcpt, Says("550 5.1.1 No such user")),
            once(Rset, Says("503 5.5.1 What?")),
        ],
        ends: &[("failed", 1), ("sent", 1)],
        story: &["1: failed 550 rcpt", "2: released", "2: sent 250 dot"],
        copies: &[0, 1],
        ..TWO
    },
    Case {
        name: "RSET, after a refused recipient, is answered by 421",
        relay: &[
            once(Rcpt, Says("550 5.1.1 No such user")),
            once(Rset, SaysAndHangsUp("421 4.7.0 Too many errors")),
        ],
        ends: &[("failed", 1), ("sent", 1)],
        story: &["1: failed 550 rcpt", "2: sent 250 dot"],
        copies: &[0, 1],
        ..TWO
    },
    Case {
        name: "the connection closes at RSET",
        relay: &[
            once(Rcpt, Says("550 5.1.1 No such user")),
            once(Rset, HangsUp),
        ],
        ends: &[("failed", 1), ("sent", 1)],
        story: &["1: failed 550 rcpt", "2: sent 250 dot"],
        copies: &[0, 1],
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "DATA is refused, and the next mail begins with a clean transaction",
        relay: &[
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
            once(Data, Says("451 4.3.0 Later")),
        ],
        to: &["alice", "bob"],
        ends: &[("failed", 2), ("sent", 1)],
        story: &[
            "1: alice deferred 451 data",
            "1: bob failed 550 rcpt",
            "1: alice sent 250 dot",
            "2: alice sent 250 dot",
            "2: bob sent 250 dot",
        ],
        copies: &[1, 0, 1, 1],
        connections: Some(1),
        ..TWO
    },
    Case {
        name: "QUIT is not answered",
        relay: &[always(Quit, FallsSilent)],
        columns: &[("max_messages_per_connection", "1")],
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "QUIT is refused",
        relay: &[always(Quit, Says("500 5.5.1 What?"))],
        columns: &[("max_messages_per_connection", "1")],
        connections: Some(2),
        ..TWO
    },
    Case {
        name: "the connection closes at QUIT",
        relay: &[always(Quit, HangsUp)],
        columns: &[("max_messages_per_connection", "1")],
        connections: Some(2),
        ..TWO
    },
];
