//! What a relay has answered to one message so far, and what follows from it. Pure.
//!
//! A reply is known for what it answers by its place alone. Once one is seen to be out of place, none of
//! this transaction's is believed: what the relay seemed to have decided becomes transient.

use crate::{
    Outcome, Phase, RecipientResult, RelayFault, Reply, Verdict,
    plan::{Command, Plan},
};

/// What the replies to a group of commands lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Go on.
    Fine,
    /// The relay is closing or the replies are not in step: stop, and let go of the connection.
    Stop,
}

/// How the relay answered DATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    Unanswered,
    /// 354: it now waits for a final dot, whatever it said before.
    Open,
    Refused,
}

/// One message's attempt.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Turn {
    pub(crate) plan: Plan,
    results: Vec<Option<RecipientResult>>,
    fault: Option<RelayFault>,
    /// Whether the relay has decided about any recipient.
    judged: bool,
    /// Whether any command of this message was answered.
    answered: bool,
    /// Whether every recipient, and DATA where it was answered, was refused by 5yz.
    unanimous: bool,
    pub(crate) mail_accepted: bool,
    pub(crate) accepted: usize,
    pub(crate) data: Data,
}

impl Turn {
    pub(crate) fn new(mut plan: Plan) -> Self {
        Self {
            results: std::mem::take(&mut plan.results),
            plan,
            fault: None,
            judged: false,
            answered: false,
            unanimous: true,
            mail_accepted: false,
            accepted: 0,
            data: Data::Unanswered,
        }
    }

    pub(crate) fn into_outcome(self) -> Outcome {
        if let Some(fault) = self.fault {
            return Outcome::NotTried(fault);
        }
        let undecided = || {
            let detail = "the transaction ended without a decision";
            RecipientResult::unasked(Verdict::Transient, Phase::Data, detail)
        };
        let results = self
            .results
            .into_iter()
            .map(|result| result.unwrap_or_else(undecided));
        Outcome::Judged(results.collect())
    }

    /// Takes the reply to one command.
    pub(crate) fn hear(&mut self, command: Command, reply: Reply) -> Heard {
        if reply.code == 421 {
            self.closing(command.phase(), reply);
            return Heard::Stop;
        }
        self.answered |= command != Command::Rset;
        match command {
            Command::Rset if reply.code / 100 == 2 => Heard::Fine,
            // There is no other way to begin anew but on a fresh connection, and nobody's fault in that.
            Command::Rset if matches!(reply.code, 500 | 502) => {
                let detail = format!("the relay does not know RSET: {}", quote(&reply));
                self.not_tried(Phase::Rset, None, detail);
                Heard::Stop
            }
            Command::Rset => {
                let detail = format!("RSET was refused: {}", quote(&reply));
                self.not_tried(Phase::Rset, Some(reply), detail);
                Heard::Stop
            }
            Command::Data => self.hear_data(reply),
            _ if reply.code / 100 == 3 => {
                let detail = format!("unexpected reply to {}", command.name());
                self.out_of_step(command.phase(), Some(reply), &detail);
                Heard::Stop
            }
            Command::Mail => {
                self.mail_accepted = reply.code / 100 == 2;
                if !self.mail_accepted {
                    self.judge(Phase::Mail, &reply);
                }
                Heard::Fine
            }
            Command::Rcpt(i) => {
                self.hear_rcpt(i, reply);
                Heard::Fine
            }
        }
    }

    fn hear_rcpt(&mut self, i: usize, reply: Reply) {
        self.unanimous &= reply.code / 100 == 5;
        if !self.mail_accepted {
            return; // MAIL has decided already
        }
        let verdict = match reply.code {
            200..=299 => {
                self.accepted += 1;
                return;
            }
            // Too many recipients, in the old way (RFC 5321 §4.5.3.1.10).
            552 if self.accepted > 0 => Verdict::Transient,
            400..=499 => Verdict::Transient,
            _ => Verdict::Permanent,
        };
        self.judged = true;
        self.results[i] = Some(RecipientResult::replied(verdict, Phase::Rcpt, reply));
    }

