//! The greeting, EHLO and HELO. Whatever goes wrong here is the relay's trouble: it costs no attempt.

use pgmq_mail_tests::Phase::{Connect, Ehlo, Other};

use super::Does::{Both, Chatters, HangsUp, Late, Says, SaysAndHangsUp, Writes};
use super::{Case, Does, ONE, Step, always, in_both_modes, naming, once};

in_both_modes!(CASES);

/// Given back and then sent, at the first attempt.
const RELEASED: &[&str] = &["released", "sent 250 dot"];

const CASES: &[Case] = &[
    Case {
        name: "a greeting of several lines",
        relay: &[always(
            Connect,
            Says("220-sink.test ESMTP\r\n220-\r\n220 no spam, please"),
        )],
        ..ONE
    },
    Case {
        name: "a greeting that is only a code",
        relay: &[always(Connect, Says("220"))],
        ..ONE
    },
    Case {
        name: "a greeting that is not 220, but welcomes",
        relay: &[always(Connect, Says("250 sink.test"))],
        ..ONE
    },
    Case {
        name: "a greeting that is not UTF-8",
        relay: &[always(Connect, Writes(b"220 caf\xe9 \xff\xfe\r\n"))],
        ..ONE
    },
    Case {
        name: "a greeting of 20 kB",
        relay: &[always(Connect, Chatters(220, 20_000))],
        ..ONE
    },
    Case {
        name: "421 instead of a greeting",
        relay: &[once(
            Connect,
            SaysAndHangsUp("421 4.7.0 Too many connections"),
        )],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "554 instead of a greeting",
        relay: &[once(Connect, Says("554 5.3.2 No SMTP service here"))],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "450 instead of a greeting",
        relay: &[once(Connect, Says("450 4.3.2 Starting up"))],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "354 instead of a greeting",
        relay: &[once(Connect, Says("354 Go ahead"))],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "a greeting in another protocol",
        relay: &[once(Connect, Says("HTTP/1.1 400 Bad Request"))],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "a greeting whose lines contradict each other",
        relay: &[once(Connect, Says("220-sink.test\r\n554 goes away"))],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "half a greeting, and the connection closes",
        relay: &[once(Connect, Both(&Writes(b"220-sink.test ES"), &HangsUp))],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "the connection closes without a greeting",
        relay: &[once(Connect, HangsUp)],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "a greeting of a megabyte",
        relay: &[once(Connect, Chatters(220, 1_000_000))],
        ..ONE
    },
    Case {
        name: "two greetings",
        relay: &[once(
            Connect,
            Says("220 sink.test\r\n220 sink.test once more"),
        )],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "a late greeting",
        relay: &[always(Connect, Late(400, &Does::Agrees))],
        ..ONE
    },
    Case {
        name: "EHLO is not known, HELO is",
        relay: &[NO_EHLO],
        ..ONE
    },
    Case {
        name: "neither EHLO nor HELO is known",
        relay: &[
            once(Ehlo, Says("502 5.5.1 What?")),
            once(Ehlo, Says("502 5.5.1 What?")),
        ],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "EHLO is put off",
        relay: &[once(Ehlo, Says("451 4.3.2 Not now"))],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "421 to EHLO",
        relay: &[once(Ehlo, SaysAndHangsUp("421 4.3.2 Going down"))],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "354 to EHLO",
        relay: &[once(Ehlo, Says("354 Go ahead"))],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "the connection closes at EHLO",
        relay: &[once(Ehlo, HangsUp)],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "a reply to EHLO that is none",
        relay: &[once(Ehlo, Says("Hello yourself"))],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "a reply to EHLO whose lines contradict each other",
        relay: &[once(Ehlo, Says("250-sink.test\r\n550 SIZE"))],
        story: RELEASED,
        ..ONE
    },
    Case {
        name: "EHLO is answered by a code only",
        relay: &[always(Ehlo, Says("250"))],
        ..ONE
    },
    Case {
        name: "keywords in lower case, strange ones, and an empty line",
        relay: &[always(
            Ehlo,
            Says(
                "250-sink.test\r\n250-8bitmime\r\n250-\r\n250-X-ANONYMOUSTLS\r\n250-size soon\r\n250 help",
            ),
        )],
        ..ONE
    },
    Case {
        name: "a message larger than the relay takes is not even begun",
        relay: &[always(Ehlo, Says("250-sink.test\r\n250 SIZE 100"))],
        ends: &[("failed", 1)],
        story: &["failed mail"],
        copies: &[0],
        ..ONE
    },
    Case {
        name: "STARTTLS is offered and refused, where it is a choice",
        relay: &[
            always(Ehlo, Says("250-sink.test\r\n250 STARTTLS")),
            always(Other, Says("454 4.7.0 TLS is not available")),
        ],
        ..ONE
    },
];

const NO_EHLO: Step = Step {
    times: usize::MAX,
    ..naming("EHLO", Ehlo, Says("500 5.5.1 What?"))
};
