//! What the worker does beside delivering: look for what nobody announced, and let go of what is over.

use mail_lanes::START;

use super::{delivery::Worker, store};
use crate::{
    guc,
    pg::{self, Failure},
    queues,
};

const SECOND: i64 = 1_000_000;
const RETAIN_EVERY: i64 = 600 * SECOND;
const RETAIN_BATCH: i32 = 1000;
/// Of the worker's time, as long as there is something to let go of: one part in so many.
const RETAIN_SHARE: i64 = 10;
const EXPIRE_BATCH: i32 = 1000;

impl Worker {
    /// Starts every lane again from its beginning, and ends leases and messages that are over; false when the extension is gone.
    pub(super) fn sweep(&mut self) -> Result<bool, Failure> {
        let before = pg::cpu_time();
        let present = self.transaction(|| {
            if store::extension()? != Some(self.extension) {
                return Ok(None);
            }
            store::lanes().map(Some)
        })?;
        let Some(present) = present else {
            return Ok(false);
        };
        while self.transaction(|| store::end_expired(EXPIRE_BATCH))? == EXPIRE_BATCH {}
        self.lanes.restart(&present, START.due);
        self.sweeping = Some(before);
        self.next_sweep = pg::now() + i64::from(guc::SWEEP_INTERVAL.get()) * 1000;
        self.next_reap = 0;
        Ok(true)
    }

    /// Reads when lanes that were scanned to their end have something due next, and what ordering keys have set free.
    pub(super) fn look_ahead(&mut self) -> Result<(), Failure> {
        let unknown = self.lanes.unknown();
        if unknown.is_empty() && self.keys.is_empty() {
            return Ok(());
        }
        let (found, heads) = self.transaction(|| {
            let found = if unknown.is_empty() {
                Vec::new()
            } else {
                store::next_due(&unknown)?
            };
            // In a later transaction than the one that settled the messages before them, so that none that committed
            // meanwhile is overlooked.
            let heads = if self.keys.is_empty() {
                Vec::new()
            } else {
                store::heads(&self.keys)?
            };
            for (id, due) in &heads {
                pg::note(pg::LaneMark {
                    queue: id.queue,
                    rank: id.rank,
                    due: *due,
                }); // others may wait for them
            }
            Ok((found, heads))
        })?;
        self.keys.clear();
        for ((id, _), next) in unknown.into_iter().zip(found) {
            self.lanes.found_next(id, next);
        }
        for (id, due) in heads {
            self.lanes.touch(id, due);
        }
        Ok(())
    }

    /// Lets go of what need not be kept any longer, a bounded piece at a time.
    pub(super) fn let_go(&mut self) {
        let now = pg::now();
        if now < self.next_retain {
            return;
        }
        let more = self.let_go_of_a_piece(now).unwrap_or_else(|failure| {
            // Nothing is lost by keeping things longer: deliveries do not wait for it.
            pgrx::warning!("pgmq_mail worker could not let go of old messages: {failure}");
            self.retained = (0, 0);
            false
        });
        let pause = (pg::now() - now) * RETAIN_SHARE;
        self.next_retain = now + if more { pause } else { RETAIN_EVERY };
    }

    /// Messages and files; whether there is more.
    fn let_go_of_a_piece(&mut self, now: i64) -> Result<bool, Failure> {
        let (behind, files_behind) = self.retained;
        let (more, reached, files_reached) = self.transaction(|| {
            let (mut more, mut reached) = (false, 0);
            if queues::get().since_0_3 {
                more = store::retain(RETAIN_BATCH, now - RETAIN_EVERY)?;
            } else if let Some(last) = store::retain_until_0_2(behind, RETAIN_BATCH)? {
                (more, reached) = (true, last);
            }
            let files = if now < self.next_files {
                None
            } else {
                store::retain_files(files_behind, RETAIN_BATCH)?
            };
            Ok((more, reached, files))
        })?;
        if now >= self.next_files && files_reached.is_none() {
            self.next_files = now + RETAIN_EVERY;
        }
        self.retained = (reached, files_reached.unwrap_or(0));
        Ok(more || files_reached.is_some())
    }
}
