//! RCPT: each recipient has an outcome of its own.

use pgmq_mail_tests::Phase::Rcpt;

use super::Does::{Agrees, HangsUp, Says, SaysAndHangsUp, Writes};
use super::{Case, Mails, ONE, Step, always, in_both_modes, naming, once, times};

in_both_modes!(CASES);

const TWO: Case = Case {
    to: &["alice", "bob"],
    copies: &[1, 1],
    ..ONE
};

const THREE: Case = Case {
    to: &["alice", "bob", "carol"],
    copies: &[1, 1, 1],
    ..ONE
};

/// A retry that would not come within the test.
const NO_RETRY: &[(&str, &str)] = &[("retry_base", "1 hour"), ("retry_max", "1 hour")];

const NO_SUCH_USER: &[Step] = &[always(Rcpt, Says("550 5.1.1 No such user"))];

const CASES: &[Case] = &[
    Case {
        name: "the only recipient is refused",
        relay: NO_SUCH_USER,
        ends: &[("failed", 1)],
        story: &["failed 550 rcpt"],
        copies: &[0],
        ..ONE
    },
    Case {
        name: "the only recipient is refused by a code only",
        relay: &[once(Rcpt, Says("551"))],
        ends: &[("failed", 1)],
        story: &["failed 551 rcpt"],
        copies: &[0],
        ..ONE
    },
    Case {
        name: "greylisting: the only recipient is put off once",
        relay: &[once(Rcpt, Says("450 4.2.0 Greylisted"))],
        ends: &[("sent", 2)],
        story: &["deferred 450 rcpt", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "the only recipient is put off for ever",
        relay: &[always(Rcpt, Says("450 4.2.1 Mailbox busy"))],
        queue: &[("max_attempts", "3"), ("retry_max", "200 milliseconds")],
        ends: &[("failed", 3)],
        story: &["deferred 450 rcpt", "deferred 450 rcpt", "failed 450 rcpt"],
        copies: &[0],
        ..ONE
    },
    Case {
        name: "452 to the only recipient puts him off like any other 4yz",
        relay: &[once(Rcpt, Says("452 4.2.2 Mailbox full"))],
        ends: &[("sent", 2)],
        story: &["deferred 452 rcpt", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "552 to the only recipient refuses him like any other 5yz",
        relay: &[once(Rcpt, Says("552 5.2.2 Mailbox full"))],
        ends: &[("failed", 1)],
        story: &["failed 552 rcpt"],
        copies: &[0],
        ..ONE
    },
    Case {
        name: "251 and 252 accept",
        relay: &[
            naming("alice", Rcpt, Says("251 2.1.5 Will forward")),
            naming("bob", Rcpt, Says("252 2.1.5 Cannot verify, will try")),
        ],
        story: &["alice sent 250 dot", "bob sent 250 dot"],
        ..TWO
    },
    Case {
        name: "a 250 that says 5.1.1 accepts",
        relay: &[once(Rcpt, Says("250 5.1.1 No such user"))],
        ..ONE
    },
    Case {
        name: "a recipient is accepted in an unusual way",
        relay: &[once(Rcpt, Writes(b"250-\n250-caf\xe9\r\n250\n"))],
        ..ONE
    },
    Case {
        name: "the first of three is refused",
        relay: &[naming("alice", Rcpt, Says("550 5.1.1 No such user"))],
        ends: &[("failed", 1)],
        story: &[
            "alice failed 550 rcpt",
            "bob sent 250 dot",
            "carol sent 250 dot",
        ],
        copies: &[0, 1, 1],
        ..THREE
    },
    Case {
        name: "the second of three is refused",
        relay: &[naming(
            "bob",
            Rcpt,
            Says("550-5.1.1 No\r\n550 5.1.1 such user"),
        )],
        ends: &[("failed", 1)],
        story: &[
            "alice sent 250 dot",
            "bob failed 550 rcpt",
            "carol sent 250 dot",
        ],
        copies: &[1, 0, 1],
        ..THREE
    },
    Case {
        name: "the last of three is put off: the next attempt is for him alone",
        relay: &[naming("carol", Rcpt, Says("450 4.2.1 Mailbox busy"))],
        ends: &[("sent", 2)],
        story: &[
            "alice sent 250 dot",
            "bob sent 250 dot",
            "carol deferred 450 rcpt",
            "carol sent 250 dot",
        ],
        ..THREE
    },
    Case {
        name: "one is put off, one refused, one accepted",
        relay: &[
            naming("alice", Rcpt, Says("450 4.2.1 Mailbox busy")),
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
        ],
        ends: &[("failed", 2)],
        story: &[
            "alice deferred 450 rcpt",
            "bob failed 550 rcpt",
            "carol sent 250 dot",
            "alice sent 250 dot",
        ],
        copies: &[1, 0, 1],
        ..THREE
    },
    Case {
        name: "one is put off first and refused then",
        relay: &[
            naming("bob", Rcpt, Says("450 4.2.1 Mailbox busy")),
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
        ],
        ends: &[("failed", 2)],
        story: &[
            "alice sent 250 dot",
            "bob deferred 450 rcpt",
            "bob failed 550 rcpt",
        ],
        copies: &[1, 0],
        ..TWO
    },
    Case {
        name: "both are refused",
        relay: NO_SUCH_USER,
        ends: &[("failed", 1)],
        story: &["alice failed 550 rcpt", "bob failed 550 rcpt"],
        copies: &[0, 0],
        ..TWO
    },
    Case {
        name: "both are put off",
        relay: &[times(2, Rcpt, Says("450 4.2.0 Greylisted"))],
        ends: &[("sent", 2)],
        story: &[
            "alice deferred 450 rcpt",
            "bob deferred 450 rcpt",
            "alice sent 250 dot",
            "bob sent 250 dot",
        ],
        ..TWO
    },
    Case {
        name: "one is put off and one refused, so that DATA is refused",
        relay: &[
            naming("alice", Rcpt, Says("450 4.2.0 Greylisted")),
            naming("bob", Rcpt, Says("550 5.1.1 No such user")),
        ],
        ends: &[("failed", 2)],
        story: &[
            "alice deferred 450 rcpt",
            "bob failed 550 rcpt",
            "alice sent 250 dot",
        ],
        copies: &[1, 0],
        ..TWO
    },
    Case {
        name: "refused recipients cost the next mail nothing",
        relay: &[once(Rcpt, Says("550 5.1.1 No such user"))],
        mails: Mails::AtOnce(2),
        ends: &[("failed", 1), ("sent", 1)],
        story: &["1: failed 550 rcpt", "2: sent 250 dot"],
        copies: &[0, 1],
        connections: Some(1),
        ..ONE
    },
    Case {
        name: "452 after two: the third follows at once, and no attempt is counted",
        relay: &[naming("carol", Rcpt, Says("452 4.5.3 Too many recipients"))],
        queue: NO_RETRY,
        story: &[
            "alice sent 250 dot",
            "bob sent 250 dot",
            "carol deferred 452 rcpt",
            "carol sent 250 dot",
        ],
        ..THREE
    },
    Case {
        name: "552 after one, in the old way: the others follow at once",
        relay: &[
            naming("bob", Rcpt, Says("552 5.5.3 Too many recipients")),
            naming("carol", Rcpt, Says("552 5.5.3 Too many recipients")),
        ],
        queue: NO_RETRY,
        story: &[
            "alice sent 250 dot",
            "bob deferred 552 rcpt",
            "carol deferred 552 rcpt",
            "bob sent 250 dot",
            "carol sent 250 dot",
        ],
        ..THREE
    },
    Case {
        name: "421 after one was accepted, and the connection closes",
        relay: &[naming("bob", Rcpt, SaysAndHangsUp("421 4.3.2 Going down"))],
        story: &["released", "alice sent 250 dot", "bob sent 250 dot"],
        ..TWO
    },
    Case {
        name: "421 after one was refused: the other pays nothing for it",
        relay: &[
            naming("alice", Rcpt, Says("550 5.1.1 No such user")),
            naming("bob", Rcpt, SaysAndHangsUp("421 4.3.2 Going down")),
        ],
        ends: &[("failed", 1)],
        story: &["alice failed 550 rcpt", "bob sent 250 dot"],
        copies: &[0, 1],
        ..TWO
    },
    Case {
        name: "354 to a recipient",
        relay: &[once(Rcpt, Says("354 Go ahead"))],
        ends: &[("sent", 2)],
        story: &["deferred 354 rcpt", "sent 250 dot"],
        ..ONE
    },
    Case {
        name: "a reply to the second recipient that is none",
        relay: &[once(Rcpt, Agrees), once(Rcpt, Says("who?"))],
        ends: &[("sent", 2)],
        story: &[
            "alice deferred rcpt",
            "bob deferred rcpt",
            "alice sent 250 dot",
            "bob sent 250 dot",
        ],
        ..TWO
    },
    Case {
        name: "the connection closes at the second recipient",
        relay: &[naming("bob", Rcpt, HangsUp)],
        ends: &[("sent", 2)],
        story: &[
            "alice deferred rcpt",
            "bob deferred rcpt",
            "alice sent 250 dot",
            "bob sent 250 dot",
        ],
        ..TWO
    },
    Case {
        name: "the connection closes at the second recipient, after the first was refused",
        relay: &[
            naming("alice", Rcpt, Says("550 5.1.1 No such user")),
            naming("bob", Rcpt, HangsUp),
        ],
        ends: &[("failed", 2)],
        story: &[
            "alice failed 550 rcpt",
            "bob deferred rcpt",
            "bob sent 250 dot",
        ],
        copies: &[0, 1],
        ..TWO
    },
];
