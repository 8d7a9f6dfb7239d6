//! What goes with a message beside its recipients. Pure.

use mail_message::{DsnNotify, DsnReturn};
use mail_smtp::{Dsn, Notify, Ret};

/// What a message asks about its delivery, as the session wants it.
pub(crate) fn dsn(asked: &mail_message::Dsn) -> Dsn {
    let wants = |what| asked.notify.contains(&what);
    Dsn {
        ret: asked.ret.map(|ret| match ret {
            DsnReturn::Full => Ret::Full,
            DsnReturn::Headers => Ret::Headers,
        }),
        envid: asked.envelope_id.clone(),
        notify: if wants(DsnNotify::Never) {
            Notify::Never
        } else if asked.notify.is_empty() {
            Notify::Unasked
        } else {
            Notify::On {
                success: wants(DsnNotify::Success),
                failure: wants(DsnNotify::Failure),
                delay: wants(DsnNotify::Delay),
            }
        },
    }
}
