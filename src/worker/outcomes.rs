//! From what the network reports to rows.

use std::collections::HashMap;

use mail_lanes::{Flight, InFlight};
use mail_relay::{Action, Decision, Finished, JobResult};
use mail_smtp::{Outcome, Phase, RecipientResult, RelayFault, Reply, Verdict};
use serde_json::{Map, Value, json};

use super::store;
use crate::pg::Failure;

/// Texts as they may be stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Texts {
    /// As received.
    Full,
    /// ASCII only: for a database whose encoding cannot hold what a relay said.
    Plain,
}

impl Texts {
    fn clean(self, text: &str) -> String {
        let keep = |c: char| match (self, c) {
            (_, '\0') | (Self::Plain, '\u{80}'..) => '?',
            _ => c,
        };
        text.chars().take(2000).map(keep).collect()
    }
}

/// Writes the outcomes within the caller's transaction. Nothing in `flight` changes: the caller takes the messages out
/// once the transaction is committed.
pub fn write(
    finished: &[Finished],
    flight: &Flight,
    relays: &HashMap<i32, String>,
    texts: Texts,
) -> Result<(), Failure> {
    let words = Words { relays, texts };
    let mut sent = Vec::new();
    let mut sent_ids = Vec::new();
    let mut others = Vec::new();
    let mut put_off = store::PutOff::default();
    for end in finished {
        let Some(message) = flight.get(end.id) else {
            continue;
        };
        if end.more {
            let results = Value::Array(part_results(end, &words));
            store::part(end.id, message.attempts + 1, &results.to_string())?;
            continue;
        }
        if accepted_by_all(end, message) {
            sent_ids.push(end.id);
            add_sent(&mut sent, end, message, &words);
        } else {
            others.push((end, message));
        }
        match &end.result {
            JobResult::Captured(mime) => store::capture(end.id, &end.to, mime)?,
            JobResult::PutOff {
                wait, told: false, ..
            } => {
                put_off.ids.push(end.id);
                put_off.seconds.push(wait.as_secs_f64());
                put_off.waits_for.push(end.waits_for.clone());
            }
            _ => {}
        }
    }
    if !sent_ids.is_empty() {
        store::sent(&sent_ids, sent)?;
    }
    for (end, _) in &others {
        write_other(end, &words)?;
    }
    if !put_off.ids.is_empty() {
        store::put_off(put_off)?;
    }
    let landed = finished.iter().filter(|end| !end.more);
    let ids: Vec<i64> = landed.map(|end| end.id).collect();
    let emptied = flight.emptied_by(&ids);
    if !emptied.is_empty() {
        store::drop_leases(&emptied)?;
    }
    let back = others
        .iter()
        .filter(|(_, message)| !emptied.contains(&message.token));
    let (ids, tokens): (Vec<i64>, Vec<i64>) =
        back.map(|(end, message)| (end.id, message.token)).unzip();
    if !ids.is_empty() {
        store::shrink_leases(&ids, &tokens)?;
    }
    Ok(())
}

/// What it takes to say things as they may be stored.
struct Words<'a> {
    relays: &'a HashMap<i32, String>,
    texts: Texts,
}

impl Words<'_> {
    fn relay(&self, end: &Finished) -> Option<&str> {
        let relay = end.relay.and_then(|id| self.relays.get(&id));
        relay.map(String::as_str)
    }
}

fn tls(end: &Finished) -> Option<String> {
    let tls = end.tls.as_ref();
    tls.map(|tls| format!("{} {}", tls.version, tls.cipher))
}

/// The plain case: nobody's result depends on an earlier attempt, or on another way.
fn accepted_by_all(end: &Finished, message: &InFlight) -> bool {
    // Everybody is in this attempt.
    let first = !end.to.is_empty() && end.to.len() == message.recipients;
    match &end.result {
        JobResult::Smtp(Outcome::Judged(results)) => {
            first
                && results
                    .iter()
                    .all(|result| result.verdict == Verdict::Delivered)
        }
        JobResult::Captured(_) => first,
        _ => false,
    }
}

