//! STARTTLS and AUTH in the sink.

use std::io;

use rustls::{ServerConnection, StreamOwned};

use super::script::Phase;
use super::session::{Answered, Envelope, Expect, Session};

/// How far the connection is protected.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    #[default]
    Off,
    /// STARTTLS has just been done: what came in plain text behind it does not count (RFC 3207).
    Fresh,
    On,
}

#[derive(Default)]
pub(super) struct Security {
    pub(super) tls: Tls,
    pub(super) authenticated: bool,
    /// The first line of AUTH LOGIN was right.
    pub(super) user_known: bool,
}

impl Security {
    /// Whether STARTTLS has just been done; only the first time.
    pub(super) fn settle(&mut self) -> bool {
        let fresh = self.tls == Tls::Fresh;
        if fresh {
            self.tls = Tls::On;
        }
        fresh
    }
}

impl Session<'_> {
    pub(super) fn starttls(&mut self, line: &str) -> Answered {
        let answer = self.answer(Phase::StartTls, line, "220 2.0.0 Go ahead")?;
        if answer.is(b'2') && !answer.last {
            self.flush()?;
            self.wrap()?;
            self.security.tls = Tls::Fresh;
            self.envelope = Envelope::default();
        }
        Ok(answer)
    }

    pub(super) fn wrap(&mut self) -> io::Result<()> {
        let config = self.state.tls.clone().expect("TLS is set up");
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        self.stream = Box::new(StreamOwned::new(connection, self.socket.try_clone()?));
        self.security.tls = Tls::On;
        Ok(())
    }

    pub(super) fn credential(&self, at: usize) -> &str {
        &self.state.credentials.as_ref().expect("AUTH is set up")[at]
    }

    pub(super) fn auth(&mut self, line: &str) -> Answered {
        let words: Vec<&str> = line.split(' ').collect();
        match (
            words
                .get(1)
                .map(|word| word.to_ascii_uppercase())
                .as_deref(),
            words.get(2),
        ) {
            (Some("PLAIN"), Some(token)) => self.password(token, 0, line),
            (Some("PLAIN"), None) => self.prompt(line, "334 ", Expect::Plain),
            (Some("LOGIN"), Some(user)) => {
                self.security.user_known = self.credential(1) == *user;
                self.prompt(line, "334 UGFzc3dvcmQ6", Expect::LoginPassword)
            }
            (Some("LOGIN"), None) => self.prompt(line, "334 VXNlcm5hbWU6", Expect::LoginUser),
            _ => self.answer(Phase::Auth, line, "504 5.5.4 Unknown mechanism"),
        }
    }

    pub(super) fn prompt(&mut self, line: &str, question: &str, next: Expect) -> Answered {
        let answer = self.answer(Phase::Auth, line, question)?;
        self.expect = if answer.is(b'3') {
            next
        } else {
            Expect::Command
        };
        Ok(answer)
    }

    pub(super) fn password(&mut self, token: &str, at: usize, line: &str) -> Answered {
        self.expect = Expect::Command;
        let right = self.credential(at) == token && (at == 0 || self.security.user_known);
        let reply = if right {
            "235 2.7.0 Welcome"
        } else {
            "535 5.7.8 Wrong credentials"
        };
        let answer = self.answer(Phase::Auth, line, reply)?;
        self.security.authenticated = answer.is(b'2');
        Ok(answer)
    }
}
