//! What a session said of a job: reported, or taken as the relay's trouble, or tried elsewhere.
//!
//! A relay that breaks off before the final dot has accepted nothing. The message goes to another relay, if there is
//! one; else that was an attempt, unless the relay said nothing to anybody meanwhile or was only being tried.

use std::{rc::Rc, time::Duration};

use mail_smtp::{Outcome, Phase, RecipientResult, RelayFault, Reply, TlsInfo, Verdict};
use tokio::time::Instant;

use crate::{
    Action, Decision, JobResult,
    blame::Strike,
    connection::{AT_ONCE, End, Link},
    domain::of_address,
    hub::Victim,
    rules,
    rulings::{self, Ruled},
    ticket::Ticket,
};

impl Link<'_> {
    /// Reports a job, or gives it back to be tried again; and tells the hub how the relay behaves.
    pub fn conclude(
        &self,
        ticket: Ticket,
        outcome: Outcome,
        tls: Option<TlsInfo>,
        took: Duration,
        rested: bool,
    ) -> Result<(), End> {
        match outcome {
            Outcome::Judged(results) => self.judged(ticket, results, tls, took),
            Outcome::NotTried(fault) => self.not_tried(ticket, fault, tls, rested),
        }
    }

    fn judged(
        &self,
        mut ticket: Ticket,
        mut results: Vec<RecipientResult>,
        tls: Option<TlsInfo>,
        took: Duration,
    ) -> Result<(), End> {
        let (hub, relay) = (&self.slot.hub, &self.slot.relay);
        if cannot_carry(&results) && !hub.others(&ticket, relay).is_empty() {
            ticket.unfit.push(relay.config.id);
            hub.reroute([ticket]);
            return Ok(());
        }
        if let Some(fault) = broken_off(&results) {
            // Where it stops taking the text, that may be for what it is.
            let hung = fault.phase != Phase::Body && self.hung(took);
            if hung {
                relay.gives_up_on_it();
            }
            if hung || relay.health.borrow().is_probing() || hub.has_another(&ticket, relay) {
                return self.trouble(ticket, fault, tls);
            }
        }
        let behaviour = match self.apply_rules(&mut ticket, &mut results) {
            Some(Ruled::NobodyJudged(fault)) => {
                ticket.decisions.clear();
                return self.trouble(ticket, fault, tls);
            }
            Some(Ruled::SomeJudged(fault)) => Behaviour::Fails(fault),
            None => behaviour(&results),
        };
        ticket.finish(JobResult::Smtp(Outcome::Judged(results)), tls);
        match behaviour {
            Behaviour::Answers => hub.answered(relay),
            Behaviour::Unclear => {}
            Behaviour::Fails(fault) => {
                hub.trouble(self.slot, fault, Victim::None);
                return Err(End::Over);
            }
        }
        Ok(())
    }

    fn not_tried(
        &self,
        mut ticket: Ticket,
        fault: RelayFault,
        tls: Option<TlsInfo>,
        rested: bool,
    ) -> Result<(), End> {
        let (hub, relay) = (&self.slot.hub, &self.slot.relay);
        if let Some((decision, reply)) = self.asks_for_its_domain(&fault) {
            hub.pause_domain(&ticket.domain, relay.config.id, &decision, reply);
            ticket.fault = Some(fault);
            hub.leave_alone(ticket, decision);
            return Err(End::Over);
        }
        let kept = self.messages > 1;
        let closing = fault.reply.as_ref().is_some_and(|reply| reply.code == 421);
        // Relays say 421 to a connection that they find idle, or to have carried enough: that is no sign of trouble.
        // Each such connection ends here, so that a job meets a fresh one in the end.
        if (kept || rested) && (fault.reply.is_none() || closing) {
            ticket.fault = Some(fault);
            hub.requeue(relay, ticket);
            return Err(End::Stale);
        }
        self.trouble(ticket, fault, tls)
    }

    /// The relay failed with a job in hand: it goes elsewhere or comes back, unless it is to blame itself.
    fn trouble(&self, ticket: Ticket, fault: RelayFault, tls: Option<TlsInfo>) -> Result<(), End> {
        let strike = self.slot.relay.strike(ticket.id(), Instant::now());
        if strike == Strike::Guilty {
            ticket.fail(fault, tls);
        } else {
            let again = strike == Strike::Again;
            let victim = Victim::This(Box::new(ticket), again);
            self.slot.hub.trouble(self.slot, fault, victim);
        }
        Err(End::Over)
    }

    /// Whether the relay said nothing to anybody while it kept a message waiting for so long.
    fn hung(&self, took: Duration) -> bool {
        let relay = &self.slot.relay;
        let patience = relay.config.endpoint.timeouts.envelope.min(AT_ONCE);
        took >= patience && relay.said.get().elapsed() >= took / 4 * 3
    }

    /// The words of a relay that closes the connection, if a rule understands that it wants no mail for the job's domain.
    fn asks_for_its_domain<'f>(&self, fault: &'f RelayFault) -> Option<(Decision, &'f Reply)> {
        let of_its_envelope = matches!(
            fault.phase,
            Phase::Mail | Phase::Rcpt | Phase::Data | Phase::Dot
        );
        let reply = fault.reply.as_ref().filter(|_| of_its_envelope)?;
        let rules = Rc::clone(&self.slot.hub.rules.borrow());
        let decision = rules::decide(&rules, self.slot.relay.config.id, reply)?;
        (decision.action == Action::SuspendDomain).then_some((decision, reply))
    }

    /// Lets the rules decide about what was refused; a fault if they find that it is all the relay's.
    fn apply_rules(&self, ticket: &mut Ticket, results: &mut [RecipientResult]) -> Option<Ruled> {
        let (hub, relay) = (&self.slot.hub, &self.slot.relay);
        let rules = Rc::clone(&hub.rules.borrow());
        ticket.decisions = rulings::apply(&rules, relay.config.id, results);
        let (_, to) = ticket.envelope();
        for ((decision, result), address) in ticket.decisions.iter().zip(&*results).zip(to) {
            if let (Some(decision), Some(reply)) = (decision, &result.reply)
                && decision.action == Action::SuspendDomain
            {
                let domain = hub.domain(&of_address(address));
                hub.pause_domain(&domain, relay.config.id, decision, reply);
            }
        }
        rulings::against_the_relay(&ticket.decisions, results)
    }
}

