//! From what the network reports to rows.

use std::collections::HashMap;

use mail_lanes::{Flight, InFlight};
use mail_relay::{Finished, JobResult};
use mail_smtp::{Outcome, Phase, RecipientResult, Reply, Verdict};
use serde_json::{Value, json};

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
    let mut sent = store::Sent::default();
    let mut sent_ids = Vec::new();
    let mut others = Vec::new();
    for end in finished {
        let Some(message) = flight.get(end.id) else {
            continue;
        };
        let relay = end.relay.and_then(|id| relays.get(&id)).map(String::as_str);
        if accepted_by_all(end, message) {
            sent_ids.push(end.id);
            add_sent(&mut sent, end, message, relay, texts);
        } else {
            others.push((end, message, relay));
        }
        if let JobResult::Captured(mime) = &end.result {
            store::capture(end.id, &end.to, mime)?;
        }
    }
    if !sent_ids.is_empty() {
        store::sent(&sent_ids, sent)?;
    }
    for (end, message, relay) in &others {
        write_other(end, message, *relay, texts)?;
    }
    let ids: Vec<i64> = finished.iter().map(|end| end.id).collect();
    let emptied = flight.emptied_by(&ids);
    if !emptied.is_empty() {
        store::drop_leases(&emptied)?;
    }
    let back = others
        .iter()
        .filter(|(_, message, _)| !emptied.contains(&message.token));
    let (ids, tokens): (Vec<i64>, Vec<i64>) = back
        .map(|(end, message, _)| (end.id, message.token))
        .unzip();
    if !ids.is_empty() {
        store::shrink_leases(&ids, &tokens)?;
    }
    Ok(())
}

/// The plain case: nobody's result depends on an earlier attempt.
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

fn add_sent(
    sent: &mut store::Sent,
    end: &Finished,
    message: &InFlight,
    relay: Option<&str>,
    texts: Texts,
) {
    for (n, recipient) in end.to.iter().enumerate() {
        let reply = match &end.result {
            JobResult::Smtp(Outcome::Judged(results)) => {
                results.get(n).and_then(|result| result.reply.as_ref())
            }
            _ => None,
        };
        let text = match &end.result {
            JobResult::Captured(_) => Some("captured".to_owned()),
            _ => reply.map(|reply| texts.clean(&reply.text)),
        };
        sent.id.push(Some(end.id));
        sent.queue.push(Some(message.lane.queue));
        sent.attempt.push(Some(message.attempts + 1));
        sent.code.push(reply.map(|reply| i32::from(reply.code)));
        sent.last.push(Some(n + 1 == end.to.len()));
        sent.recipient.push(Some(recipient.clone()));
        sent.relay.push(relay.map(str::to_owned));
        sent.phase
            .push(reply.map(|_| phase_name(Phase::Dot).to_owned()));
        sent.status.push(reply.and_then(status));
        sent.text.push(text);
        sent.seconds.push(Some(end.duration.as_secs_f64()));
    }
}

fn write_other(
    end: &Finished,
    message: &InFlight,
    relay: Option<&str>,
    texts: Texts,
) -> Result<(), Failure> {
    let results = match &end.result {
        _ if end.to.is_empty() => {
            json!([{"verdict": "permanent", "text": "the message has no recipient left"}])
        }
        JobResult::Smtp(Outcome::Judged(results)) => end
            .to
            .iter()
            .zip(results)
            .map(|(recipient, result)| judged(recipient, result, texts))
            .collect(),
        JobResult::Captured(_) => end
            .to
            .iter()
            .map(|to| json!({"verdict": "delivered", "recipient": to, "text": "captured"}))
            .collect(),
        JobResult::Unrenderable(why) => Value::Array(vec![
            json!({"verdict": "permanent", "text": texts.clean(&format!("the message cannot be composed: {why}"))}),
        ]),
        JobResult::Smtp(Outcome::NotTried(fault)) => {
            let text = texts.clean(&fault.to_string());
            return store::released(end.id, message.lane.queue, message.attempts, relay, &text);
        }
        JobResult::Returned(_) => return Ok(()),
    };
    store::settle(
        end.id,
        &results.to_string(),
        relay,
        end.duration.as_secs_f64(),
        too_many_recipients(end),
    )
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

fn judged(recipient: &str, result: &RecipientResult, texts: Texts) -> Value {
    let verdict = match result.verdict {
        Verdict::Delivered => "delivered",
        Verdict::Transient => "transient",
        Verdict::Permanent => "permanent",
        Verdict::Uncertain => "uncertain",
    };
    let reply = result.reply.as_ref();
    let text = reply
        .map(|reply| reply.text.as_str())
        .or(result.detail.as_deref());
    json!({
        "verdict": verdict,
        "recipient": recipient,
        "phase": phase_name(result.phase),
        "code": reply.map(|reply| reply.code),
        "status": reply.and_then(status),
        "text": text.map(|text| texts.clean(text)),
    })
}

fn status(reply: &Reply) -> Option<String> {
    reply
        .enhanced
        .map(|code| format!("{}.{}.{}", code.class, code.subject, code.detail))
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
