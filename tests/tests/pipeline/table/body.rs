//! Within the text: nothing is accepted before its end.

use pgmq_mail_tests::Phase::Body;

use super::Does::{HangsUp, Says, SaysAndHangsUp};
use super::{Case, ONE, in_both_modes, once};

in_both_modes!(CASES);

const LARGE: Case = Case { large: true, ..ONE };

const CASES: &[Case] = &[
    Case {
        name: "a large text",
        seen: Some(1),
        ..LARGE
    },
    Case {
        name: "the connection closes within the text",
        relay: &[once(Body, HangsUp)],
        ends: &[("sent", 2)],
        story: &["deferred body", "sent 250 dot"],
        seen: Some(1),
        ..LARGE
    },
    Case {
        name: "the text is put off before its end",
        relay: &[once(Body, Says("452 4.3.1 No room"))],
        ends: &[("sent", 2)],
        story: &["deferred 452 body", "sent 250 dot"],
        seen: Some(1),
        ..LARGE
    },
    Case {
        name: "the text is put off before its end, and the connection closes",
        relay: &[once(Body, SaysAndHangsUp("452 4.3.1 No room"))],
        ends: &[("sent", 2)],
        story: &["deferred 452 body", "sent 250 dot"],
        seen: Some(1),
        ..LARGE
    },
    Case {
        name: "the text is refused before its end",
        relay: &[once(Body, Says("552 5.3.4 Too large"))],
        ends: &[("failed", 1)],
        story: &["failed 552 body"],
        copies: &[0],
        ..LARGE
    },
    Case {
        name: "421 within the text",
        relay: &[once(Body, SaysAndHangsUp("421 4.3.2 Going down"))],
        story: &["released", "sent 250 dot"],
        seen: Some(1),
        ..LARGE
    },
    Case {
        name: "250 within the text is not what makes it accepted",
        relay: &[once(Body, Says("250 2.0.0 Enough"))],
        ends: &[("sent", 2)],
        story: &["deferred 250 body", "sent 250 dot"],
        seen: Some(1),
        ..LARGE
    },
    Case {
        name: "words within the text that are no reply",
        relay: &[once(Body, Says("Slow down"))],
        ends: &[("sent", 2)],
        story: &["deferred body", "sent 250 dot"],
        seen: Some(1),
        ..LARGE
    },
];
