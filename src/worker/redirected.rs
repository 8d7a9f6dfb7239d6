//! Messages on their way to `pgmq_mail.redirect_to` instead of their recipients. Their records are those of the
//! recipients, as if it were these that the relay was asked about.

use mail_relay::{Finished, JobResult};
use mail_smtp::Outcome;
use serde_json::{Value, json};

use super::{delivery::Worker, outcomes};

/// Where a message goes, and where it would have gone.
pub(super) struct Redirected {
    pub(super) to: String,
    pub(super) instead_of: Vec<String>,
}

impl Worker {
    /// Gives a message that was redirected its recipients back.
    pub(super) fn restore(&mut self, end: &mut Finished) {
        let Some(redirected) = self.redirected.get(&end.id) else {
            return;
        };
        redirected.restore(end);
        if !end.more {
            self.redirected.remove(&end.id);
        }
    }
}

impl Redirected {
    /// Makes what became of the one copy what became of each recipient.
    fn restore(&self, end: &mut Finished) {
        if let JobResult::Smtp(Outcome::Judged(results)) = &mut end.result {
            *results = self.each(results);
        }
        end.decisions = self.each(&end.decisions);
        end.to.clone_from(&self.instead_of);
        let mut note = outcomes::note(end).unwrap_or_default();
        note.insert("redirected_to".to_owned(), json!(self.to));
        end.note = Some(Value::Object(note).to_string().into());
    }

    /// The only one of these for each recipient.
    fn each<T: Clone>(&self, of_copy: &[T]) -> Vec<T> {
        let Some(only) = of_copy.first() else {
            return Vec::new();
        };
        vec![only.clone(); self.instead_of.len()]
    }
}
