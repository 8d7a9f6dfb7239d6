//! A job whose recipients must go different ways: its parts, and their ends put together again. What is certain about
//! recipients is reported at once: another part may take long.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use mail_smtp::{Outcome, Verdict};

use crate::{Finished, Job, JobResult, Report, ticket::Reporter};

/// Cuts a job into one for each group of recipients; `groups` are indices into [`Job::to`]. The reporter hears of its
/// end when the last part has ended, and before that of those recipients who need no further attempt.
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
    let left = Cell::new(groups.len());
    let collect = move |report: Report| match report {
        Report::Finished(mut end) => {
            left.set(left.get() - 1);
            if left.get() > 0 {
                if let Some(settled) = take_settled(&mut end) {
                    reporter(Report::Finished(settled));
                }
                ends.borrow_mut().push(end);
            } else if let Some(whole) = together(ends.take(), end) {
                reporter(Report::Finished(whole));
            }
        }
        other => reporter(other),
    };
    (parts, Rc::new(collect))
}

/// Takes those recipients out of an end that are delivered to, or failed for good.
fn take_settled(end: &mut Finished) -> Option<Finished> {
    let JobResult::Smtp(Outcome::Judged(results)) = &mut end.result else {
        return None;
    };
    let settled: Vec<bool> = results
        .iter()
        .map(|result| matches!(result.verdict, Verdict::Delivered | Verdict::Permanent))
        .collect();
    if !settled.contains(&true) {
        return None;
    }
    let taken = take(results, &settled);
    let settled = Finished {
        id: end.id,
        token: end.token,
        to: take(&mut end.to, &settled),
        relay: end.relay,
        result: JobResult::Smtp(Outcome::Judged(taken)),
        tls: end.tls.clone(),
        duration: end.duration,
        decisions: take(&mut end.decisions, &settled),
        others: Vec::new(),
        untried: None,
        waits_for: None,
        more: true,
        note: end.note.clone(),
    };
    if end.to.is_empty()
        && let Some(wait) = end.untried.take()
    {
        // Nobody is left of whom anything is to be said but that they are to be tried.
        end.result = JobResult::PutOff {
            wait,
            why: "its relay did not get to them".to_owned(),
            told: false,
            fault: None,
        };
    }
    Some(settled)
}

/// Takes the marked ones out of a list.
fn take<T>(list: &mut Vec<T>, marked: &[bool]) -> Vec<T> {
    let mut marks = marked.iter().copied();
    let (taken, left) = std::mem::take(list)
        .into_iter()
        .partition(|_| marks.next().unwrap_or_default());
    *list = left;
    taken
}

/// One end of all: those parts that were judged, with a time for those that were not. If none was, the one that says most.
fn together(mut ends: Vec<Finished>, last: Finished) -> Option<Finished> {
    // All that was to be said of these has been said.
    ends.retain(|end| !matches!(&end.result, JobResult::Smtp(Outcome::Judged(results)) if results.is_empty()));
    ends.push(last);
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
    first.waits_for = untried.into_iter().find_map(|end| end.waits_for);
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
        let result = RecipientResult::unasked(verdict, Phase::Dot, "");
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
            fault: None,
        }
    }

    /// What is reported when the parts of a job end like this, one after the other: at last of the whole, and before that
    /// the recipients that nothing more is to be done about.
    fn whole(results: Vec<JobResult>) -> (Finished, Vec<String>) {
        let job = Job {
            id: 1,
            token: 2,
            queue: 3,
            transport: Transport::Smtp(Arc::from([])),
            from: String::new(),
            to: (0..results.len()).map(|n| format!("{n}@x.test")).collect(),
            source: Arc::new(crate::Made::default()),
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
            assert!(seen.borrow().iter().all(|end: &Finished| end.more));
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
                more: false,
                waits_for: None,
                note: None,
            }));
        }
        let last = seen.borrow_mut().pop().expect("an end");
        assert!(!last.more);
        let before = seen.take();
        (last, before.into_iter().flat_map(|end| end.to).collect())
    }

    #[test]
    fn what_is_settled_is_reported_at_once_and_the_rest_together() {
        let (end, before) = whole(vec![
            judged(Verdict::Delivered),
            judged(Verdict::Transient),
            judged(Verdict::Permanent),
            judged(Verdict::Uncertain),
            judged(Verdict::Delivered),
        ]);
        assert_eq!(before, ["0@x.test", "2@x.test"]);
        assert_eq!((end.to, end.untried), (vec!["1@x.test".to_owned()], None));
        let others: Vec<_> = end.others.iter().flat_map(|end| &end.to).collect();
        assert_eq!(others, ["3@x.test", "4@x.test"]);
    }

    #[test]
    fn what_was_not_tried_is_left_for_later() {
        let (end, before) = whole(vec![put_off(9), judged(Verdict::Delivered), put_off(5)]);
        assert_eq!(before, ["1@x.test"]);
        assert!(matches!(end.result, JobResult::PutOff { wait, .. } if wait.as_secs() == 5));
        let (end, _) = whole(vec![put_off(9), put_off(5), judged(Verdict::Delivered)]);
        assert_eq!(end.to, ["2@x.test"]);
        assert_eq!(end.untried, Some(Duration::from_secs(5)));
        let (end, _) = whole(vec![not_tried(), judged(Verdict::Delivered)]);
        assert_eq!(end.untried, Some(Duration::ZERO));
    }

    #[test]
    fn those_that_a_part_did_not_get_to_are_left_for_later() {
        let mut end = whole(vec![judged(Verdict::Delivered)]).0;
        end.untried = Some(Duration::from_secs(3));
        let settled = take_settled(&mut end).expect("one is");
        assert_eq!((settled.to.len(), settled.more), (1, true));
        assert!(matches!(end.result, JobResult::PutOff { wait, .. } if wait.as_secs() == 3));
    }

    #[test]
    fn if_nothing_was_tried_the_relays_trouble_is_told_or_the_shortest_wait() {
        let (end, _) = whole(vec![put_off(9), not_tried()]);
        assert!(matches!(end.result, JobResult::Smtp(Outcome::NotTried(_))));
        let (end, _) = whole(vec![put_off(9), put_off(5)]);
        assert!(matches!(end.result, JobResult::PutOff { wait, .. } if wait.as_secs() == 5));
    }
}
