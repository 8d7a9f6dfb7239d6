//! The real mail servers that the tests share, and how to read what they have delivered.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mail_parser::{Message, MessageParser};
use pgmq_mail_tests::{Certificates, Guard, LOGIN, MailServer, Make, available};

use crate::{SOON, World};

/// A real mail server with a certificate.
pub struct Server {
    inner: MailServer,
    pub certificates: Certificates,
    /// What is static is never dropped: this removes the certificates.
    _guard: Guard,
}

/// The same tests for each of the real servers; those that are not there are left out.
#[macro_export]
macro_rules! on_real_servers {
    ($($name:ident)*) => {
        $crate::on_real_servers!(postfix Postfix: $($name)*);
        $crate::on_real_servers!(opensmtpd OpenSmtpd: $($name)*);
        $crate::on_real_servers!(exim Exim: $($name)*);
    };
    ($module:ident $make:ident: $($name:ident)*) => {
        mod $module {
            $(#[test]
            fn $name() {
                let make = pgmq_mail_tests::Make::$make;
                if let Some(server) = $crate::servers::Server::shared(make) {
                    super::$name(server);
                }
            })*
        }
    };
}

impl Server {
    /// The one of that make that the tests share.
    pub fn shared(make: Make) -> Option<&'static Self> {
        static SERVERS: [OnceLock<Option<Server>>; 3] = [const { OnceLock::new() }; 3];
        let start = || {
            available(make.name(), make.is_available())
                .then(|| Self::start(make, Certificates::new()))
        };
        SERVERS[make as usize].get_or_init(start).as_ref()
    }

    fn start(make: Make, certificates: Certificates) -> Self {
        Self {
            inner: make.start(&certificates),
            _guard: Guard::new(r#"rm -rf "$1""#, &[certificates.folder()]),
            certificates,
        }
    }

    /// One more of the same make, with this certificate.
    pub fn another(&self, certificates: Certificates) -> Self {
        Self::start(self.make(), certificates)
    }

    /// Who made it.
    pub fn make(&self) -> Make {
        self.inner.make()
    }

    /// Takes mail without a login; STARTTLS is offered.
    pub fn plain(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.inner.port())
    }

    /// Takes mail only under STARTTLS and after AUTH.
    pub fn submission(&self) -> String {
        format!("smtp://localhost:{}", self.inner.submission())
    }

    /// Speaks TLS from the first byte, and takes mail only after AUTH.
    pub fn smtps(&self) -> String {
        format!("smtps://localhost:{}", self.inner.smtps())
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.inner.log()
    }

    /// Whether the envelope's sender stands in the mails that it has delivered.
    pub fn adds_return_path(&self) -> bool {
        self.make() != Make::OpenSmtpd
    }

    /// Whether its replies hold enhanced status codes.
    pub fn offers_enhanced_codes(&self) -> bool {
        self.make() != Make::Exim
    }

    /// The mails of a user whose text holds `mark`: other tests deliver to the same mailboxes.
    pub fn inbox(&self, user: &str, mark: &str) -> Vec<String> {
        let mut mails = self.inner.mailbox(user);
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