    fn hear_data(&mut self, reply: Reply) -> Heard {
        self.unanimous &= reply.code / 100 == 5;
        match reply.code {
            354 => self.data = Data::Open,
            400..=599 => {
                self.data = Data::Refused;
                self.judge(Phase::Data, &reply);
            }
            _ => {
                self.out_of_step(Phase::Data, Some(reply), "unexpected reply to DATA");
                return Heard::Stop;
            }
        }
        Heard::Fine
    }

    /// Whether a refusal for good might be someone else's. Where all were refused like that, DATA
    /// included, it would still be a refusal if each reply were the one before it.
    pub(crate) fn is_doubtful(&self) -> bool {
        let refused = |result: &RecipientResult| {
            result.verdict == Verdict::Permanent && result.reply.is_some()
        };
        !self.unanimous && self.results.iter().flatten().any(refused)
    }

    /// Replies and commands do not match: whatever the relay seems to have decided is transient.
    pub(crate) fn out_of_step(&mut self, phase: Phase, said: Option<Reply>, detail: &str) {
        for result in &mut self.results {
            if result.as_ref().is_some_and(|result| result.reply.is_some()) {
                *result = None;
            }
        }
        // What refuses something else must not be taken for a refusal by anyone who only sees its code.
        let (refusal, odd): (Option<Reply>, Option<Reply>) = match said {
            Some(reply) if reply.code >= 400 => (Some(reply), None),
            said => (None, said),
        };
        let said = refusal.map_or_else(String::new, |reply| format!(" ({})", quote(&reply)));
        let detail = format!("{detail}{said}: no reply of this transaction is believed");
        self.settle(Verdict::Transient, phase, odd.as_ref(), Some(&detail));
    }

    /// All undecided recipients get what a reply says to all of them.
    pub(crate) fn judge(&mut self, phase: Phase, reply: &Reply) {
        self.judged = true;
        let (verdict, detail) = opinion(phase, reply);
        self.settle(verdict, phase, Some(reply), detail);
    }

    /// A 421, wherever it came: the relay's trouble. The recipients it has judged before stay judged, and
    /// the others were not tried.
    pub(crate) fn closing(&mut self, phase: Phase, reply: Reply) {
        if self.judged {
            self.settle(Verdict::Untried, phase, Some(&reply), None);
        } else {
            let detail = format!("the relay is closing the connection: {}", quote(&reply));
            self.not_tried(phase, Some(reply), detail);
        }
    }

    /// The connection broke before the final dot: nothing was accepted. If it was a `kept` one that broke
    /// before it answered anything, it had been stale, and this message was not tried.
    pub(crate) fn lost(&mut self, kept: bool, phase: Phase, detail: String) {
        if kept && !self.answered && !self.judged {
            self.not_tried(phase, None, detail);
        } else {
            self.settle(Verdict::Transient, phase, None, Some(&detail));
        }
    }

    /// What came instead of a reply is none, or not a whole one.
    pub(crate) fn garbled(&mut self, kept: bool, phase: Phase, detail: String) {
        if self.answered {
            self.out_of_step(phase, None, &detail);
        } else {
            self.lost(kept, phase, detail);
        }
    }

    /// The connection broke, but the relay said something before; `None`: it did not.
    pub(crate) fn lost_saying(
        &mut self,
        kept: bool,
        phase: Phase,
        said: Option<Reply>,
        detail: String,
    ) {
        match said {
            Some(reply) if reply.code == 421 => self.closing(phase, reply),
            Some(_) if phase == Phase::Body => self.out_of_turn(phase, said, &detail),
            Some(reply) if self.answered => {
                self.settle(Verdict::Transient, phase, Some(&reply), Some(&detail));
            }
            Some(reply) => {
                let detail = format!("{detail}: {}", quote(&reply));
                self.not_tried(phase, Some(reply), detail);
            }
            None => self.lost(kept, phase, detail),
        }
    }

