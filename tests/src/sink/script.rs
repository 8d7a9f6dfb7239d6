//! What a test can make the sink do.

use std::time::Duration;

/// Where in a session the sink is about to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The greeting.
    Connect,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// AUTH, and each further line of it.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA.
    Data,
    /// Within the text: once for each message, when some of it has come and its end has not. To agree
    /// is to say nothing and to read on.
    Body,
    /// The final dot.
    Dot,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// Anything else.
    Other,
}

/// What the sink knows when it is about to answer.
#[derive(Debug)]
pub struct Event<'a> {
    /// The number of the connection, from 0.
    pub connection: usize,
    /// What is answered, or [`Phase::Body`].
    pub phase: Phase,
    /// The command without its line end; empty for the greeting, within the text, and at the final dot.
    pub command: &'a str,
    /// The reverse path, without brackets.
    pub sender: &'a str,
    /// The accepted recipients of this transaction so far.
    pub recipients: &'a [String],
    /// The message, at the final dot.
    pub data: &'a [u8],
    /// How many mails this connection has brought before.
    pub mails: usize,
}

impl Event<'_> {
    /// The address in the brackets of MAIL or RCPT.
    pub fn address(&self) -> &str {
        address(self.command)
    }
}

/// What the sink does instead of agreeing.
#[derive(Clone, Debug)]
pub enum Action {
    /// Agrees, as it does without a script.
    Accept,
    /// Agrees and does not say so.
    AcceptSilently,
    /// Says this; line ends between lines are `\r\n`, the last one is added. The first digit decides
    /// how the sink goes on.
    Reply(String),
    /// [`Reply`](Self::Reply) for bytes that are not text; nothing is added.
    Bytes(Vec<u8>),
    /// Waits, then does that.
    After(Duration, Box<Action>),
    /// Does the one and then the other. The first digit of the first decides how the sink goes on.
    Then(Box<Action>, Box<Action>),
    /// Never answers again, and keeps the connection open.
    Silence,
    /// Closes the connection without a word. At the final dot the mail does not count as accepted.
    Drop,
    /// Accepts what was sent, and closes the connection instead of saying so.
    AcceptAndDrop,
    /// Says this and closes the connection.
    ReplyAndDrop(String),
}

impl Action {
    /// [`Action::Reply`].
    pub fn reply(text: &str) -> Self {
        Self::Reply(text.to_owned())
    }

    /// This action, later.
    #[must_use]
    pub fn after(self, pause: Duration) -> Self {
        Self::After(pause, Box::new(self))
    }

    /// This action, and then another.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self::Then(Box::new(self), Box::new(next))
    }
}

pub(crate) fn address(command: &str) -> &str {
    let begin = command.find('<').map_or(0, |at| at + 1);
    let end = command[begin..]
        .find('>')
        .map_or(command.len(), |at| begin + at);
    &command[begin..end]
}

pub(crate) type Script = dyn Fn(&Event<'_>) -> Action + Send + Sync;
