//! Bytes to and from one relay, each step with a deadline. It knows replies, but not what they answer.
//!
//! Invariants: after any failure the wire is broken and nothing more is read or written as if in step;
//! `sent` counts exactly the octets of `out` that may have reached the relay, also when a future is
//! dropped midway, so that [`Wire::dot_is_out`] is never false after a complete final dot.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{Reply, mask::Mask, reply::ReplyParser};

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

pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
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
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            incoming: BytesMut::with_capacity(4096),
            parser: ReplyParser::default(),
            mask: Mask::default(),
            out: Vec::with_capacity(4096),
            sent: 0,
            dot_end: None,
            broken: false,
        }
    }

    /// Takes the connection back, for TLS to begin; nothing read so far survives.
    pub(crate) fn into_stream(self) -> Stream {
        self.stream
    }

    /// From now on these secrets are known to the relay, which may repeat them.
    pub(crate) fn set_mask(&mut self, mask: Mask) {
        self.mask = mask;
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Nothing more is to be done on this connection.
    pub(crate) fn give_up(&mut self) {
        self.broken = true;
    }

    /// Replaces what is to be sent by one line.
    pub(crate) fn set_line(&mut self, line: &str) {
        self.begin();
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
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

    /// Sends `out`. `doing` completes "timed out after N s …".
    pub(crate) async fn write(&mut self, patience: Duration, doing: &str) -> Result<(), Broken> {
        let writing = async {
            while self.sent < self.out.len() {
                let piece = &self.out[self.sent..];
                let n = match &mut self.stream {
                    Stream::Plain(stream) => stream.write(piece).await?,
                    Stream::Tls(stream) => {
                        stream.write(&piece[..piece.len().min(TLS_RECORD)]).await?
                    }
                };
                if n == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.sent += n;
            }
            match &mut self.stream {
                Stream::Plain(_) => Ok(()),
                Stream::Tls(stream) => stream.flush().await,
            }
        };
        let failure = match timeout(patience, writing).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => Broken::lost(&error, doing),
            Err(_) => Broken::timed_out(patience, doing),
        };
        self.broken = true;
        Err(failure)
    }

    /// The next reply. `to` names what it answers.
    pub(crate) async fn read(&mut self, patience: Duration, to: &str) -> Result<Reply, Broken> {
        let reading = async {
            loop {
                if let Some(reply) = self
                    .parser
                    .next(&mut self.incoming)
                    .map_err(io::Error::other)?
                {
                    return Ok(self.mask.reply(reply));
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
        self.broken = true;
        Err(failure)
    }

    fn garbage(&self, error: &io::Error, to: &str) -> Broken {
        let line = self.incoming[..]
            .split(|&b| b == b'\n')
            .next()
            .unwrap_or_default();
        let start = String::from_utf8_lossy(line)
            .chars()
            .take(200)
            .collect::<String>();
        let masked: String = self.mask.text(&start).chars().take(60).collect();
        let start = masked.escape_debug();
        Broken {
            detail: format!("the reply to {to} is {error}: \"{start}\""),
        }
    }

    /// A reply that the relay left before the connection broke, if any: it may say why.
    pub(crate) async fn farewell(&mut self) -> Option<Reply> {
        let reply = self.read(FAREWELL, "nothing").await.ok();
        self.broken = true;
        reply
    }

    /// Whether the relay speaks, or has hung up, while it is our turn. Does not wait.
    pub(crate) async fn is_out_of_turn(&mut self) -> bool {
        if !self.incoming.is_empty() || self.parser.is_midway() {
            return true;
        }
        let (stream, incoming) = (&mut self.stream, &mut self.incoming);
        poll_fn(|cx| {
            let mut space = [0; 512];
            let mut buffer = ReadBuf::new(&mut space);
            Poll::Ready(match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => false,
                Poll::Ready(_) => {
                    incoming.extend_from_slice(buffer.filled());
                    true
                }
            })
        })
        .await
    }

    /// How many octets have come that nobody has read.
    pub(crate) fn unread(&self) -> usize {
        self.incoming.len()
    }

    /// Says goodbye to the transport, within `patience`.
    pub(crate) async fn close(mut self, patience: Duration) {
        let closing = async {
            match &mut self.stream {
                Stream::Plain(stream) => stream.shutdown().await,
                Stream::Tls(stream) => stream.shutdown().await,
            }
        };
        // Nothing depends on it: the session is over either way.
        let _ = timeout(patience, closing).await;
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
        }
    }
}