    /// The relay spoke when it was our turn; `None`: what it said is no reply. Before it has answered
    /// anything this is about the connection, and within the text it may be a refusal of that.
    pub(crate) fn out_of_turn(&mut self, phase: Phase, said: Option<Reply>, detail: &str) {
        match said {
            Some(reply) if reply.code == 421 => self.closing(phase, reply),
            Some(reply) if phase == Phase::Body && reply.code >= 400 => self.judge(phase, &reply),
            said if self.answered => self.out_of_step(phase, said, detail),
            Some(reply) => {
                let detail = format!("{detail}: {}", quote(&reply));
                self.not_tried(phase, Some(reply), detail);
            }
            None => self.not_tried(phase, None, detail.to_owned()),
        }
    }

    /// Silence after the final dot.
    pub(crate) fn uncertain(&mut self, detail: &str) {
        self.settle(Verdict::Uncertain, Phase::Dot, None, Some(detail));
    }

    /// How many recipients no one has decided about: before the dot is answered, the accepted ones.
    pub(crate) fn undecided(&self) -> usize {
        self.results.iter().filter(|r| r.is_none()).count()
    }

    /// LMTP: a reply for each accepted recipient in order (RFC 2033 §4.2), as many as came; `detail` says
    /// why the others did not. A 421 to everyone is the relay's trouble, as it is in SMTP.
    pub(crate) fn judge_each(&mut self, replies: Vec<Reply>, detail: &str) {
        let complete = replies.len() == self.undecided();
        if complete && !self.judged && replies.iter().all(|reply| reply.code == 421) {
            if let Some(reply) = replies.into_iter().next() {
                self.closing(Phase::Dot, reply);
            }
            return;
        }
        let undecided = self.results.iter_mut().filter(|r| r.is_none());
        for (result, reply) in undecided.zip(replies) {
            let (verdict, detail) = opinion(Phase::Dot, &reply);
            *result = Some(RecipientResult {
                detail: detail.map(str::to_owned),
                ..RecipientResult::replied(verdict, Phase::Dot, reply)
            });
        }
        self.uncertain(detail);
    }

    fn not_tried(&mut self, phase: Phase, reply: Option<Reply>, detail: String) {
        self.fault = Some(RelayFault {
            phase,
            reply,
            detail,
        });
    }

    /// Gives every undecided recipient the same result.
    fn settle(
        &mut self,
        verdict: Verdict,
        phase: Phase,
        reply: Option<&Reply>,
        detail: Option<&str>,
    ) {
        for result in self.results.iter_mut().filter(|result| result.is_none()) {
            *result = Some(RecipientResult {
                verdict,
                phase,
                reply: reply.cloned(),
                detail: detail.map(str::to_owned),
                status: None,
            });
        }
    }
}

/// What a reply that decides means.
fn opinion(phase: Phase, reply: &Reply) -> (Verdict, Option<&'static str>) {
    match (phase, reply.code / 100) {
        (Phase::Dot, 2) => (Verdict::Delivered, None),
        (Phase::Dot, 3) => (
            Verdict::Uncertain,
            Some("unexpected reply to the final dot"),
        ),
        _ if reply.code == 421 => (Verdict::Untried, None),
        (_, 4) => (Verdict::Transient, None),
        (_, 5) => (Verdict::Permanent, None),
        _ => (Verdict::Transient, Some("unexpected reply")),
    }
}

/// Why a message is not tried on this session at all.
pub(crate) fn not_tried(detail: &str) -> Outcome {
    Outcome::NotTried(RelayFault {
        phase: Phase::Mail,
        reply: None,
        detail: detail.to_owned(),
    })
}

/// A reply in one line for a person.
pub(crate) fn quote(reply: &Reply) -> String {
    let line: String = reply
        .text
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect();
    let line: String = line
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    format!("{} {line}", reply.code).trim_end().to_owned()
}
