//! A job whose recipients must go different ways: its parts, and their ends put together again.

use std::{cell::RefCell, rc::Rc, time::Duration};

use mail_smtp::Outcome;

use crate::{Finished, Job, JobResult, Report, ticket::Reporter};

/// Cuts a job into one for each group of recipients; `groups` are indices into [`Job::to`]. The reporter hears of it
/// once, when the last part has ended.
pub(crate) fn split(job: &Job, groups: &[Vec<usize>], reporter: &Reporter) -> (Vec<Job>, Reporter) {
    let parts = groups
        .iter()
        .map(|group| Job {
            to: group
                .iter()
                .filter_map(|&i| job.to.get(i))
                .cloned()
                .collect(),
            ..job.clone()
        })
        .collect();
    let (reporter, ends) = (Rc::clone(reporter), RefCell::new(Vec::new()));
    let count = groups.len();
    let collect = move |report: Report| match report {
        Report::Finished(end) => {
            ends.borrow_mut().push(end);
            if ends.borrow().len() == count
                && let Some(whole) = together(ends.take())
            {
                reporter(Report::Finished(whole));
            }
        }
        other => reporter(other),
    };
    (parts, Rc::new(collect))
}

/// One end of all: those parts that were judged, with a time for those that were not. If none was, the one that says most.
fn together(ends: Vec<Finished>) -> Option<Finished> {
    let (mut judged, mut untried): (Vec<_>, Vec<_>) = ends.into_iter().partition(|end| {
        matches!(
            end.result,
            JobResult::Smtp(Outcome::Judged(_)) | JobResult::Unrenderable(_)
        )
    });
    let left = judged.iter().filter_map(|end| end.untried);
    let wait = untried.iter().map(wait).chain(left).min();
    if judged.is_empty() {
        let place = untried
            .iter()
            .position(|end| matches!(end.result, JobResult::Smtp(_)))
            .or_else(|| untried.iter().position(|end| Some(self::wait(end)) == wait))?;
        return Some(untried.swap_remove(place));
    }
    let mut first = judged.remove(0);
    first.others = judged;
    first.untried = wait;
    Some(first)
}

/// When a part that was not tried may be.
fn wait(end: &Finished) -> Duration {
    match &end.result {
        JobResult::PutOff { wait, .. } => *wait,
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mail_smtp::{Phase, RecipientResult, RelayFault, Verdict};

    use super::*;
    use crate::Transport;

    fn judged(verdict: Verdict) -> JobResult {
        let result = RecipientResult {
            verdict,
            phase: Phase::Dot,
            reply: None,
            detail: None,
        };
        JobResult::Smtp(Outcome::Judged(vec![result]))
    }

    fn not_tried() -> JobResult {
        JobResult::Smtp(Outcome::NotTried(RelayFault {
            phase: Phase::Connect,
            reply: None,
            detail: "down".to_owned(),
        }))
    }

    fn put_off(seconds: u64) -> JobResult {
        JobResult::PutOff {
            wait: Duration::from_secs(seconds),
            why: "later".to_owned(),
            told: false,
        }
    }

    /// What is reported when the parts of a job end like this.
    fn whole(results: Vec<JobResult>) -> Finished {
        let job = Job {
            id: 1,
            token: 2,
            queue: 3,
            transport: Transport::Smtp(Arc::from([])),
            from: String::new(),
            to: (0..results.len()).map(|n| format!("{n}@x.test")).collect(),
            content: String::new(),
            date: 0,
        };
        let seen = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&seen);
        let reporter: Reporter = Rc::new(move |report| {
            if let Report::Finished(end) = report {
                sink.borrow_mut().push(end);
            }
        });
        let groups: Vec<Vec<usize>> = (0..results.len()).map(|n| vec![n]).collect();
        let (parts, collect) = split(&job, &groups, &reporter);
        for (part, result) in parts.into_iter().zip(results) {
            assert!(seen.borrow().is_empty(), "one report, at the end");
            collect(Report::Finished(Finished {
                id: part.id,
                token: part.token,
                to: part.to,
                relay: None,
                result,
                tls: None,
                duration: Duration::ZERO,
                decisions: Vec::new(),
                others: Vec::new(),
                untried: None,
            }));
        }
        seen.take().remove(0)
    }

    #[test]
    fn what_was_judged_is_reported_together() {
        let end = whole(vec![judged(Verdict::Delivered), judged(Verdict::Permanent)]);
        assert_eq!((end.to, end.untried), (vec!["0@x.test".to_owned()], None));
        assert_eq!(end.others.len(), 1);
        assert_eq!(end.others[0].to, ["1@x.test"]);
    }

    #[test]
    fn what_was_not_tried_is_left_for_later() {
        let end = whole(vec![put_off(9), judged(Verdict::Delivered), put_off(5)]);
        assert_eq!(end.to, ["1@x.test"]);
        assert_eq!(end.untried, Some(Duration::from_secs(5)));
        let end = whole(vec![not_tried(), judged(Verdict::Delivered)]);
        assert_eq!(end.untried, Some(Duration::ZERO));
    }

    #[test]
    fn if_nothing_was_tried_the_relays_trouble_is_told_or_the_shortest_wait() {
        let end = whole(vec![put_off(9), not_tried()]);
        assert!(matches!(end.result, JobResult::Smtp(Outcome::NotTried(_))));
        let end = whole(vec![put_off(9), put_off(5)]);
        assert!(matches!(end.result, JobResult::PutOff { wait, .. } if wait.as_secs() == 5));
    }
}
