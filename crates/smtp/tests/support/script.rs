//! What a scripted server is told to do.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use mail_smtp::Phase;
use rustls::ServerConfig;
use tokio::sync::Notify;

/// What the server does when something reaches it.
#[derive(Clone, Debug)]
pub enum Act {
    /// Says this, after whatever it had deferred.
    Say(Vec<u8>),
    /// Says this together with the next thing it says: to a client that does not pipeline, never.
    Defer(Vec<u8>),
    /// Says this and hangs up.
    SayAndClose(Vec<u8>),
    /// Says this when it is told to. In [`Phase::Body`]: reads nothing until then, and says nothing.
    SayWhen(Arc<Notify>, Vec<u8>),
    /// Hangs up.
    Close,
    /// Goes on reading, and never says another word.
    Silence,
    /// In [`Phase::Body`]: lets this many octets come, then says this and hangs up.
    CutBody(usize, Vec<u8>),
    /// In [`Phase::Body`]: lets this many octets come, then says this and takes nothing more.
    BalkAt(usize, Vec<u8>),
}

/// Says one line.
pub fn say(line: &str) -> Act {
    Act::Say(format!("{line}\r\n").into_bytes())
}

/// Says one line and hangs up.
pub fn say_and_close(line: &str) -> Act {
    Act::SayAndClose(format!("{line}\r\n").into_bytes())
}

/// Says one line, but only together with the next.
pub fn defer(line: &str) -> Act {
    Act::Defer(format!("{line}\r\n").into_bytes())
}

/// How a server behaves. What it is not told it does as a good server would.
#[derive(Clone, Default)]
pub struct Script {
    pub(super) extensions: Vec<String>,
    pub(super) acts: HashMap<Phase, VecDeque<Act>>,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) implicit_tls: bool,
    pub(super) lmtp: bool,
}

impl Script {
    /// A server with or without PIPELINING, and nothing else.
    pub fn new(pipelining: bool) -> Self {
        let extensions = if pipelining {
            vec!["PIPELINING".to_owned()]
        } else {
            vec![]
        };
        Self {
            extensions,
            ..Self::default()
        }
    }

    /// Offers these lines, too.
    pub fn offer(mut self, lines: &[&str]) -> Self {
        self.extensions
            .extend(lines.iter().map(|&line| line.to_owned()));
        self
    }

    /// The next time something of `phase` comes that nothing is scripted for yet, on any connection.
    pub fn on(mut self, phase: Phase, act: Act) -> Self {
        self.acts.entry(phase).or_default().push_back(act);
        self
    }

    /// TLS from the first byte, or after STARTTLS.
    pub fn tls(mut self, config: Arc<ServerConfig>, implicit: bool) -> Self {
        self.tls = Some(config);
        self.implicit_tls = implicit;
        self
    }

    /// Answers the final dot once for each recipient, or not at all if there is none.
    pub fn lmtp(mut self) -> Self {
        self.lmtp = true;
        self
    }
}
