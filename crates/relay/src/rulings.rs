//! What the rules make of one message's results. Pure.

use mail_smtp::{RecipientResult, RelayFault, Verdict};

use crate::{Action, Decision, Rule, conclude::first_line, rules::decide};

/// The rules find that a refusal is about the relay.
pub(crate) enum Ruled {
    /// All of it: nobody was judged.
    NobodyJudged(RelayFault),
    /// Others were judged.
    SomeJudged(RelayFault),
}

/// Decides about each recipient that was refused, and changes the verdicts so. Empty: no rule fits.
pub(crate) fn apply(
    rules: &[Rule],
    relay: i32,
    results: &mut [RecipientResult],
) -> Vec<Option<Decision>> {
    let decisions: Vec<Option<Decision>> = results
        .iter()
        .map(|result| {
            // What is uncertain, or was not judged, stays so.
            let refused = matches!(result.verdict, Verdict::Transient | Verdict::Permanent);
            let reply = result
                .reply
                .as_ref()
                .filter(|reply| refused && reply.code >= 400)?;
            decide(rules, relay, reply)
        })
        .collect();
    if decisions.iter().all(Option::is_none) {
        return Vec::new();
    }
    for (result, decision) in results.iter_mut().zip(&decisions) {
        result.verdict = match decision.as_ref().map(|decision| decision.action) {
            None => result.verdict,
            Some(Action::Fail) => Verdict::Permanent,
            Some(_) => Verdict::Transient,
        };
    }
    decisions
}

/// Whether the decisions suspend the relay, and whether anybody was judged beside that.
pub(crate) fn against_the_relay(
    decisions: &[Option<Decision>],
    results: &[RecipientResult],
) -> Option<Ruled> {
    let suspends = |decision: &Option<Decision>| {
        decision
            .as_ref()
            .is_some_and(|decision| decision.action == Action::SuspendRelay)
    };
    let (_, result) = decisions
        .iter()
        .zip(results)
        .find(|(decision, _)| suspends(decision))?;
    let reply = result.reply.clone()?;
    let fault = RelayFault {
        phase: result.phase,
        detail: format!(
            "the relay takes no mail for now: {} {}",
            reply.code,
            first_line(&reply.text)
        ),
        reply: Some(reply),
    };
    Some(if decisions.iter().all(suspends) {
        Ruled::NobodyJudged(fault)
    } else {
        Ruled::SomeJudged(fault)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mail_smtp::{Phase, Reply};

    use super::*;
    use crate::pattern;

    fn result(verdict: Verdict, code: Option<u16>, text: &str) -> RecipientResult {
        RecipientResult {
            verdict,
            phase: Phase::Rcpt,
            reply: code.map(|code| Reply {
                code,
                enhanced: None,
                text: text.to_owned(),
            }),
            detail: None,
            status: None,
        }
    }

    fn quota() -> Rule {
        Rule {
            name: "quota".to_owned(),
            relay: None,
            code: None,
            status: None,
            text: Some(pattern("quota").unwrap()),
            action: Action::SuspendRelay,
            duration: Some(Duration::from_hours(1)),
        }
    }

    #[test]
    fn only_what_was_refused_is_decided_about() {
        let mut results = [
            result(Verdict::Delivered, Some(250), "quota"),
            result(Verdict::Uncertain, Some(354), "quota"),
            result(Verdict::Untried, Some(421), "quota"),
            result(Verdict::Transient, None, ""),
        ];
        assert!(apply(&[quota()], 1, &mut results).is_empty());
        assert_eq!(results[2].verdict, Verdict::Untried);
    }

    #[test]
    fn a_relay_that_judged_others_is_suspended_all_the_same() {
        let mut results = [
            result(Verdict::Delivered, Some(250), "ok"),
            result(Verdict::Permanent, Some(550), "quota"),
        ];
        let decisions = apply(&[quota()], 1, &mut results);
        assert_eq!(results[1].verdict, Verdict::Transient);
        let ruled = against_the_relay(&decisions, &results);
        assert!(matches!(ruled, Some(Ruled::SomeJudged(_))));
        let ruled = against_the_relay(&decisions[1..], &results[1..]);
        assert!(matches!(ruled, Some(Ruled::NobodyJudged(_))));
    }
}
