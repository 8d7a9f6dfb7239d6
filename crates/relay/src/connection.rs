//! One connection: connect, send job after job, wait a while for more, quit.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    task::Poll,
    time::Duration,
};

use mail_smtp::{Outcome, Phase, RelayFault, Session, Verdict};
use tokio::time::{Instant, sleep};

use crate::{
    hub::{STOPPING, Victim},
    relay::{Busy, Doing, Idle, Slot},
    ticket::Ticket,
};

/// Who answers within this time answers at once.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(1);
const INTERNAL: &str = "internal error";

/// Lives as long as the connection, or a fresh one in its place.
pub(crate) async fn run(slot: Slot) {
    while let Some(mut link) = Link::open(&slot).await {
        let end = link.serve().await;
        link.close().await;
        if end == End::Over {
            return;
        }
        slot.set(Doing::Connecting);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The connection is of no more use.
    Over,
    /// It had gone stale; a job waits for a fresh one.
    Stale,
}

/// Why the session never said what became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interrupted {
    /// The pool stops and has no more patience.
    Abandoned,
    /// The relay, which had said nothing for long, speaks over another connection; or was only being tried.
    Stuck,
    /// A bug.
    Panicked,
}

/// What came of a job, and the one that is chained behind it.
type Sent = Result<(Outcome, Option<Ticket>), Interrupted>;

pub(crate) struct Link<'a> {
    pub slot: &'a Slot,
    pub session: Session,
    connect_began: Instant,
    opened: Instant,
    pub messages: usize,
    /// Nothing was sent since it waited for work.
    rested: bool,
    /// The domain that it is at work for.
    busy: Option<Busy>,
}

impl<'a> Link<'a> {
    async fn open(slot: &'a Slot) -> Option<Self> {
        let relay = &slot.relay;
        let called_off = pin!(relay.leave.notified());
        let connect_began = Instant::now();
        let speaks = pin!(relay.outlives(connect_began));
        if slot.is_over() {
            return None;
        }
        let connected = tokio::select! {
            biased;
            connected = caught(Session::connect(&relay.config.endpoint)) => connected,
            () = called_off => return None,
            () = speaks => return None,
        };
        let connected = connected.unwrap_or_else(|| Err(internal_fault()));
        match connected {
            Ok(session) => {
                slot.set(Doing::Working);
                // One that fell silent has to answer a message: it may be good at greeting only.
                if !relay.health.borrow().is_silent() {
                    slot.hub.spoke(relay);
                }
                relay.health.borrow_mut().carries(relay.working.get());
                if relay.unreached.take() {
                    slot.hub.reached(relay);
                }
                Some(Self {
                    slot,
                    session,
                    connect_began,
                    opened: Instant::now(),
                    messages: 0,
                    rested: false,
                    busy: None,
                })
            }
            Err(fault) => {
                slot.hub.trouble(slot, fault, Victim::First(connect_began));
                None
            }
        }
    }

    async fn serve(&mut self) -> End {
        let mut chained: Option<Ticket> = None;
        loop {
            let ticket = match chained.take() {
                Some(ticket) => {
                    let known = self.busy.as_ref();
                    if !known.is_some_and(|busy| Rc::ptr_eq(&busy.domain, &ticket.domain)) {
                        self.busy = Some(Busy::new(&self.slot.relay, &ticket.domain));
                    }
                    ticket
                }
                None => match self.take().await {
                    Some(ticket) => ticket,
                    None => return End::Over,
                },
            };
            match self.one(ticket).await {
                Ok(next) => chained = next,
                Err(end) => return end,
            }
        }
    }

    /// The next job, when there is one. `None`: none came, or the connection should end.
    async fn take(&mut self) -> Option<Ticket> {
        let relay = Rc::clone(&self.slot.relay);
        while self.may_take() {
            // Its place is free for any domain.
            let before = self.busy.take().map(|busy| Rc::clone(&busy.domain));
            let ticket = relay.next(None);
            let domain = ticket.as_ref().map(|ticket| &ticket.domain);
            let same = matches!((&before, domain), (Some(a), Some(b)) if Rc::ptr_eq(a, b));
            self.busy = domain.map(|domain| Busy::new(&relay, domain));
            if before.is_some() && !same {
                self.slot.hub.pump(&relay);
            }
            if ticket.is_some() {
                return ticket;
            }
            if !self.rest().await {
                return None;
            }
        }
        None
    }

    /// Whether this connection may take another job after those it has.
    fn may_take(&self) -> bool {
        !self.slot.is_over()
            && self.messages < self.slot.relay.config.max_messages_per_connection.max(1)
            && self.opened.elapsed() < self.slot.relay.config.lifetime
    }

    /// Waits for a job. False: none came, or the connection should end.
    async fn rest(&mut self) -> bool {
        let relay = &self.slot.relay;
        let called_off = pin!(relay.leave.notified());
        if self.slot.is_over() {
            return false;
        }
        let idle = Idle::new(relay);
        let timed_out = tokio::select! {
            biased;
            () = relay.wake.notified() => false,
            () = called_off => false,
            () = sleep(relay.config.idle) => true,
        };
        drop(idle);
        self.rested = true;
        let in_vain = timed_out && relay.queue.borrow().is_empty();
        !in_vain && !self.slot.is_over()
    }

