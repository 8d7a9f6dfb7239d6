//! Queues with a limit: the gate that their jobs pass before they are given to a relay.

use std::{collections::VecDeque, rc::Rc};

use tokio::time::Instant;

use crate::{
    Limited, QueueLimit, Report, fair::LONGEST_WAIT, hub::Hub, rate::Limiter, ticket::Ticket,
};

/// A queue's limit, and the jobs that wait for it.
pub(crate) struct Gate {
    limiter: Limiter,
    waiting: VecDeque<Ticket>,
}

impl Hub {
    /// Takes over the limits of queues; gives what waited for those that have none now.
    pub(crate) fn configure_gates(&self, queues: &[QueueLimit]) -> Vec<Ticket> {
        let mut old = self.flow.gates.take();
        let gates = queues.iter().map(|queue| {
            let gate = match old.remove(&queue.id) {
                Some(gate) if gate.limiter.rate() == queue.rate => gate,
                other => Gate {
                    limiter: Limiter::new(queue.rate),
                    waiting: other.map(|gate| gate.waiting).unwrap_or_default(),
                },
            };
            (queue.id, gate)
        });
        *self.flow.gates.borrow_mut() = gates.collect();
        old.into_values().flat_map(|gate| gate.waiting).collect()
    }

    /// All that waits for a queue's limit.
    pub(crate) fn drain_gates(&self) -> Vec<Ticket> {
        let mut gates = self.flow.gates.borrow_mut();
        gates
            .values_mut()
            .flat_map(|gate| gate.waiting.drain(..))
            .collect()
    }

    /// Lets a job through its queue's limit, or keeps it for a while, or gives it back.
    pub(crate) fn pass_gate(&self, ticket: Ticket, now: Instant) -> Option<Ticket> {
        let mut gates = self.flow.gates.borrow_mut();
        let Some(gate) = gates.get_mut(&ticket.queue) else {
            return Some(ticket);
        };
        if gate.waiting.is_empty() && gate.limiter.take(now).is_ok() {
            return Some(ticket);
        }
        let turn = gate.limiter.after(gate.waiting.len(), now);
        let wait = turn.saturating_duration_since(now);
        if wait <= LONGEST_WAIT {
            gate.waiting.push_back(ticket);
            self.keeper.notify_one();
            return None;
        }
        drop(gates);
        let limit = Limited::Queue(ticket.queue);
        ticket.give_back("the queue has reached its rate limit");
        self.report(Report::Exhausted { limit, wait });
        None
    }

    /// Lets jobs through their queues' limits; when the next may pass.
    pub(crate) fn open_gates(self: &Rc<Self>, now: Instant) -> Option<Instant> {
        let (mut free, mut next) = (Vec::new(), None);
        for gate in self.flow.gates.borrow_mut().values_mut() {
            while !gate.waiting.is_empty() {
                match gate.limiter.take(now) {
                    Ok(()) => free.extend(gate.waiting.pop_front()),
                    Err(at) => {
                        next = Some(next.map_or(at, |next: Instant| next.min(at)));
                        break;
                    }
                }
            }
        }
        self.reroute(free);
        next
    }
}