fn add_sent(sent: &mut Vec<store::Sent>, end: &Finished, message: &InFlight, words: &Words<'_>) {
    let (relay, tls) = (words.relay(end), tls(end));
    for (n, recipient) in end.to.iter().enumerate() {
        let reply = match &end.result {
            JobResult::Smtp(Outcome::Judged(results)) => {
                results.get(n).and_then(|result| result.reply.as_ref())
            }
            _ => None,
        };
        let text = match &end.result {
            JobResult::Captured(_) => Some("captured".to_owned()),
            _ => reply.map(|reply| words.texts.clean(&reply.text)),
        };
        sent.push(store::Sent {
            id: end.id,
            queue: message.lane.queue,
            attempt: message.attempts + 1,
            code: reply.map(|reply| i32::from(reply.code)),
            last: n + 1 == end.to.len(),
            recipient: recipient.clone(),
            relay: relay.map(str::to_owned),
            phase: reply.map(|_| phase_name(Phase::Dot)),
            status: reply.and_then(status),
            text,
            duration: i64::try_from(end.duration.as_micros()).unwrap_or(i64::MAX),
            tls: tls.clone(),
            detail: end.note.as_deref().map(str::to_owned),
        });
    }
}

fn write_other(end: &Finished, words: &Words<'_>) -> Result<(), Failure> {
    match &end.result {
        JobResult::Smtp(Outcome::NotTried(fault)) => {
            let facts = released(end, &fault.to_string(), Some(fault), words);
            return store::released(end.id, &facts.to_string(), None);
        }
        JobResult::PutOff {
            wait,
            why,
            told: true,
            fault,
        } => {
            let facts = released(end, why, fault.as_ref(), words);
            return store::released(end.id, &facts.to_string(), Some(wait.as_secs_f64()));
        }
        JobResult::Returned(_) | JobResult::PutOff { .. } => return Ok(()),
        _ => {}
    }
    let parts = std::iter::once(end).chain(&end.others);
    let results: Vec<Value> = parts.flat_map(|part| part_results(part, words)).collect();
    // Who was not tried has cost no attempt: only who is to be tried again does.
    let again =
        |result: &Value| matches!(result["verdict"].as_str(), Some("transient" | "uncertain"));
    let ending = store::Ending {
        at_once: too_many_recipients(end),
        counted: end.untried.is_none() || results.iter().any(again),
        untried: end.untried.map(|wait| wait.as_secs_f64()),
        waits_for: end.waits_for.as_deref(),
    };
    store::settle(end.id, &Value::Array(results).to_string(), &ending)
}

/// What is recorded of a message that was given back without an attempt.
fn released(end: &Finished, why: &str, fault: Option<&RelayFault>, words: &Words<'_>) -> Value {
    let reply = fault.and_then(|fault| fault.reply.as_ref());
    let rule = end.decisions.iter().flatten().next();
    json!({
        "relay": words.relay(end),
        "phase": fault.map(|fault| phase_name(fault.phase)),
        "code": reply.map(|reply| reply.code),
        "status": reply.and_then(status),
        "text": words.texts.clean(why),
        "seconds": end.duration.as_secs_f64(),
        "tls": tls(end),
        "detail": rule.map(|rule| json!({"rule": rule.rule})),
    })
}

