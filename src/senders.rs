//! Who may send as whom: `mail.sender_grant`, read and forgotten with the queues.

use std::ffi::CString;

use mail_message::{Invalid, SenderPattern};

use crate::{error, look::look, pg, queues::Queue};

/// One row.
#[derive(Debug)]
pub struct Grant {
    role: CString,
    /// `None`: all queues.
    queue: Option<String>,
    sender: SenderPattern,
}

impl Grant {
    fn is_for(&self, queue: &Queue) -> bool {
        self.queue.as_ref().is_none_or(|name| *name == queue.name)
    }
}

/// All grants. With the rights of the current role.
pub fn read() -> pgrx::spi::Result<Vec<Grant>> {
    let query = "SELECT g.role, g.queue, g.sender FROM mail.sender_grant g";
    look(query, &[], |rows| {
        let mut all = Vec::new();
        for row in rows {
            let role: String = row.get(1)?.unwrap_or_default();
            let sender: String = row.get(3)?.unwrap_or_default();
            all.push(Grant {
                role: CString::new(role).unwrap_or_default(),
                queue: row.get(2)?,
                sender: SenderPattern::parse(&sender).unwrap_or_else(|e| error::invalid(e)),
            });
        }
        Ok(all)
    })
}

/// Whether not everybody may send as anybody through a queue.
pub fn are_restricted(grants: &[Grant], queue: &Queue) -> bool {
    queue.restrict_senders || grants.iter().any(|grant| grant.is_for(queue))
}

/// Whether a role may send as an address, which stands in that field, through a queue.
pub fn check(
    grants: &[Grant],
    queue: &Queue,
    role: &pg::Role,
    field: &str,
    address: &str,
) -> Result<(), Invalid> {
    // Roles last: asking about them goes to the catalogue's cache.
    let granted = grants.iter().any(|grant| {
        grant.is_for(queue) && grant.sender.matches(address) && role.is_member_of(&grant.role)
    });
    if granted {
        return Ok(());
    }
    Err(Invalid::sender_not_granted(&role.name, field, address))
}

#[allow(unsafe_code, reason = "expansions of pg_extern")]
mod functions {
    use mail_message::SenderPattern;
    use pgrx::pg_extern;

    use crate::error;

    #[pg_extern(sql = false)]
    fn sender_pattern(sender: &str) -> String {
        match SenderPattern::parse(sender) {
            Ok(pattern) => pattern.canonical(),
            Err(e) => error::invalid(e),
        }
    }
}
