//! What a relay has answered to one message so far, and what follows from it. Pure.

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
pub(crate) struct Turn {
    pub(crate) plan: Plan,
    results: Vec<Option<RecipientResult>>,
    fault: Option<RelayFault>,
    /// Whether the relay has decided about any recipient.
    judged: bool,
    /// Whether any command of this message was answered.
    answered: bool,
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
            mail_accepted: false,
            accepted: 0,
            data: Data::Unanswered,
        }
    }

    pub(crate) fn into_outcome(self) -> Outcome {
        if let Some(fault) = self.fault {
            return Outcome::NotTried(fault);
        }
        let undecided = || RecipientResult {
            verdict: Verdict::Transient,
            phase: Phase::Data,
            reply: None,
            detail: Some("the transaction ended without a decision".to_owned()),
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
            Command::Rset => {
                let detail = format!("RSET was refused: {}", quote(&reply));
                self.not_tried(Phase::Rset, Some(reply), detail);
                Heard::Stop
            }
            Command::Data => self.hear_data(&reply),
            _ if reply.code / 100 == 3 => {
                let detail = Some(format!("unexpected reply to {}", command.name()));
                self.settle(
                    Verdict::Transient,
                    command.phase(),
                    Some(&reply),
                    detail.as_deref(),
                );
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
        self.results[i] = Some(RecipientResult {
            verdict,
            phase: Phase::Rcpt,
            reply: Some(reply),
            detail: None,
        });
    }

    fn hear_data(&mut self, reply: &Reply) -> Heard {
        match reply.code {
            354 => self.data = Data::Open,
            400..=599 => {
                self.data = Data::Refused;
                self.judge(Phase::Data, reply);
            }
            _ => {
                let detail = Some("unexpected reply to DATA");
                self.settle(Verdict::Transient, Phase::Data, Some(reply), detail);
                return Heard::Stop;
            }
        }
        Heard::Fine
    }

    /// All undecided recipients get what a reply says to all of them.
    pub(crate) fn judge(&mut self, phase: Phase, reply: &Reply) {
        self.judged = true;
        let (verdict, detail) = match (phase, reply.code / 100) {
            (Phase::Dot, 2) => (Verdict::Delivered, None),
            (Phase::Dot, 3) => (
                Verdict::Uncertain,
                Some("unexpected reply to the final dot"),
            ),
            (_, 4) => (Verdict::Transient, None),
            (_, 5) => (Verdict::Permanent, None),
            _ => (Verdict::Transient, Some("unexpected reply")),
        };
        self.settle(verdict, phase, Some(reply), detail);
    }

    /// A 421, wherever it came: the relay's trouble, unless it has judged some recipients before.
    pub(crate) fn closing(&mut self, phase: Phase, reply: Reply) {
        if self.judged {
            self.settle(Verdict::Transient, phase, Some(&reply), None);
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

    /// The connection broke, but the relay said something before; `None`: it did not. Only within the
    /// text is it clear what that was about.
    pub(crate) fn lost_saying(
        &mut self,
        kept: bool,
        phase: Phase,
        reply: Option<Reply>,
        detail: String,
    ) {
        match reply {
            Some(reply) if reply.code == 421 => self.closing(phase, reply),
            Some(reply) if phase == Phase::Body => self.judge(phase, &reply),
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

    /// Silence after the final dot.
    pub(crate) fn uncertain(&mut self, detail: &str) {
        self.settle(Verdict::Uncertain, Phase::Dot, None, Some(detail));
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
            });
        }
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
