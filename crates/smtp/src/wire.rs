//! Bytes to and from one relay, each step with a deadline. It knows replies, but not what they answer.
//!
//! Invariants: after any failure the wire is broken and nothing more is read or written as if in step;
//! `sent` counts exactly the octets of `out` that may have reached the relay, also when a future is
//! dropped midway, so that [`Wire::dot_is_out`] is never false after a complete final dot.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{
    Reply, Transcript, Who,
    mask::Mask,
    reply::ReplyParser,
    stream::{Socket, Stream},
};

/// Within TLS, octets are handed over one record at a time. A write that fails then has not completed its
/// record, and no receiver can read a part of one: none of these octets arrived.
const TLS_RECORD: usize = 16 * 1024;

/// How long a reply that was sent before the connection broke may take to be read.
const FAREWELL: Duration = Duration::from_millis(500);

/// The connection can no longer be used; one line for a person says why.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) detail: String,
}

impl Broken {
    pub(crate) fn timed_out(after: Duration, doing: &str) -> Self {
        Self {
            detail: format!("timed out after {} s {doing}", after.as_secs_f64()),
        }
    }

    fn lost(error: &io::Error, doing: &str) -> Self {
        let detail = match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("the relay closed the connection {doing}"),
            _ => format!("connection lost {doing}: {error}"),
        };
        Self { detail }
    }
}

pub(crate) struct Wire {
    stream: Stream,
    incoming: BytesMut,
    parser: ReplyParser,
    mask: Mask,
    /// What the next write will send.
    pub(crate) out: Vec<u8>,
    sent: usize,
    /// Where in `out` the final dot of a message ends.
    dot_end: Option<usize>,
    broken: bool,
    transcript: Option<Transcript>,
}

impl Wire {
    pub(crate) fn new(stream: Stream, transcript: Option<Transcript>) -> Self {
        Self {
            stream,
            incoming: BytesMut::with_capacity(4096),
            parser: ReplyParser::default(),
            mask: Mask::default(),
            out: Vec::with_capacity(4096),
            sent: 0,
            dot_end: None,
            broken: false,
            transcript,
        }
    }

    /// Takes an unencrypted connection out, for TLS to begin.
    pub(crate) fn take_socket(&mut self) -> Option<Socket> {
        match std::mem::replace(&mut self.stream, Stream::Closed) {
            Stream::Plain(socket) => Some(socket),
            Stream::Tls(_) | Stream::Closed => None,
        }
    }

    /// Goes on within TLS; nothing that was read before survives.
    pub(crate) fn restart(&mut self, stream: TlsStream<Socket>) {
        self.stream = Stream::Tls(Box::new(stream));
        self.incoming.clear();
        self.parser = ReplyParser::default();
    }

    /// What the relay says is not to be told with these secrets in it.
    pub(crate) fn set_mask(&mut self, mask: Mask) {
        self.mask = mask;
    }

