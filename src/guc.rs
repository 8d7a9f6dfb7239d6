//! Settings. No password is ever one of them.

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

/// What may leave this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types, reason = "the names are what the user types")]
pub enum Delivery {
    /// Mail goes out.
    on,
    /// Nothing is claimed for relays.
    hold,
    /// All mail goes to one address.
    redirect,
}

pub static DELIVERY: GucSetting<Delivery> = GucSetting::<Delivery>::new(Delivery::on);
pub static REDIRECT_TO: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
pub static TOKEN_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
pub static NODE_ID: GucSetting<i32> = GucSetting::<i32>::new(0);
pub static MAX_MESSAGE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(35 * 1024);
pub static MAX_IN_FLIGHT: GucSetting<i32> = GucSetting::<i32>::new(1000);
pub static SWEEP_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(5000);
pub static SECRETS_DIRECTORY: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(None);

/// Registers the settings and reserves their prefix.
pub fn register() {
    GucRegistry::define_enum_guc(
        c"pgmq_mail.delivery",
        c"Whether mail leaves this server: on, or hold or redirect for staging copies.",
        c"Default on. With hold, queues with transport smtp keep their messages; with redirect, all that they send goes to pgmq_mail.redirect_to. Takes effect on reload.",
        &DELIVERY,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pgmq_mail.redirect_to",
        c"The one address that all mail goes to with pgmq_mail.delivery = redirect.",
        c"Default: none, and redirect sends nothing. Takes effect on reload.",
        &REDIRECT_TO,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pgmq_mail.token_file",
        c"File outside the data directory that relays are armed with: without it, or with another content, they deliver nothing.",
        c"Default: none. After setting it, or changing the file, reload and call mail.arm() in each database. Takes effect on reload.",
        &TOKEN_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_int_guc(
        c"pgmq_mail.node_id",
        c"Number of this server within message ids.",
        c"Default 0. Servers whose messages may meet in one place need different numbers. Takes effect on reload.",
        &NODE_ID,
        0,
        255,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgmq_mail.max_message_size",
        c"Largest message that is accepted: its fields, and its files as they were given.",
        c"Default 35 MB: a file of 25 MB and what goes with it. Larger ones are refused with SQLSTATE 54000. Takes effect at once.",
        &MAX_MESSAGE_SIZE,
        1,
        512 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"pgmq_mail.max_in_flight",
        c"Messages that a worker holds in memory at once, over all queues.",
        c"Default 1000. Takes effect on reload.",
        &MAX_IN_FLIGHT,
        1,
        100_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgmq_mail.sweep_interval",
        c"How often the worker looks for what no commit announced, such as prepared transactions.",
        c"Default 5 s. Ordinary commits, schedules and retries do not depend on it. Takes effect on reload.",
        &SWEEP_INTERVAL,
        100,
        3_600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_string_guc(
        c"pgmq_mail.secrets_directory",
        c"Directory of the files that file:NAME secrets of relays and DKIM keys refer to.",
        c"Default: none, file: secrets are refused. Takes effect on reload.",
        &SECRETS_DIRECTORY,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    crate::pg::reserve_guc_prefix();
}
