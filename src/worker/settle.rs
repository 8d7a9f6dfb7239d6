//! Settling what came of messages, in one transaction with the next claim.

use mail_relay::{Finished, JobResult, Report};
use mail_smtp::Outcome;

use super::{
    claim::Claimed,
    delivery::Worker,
    outcomes::{self, Texts},
    store,
};
use crate::pg::{self, Failure};

/// Outcomes that could not be written are tried again after this time (microseconds), and only so many in vain at once.
const STUCK: i64 = 500_000;
const MOST_FAILURES: usize = 5;
/// When to look again for a message whose ordering key another claimer was just deciding on.
const CONTENDED: i64 = 20_000;

impl Worker {
    /// Settles the outcomes and claims what is due, in one transaction; then hands over what was claimed.
    pub(super) fn settle_and_claim(&mut self) -> Result<(), Failure> {
        // Without outcomes there is nothing that must not be lost: the lease is flushed while the mail travels. Where a
        // queue holds what is uncertain, the lease must be there first. So it must where a standby may take over: it has
        // to know what was in flight, and no mail goes out that it does not have.
        let must_wait = !self.outcomes.is_empty()
            || pg::has_synchronous_standbys()
            || self
                .configuration
                .queues
                .iter()
                .any(|queue| queue.hold_uncertain);
        pg::set_synchronous_commit(must_wait);
        let mut claimed = Claimed::default();
        let ends = self.outcomes.iter().filter(|end| !end.more);
        self.flight.begin_landing(ends.map(|end| end.id));
        let result = self.transaction(|| {
            self.write_outcomes(&self.outcomes, Texts::Full)?;
            self.write_news()?;
            self.claim(&mut claimed)
        });
        pg::set_synchronous_commit(true);
        if result.is_err() {
            self.flight.end_landing();
        }
        if let Err(failure) = result {
            if failure.is_stale() {
                pg::set_configuration_changed();
                return Ok(());
            }
            if !self.outcomes.is_empty() {
                self.settle_one_by_one(&failure);
            }
            return Err(failure);
        }
        for (lane, cursor, exhausted) in claimed.scans {
            self.lanes.advance(lane, cursor, exhausted);
        }
        // After the scans: what lands may lie behind where they came to.
        for end in std::mem::take(&mut self.outcomes) {
            self.landed(&end);
        }
        self.news.clear();
        self.full = claimed.full;
        let crowded = claimed
            .crowded
            .then(|| self.crowded_since.unwrap_or(pg::now()));
        self.crowded_since = crowded;
        if let Some(last) = claimed.last {
            self.turn = last + 1;
        }
        if let Some(before) = self.sweeping.take() {
            // A sweep that is much work, as under an old snapshot, comes less often. What it waited for is no work.
            let took =
                i64::try_from(pg::cpu_time().saturating_sub(before).as_micros()).unwrap_or(0);
            self.next_sweep = self.next_sweep.max(pg::now() + took * 50);
        }
        let handed_over = !claimed.jobs.is_empty();
        for (id, message) in claimed.messages {
            self.flight.insert(id, message);
        }
        self.redirected.extend(claimed.redirected);
        for (lane, key) in claimed.contended {
            self.lanes.again(lane, key, pg::now() + CONTENDED);
        }
        if let Some(next) = claimed.next_reap {
            self.next_reap = next;
        }
        if handed_over {
            pg::Patience::end();
            self.pool.submit(claimed.jobs);
            if !must_wait {
                pg::flush_last_commit();
            }
        }
        Ok(())
    }

    /// A message is no longer in flight. If it still waits, it is to be found again, and so is the next of its ordering key.
    pub(super) fn landed(&mut self, end: &Finished) {
        if end.more {
            return;
        }
        let Some(message) = self.flight.remove(end.id) else {
            return;
        };
        self.keys.extend(message.ordering);
        if matches!(
            end.result,
            JobResult::Returned(_) | JobResult::Smtp(Outcome::NotTried(_))
        ) {
            self.lanes.touch(message.lane, message.key.due);
        }
    }

    pub(super) fn write_outcomes(
        &self,
        outcomes: &[Finished],
        texts: Texts,
    ) -> Result<(), Failure> {
        if outcomes.is_empty() {
            return Ok(());
        }
        outcomes::write(outcomes, &self.flight, &self.configuration.relays, texts)
    }

    pub(super) fn write_news(&self) -> Result<(), Failure> {
        for report in &self.news {
            match report {
                Report::RelayDown {
                    relay,
                    pause,
                    fault,
                    rule,
                } => {
                    store::relay_down(
                        *relay,
                        Some(pause.as_secs_f64()),
                        &fault.to_string().replace('\0', "?"),
                        rule.as_deref(),
                    )?;
                }
                Report::DomainPaused { .. } => self.write_paused_domain(report)?,
                Report::RelaySilent { relay, silence } => {
                    let text = format!("it has said nothing for {} s", silence.as_secs());
                    store::relay_down(*relay, Some(0.0), &text, None)?;
                }
                Report::RelayUp { relay } => store::relay_up(*relay)?,
                Report::Roomy {
                    queue,
                    domain,
                    count,
                } => store::call_in(*queue, domain, *count)?,
                // What waits for a limit or a relay may not have to any longer. All that was put off before is written.
                Report::Configured => store::reconsider()?,
                Report::Finished(_) | Report::Exhausted { .. } => {}
            }
        }
        Ok(())
    }

    /// After a failure with outcomes: each in a transaction of its own, so that one that cannot be written does not
    /// hold up the others. What cannot be written now is tried again from time to time; claiming goes on meanwhile.
    fn settle_one_by_one(&mut self, first: &Failure) {
        let texts = if first.code == pgrx::PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER {
            Texts::Plain
        } else {
            Texts::Full
        };
        let mut failures = 0;
        for end in std::mem::take(&mut self.outcomes) {
            let write = || {
                store::hurry()?;
                self.write_outcomes(std::slice::from_ref(&end), texts)
            };
            // What is known first of a message is written first.
            let waits = self.stuck.iter().any(|earlier| earlier.id == end.id);
            if !waits && failures < MOST_FAILURES && self.transaction(write).is_ok() {
                self.landed(&end);
            } else {
                failures += 1;
                self.stuck.push(end);
            }
        }
        self.next_stuck = if self.stuck.is_empty() {
            i64::MAX
        } else {
            pg::now() + STUCK
        };
    }

    /// Tries outcomes again whose rows somebody had locked.
    pub(super) fn retry_stuck(&mut self) {
        if pg::now() < self.next_stuck {
            return;
        }
        let later = std::mem::replace(&mut self.outcomes, std::mem::take(&mut self.stuck));
        self.settle_one_by_one(&Failure::locked());
        self.outcomes = later;
    }

    /// The last outcomes of this worker.
    pub(super) fn settle_all(&mut self) {
        self.outcomes.append(&mut self.stuck);
        if self.outcomes.is_empty() {
            return; // and wait for nobody
        }
        if let Err(failure) = self.transaction(|| self.write_outcomes(&self.outcomes, Texts::Full))
        {
            self.settle_one_by_one(&failure);
        }
    }
}
