//! Whatever a relay says, in whatever order: what is reported as delivered is what it took
//! responsibility for, and the other way round nothing that it took goes unmentioned.

use std::{collections::BTreeSet, sync::Arc};

use mail_smtp::{Endpoint, Message, Outcome, Phase, Protocol, Session, Verdict};
use proptest::{collection::vec, prelude::*};

use crate::{
    endpoint, message_saying,
    support::{Act, Script, Server, say, say_and_close},
};

/// A relay's behaviour in one phase; mostly good.
fn act(usual: &'static str) -> impl Strategy<Value = Act> {
    let odd = [
        "250",
        "250OK",
        "250\r",
        "251-a\r\n251 b",
        "450 4.2.0 later",
        "452 4.5.3 too many",
        "550 5.1.1 no",
        "552 full",
        "421 4.3.2 bye",
        "354 go",
        "333 hm",
        "no such reply",
        "250 ok\r\n250 ok",
        "354 go\r\n250 ok",
        "550 no\r\n354 go",
    ];
    prop_oneof![
        12 => Just(say(usual)),
        6 => prop::sample::select(odd.to_vec()).prop_map(say),
        1 => prop::sample::select(odd.to_vec()).prop_map(say_and_close),
        1 => Just(Act::Close),
        // It took it, but its reply never comes whole.
        1 => Just(Act::SayAndClose(b"250 o".to_vec())),
    ]
}

/// Whether the relay goes.
fn parts(act: &Act) -> bool {
    match act {
        Act::Say(words) => words.starts_with(b"421"),
        _ => true,
    }
}

/// Sends `jobs`, each once, over as many connections as it takes.
async fn send_all(endpoint: &Endpoint, jobs: &[Arc<Message>]) -> Vec<Outcome> {
    let (mut outcomes, mut session, mut next) = (vec![], None, None);
    while let Some(job) = jobs.get(outcomes.len()) {
        let mut current: Session = match session.take() {
            Some(session) => session,
            None => Session::connect(endpoint).await.expect("a session"),
        };
        if let Some(chained) = next.take() {
            assert!(Arc::ptr_eq(&chained, job));
        }
        let following = || jobs.get(outcomes.len() + 1).cloned();
        let (outcome, chained) = current.send(job, following).await;
        outcomes.push(outcome);
        if current.is_usable() {
            (session, next) = (Some(current), chained);
        }
    }
    outcomes
}

/// A message to two recipients of its own.
fn job(number: usize) -> Arc<Message> {
    let to = ["a", "b"].map(|name| format!("{name}{number}@example.com"));
    Arc::new(Message {
        from: format!("from{number}@example.com"),
        to: to.to_vec(),
        ..message_saying(0, &format!("number {number}\r\n"))
    })
}

/// The recipients of one message that have this verdict.
fn with(outcome: &Outcome, message: &Message, verdict: Verdict) -> BTreeSet<String> {
    let Outcome::Judged(results) = outcome else {
        return BTreeSet::new();
    };
    assert_eq!(results.len(), message.to.len());
    let same = results
        .iter()
        .zip(&message.to)
        .filter(|(r, _)| r.verdict == verdict);
    same.map(|(_, to)| format!("RCPT TO:<{to}>")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    // What is Permanent was refused is said only of relays that stay: of one that answers once too often
    // and goes, the refusal might be someone else's.
    #[test]
    fn delivered_means_accepted_and_accepted_means_delivered_or_uncertain(
        staying in any::<bool>(),
        pipelining in any::<bool>(),
        lmtp in any::<bool>(),
        mail in vec(act("250 ok"), 0..8),
        rcpt in vec(act("250 ok"), 0..16),
        data in vec(act("354 go"), 0..8),
        dot in vec(act("250 queued"), 0..8),
        rset in vec(act("250 reset"), 0..4),
    ) {
        let mut script = Script::new(pipelining);
        if lmtp {
            script = script.lmtp();
        }
        let phases = [
            (Phase::Mail, mail),
            (Phase::Rcpt, rcpt),
            (Phase::Data, data),
            (Phase::Dot, dot),
            (Phase::Rset, rset),
        ];
        for (phase, acts) in phases {
            // A relay that is ahead by one 354 and then takes DATA for a complete command cannot be seen
            // through if its replies come in pieces; nor one that answers twice for one recipient.
            let blind = |act: &Act| {
                let (Act::Say(words) | Act::SayAndClose(words)) = act else {
                    return false;
                };
                let ahead = pipelining && phase == Phase::Data && words.starts_with(b"2");
                let twice = words.windows(3).any(|w| w == b"\n25" || w == b"\n35");
                ahead || (lmtp && phase == Phase::Dot && twice && !words.starts_with(b"251"))
            };
            for act in acts.into_iter().filter(|act| !(blind(act) || staying && parts(act))) {
                script = script.on(phase, act);
            }
        }
        let jobs: Vec<_> = (0..6).map(job).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (outcomes, connections) = runtime.block_on(async {
            let server = Server::start(script).await;
            let protocol = if lmtp { Protocol::Lmtp } else { Protocol::Smtp };
            let endpoint = Endpoint { protocol, ..endpoint(&server) };
            let outcomes = send_all(&endpoint, &jobs).await;
            server.until(|all| all.iter().all(|c| c.closed)).await;
            (outcomes, server.connections())
        });
        for (job, outcome) in jobs.iter().zip(&outcomes) {
            let accepted: Vec<&Vec<String>> = connections
                .iter()
                .flat_map(|c| &c.accepted)
                .filter(|(text, _)| *text == job.data.to_vec())
                .map(|(_, recipients)| recipients)
                .collect();
            let delivered = with(outcome, job, Verdict::Delivered);
            let uncertain = with(outcome, job, Verdict::Uncertain);
            let count: usize = accepted.iter().map(|recipients| recipients.len()).sum();
            let accepted: BTreeSet<String> = accepted.into_iter().flatten().cloned().collect();
            prop_assert_eq!(accepted.len(), count, "accepted twice");
            prop_assert!(delivered.is_subset(&accepted), "{outcome:?} but {connections:#?}");
            let known: BTreeSet<String> = delivered.union(&uncertain).cloned().collect();
            prop_assert!(accepted.is_subset(&known), "{outcome:?} but {connections:#?}");
            let refused: BTreeSet<String> =
                connections.iter().flat_map(|c| c.refused.iter().cloned()).collect();
            let permanent = with(outcome, job, Verdict::Permanent);
            let mail = format!("MAIL FROM:<{}>", job.from);
            prop_assert!(
                !staying || refused.contains(&mail) || permanent.is_subset(&refused),
                "{outcome:?} but {connections:#?}"
            );
        }
    }
}
