//! One SMTP session: message after message over one connection.
//!
//! Invariants:
//! - All replies of a group are read before anything is decided (RFC 2920 §3.1).
//! - A session whose replies might be out of step is never used again: after a timeout, a broken
//!   connection, a 421, a reply out of turn, and when a [`Session::send`] was dropped midway.
//! - No final dot that could be taken for acceptance is written unless a recipient was accepted and DATA
//!   was answered by exactly 354.

use std::time::Duration;

use crate::{
    Endpoint, Extensions, Message, Outcome, Phase, RelayFault, Timeouts, TlsInfo, connect,
    encode::BodyEncoder,
    plan::{Command, Plan},
    turn::{self, Data, Heard, Turn},
    wire::{Broken, Wire},
};

/// How much of a body is encoded and written at a time, each block with its own deadline.
const BLOCK: usize = 64 * 1024;

/// How long a goodbye may take, all in all.
const GOODBYE: Duration = Duration::from_secs(2);

/// An open session, greeted and, where asked for, encrypted and authenticated.
pub struct Session {
    wire: Wire,
    extensions: Extensions,
    timeouts: Timeouts,
    tls: Option<TlsInfo>,
    /// A `send` is under way, or was dropped midway.
    busy: bool,
    /// This connection has carried a message before.
    kept: bool,
    /// The last transaction was left open.
    rset_due: bool,
    /// The commands already written for the message that the next `send` brings; empty: none.
    chained: Vec<u8>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("extensions", &self.extensions)
            .field("tls", &self.tls)
            .field("usable", &self.is_usable())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Connects, is greeted, says EHLO (or HELO), starts TLS, and authenticates, as `endpoint` asks
    /// (RFC 5321 §3.1 and §3.2, RFC 3207, RFC 4954).
    ///
    /// # Errors
    /// A [`RelayFault`] whose phase says how far it came. It never holds a credential.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, RelayFault> {
        let opened = connect::open(endpoint).await?;
        Ok(Self {
            wire: opened.wire,
            extensions: opened.extensions,
            timeouts: endpoint.timeouts,
            tls: opened.tls,
            busy: false,
            kept: false,
            rset_due: false,
            chained: Vec::new(),
        })
    }

    /// Sends one message and says what became of it (RFC 5321 §3.3, RFC 2920).
    ///
    /// `next` is asked at most once, just before this message's body goes out, for the message that will
    /// follow, and only where the server offers PIPELINING. Its MAIL, RCPT and DATA then go out in the
    /// same write as this message's body. The returned job is the one `next` gave. It must be passed to
    /// the very next `send` if the session [is usable](Self::is_usable); if it is not, it was never tried.
    ///
    /// Dropping the future midway drops that job too and makes the session unusable;
    /// [`Session::maybe_accepted`] then tells whether this message may have been accepted.
    pub async fn send<J: AsRef<Message>>(
        &mut self,
        job: &J,
        next: impl FnOnce() -> Option<J>,
    ) -> (Outcome, Option<J>) {
        let message = job.as_ref();
        if !self.is_usable() {
            return (turn::not_tried("the session is no longer usable"), None);
        }
        self.wire.clear_dot();
        let mut turn = Turn::new(Plan::new(message, &self.extensions));
        if turn.plan.is_empty() && self.chained.is_empty() {
            return (turn.into_outcome(), None);
        }
        self.busy = true;
        let mut chained = None;
        if self.envelope(message, &mut turn).await {
            if self.extensions.pipelining {
                chained = next();
            }
            self.body(message, chained.as_ref().map(AsRef::as_ref), &mut turn)
                .await;
        }
        self.kept = true;
        self.busy = false;
        (turn.into_outcome(), chained)
    }

    /// Whether another message can be sent: no timeout, no broken connection, no 421, replies in step.
    pub fn is_usable(&self) -> bool {
        !self.busy && !self.wire.is_broken()
    }

    /// After a `send` future was dropped midway: whether the final dot may have reached the relay while
    /// its reply was not read, so that the message may have been accepted. If not, nothing was.
    pub fn maybe_accepted(&self) -> bool {
        self.wire.dot_is_out()
    }

    /// What protects the connection, if anything does.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }

    /// What the server offered in its last reply to EHLO.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Says QUIT and closes, within two seconds, best effort (RFC 5321 §4.1.1.10). Where a message's
    /// commands are already written, the connection is just closed: QUIT would be taken for its text.
    pub async fn quit(mut self) {
        if self.is_usable() && self.chained.is_empty() {
            self.wire.set_line("QUIT");
            // Nothing depends on it: the session is over either way.
            if self.wire.write(GOODBYE / 2, "sending QUIT").await.is_ok() {
                let _ = self.wire.read(GOODBYE / 2, "QUIT").await;
            }
        }
        self.wire.close(GOODBYE / 4).await;
    }

    /// RSET where due, MAIL, RCPT and DATA. True if the body is to follow; otherwise the turn is decided.
    async fn envelope(&mut self, message: &Message, turn: &mut Turn) -> bool {
        let mut number = usize::from(!self.rset_due);
        while number <= turn.plan.data() {
            if turn.plan.command(number) == Command::Data && turn.accepted == 0 {
                break; // all were refused before DATA was written
            }
            let Some(end) = self.write_group(message, number, turn).await else {
                return false;
            };
            for n in number..end {
                if !self.hear(turn.plan.command(n), turn).await {
                    return false;
                }
            }
            number = end;
            if number > 1 && !turn.mail_accepted {
                break;
            }
        }
        self.rset_due = turn.mail_accepted && turn.data != Data::Open;
        if turn.data != Data::Open || !self.is_our_turn(turn, Phase::Data).await {
            return false;
        }
        if turn.accepted == 0 {
            self.lone_dot().await;
        }
        turn.accepted > 0
    }

    /// Writes the commands from `number` on, unless the message before did, and gives the number after
    /// the last one written; `None` if the connection is lost.
    async fn write_group(
        &mut self,
        message: &Message,
        number: usize,
        turn: &mut Turn,
    ) -> Option<usize> {
        self.wire.begin();
        let pipelining = self.extensions.pipelining;
        let end = turn
            .plan
            .write_group(message, number, pipelining, &mut self.wire.out);
        let phase = turn.plan.command(number).phase();
        if !self.chained.is_empty() {
            let same = self.wire.out == self.chained;
            self.chained.clear();
            if !same {
                self.wire.give_up();
                let detail = "not the message whose commands were already written".to_owned();
                turn.lost(true, phase, detail);
                return None;
            }
            return Some(end);
        }
        if !self.is_our_turn(turn, phase).await {
            return None;
        }
        match self
            .wire
            .write(self.timeouts.envelope, "sending commands")
            .await
        {
            Ok(()) => Some(end),
            Err(Broken { detail }) => {
                let said = self.wire.farewell().await;
                turn.lost_saying(self.kept, phase, said, detail);
                None
            }
        }
    }

    /// Reads the reply to one command. False: the turn is over, and so is the session.
    async fn hear(&mut self, command: Command, turn: &mut Turn) -> bool {
        let patience = match command {
            Command::Rset => self.timeouts.command,
            Command::Mail | Command::Rcpt(_) => self.timeouts.envelope,
            Command::Data => self.timeouts.data_init,
        };
        match self.wire.read(patience, command.name()).await {
            Ok(reply) => match turn.hear(command, reply) {
                Heard::Fine => return true,
                Heard::Stop => {}
            },
            Err(Broken { detail }) => turn.lost(self.kept, command.phase(), detail),
        }
        self.wire.give_up();
        false
    }

    /// Whether the relay is quiet, as it should be before we speak. If not, the session is over: what
    /// it said belongs to nothing we asked.
    async fn is_our_turn(&mut self, turn: &mut Turn, phase: Phase) -> bool {
        if !self.wire.is_out_of_turn().await {
            return true;
        }
        let said = self.wire.farewell().await;
        let detail = match &said {
            Some(_) => "the relay spoke out of turn",
            None => "the relay closed the connection or spoke out of turn",
        };
        // Before a message's first command, this is about the connection, however young.
        turn.lost_saying(true, phase, said, detail.to_owned());
        false
    }

    /// Ends a transaction that has no recipients but that DATA has opened (RFC 2920 §3.1). What the relay
    /// says to it changes nothing.
    async fn lone_dot(&mut self) {
        self.wire.set_line(".");
        if self
            .wire
            .write(self.timeouts.data_block, "sending a lone dot")
            .await
            .is_ok()
        {
            let reply = self.wire.read(self.timeouts.data_done, "a lone dot").await;
            if reply.is_ok_and(|reply| reply.code == 421) {
                self.wire.give_up();
            }
        }
    }

    /// The text, the final dot, and behind it the commands for `next`; then the reply to the dot.
    async fn body(&mut self, message: &Message, next: Option<&Message>, turn: &mut Turn) {
        let mut encoder = BodyEncoder::default();
        let (mut rest, mut first) = (&message.data[..], true);
        while rest.len() > BLOCK {
            let (block, tail) = rest.split_at(BLOCK);
            rest = tail;
            self.wire.begin();
            encoder.encode(block, &mut self.wire.out);
            if !self.write_block(first, turn).await {
                return;
            }
            first = false;
        }
        self.wire.begin();
        encoder.encode(rest, &mut self.wire.out);
        encoder.finish(&mut self.wire.out);
        self.wire.mark_dot();
        if let Some(next) = next {
            self.chain(next);
        }
        if self.write_block(first, turn).await {
            self.judgement(turn).await;
        }
    }

    /// Appends the commands for the next message, if all of them fit one group.
    fn chain(&mut self, next: &Message) {
        let plan = Plan::new(next, &self.extensions);
        if plan.is_empty() {
            return;
        }
        let end = plan.write_group(next, 1, true, &mut self.chained);
        if end <= plan.data() {
            self.chained.clear();
        }
        self.wire.out.extend_from_slice(&self.chained);
    }

    /// Writes a block of the text. False: the turn is over, and so is the session.
    async fn write_block(&mut self, first: bool, turn: &mut Turn) -> bool {
        if !first && !self.is_our_turn(turn, Phase::Body).await {
            return false;
        }
        let Err(broken) = self
            .wire
            .write(self.timeouts.data_block, "sending the message")
            .await
        else {
            return true;
        };
        if self.wire.dot_is_out() {
            // Only the next message's commands failed; the reply to this one may still come.
            self.judgement(turn).await;
            self.wire.give_up();
            return false;
        }
        let said = self.wire.farewell().await;
        turn.lost_saying(self.kept, Phase::Body, said, broken.detail);
        false
    }

    /// Reads the reply to the final dot.
    async fn judgement(&mut self, turn: &mut Turn) {
        match self
            .wire
            .read(self.timeouts.data_done, "the final dot")
            .await
        {
            Ok(reply) if reply.code == 421 => {
                self.wire.clear_dot();
                self.wire.give_up();
                turn.closing(Phase::Dot, reply);
            }
            Ok(reply) => {
                turn.judge(Phase::Dot, &reply);
                if reply.code / 100 == 3 {
                    self.wire.give_up();
                } else {
                    self.wire.clear_dot();
                }
            }
            Err(Broken { detail }) => turn.uncertain(&detail),
        }
    }
}
