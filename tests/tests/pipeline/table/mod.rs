//! What a relay may do, as a table: each case says what the relay does and what must become of the mail.
//!
//! Every case has a sink, a relay and a queue of its own, and runs twice: with PIPELINING offered and
//! without. The cases of one group run side by side in one database; the relay of each has one connection
//! at a time, so that what it sees comes in order. Where a step of the script is used up, and for whatever
//! the script does not mention, the relay agrees.

mod between;
mod body;
mod data;
mod delays;
mod dot;
mod envelope;
mod opening;
mod recipients;
mod run;
mod silence;
mod steps;

use pgmq_mail_tests::{Action, Phase};
use std::time::Duration;

/// One case.
pub struct Case {
    pub name: &'static str,
    /// What the relay does.
    pub relay: &'static [Step],
    /// The local parts of the recipients.
    pub to: &'static [&'static str],
    pub mails: Mails,
    /// Each mail is so large that its text does not fit into the buffers on the way.
    pub large: bool,
    /// Columns of the queue and of the relay that differ from the usual ones.
    pub queue: &'static [(&'static str, &'static str)],
    pub columns: &'static [(&'static str, &'static str)],
    /// Runs only in this mode.
    pub only: Option<Mode>,
    /// The final state of each mail, and its number of attempts.
    pub ends: &'static [(&'static str, i32)],
    /// The events in order: kind, code, phase. Before it, where there are several, the number of the mail
    /// and the recipient. A `*` at the end stands for whatever follows. Giving a mail back untried is
    /// `released`, and concerns no recipient.
    pub story: &'static [&'static str],
    /// How often the relay accepted the mail, for each recipient of each mail.
    pub copies: &'static [usize],
    /// How many texts the relay has seen to their end, if that is not how many it has accepted.
    pub seen: Option<usize>,
    /// How many connections there were, where that matters.
    pub connections: Option<usize>,
}

/// One mail to one recipient that arrives at once.
const ONE: Case = Case {
    name: "",
    relay: &[],
    to: &["alice"],
    mails: Mails::AtOnce(1),
    large: false,
    queue: &[],
    columns: &[],
    only: None,
    ends: &[("sent", 1)],
    story: &["sent 250 dot"],
    copies: &[1],
    seen: None,
    connections: None,
};

/// How many mails, and when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mails {
    /// Committed together.
    AtOnce(usize),
    /// Each when the one before it has come to its end.
    InTurn(usize),
    /// Each when the one before it has come to its end and the relay has closed its connection.
    AfterClose(usize),
}

/// Whether the relay offers PIPELINING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pipelined,
    Stepwise,
}

/// What the relay does when it is its turn.
pub struct Step {
    at: Phase,
    /// Only at commands that hold this.
    naming: &'static str,
    times: usize,
    does: Does,
}

const fn once(at: Phase, does: Does) -> Step {
    times(1, at, does)
}

const fn times(times: usize, at: Phase, does: Does) -> Step {
    Step {
        at,
        naming: "",
        times,
        does,
    }
}

const fn always(at: Phase, does: Does) -> Step {
    times(usize::MAX, at, does)
}

/// Once, at a command that names this recipient or says this.
const fn naming(naming: &'static str, at: Phase, does: Does) -> Step {
    Step {
        at,
        naming,
        times: 1,
        does,
    }
}

/// An [`Action`] that can stand in a table.
pub enum Does {
    Agrees,
    AgreesSilently,
    /// A reply; its last line end is added.
    Says(&'static str),
    /// Bytes as they are.
    Writes(&'static [u8]),
    /// So many bytes of reply: lines of 64 bytes with this code.
    Chatters(u16, usize),
    /// After that many milliseconds.
    Late(u64, &'static Does),
    /// One after the other.
    Both(&'static Does, &'static Does),
    HangsUp,
    /// Accepts the mail and hangs up instead of saying so.
    TakesAndHangsUp,
    SaysAndHangsUp(&'static str),
    /// Never speaks again, and keeps the connection.
    FallsSilent,
}

impl Does {
    fn action(&self) -> Action {
        match self {
            Self::Agrees => Action::Accept,
            Self::AgreesSilently => Action::AcceptSilently,
            Self::Says(reply) => Action::reply(reply),
            Self::Writes(bytes) => Action::Bytes(bytes.to_vec()),
            Self::Chatters(code, length) => {
                let line = format!("{code}-{}\r\n", "x".repeat(58));
                let text = line.repeat(length / line.len());
                Action::Reply(format!("{text}{code} that is all"))
            }
            Self::Late(pause, does) => does.action().after(Duration::from_millis(*pause)),
            Self::Both(first, second) => first.action().then(second.action()),
            Self::HangsUp => Action::Drop,
            Self::TakesAndHangsUp => Action::AcceptAndDrop,
            Self::SaysAndHangsUp(reply) => Action::ReplyAndDrop((*reply).to_owned()),
            Self::FallsSilent => Action::Silence,
        }
    }
}

/// The two tests of a group of cases.
macro_rules! in_both_modes {
    ($cases:ident) => {
        #[test]
        fn it_comes_out_right_with_pipelining() {
            $crate::table::run::run($cases, $crate::table::Mode::Pipelined);
        }

        #[test]
        fn it_comes_out_right_without_pipelining() {
            $crate::table::run::run($cases, $crate::table::Mode::Stepwise);
        }
    };
}
use in_both_modes;
