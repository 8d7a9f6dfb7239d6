//! What the rest of the project sees of an SMTP session: where to connect, what to send, what came of it.

use std::{path::PathBuf, time::Duration};

use crate::text::Text;

use crate::Dsn;

/// How a connection to a relay is protected (RFC 8314, RFC 3207).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// `smtps://`: TLS from the first byte.
    Implicit,
    /// `starttls=required`: no MAIL and no AUTH without TLS.
    StartTlsRequired,
    /// `starttls=opportunistic`: TLS where offered, with any certificate; where it fails, once more without.
    /// With credentials to send, which only ever go inside TLS, the certificate is verified and nothing is
    /// tried without.
    StartTlsOpportunistic,
    /// `starttls=never`.
    Never,
}

/// What is spoken with the relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 5321: one reply after the final dot, for all recipients.
    #[default]
    Smtp,
    /// RFC 2033, for local delivery: a reply for each accepted recipient.
    Lmtp,
}

/// Which SASL mechanism to use (RFC 4954).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthMechanism {
    /// The best of PLAIN and LOGIN that the relay offers.
    Auto,
    /// RFC 4616.
    Plain,
    /// The old LOGIN mechanism.
    Login,
    /// The mechanism that preceded RFC 7628 and that big providers speak. The secret is an access token.
    XOAuth2,
    /// RFC 7628. The secret is an access token.
    OAuthBearer,
}

/// A user name and its secret. `Debug` never prints the secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The SASL authentication identity.
    pub username: String,
    /// The password or token.
    pub secret: String,
    /// The mechanism to use.
    pub mechanism: AuthMechanism,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Patience per command; the defaults are the minimums of RFC 5321 §4.5.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// TCP connect and TLS handshake, each.
    pub connect: Duration,
    /// The 220 greeting.
    pub greeting: Duration,
    /// EHLO, STARTTLS, AUTH, RSET, QUIT.
    pub command: Duration,
    /// MAIL and RCPT.
    pub envelope: Duration,
    /// The 354 after DATA.
    pub data_init: Duration,
    /// Each block of the body.
    pub data_block: Duration,
    /// The reply after the final dot.
    pub data_done: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |m: u64| Duration::from_secs(60 * m);
        Self {
            connect: Duration::from_secs(30),
            greeting: minutes(5),
            command: minutes(5),
            envelope: minutes(5),
            data_init: minutes(2),
            data_block: minutes(3),
            data_done: minutes(10),
        }
    }
}

/// Where and how to reach one relay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// What is spoken there.
    pub protocol: Protocol,
    /// Host name or address literal without brackets; also the name that the certificate must carry.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// A Unix socket to connect to instead; `host` then only names the relay in messages.
    pub socket: Option<PathBuf>,
    /// Protection of the connection.
    pub tls: TlsMode,
    /// PEM file with the trust anchors for this relay; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Credentials, if the relay wants any.
    pub credentials: Option<Credentials>,
    /// The name given in EHLO; empty: our address in brackets, as the connection's own end has it (on a Unix
    /// socket `localhost`). See [`crate::qualified_name`].
    pub helo_name: String,
    /// Patience per command.
    pub timeouts: Timeouts,
}

/// No host yet, SMTP on port 25, STARTTLS required, the system's trust anchors, no credentials, our address
/// as name.
impl Default for Endpoint {
    fn default() -> Self {
        Self {
            protocol: Protocol::default(),
            host: String::new(),
            port: 25,
            socket: None,
            tls: TlsMode::StartTlsRequired,
            ca_file: None,
            credentials: None,
            helo_name: String::new(),
            timeouts: Timeouts::default(),
        }
    }
}

/// One message ready for the wire.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Reverse path without angle brackets; empty for the null sender.
    pub from: String,
    /// Forward paths without angle brackets, at least one.
    pub to: Vec<String>,
    /// The RFC 5322 message.
    pub data: Text,
    /// What to report about its delivery, and to whom; written only where the relay offers DSN.
    pub dsn: Dsn,
}

impl AsRef<Message> for Message {
    fn as_ref(&self) -> &Message {
        self
    }
}

/// Where in the session something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Name resolution and TCP connect.
    Connect,
    /// TLS handshake, implicit or after STARTTLS.
    Tls,
    /// The 220 greeting.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// The STARTTLS command.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA up to the 354.
    Data,
    /// The message's text, up to but without the final dot's last byte.
    Body,
    /// After the final dot.
    Dot,
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
}

/// RFC 3463 enhanced status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnhancedCode {
    /// 2, 4 or 5.
    pub class: u8,
    /// What it is about.
    pub subject: u16,
    /// The detail.
    pub detail: u16,
}

impl EnhancedCode {
    /// A refusal for good.
    pub(crate) const fn permanent(subject: u16, detail: u16) -> Self {
        Self {
            class: 5,
            subject,
            detail,
        }
    }
}

/// `5.3.4`.
impl std::fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            class,
            subject,
            detail,
        } = self;
        write!(f, "{class}.{subject}.{detail}")
    }
}

/// A complete reply, RFC 5321 §4.2.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// The enhanced code that its first line began with, if any.
    pub enhanced: Option<EnhancedCode>,
    /// Its lines without codes, joined by a newline; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// How an attempt ended for one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// 2yz after the final dot.
    Delivered,
    /// 4yz, or the connection failed before the final dot: nothing was accepted.
    Transient,
    /// 5yz.
    Permanent,
    /// Silence or a broken connection after the final dot: perhaps accepted.
    Uncertain,
    /// The relay closed (421) before it judged this recipient, though it had judged others: nothing was
    /// accepted, and no attempt is to be counted.
    Untried,
}

/// The result for one recipient, at the same index as in [`Message::to`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientResult {
    /// The verdict.
    pub verdict: Verdict,
    /// Where it was decided.
    pub phase: Phase,
    /// The reply that decided it; `None` where none came.
    pub reply: Option<Reply>,
    /// One line for a person, where no reply says it ("timed out after 600 s waiting for …").
    pub detail: Option<String>,
    /// The status code of what was decided without asking the relay; a reply brings its own.
    pub status: Option<EnhancedCode>,
}

impl RecipientResult {
    /// What a reply decided.
    pub fn replied(verdict: Verdict, phase: Phase, reply: Reply) -> Self {
        Self {
            verdict,
            phase,
            reply: Some(reply),
            detail: None,
            status: None,
        }
    }

    /// What no reply decided, and why.
    pub fn unasked(verdict: Verdict, phase: Phase, detail: impl Into<String>) -> Self {
        Self {
            verdict,
            phase,
            reply: None,
            detail: Some(detail.into()),
            status: None,
        }
    }
}

/// Trouble that is the relay's and not the message's: a 421, a refused connection, a failed login.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct RelayFault {
    /// Where it happened.
    pub phase: Phase,
    /// The reply, if one came.
    pub reply: Option<Reply>,
    /// One line for a person; never holds a credential.
    pub detail: String,
}

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The relay judged it: a result for every recipient, in order.
    Judged(Vec<RecipientResult>),
    /// It was never judged, for the relay's reasons: no attempt is to be counted, nothing was accepted.
    NotTried(RelayFault),
}

/// What the connection is protected by, for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite's name.
    pub cipher: String,
}

impl RelayFault {
    fn describe(&self) -> String {
        self.detail.clone()
    }
}