/// What a judged message says about the relay.
enum Behaviour {
    Answers,
    Unclear,
    Fails(RelayFault),
}

fn behaviour(results: &[RecipientResult]) -> Behaviour {
    let is_closing = |r: &&RecipientResult| r.reply.as_ref().is_some_and(|r| r.code == 421);
    if let Some(closing) = results.iter().find(is_closing) {
        let text = closing.reply.as_ref().map_or("", |reply| &reply.text);
        return Behaviour::Fails(RelayFault {
            phase: closing.phase,
            reply: closing.reply.clone(),
            detail: format!("the relay closed the connection: 421 {}", first_line(text)),
        });
    }
    if let Some(lost) = results.iter().find(|result| is_lost(result)) {
        return Behaviour::Fails(fault_of(lost));
    }
    if results.iter().any(|result| result.reply.is_some()) {
        Behaviour::Answers
    } else {
        Behaviour::Unclear
    }
}

/// Whether no reply says it: the connection broke off, or what came over it was none.
fn is_lost(result: &RecipientResult) -> bool {
    result.reply.is_none() && matches!(result.verdict, Verdict::Transient | Verdict::Uncertain)
}

/// Why nobody was judged, where the relay broke off before anything can have been accepted.
fn broken_off(results: &[RecipientResult]) -> Option<RelayFault> {
    let broken = |r: &RecipientResult| is_lost(r) && r.verdict == Verdict::Transient;
    results
        .first()
        .filter(|_| results.iter().all(broken))
        .map(fault_of)
}

fn fault_of(result: &RecipientResult) -> RelayFault {
    let detail = result.detail.clone();
    RelayFault {
        phase: result.phase,
        reply: None,
        detail: detail.unwrap_or_else(|| "the relay did not answer".to_owned()),
    }
}

/// Whether the message was not offered to the relay, which could not carry it: too large, or in need of an extension
/// that it lacks.
fn cannot_carry(results: &[RecipientResult]) -> bool {
    let refused = |r: &RecipientResult| r.reply.is_none() && r.verdict == Verdict::Permanent;
    !results.is_empty() && results.iter().all(refused)
}

pub(crate) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
