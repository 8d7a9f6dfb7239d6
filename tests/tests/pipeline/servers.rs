//! The real mail servers that the tests share, and how to read what they have delivered.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mail_parser::{Message, MessageParser};
use pgmq_mail_tests::{Certificates, LOGIN, OpenSmtpd, Postfix, available};

use crate::{SOON, World};

enum Kind {
    Postfix(Postfix),
    OpenSmtpd(OpenSmtpd),
}

/// A real mail server with a certificate.
pub struct Server {
    kind: Kind,
    pub certificates: Certificates,
}

/// The same tests for each of the real servers; those that are not there are left out.
#[macro_export]
macro_rules! on_real_servers {
    ($($name:ident)*) => {
        mod postfix {
            $(#[test]
            fn $name() {
                if let Some(server) = $crate::servers::Server::postfix() {
                    super::$name(server);
                }
            })*
        }
        mod opensmtpd {
            $(#[test]
            fn $name() {
                if let Some(server) = $crate::servers::Server::opensmtpd() {
                    super::$name(server);
                }
            })*
        }
    };
}

impl Server {
    /// The shared Postfix.
    pub fn postfix() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        let start = || {
            available("Postfix", Postfix::is_available())
                .then(|| Self::start_postfix(Certificates::new()))
        };
        SERVER.get_or_init(start).as_ref()
    }

    /// The shared OpenSMTPD.
    pub fn opensmtpd() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        let start = || {
            available("OpenSMTPD", OpenSmtpd::is_available())
                .then(|| Self::start_opensmtpd(Certificates::new()))
        };
        SERVER.get_or_init(start).as_ref()
    }

    fn start_postfix(certificates: Certificates) -> Self {
        Self {
            kind: Kind::Postfix(Postfix::start(&certificates)),
            certificates,
        }
    }

    fn start_opensmtpd(certificates: Certificates) -> Self {
        Self {
            kind: Kind::OpenSmtpd(OpenSmtpd::start(&certificates)),
            certificates,
        }
    }

    /// One more of the same kind, with this certificate.
    pub fn another(&self, certificates: Certificates) -> Self {
        match self.kind {
            Kind::Postfix(_) => Self::start_postfix(certificates),
            Kind::OpenSmtpd(_) => Self::start_opensmtpd(certificates),
        }
    }

    /// Takes mail without a login; STARTTLS is offered.
    pub fn plain(&self) -> String {
        let port = match &self.kind {
            Kind::Postfix(server) => server.port(),
            Kind::OpenSmtpd(server) => server.port(),
        };
        format!("smtp://127.0.0.1:{port}")
    }

    /// Takes mail only under STARTTLS and after AUTH.
    pub fn submission(&self) -> String {
        let port = match &self.kind {
            Kind::Postfix(server) => server.submission(),
            Kind::OpenSmtpd(server) => server.submission(),
        };
        format!("smtp://localhost:{port}")
    }

    /// Speaks TLS from the first byte, and takes mail only after AUTH.
    pub fn smtps(&self) -> String {
        let port = match &self.kind {
            Kind::Postfix(server) => server.smtps(),
            Kind::OpenSmtpd(server) => server.smtps(),
        };
        format!("smtps://localhost:{port}")
    }

    /// Its log.
    pub fn log(&self) -> String {
        match &self.kind {
            Kind::Postfix(server) => server.log(),
            Kind::OpenSmtpd(server) => server.log(),
        }
    }

    /// Whether it is Postfix, whose log says which mechanism was used.
    pub fn is_postfix(&self) -> bool {
        matches!(self.kind, Kind::Postfix(_))
    }

    /// The mails of a user whose text holds `mark`: other tests deliver to the same mailboxes.
    pub fn inbox(&self, user: &str, mark: &str) -> Vec<String> {
        let mut mails = match &self.kind {
            Kind::Postfix(server) => server.mailbox(user),
            Kind::OpenSmtpd(server) => server.mailbox(user),
        };
        mails.retain(|mail| mail.contains(mark));
        mails
    }

    /// Waits until there are that many.
    #[track_caller]
    pub fn wait_for(&self, user: &str, mark: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + SOON;
        loop {
            let mails = self.inbox(user, mark);
            if mails.len() >= count {
                return mails;
            }
            assert!(
                Instant::now() < deadline,
                "{user} has {} of {count} mails with {mark}\n{}",
                mails.len(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A world with a relay for the plain port.
    #[track_caller]
    pub fn world(&self) -> World<'static> {
        let mut world = World::new();
        world.relay("main", &self.plain(), &[]);
        world
    }

    /// A world with a relay for this URL that logs in; the password and further columns are given.
    #[track_caller]
    pub fn world_with_login(
        &self,
        url: &str,
        secret: &str,
        more: &[(&str, &str)],
    ) -> World<'static> {
        let mut world = World::new();
        let ca_file = self.certificates.ca_file();
        let mut columns = vec![
            ("username", LOGIN.0),
            ("secret", secret),
            ("ca_file", ca_file.to_str().expect("a path in UTF-8")),
        ];
        for (column, value) in more {
            columns.retain(|(known, _)| known != column);
            columns.push((column, value));
        }
        world.relay("main", url, &columns);
        world
    }
}

/// A delivered mail as a program sees it that has nothing in common with the one that wrote it.
#[track_caller]
pub fn parsed(mail: &str) -> Message<'_> {
    MessageParser::default()
        .parse(mail.as_bytes())
        .unwrap_or_else(|| panic!("not a mail:\n{mail}"))
}

/// What is unique in the Message-ID of a message: it marks its mails in a mailbox.
#[track_caller]
pub fn message_id(world: &mut World<'_>, id: i64) -> String {
    world.one("SELECT message_id FROM mail.messages WHERE id = $1", &[&id])
}