    /// Sends one job and deals with what came of it. Gives the job that is chained behind it.
    async fn one(&mut self, mut ticket: Ticket) -> Result<Option<Ticket>, End> {
        let began = match self.messages {
            0 => self.connect_began.max(ticket.queued),
            _ => Instant::now(),
        };
        ticket.started = Some(began);
        ticket.relay = Some(self.slot.relay.config.id);
        self.messages += 1;
        ticket.sending = true;
        let sending_began = Instant::now();
        self.slot.relay.begin(sending_began);
        let sent = self.transmit(&ticket).await;
        self.slot.relay.end();
        ticket.sending = false;
        let took = sending_began.elapsed();
        self.note_answer(&sent, took);
        let rested = std::mem::take(&mut self.rested);
        let tls = self.session.tls().cloned();
        let (outcome, chained) = match sent {
            Ok(done) => done,
            Err(Interrupted::Abandoned) if !self.session.maybe_accepted() => {
                ticket.give_back(STOPPING);
                return Err(End::Over);
            }
            Err(Interrupted::Abandoned) => {
                let detail = "abandoned while waiting for the reply to the final dot";
                ticket.settle(Verdict::Uncertain, Phase::Dot, detail, tls);
                return Err(End::Over);
            }
            Err(Interrupted::Stuck) => {
                self.slot.set(Doing::Leaving);
                self.slot.hub.reroute([ticket]);
                return Err(End::Over);
            }
            Err(Interrupted::Panicked) => {
                let (verdict, phase) = if self.session.maybe_accepted() {
                    (Verdict::Uncertain, Phase::Dot)
                } else {
                    (Verdict::Transient, Phase::Connect)
                };
                ticket.settle(verdict, phase, INTERNAL, tls);
                return Err(End::Over);
            }
        };
        let hub = &self.slot.hub;
        if self.session.is_usable() {
            let concluded = self.conclude(ticket, outcome, tls, took, rested);
            if concluded.is_err() {
                hub.reroute(chained);
                return concluded.map(|()| None);
            }
            return Ok(chained);
        }
        // It was never tried, and goes back to the queue first, so that the other may stand before it.
        if let Some(next) = chained {
            hub.requeue(&self.slot.relay, next);
        }
        self.conclude(ticket, outcome, tls, took, rested)?;
        Err(End::Over)
    }

    /// Remembers how its domain, and its relay, answered.
    fn note_answer(&self, sent: &Sent, took: Duration) {
        let said = match sent {
            Ok((Outcome::Judged(results), _)) => results.iter().any(|r| r.reply.is_some()),
            Ok((Outcome::NotTried(fault), _)) => fault.reply.is_some(),
            Err(_) => false,
        };
        if said {
            self.slot.relay.took.set(took);
            self.slot.hub.spoke(&self.slot.relay);
        }
        if let Some(busy) = self.busy.as_ref().filter(|_| said) {
            busy.heard(took < AT_ONCE);
        }
    }

    async fn transmit(&mut self, ticket: &Ticket) -> Sent {
        let hub = &self.slot.hub;
        let relay = &self.slot.relay;
        let may_chain = self.may_take();
        let abandoned = pin!(hub.abandon.notified());
        if hub.abandoned.get() {
            return Err(Interrupted::Abandoned);
        }
        let next = || {
            // What another connection can take at once must not wait behind this one's final dot.
            let spare = relay.idle.get() + relay.connecting.get();
            if may_chain && !self.slot.is_over() && relay.queue.borrow().len() > spare {
                relay.next(Some(&ticket.domain))
            } else {
                None
            }
        };
        let texting = self.session.texting();
        // A relay that says nothing is only being tried: others need not wait for it any longer than at first.
        let trial = relay.health.borrow().is_silent() && hub.has_another(ticket, relay);
        let began = Instant::now();
        let taken_back = pin!(async {
            tokio::select! {
                () = relay.outlives(began) => {}
                () = sleep(hub.settings.silence), if trial => {}
            }
            // What may have been accepted has to wait for its answer.
            if texting.load(Relaxed) {
                std::future::pending::<()>().await;
            }
        });
        let sending = pin!(caught(self.session.send(ticket, next)));
        tokio::select! {
            biased;
            sent = sending => sent.ok_or(Interrupted::Panicked),
            () = abandoned => Err(Interrupted::Abandoned),
            () = taken_back => Err(Interrupted::Stuck),
        }
    }

    /// Says goodbye, unless the pool has no more patience.
    async fn close(self) {
        self.slot.set(Doing::Leaving);
        if !self.session.is_usable() {
            return;
        }
        let abandoned = pin!(self.slot.hub.abandon.notified());
        if self.slot.hub.abandoned.get() {
            return;
        }
        tokio::select! {
            biased;
            _ = caught(self.session.quit()) => {}
            () = abandoned => {}
        }
    }
}

fn internal_fault() -> RelayFault {
    RelayFault {
        phase: Phase::Connect,
        reply: None,
        detail: INTERNAL.to_owned(),
    }
}

/// Runs a future to its end or to its panic, which gives `None`.
async fn caught<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| {
        // What the future held is not looked at again, except for flags of the session, which are
        // valid at any time.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}
