//! A job on its way, and the guard that it is reported exactly once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use mail_smtp::{Message, Outcome, Phase, RecipientResult, RelayFault, TlsInfo, Verdict};
use tokio::time::Instant;

use crate::{
    Decision, Finished, Job, JobResult, Made, Report, Source, Transport,
    domain::{Domain, InFlight},
};

/// Where reports go.
pub(crate) type Reporter = Rc<dyn Fn(Report)>;

/// A job that has not been reported yet. Dropping it reports it: as `Returned`, as a transient failure
/// when a panic drops it, and as uncertain, to be safe, while it is being sent.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Ticket {
    id: i64,
    token: i64,
    /// The queue that it is from.
    pub queue: i32,
    transport: Transport,
    source: Arc<dyn Source>,
    note: Option<Arc<str>>,
    message: Message,
    reporter: Reporter,
    /// When it was submitted.
    pub queued: Instant,
    /// When it came into the line where it waits.
    pub entered: Instant,
    /// When its transaction, or the connect for it, began.
    pub started: Option<Instant>,
    /// The relay that was used or tried last.
    pub relay: Option<i32>,
    /// What that relay's trouble was.
    pub fault: Option<RelayFault>,
    /// How often it met a relay's trouble.
    pub tries: u32,
    /// It is for some recipients of its message only.
    pub part: bool,
    /// Since when it waits for its turn at one relay or another.
    pub since: Option<Instant>,
    /// Relays that cannot carry it.
    pub unfit: Vec<i32>,
    /// The domain of its recipients, or of the first where they need not be told apart.
    pub domain: Rc<Domain>,
    /// Its place among those on their way to that domain.
    pub in_flight: Option<InFlight>,
    /// It waits outside until its domain asks for more.
    pub parked: bool,
    /// What rules decided for its recipients; empty: nothing.
    pub decisions: Vec<Option<Decision>>,
    /// Its relay was suspended for what it made of this message: for how long, and by which rule.
    pub steps_back: Option<(Duration, Option<Decision>)>,
    /// A session has it now: the relay may accept it at any time.
    pub sending: bool,
    done: bool,
}

impl AsRef<Message> for Ticket {
    fn as_ref(&self) -> &Message {
        &self.message
    }
}

impl Ticket {
    pub fn new(job: Job, domain: Rc<Domain>, reporter: Reporter, now: Instant) -> Self {
        Self {
            id: job.id,
            token: job.token,
            queue: job.queue,
            transport: job.transport,
            source: job.source,
            note: None,
            message: Message {
                from: job.from,
                to: job.to,
                data: mail_smtp::Text::default(),
                dsn: mail_smtp::Dsn::default(),
            },
            domain,
            in_flight: None,
            parked: false,
            decisions: Vec::new(),
            steps_back: None,
            reporter,
            queued: now,
            entered: now,
            started: None,
            relay: None,
            fault: None,
            tries: 0,
            part: false,
            since: None,
            unfit: Vec::new(),
            sending: false,
            done: false,
        }
    }

    /// The relays that it may go to; `None` for a capture job.
    pub fn relays(&self) -> Option<Arc<[i32]>> {
        match &self.transport {
            Transport::Smtp(relays) => Some(Arc::clone(relays)),
            Transport::Capture => None,
        }
    }

    /// The message.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Who it is from and for.
    pub fn envelope(&self) -> (&str, &[String]) {
        (&self.message.from, &self.message.to)
    }

    /// It met a relay's trouble.
    pub fn met(mut self, relay: i32, fault: &RelayFault) -> Self {
        self.relay = Some(relay);
        self.fault = Some(fault.clone());
        self.steps_back = None;
        self.in_flight = None;
        self.tries += 1;
        self
    }

    /// Makes the message, unless that is done. `None`: it cannot be, and is reported so.
    pub fn made(mut self) -> Option<Self> {
        if self.message.data.is_empty() {
            match self.make() {
                Ok(made) => (self.message.data, self.message.dsn) = (made.text, made.dsn),
                Err(why) => {
                    self.finish(JobResult::Unrenderable(why), None);
                    return None;
                }
            }
        }
        Some(self)
    }

    fn make(&mut self) -> Result<Made, String> {
        let mut made = catch_unwind(AssertUnwindSafe(|| self.source.make()))
            .unwrap_or_else(|_| Err("internal error".to_owned()))?;
        self.note = made.note.take();
        Ok(made)
    }

    /// Ends a capture job.
    pub fn capture(mut self) {
        let result = match self.make() {
            Ok(made) => JobResult::Captured(made.text.to_vec()),
            Err(why) => JobResult::Unrenderable(why),
        };
        self.finish(result, None);
    }

    /// Ends it without having been started.
    pub fn give_back(self, why: impl Into<String>) {
        self.finish(JobResult::Returned(why.into()), None);
    }

    /// Ends it without having been started: it is to be claimed again after `wait`.
    pub fn put_off(mut self, wait: Duration, why: String, told: bool) {
        let fault = self.fault.take().filter(|_| told);
        let result = JobResult::PutOff {
            wait,
            why,
            told,
            fault,
        };
        self.finish(result, None);
    }

