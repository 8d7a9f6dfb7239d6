//! One SMTP session: message after message over one connection.
//!
//! Invariants:
//! - All replies of a group are read before anything is decided (RFC 2920 §3.1).
//! - Of a transaction in which a reply is seen to be out of place none is believed: one too many (come
//!   before we speak next, or in reply to the RSET that a doubtful refusal is confirmed by, and to QUIT
//!   where the relay does not know RSET), one that its
//!   command cannot have, or something that is none. Looking costs no time where mail is accepted or all
//!   of it refused for good. What cannot be seen: a reply too many that is still on its way when the text
//!   goes out, or when all replies are 5yz, or when the relay hangs up; one too few and then silence, as of
//!   a slow relay; one too many made up for by one too few.
//! - A session whose replies might be out of step is never used again: after a timeout, a broken
//!   connection, a 421, a reply out of turn, and when a [`Session::send`] was dropped midway.
//! - No final dot that could be taken for acceptance is written unless a recipient was accepted and DATA
//!   was answered by exactly 354.

mod body;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    Endpoint, Extensions, Message, Outcome, Phase, Protocol, RelayFault, Reply, Timeouts, TlsInfo,
    Transcript, connect,
    plan::{Command, Plan},
    turn::{self, Data, Heard, Turn},
    wire::{Broken, Wire},
};

/// How long a goodbye may take, all in all.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long a relay may take to show that it is in step. If it keeps silent, the session ends, and the
/// verdicts stay.
const CONFIRMATION: Duration = Duration::from_secs(10);

/// An open session, greeted and, where asked for, encrypted and authenticated.
pub struct Session {
    wire: Wire,
    extensions: Extensions,
    timeouts: Timeouts,
    protocol: Protocol,
    tls: Option<TlsInfo>,
    /// A `send` is under way, or was dropped midway.
    busy: bool,
    /// The `send` under way has come to the text.
    texting: Arc<AtomicBool>,
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
        Self::open(endpoint, None).await
    }

    /// The same, with every line of the conversation in `transcript`, up to [`Session::quit`]. Secrets are
    /// masked, and of a message only its size is told.
    ///
    /// # Errors
    /// As [`Session::connect`]; the transcript then says what went wrong.
    pub async fn connect_recorded(
        endpoint: &Endpoint,
        transcript: Transcript,
    ) -> Result<Self, RelayFault> {
        Self::open(endpoint, Some(&transcript)).await
    }

    async fn open(
        endpoint: &Endpoint,
        transcript: Option<&Transcript>,
    ) -> Result<Self, RelayFault> {
        let opened = connect::open(endpoint, transcript).await?;
        Ok(Self {
            wire: opened.wire,
            extensions: opened.extensions,
            timeouts: endpoint.timeouts,
            protocol: endpoint.protocol,
            tls: opened.tls,
            busy: false,
            texting: Arc::default(),
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
        self.texting.store(false, Relaxed);
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
            self.texting.store(true, Relaxed);
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

    /// Tells, also while a `send` goes on, whether it has come to the text of the message. Before that nothing can have
    /// been accepted.
    pub fn texting(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.texting)
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
        let last = turn.plan.command(number - 1).phase();
        if !self.is_our_turn(turn, last).await {
            return false;
        }
        if turn.data != Data::Open {
            self.confirm(last, turn).await;
            return false;
        }
        if turn.accepted == 0 {
            self.lone_dot().await;
        }
        turn.accepted > 0
    }

    /// Where someone's refusal for good might be the answer to something else, shows that it is not: the
    /// reply to an RSET comes behind whatever is still on its way. It is sent ahead of its time, so that
    /// the next transaction does without.
    async fn confirm(&mut self, last: Phase, turn: &mut Turn) {
        if !turn.is_doubtful() {
            return;
        }
        self.wire.set_line("RSET");
        let patience = self.timeouts.command.min(CONFIRMATION);
        let said = match self.wire.write(patience, "sending RSET").await {
            Ok(()) => self.wire.read(patience, "RSET").await.ok(),
            Err(_) => self.wire.farewell().await,
        };
        match said {
            Some(reply) if reply.code / 100 == 2 => {
                self.rset_due = false;
                // Two too many.
                self.is_our_turn(turn, last).await;
            }
            // A relay that closes after a refusal means it, and so does one that keeps silent.
            Some(reply) if reply.code == 421 => self.wire.give_up(),
            None if !self.wire.has_spoken() => self.wire.give_up(),
            Some(reply) if matches!(reply.code, 500 | 502) => {
                self.confirm_by_quit(reply, last, turn).await;
            }
            said => {
                turn.out_of_step(last, said, "unexpected reply to RSET");
                self.wire.give_up();
            }
        }
    }

    /// A relay that does not know RSET, or so it seems: its 500 or 502 may yet be the refusal of something
    /// else, with the reply to RSET behind it. QUIT tells, since only to that anyone says 221. The
    /// transaction could not be reset anyway, so that the session ends here.
    async fn confirm_by_quit(&mut self, refusal: Reply, last: Phase, turn: &mut Turn) {
        self.wire.set_line("QUIT");
        let patience = self.timeouts.command.min(CONFIRMATION);
        let said = match self.wire.write(patience, "sending QUIT").await {
            Ok(()) => self.wire.read(patience, "QUIT").await.ok(),
            Err(_) => self.wire.farewell().await,
        };
        let in_step = match &said {
            Some(reply) => matches!(reply.code, 221 | 421),
            None => !self.wire.has_spoken(),
        };
        if !in_step {
            turn.out_of_step(last, Some(refusal), "unexpected reply to RSET");
        }
        self.wire.give_up();
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
        self.wire.record_commands(0);
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
            Err(Broken { detail }) if self.wire.has_spoken() => {
                turn.garbled(self.kept, command.phase(), detail);
            }
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
        let spoken = self.wire.has_spoken();
        let said = self.wire.farewell().await;
        if spoken {
            let detail = "the relay spoke out of turn";
            self.wire.note(|| detail.to_owned());
            turn.out_of_turn(phase, said, detail);
        } else {
            let detail = "the relay closed the connection";
            self.wire.note(|| detail.to_owned());
            // Before a message's first command, this is about the connection, however young.
            turn.lost(true, phase, detail.to_owned());
        }
        false
    }

    /// Ends a transaction that has no recipients but that DATA has opened (RFC 2920 §3.1). What the relay
    /// says to it changes nothing. In LMTP it says nothing for nobody, or something all the same
    /// (RFC 2033 §4.2 forbids that 354): there the session ends.
    async fn lone_dot(&mut self) {
        if self.protocol == Protocol::Lmtp {
            self.wire.note(|| "DATA was opened for nobody".to_owned());
            self.wire.give_up();
            return;
        }
        self.wire.set_line(".");
        let (patience, doing) = (self.timeouts.data_block, "sending a lone dot");
        if self.wire.write(patience, doing).await.is_err() {
            self.wire.give_up();
            return;
        }
        let reply = self.wire.read(self.timeouts.data_done, "a lone dot").await;
        if reply.is_ok_and(|reply| reply.code == 421) {
            self.wire.give_up();
        }
    }
}