    pub(crate) fn mask(&self) -> &Mask {
        &self.mask
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Nothing more is to be done on this connection: it is closed.
    pub(crate) fn give_up(&mut self) {
        self.broken = true;
        self.stream = Stream::Closed;
    }

    /// Replaces what is to be sent by one line.
    pub(crate) fn set_line(&mut self, line: &str) {
        self.set_secret(line, line);
    }

    /// Replaces what is to be sent by one line of which only `shown` may be seen.
    pub(crate) fn set_secret(&mut self, line: &str, shown: &str) {
        self.begin();
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self.record(Who::Us, shown);
    }

    /// Writes down the commands that stand in `out` from `start` on.
    pub(crate) fn record_commands(&self, start: usize) {
        if self.transcript.is_some() {
            let commands = String::from_utf8_lossy(&self.out[start..]);
            commands.lines().for_each(|line| self.record(Who::Us, line));
        }
    }

    /// Writes down what happened.
    pub(crate) fn note(&self, text: impl FnOnce() -> String) {
        if let Some(transcript) = &self.transcript {
            transcript.note(&text());
        }
    }

    fn record(&self, who: Who, text: &str) {
        if let Some(transcript) = &self.transcript {
            transcript.add(who, text);
        }
    }

    fn record_reply(&self, reply: &Reply) {
        if self.transcript.is_some() {
            let mut lines = reply.text.split('\n').peekable();
            while let Some(line) = lines.next() {
                let separator = if lines.peek().is_some() { '-' } else { ' ' };
                self.record(Who::Relay, &format!("{}{separator}{line}", reply.code));
            }
        }
    }

    /// Empties `out` for a new write.
    pub(crate) fn begin(&mut self) {
        self.out.clear();
        self.sent = 0;
        self.dot_end = None;
    }

    /// Notes that what stands in `out` now ends with a final dot.
    pub(crate) fn mark_dot(&mut self) {
        self.dot_end = Some(self.out.len());
    }

    /// The final dot has been answered, or was not that of a message.
    pub(crate) fn clear_dot(&mut self) {
        self.dot_end = None;
    }

    /// Whether a final dot may have reached the relay whole, and is unanswered.
    pub(crate) fn dot_is_out(&self) -> bool {
        self.dot_end.is_some_and(|end| self.sent >= end)
    }

    /// Sends `out`. `doing` completes "timed out after N s …". After a failure the relay may still have
    /// something to say.
    pub(crate) async fn write(&mut self, patience: Duration, doing: &str) -> Result<(), Broken> {
        self.put(patience, doing, false).await.map(|_| ())
    }

    /// Sends `out`, a part of a message's text. False: the relay spoke or hung up while it took nothing
    /// more, so that it is not all sent, and the rest is not to be. Once a final dot is out, the relay's
    /// words are its answer and stop nothing.
    pub(crate) async fn write_text(
        &mut self,
        patience: Duration,
        doing: &str,
    ) -> Result<bool, Broken> {
        self.put(patience, doing, true).await
    }

    async fn put(
        &mut self,
        patience: Duration,
        doing: &str,
        listening: bool,
    ) -> Result<bool, Broken> {
        let putting = poll_fn(|cx| match self.poll_put(cx) {
            Poll::Pending if listening && !self.dot_is_out() && self.poll_spoken(cx) => {
                Poll::Ready(Ok(false))
            }
            put => put.map_ok(|()| true),
        });
        let failure = match timeout(patience, putting).await {
            Ok(Ok(whole)) => return Ok(whole),
            Ok(Err(error)) => Broken::lost(&error, doing),
            Err(_) => Broken::timed_out(patience, doing),
        };
        self.broken = true;
        self.note(|| failure.detail.clone());
        Err(failure)
    }

    /// Hands over what is left of `out`.
    fn poll_put(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let most = match self.stream {
            Stream::Tls(_) => TLS_RECORD,
            Stream::Plain(_) | Stream::Closed => usize::MAX,
        };
        while self.sent < self.out.len() {
            let piece = &self.out[self.sent..];
            let piece = &piece[..piece.len().min(most)];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, piece))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Whether anything has come, or the connection has ended. If not, `cx` is told when it does.
    fn poll_spoken(&mut self, cx: &mut Context<'_>) -> bool {
        let mut space = [0; 512];
        let mut buffer = ReadBuf::new(&mut space);
        let spoken = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        self.incoming.extend_from_slice(buffer.filled());
        spoken.is_ready()
    }

    /// Has what comes next acknowledged without waiting for something to send.
    pub(crate) fn acknowledge_at_once(&self) {
        match &self.stream {
            Stream::Plain(socket) => socket.acknowledge_at_once(),
            Stream::Tls(stream) => stream.get_ref().0.acknowledge_at_once(),
            Stream::Closed => {}
        }
    }

    /// The next reply, masked. `to` names what it answers. After a failure the connection is closed.
    pub(crate) async fn read(&mut self, patience: Duration, to: &str) -> Result<Reply, Broken> {
        let reply = self.read_plain(patience, to).await?;
        Ok(self.heard(reply))
    }

    /// A reply that was read, masked and written down.
    pub(crate) fn heard(&self, reply: Reply) -> Reply {
        let reply = self.mask.reply(reply);
        self.record_reply(&reply);
        reply
    }

    /// The next reply as it came: for what it means, and then for [`Self::heard`].
    pub(crate) async fn read_plain(
        &mut self,
        patience: Duration,
        to: &str,
    ) -> Result<Reply, Broken> {
        let reading = async {
            loop {
                if let Some(reply) = self
                    .parser
                    .next(&mut self.incoming)
                    .map_err(io::Error::other)?
                {
                    return Ok(reply);
                }
                self.incoming.reserve(2048);
                if self.stream.read_buf(&mut self.incoming).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
            }
        };
        let failure = match timeout(patience, reading).await {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Other => self.garbage(&error, to),
            Ok(Err(error)) => Broken::lost(&error, &format!("before its reply to {to}")),
            Err(_) => Broken::timed_out(patience, &format!("waiting for the reply to {to}")),
        };
        self.give_up();
        self.note(|| failure.detail.clone());
        Err(failure)
    }

    fn garbage(&self, error: &io::Error, to: &str) -> Broken {
        let line = self.incoming[..]
            .split(|&b| b == b'\n')
            .next()
            .unwrap_or_default();
        let start = String::from_utf8_lossy(line.trim_ascii_end())
            .chars()
            .take(200)
            .collect::<String>();
        // The lines before it may hold the beginning of what it goes on with.
        let lines = format!("{}\n{start}", self.parser.unfinished());
        let masked = self.mask.text(&lines);
        let last = masked.rsplit('\n').next().unwrap_or_default();
        let start = last.chars().take(60).collect::<String>();
        let start = start.escape_debug();
        Broken {
            detail: format!("the reply to {to} is {error}: \"{start}\""),
        }
    }

    /// The next reply if it has come already, more or less: the relay is about to hang up.
    pub(crate) async fn read_soon(&mut self, to: &str) -> Result<Reply, Broken> {
        self.read(FAREWELL, to).await
    }

    /// A reply that the relay left before the connection broke, if any: it may say why. Then the
    /// connection is closed.
    pub(crate) async fn farewell(&mut self) -> Option<Reply> {
        let transcript = self.transcript.take();
        let reply = self.read_soon("nothing").await.ok();
        self.transcript = transcript;
        if let Some(reply) = &reply {
            self.record_reply(reply);
        }
        self.give_up();
        reply
    }

    /// Whether the relay speaks, or has hung up, while it is our turn. Does not wait: what is still on its
    /// way is not seen.
    pub(crate) async fn is_out_of_turn(&mut self) -> bool {
        self.has_spoken() || poll_fn(|cx| Poll::Ready(self.poll_spoken(cx))).await
    }

    /// Whether anything has come that nobody has read to its end.
    pub(crate) fn has_spoken(&self) -> bool {
        !self.incoming.is_empty() || self.parser.is_midway()
    }

    /// How many octets have come that nobody has read.
    pub(crate) fn unread(&self) -> usize {
        self.incoming.len()
    }

    /// Says QUIT without waiting for the reply, if there is still someone to say it to, and closes
    /// (RFC 5321 §4.1.1.10). Takes at most twice `patience`.
    pub(crate) async fn leave(mut self, patience: Duration) {
        if !self.broken {
            self.set_line("QUIT");
            // Nothing depends on it: the session is over either way.
            let _ = self.write(patience, "sending QUIT").await;
        }
        self.close(patience).await;
    }

    /// Says goodbye to the transport, within `patience`.
    pub(crate) async fn close(mut self, patience: Duration) {
        // Nothing depends on it: the session is over either way.
        let _ = timeout(patience, self.stream.shutdown()).await;
    }
}
