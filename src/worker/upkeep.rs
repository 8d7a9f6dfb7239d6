//! What the worker does beside delivering: look for what nobody announced, and let go of what is over.

use mail_lanes::START;

use super::{delivery::Worker, store};
use crate::{
    guc,
    pg::{self, Failure},
};

const SECOND: i64 = 1_000_000;
const RETAIN_EVERY: i64 = 600 * SECOND;
const RETAIN_BATCH: i32 = 2000;
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
            let mut found = Vec::new();
            for (id, cursor) in &unknown {
                found.push((*id, store::next_due(*id, *cursor)?));
            }
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
        for (id, next) in found {
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
        let (messages, files) = self
            .transaction(|| {
                let messages = store::retain(self.retained.0, RETAIN_BATCH)?;
                Ok((
                    messages,
                    store::retain_files(self.retained.1, RETAIN_BATCH)?,
                ))
            })
            .unwrap_or_else(|failure| {
                // Nothing is lost by keeping things longer: deliveries do not wait for it.
                pgrx::warning!("pgmq_mail worker could not let go of old messages: {failure}");
                (None, None)
            });
        self.retained = (messages.unwrap_or(0), files.unwrap_or(0));
        let more = messages.is_some() || files.is_some();
        self.next_retain = now + if more { SECOND } else { RETAIN_EVERY };
    }
}