    /// Ends it with one verdict for all recipients, which no reply gave.
    pub fn settle(self, verdict: Verdict, phase: Phase, detail: &str, tls: Option<TlsInfo>) {
        let outcome = self.all(verdict, phase, detail);
        self.finish(JobResult::Smtp(outcome), tls);
    }

    /// Ends it with its relay's trouble as an attempt of its own.
    pub fn fail(self, fault: RelayFault, tls: Option<TlsInfo>) {
        let result = RecipientResult {
            verdict: Verdict::Transient,
            phase: fault.phase,
            reply: fault.reply,
            status: None,
            detail: Some(fault.detail),
        };
        let outcome = Outcome::Judged(vec![result; self.message.to.len()]);
        self.finish(JobResult::Smtp(outcome), tls);
    }

    fn all(&self, verdict: Verdict, phase: Phase, detail: &str) -> Outcome {
        let result = RecipientResult::unasked(verdict, phase, detail);
        Outcome::Judged(vec![result; self.message.to.len()])
    }

    /// Reports it.
    pub fn finish(mut self, result: JobResult, tls: Option<TlsInfo>) {
        self.report(result, tls);
    }

    /// Takes the recipients out that the relay did not get to. True if there are any.
    fn leave_untried(&mut self, results: &mut Vec<RecipientResult>) -> bool {
        let tried: Vec<bool> = results
            .iter()
            .map(|r| r.verdict != Verdict::Untried)
            .collect();
        let mut keep = tried.iter().copied();
        results.retain(|_| keep.next().unwrap_or(true));
        let mut keep = tried.iter().copied();
        self.message.to.retain(|_| keep.next().unwrap_or(true));
        let mut keep = tried.iter().copied();
        self.decisions.retain(|_| keep.next().unwrap_or(true));
        tried.contains(&false)
    }

    fn report(&mut self, mut result: JobResult, tls: Option<TlsInfo>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let untried = match &mut result {
            JobResult::Smtp(Outcome::Judged(results)) => self.leave_untried(results),
            _ => false,
        };
        (self.reporter)(Report::Finished(Finished {
            id: self.id,
            token: self.token,
            to: std::mem::take(&mut self.message.to),
            relay: self.relay,
            result,
            tls,
            duration: self
                .started
                .map(|start| start.elapsed())
                .unwrap_or_default(),
            decisions: std::mem::take(&mut self.decisions),
            others: Vec::new(),
            waits_for: self.parked.then(|| self.domain.name.clone()),
            untried: untried.then_some(Duration::ZERO),
            more: false,
            note: self.note.clone(),
        }));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let result = if self.sending {
            JobResult::Smtp(self.all(Verdict::Uncertain, Phase::Dot, "internal error"))
        } else if std::thread::panicking() {
            JobResult::Smtp(self.all(Verdict::Transient, Phase::Connect, "internal error"))
        } else {
            JobResult::Returned("the pool let go of it".to_owned())
        };
        self.report(result, None);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[derive(Debug)]
    struct Nothing;

    impl Source for Nothing {
        fn make(&self) -> Result<Made, String> {
            Err("there is nothing".to_owned())
        }
    }

    fn job() -> Job {
        Job {
            id: 1,
            token: 2,
            queue: 1,
            transport: Transport::Capture,
            from: String::new(),
            to: vec!["a@example.org".to_owned()],
            source: Arc::new(Nothing),
        }
    }

    fn ticket(reporter: Reporter) -> Ticket {
        let domain = Domain::new("example.org".to_owned(), None);
        Ticket::new(job(), domain, reporter, Instant::now())
    }

    fn ends(run: impl FnOnce(Reporter)) -> Vec<JobResult> {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&seen);
        run(Rc::new(move |report| {
            if let Report::Finished(finished) = report {
                sink.borrow_mut().push(finished.result);
            }
        }));
        seen.take()
    }

    #[test]
    fn a_dropped_job_is_returned() {
        let ends = ends(|reporter| drop(ticket(reporter)));
        assert!(matches!(&ends[..], [JobResult::Returned(_)]));
    }

    #[test]
    fn a_job_dropped_by_a_panic_failed_for_now() {
        let ends = ends(|reporter| {
            let ticket = ticket(reporter);
            let caught = catch_unwind(AssertUnwindSafe(move || {
                let _ticket = ticket;
                panic!("as if in a task");
            }));
            assert!(caught.is_err());
        });
        let [JobResult::Smtp(Outcome::Judged(results))] = &ends[..] else {
            panic!("{ends:?}")
        };
        assert_eq!(results[0].verdict, Verdict::Transient);
        assert_eq!(results[0].detail.as_deref(), Some("internal error"));
    }

    #[test]
    fn a_job_dropped_while_it_is_sent_is_uncertain() {
        let ends = ends(|reporter| {
            let mut ticket = ticket(reporter);
            ticket.sending = true;
        });
        let [JobResult::Smtp(Outcome::Judged(results))] = &ends[..] else {
            panic!("{ends:?}")
        };
        assert_eq!(results[0].verdict, Verdict::Uncertain);
    }

    #[test]
    fn what_cannot_be_made_is_reported_once() {
        let ends = ends(|reporter| {
            assert!(ticket(reporter).made().is_none());
        });
        assert!(matches!(&ends[..], [JobResult::Unrenderable(_)]));
    }
}