/// What came of the recipients of one part of an attempt.
fn part_results(end: &Finished, words: &Words<'_>) -> Vec<Value> {
    let mut results: Vec<Value> = match &end.result {
        _ if end.to.is_empty() => {
            vec![json!({"verdict": "permanent", "text": "the message has no recipient left"})]
        }
        JobResult::Smtp(Outcome::Judged(results)) => end
            .to
            .iter()
            .zip(results)
            .enumerate()
            .map(|(n, (recipient, result))| {
                let decision = end.decisions.get(n).and_then(Option::as_ref);
                judged(recipient, result, decision, words.texts)
            })
            .collect(),
        JobResult::Captured(_) => end
            .to
            .iter()
            .map(|to| json!({"verdict": "delivered", "recipient": to, "text": "captured"}))
            .collect(),
        JobResult::Unrenderable(why) => {
            let text = format!("the message cannot be composed: {why}");
            vec![json!({"verdict": "permanent", "text": words.texts.clean(&text)})]
        }
        JobResult::Smtp(Outcome::NotTried(_))
        | JobResult::Returned(_)
        | JobResult::PutOff { .. } => Vec::new(),
    };
    for result in &mut results {
        result["relay"] = json!(words.relay(end));
        result["seconds"] = json!(end.duration.as_secs_f64());
        result["tls"] = json!(tls(end));
        add_note(result, end);
    }
    results
}

/// The note goes with what a rule decided.
fn add_note(result: &mut Value, end: &Finished) {
    let Some(note) = note(end) else { return };
    match &mut result["detail"] {
        Value::Object(detail) => detail.extend(note),
        missing => *missing = Value::Object(note),
    }
}

/// What is remembered of how the message was made.
pub(super) fn note(end: &Finished) -> Option<Map<String, Value>> {
    serde_json::from_str(end.note.as_deref()?).ok()
}

/// The relay took some recipients and no more in one transaction: the rest go in a further one (RFC 5321 section
/// 4.5.3.1.10).
fn too_many_recipients(end: &Finished) -> bool {
    let JobResult::Smtp(Outcome::Judged(results)) = &end.result else {
        return false;
    };
    let turned_away = |result: &RecipientResult| {
        result.verdict == Verdict::Transient
            && result.phase == Phase::Rcpt
            && result
                .reply
                .as_ref()
                .is_some_and(|reply| matches!(reply.code, 452 | 552))
    };
    let left = results
        .iter()
        .filter(|result| result.verdict == Verdict::Transient);
    results
        .iter()
        .any(|result| result.verdict == Verdict::Delivered)
        && left.clone().all(turned_away)
        && left.count() > 0
}

fn judged(
    recipient: &str,
    result: &RecipientResult,
    decision: Option<&Decision>,
    texts: Texts,
) -> Value {
    let verdict = match result.verdict {
        Verdict::Delivered => "delivered",
        // Those that were not tried are left out before.
        Verdict::Transient | Verdict::Untried => "transient",
        Verdict::Permanent => "permanent",
        Verdict::Uncertain => "uncertain",
    };
    let reply = result.reply.as_ref();
    let text = reply
        .map(|reply| reply.text.as_str())
        .or(result.detail.as_deref());
    let mut value = json!({
        "verdict": verdict,
        "recipient": recipient,
        "phase": phase_name(result.phase),
        "code": reply.map(|reply| reply.code),
        "status": reply.and_then(status).or_else(|| result.status.map(|code| code.to_string())),
        "text": text.map(|text| texts.clean(text)),
    });
    if let Some(decision) = decision {
        value["detail"] = json!({"rule": decision.rule});
        value["by_reply"] = json!(decision.by_reply);
        value["retry_after"] = match decision.action {
            Action::Hold => json!("Infinity"),
            _ => json!(decision.duration.map(|duration| duration.as_secs_f64())),
        };
    }
    value
}

fn status(reply: &Reply) -> Option<String> {
    reply.enhanced.map(|code| code.to_string())
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Connect => "connect",
        Phase::Tls => "tls",
        Phase::Greeting => "greeting",
        Phase::Ehlo => "ehlo",
        Phase::StartTls => "starttls",
        Phase::Auth => "auth",
        Phase::Mail => "mail",
        Phase::Rcpt => "rcpt",
        Phase::Data => "data",
        Phase::Body => "body",
        Phase::Dot => "dot",
        Phase::Rset => "rset",
        Phase::Quit => "quit",
    }
}
