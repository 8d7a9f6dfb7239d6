//! Where the server's configuration lets mail go: `pgmq_mail.delivery` and `pgmq_mail.redirect_to`.

use crate::guc::{self, Delivery};

/// Where mail of queues with transport `smtp` goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outgoing {
    /// To its recipients.
    Freely,
    /// Nowhere: it waits.
    #[default]
    Nowhere,
    /// To this address instead of its recipients.
    To(String),
}

/// As it is configured now.
pub fn outgoing() -> Outgoing {
    match guc::DELIVERY.get() {
        Delivery::on => Outgoing::Freely,
        Delivery::hold => Outgoing::Nowhere,
        Delivery::redirect => redirect_to().map_or(Outgoing::Nowhere, Outgoing::To),
    }
}

/// The address of `pgmq_mail.redirect_to`, or what is wrong with it.
fn redirect_to() -> Result<String, String> {
    let given = guc::REDIRECT_TO.get().unwrap_or_default();
    let given = given.to_string_lossy();
    if given.is_empty() {
        return Err("pgmq_mail.redirect_to is not set".to_owned());
    }
    mail_message::envelope_address(&given, "pgmq_mail.redirect_to").map_err(|error| error.message)
}

#[allow(unsafe_code, reason = "expansions of pg_extern")]
mod function {
    use pgrx::pg_extern;

    use crate::guc::{self, Delivery};

    #[pg_extern(sql = false)]
    fn redirect_trouble() -> Option<String> {
        (guc::DELIVERY.get() == Delivery::redirect)
            .then(super::redirect_to)?
            .err()
    }
}
