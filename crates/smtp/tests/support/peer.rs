//! One connection of the scripted server.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
};

use mail_smtp::Phase;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use super::{Act, Connection, Script, say};

/// What a connection runs over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Whether a connection goes on.
#[derive(PartialEq)]
enum Flow {
    On,
    Over,
}

/// One connection's other end.
pub struct Peer {
    stream: Box<dyn Io>,
    script: Arc<Mutex<Script>>,
    record: Arc<watch::Sender<Vec<Connection>>>,
    id: usize,
    input: Vec<u8>,
    deferred: Vec<u8>,
    encrypted: bool,
    silent: bool,
    /// The code last said.
    code: [u8; 3],
    /// Whether MAIL was accepted, and for whom.
    transaction: Option<Vec<String>>,
}

impl Peer {
    pub fn new(
        stream: Box<dyn Io>,
        script: Arc<Mutex<Script>>,
        record: Arc<watch::Sender<Vec<Connection>>>,
        id: usize,
    ) -> Self {
        let (input, deferred) = (vec![], vec![]);
        let code = *b"000";
        Self {
            stream,
            script,
            record,
            id,
            input,
            deferred,
            encrypted: false,
            silent: false,
            code,
            transaction: None,
        }
    }

    pub async fn serve(mut self) {
        let (record, id) = (Arc::clone(&self.record), self.id);
        self.talk().await;
        drop(self);
        record.send_modify(|connections| connections[id].closed = true);
    }

    fn note(&self, change: impl FnOnce(&mut Connection)) {
        self.record
            .send_modify(|connections| change(&mut connections[self.id]));
    }

    async fn talk(&mut self) {
        let implicit = self.script.lock().unwrap().implicit_tls;
        if (implicit && !self.start_tls().await)
            || self.act(Phase::Greeting, "220 test ESMTP").await == Flow::Over
        {
            return;
        }
        while let Some(line) = self.line().await {
            if self.command(line).await == Flow::Over {
                return;
            }
        }
    }

    async fn command(&mut self, line: String) -> Flow {
        let verb = line
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        self.note(|c| c.commands.push(line.clone()));
        let (phase, usual) = match verb.as_str() {
            "EHLO" | "LHLO" => (Phase::Ehlo, self.welcome()),
            "HELO" => (Phase::Ehlo, "250 test".to_owned()),
            "STARTTLS" => (Phase::StartTls, "220 go".to_owned()),
            "MAIL" => (Phase::Mail, "250 2.1.0 ok".to_owned()),
            "RCPT" => (Phase::Rcpt, "250 2.1.5 ok".to_owned()),
            "DATA" => (Phase::Data, "354 go".to_owned()),
            "RSET" => (Phase::Rset, "250 reset".to_owned()),
            "QUIT" => (Phase::Quit, "221 bye".to_owned()),
            _ => (Phase::Auth, "235 welcome".to_owned()),
        };
        let flow = self.act(phase, &usual).await;
        let refused = self.code[0] == b'5';
        match phase {
            Phase::Mail | Phase::Rcpt if refused => self.note(|c| c.refused.push(line.clone())),
            Phase::Data if refused => {
                let recipients = self.transaction.clone().unwrap_or_default();
                self.note(|c| c.refused.extend(recipients));
            }
            _ => {}
        }
        if flow == Flow::Over || phase == Phase::Quit {
            return Flow::Over;
        }
        match (phase, &self.code) {
            (Phase::Data, b"354") => self.message().await,
            (Phase::Mail, [b'2', ..]) => {
                self.transaction = Some(vec![]);
                Flow::On
            }
            (Phase::Rcpt, [b'2', ..]) => {
                if let Some(recipients) = &mut self.transaction {
                    recipients.push(line);
                }
                Flow::On
            }
            (Phase::Rset, [b'2', ..]) => {
                self.transaction = None;
                Flow::On
            }
            (Phase::StartTls, b"220") => {
                self.input.clear();
                if self.start_tls().await {
                    Flow::On
                } else {
                    Flow::Over
                }
            }
            _ => Flow::On,
        }
    }

    fn welcome(&self) -> String {
        let mut lines = vec!["test greets you".to_owned()];
        lines.extend(self.script.lock().unwrap().extensions.iter().cloned());
        let last = lines.len() - 1;
        let line = |(i, line)| format!("250{}{line}", if i == last { ' ' } else { '-' });
        lines
            .iter()
            .enumerate()
            .map(line)
            .collect::<Vec<_>>()
            .join("\r\n")
    }

    async fn start_tls(&mut self) -> bool {
        let Some(config) = self.script.lock().unwrap().tls.clone() else {
            return false;
        };
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        match TlsAcceptor::from(config).accept(plain).await {
            Ok(stream) => {
                self.stream = Box::new(stream);
                self.encrypted = true;
                true
            }
            Err(_) => false,
        }
    }

    /// Reads a message up to its final dot, and answers it.
    async fn message(&mut self) -> Flow {
        let cut = self
            .script
            .lock()
            .unwrap()
            .acts
            .get_mut(&Phase::Body)
            .and_then(VecDeque::pop_front);
        if let Some(Act::SayWhen(told, _)) = &cut {
            told.notified().await;
        }
        let mut scanned = 0;
        loop {
            if let Some(Act::CutBody(limit, last_words) | Act::BalkAt(limit, last_words)) = &cut
                && self.input.len() >= *limit
            {
                let _ = self.stream.write_all(last_words).await;
                let _ = self.stream.flush().await;
                if matches!(cut, Some(Act::BalkAt(..))) {
                    std::future::pending::<()>().await;
                }
                return Flow::Over;
            }
            let end = if self.input.starts_with(b".\r\n") {
                Some((0, 3))
            } else {
                let found = self.input[scanned..]
                    .windows(5)
                    .position(|w| w == b"\r\n.\r\n");
                found.map(|at| (scanned + at + 2, scanned + at + 5))
            };
            if let Some((text, dot)) = end {
                let message = self.input[..text].to_vec();
                self.input.drain(..dot);
                self.note(|c| {
                    c.commands.push(".".to_owned());
                    c.messages.push(message.clone());
                });
                let recipients = self.transaction.take().unwrap_or_default();
                return self.take(message, recipients).await;
            }
            scanned = self.input.len().saturating_sub(4);
            if !self.fill().await {
                return Flow::Over;
            }
        }
    }

    /// Answers a final dot; in LMTP for each recipient.
    async fn take(&mut self, message: Vec<u8>, recipients: Vec<String>) -> Flow {
        let groups = if self.script.lock().unwrap().lmtp {
            recipients.into_iter().map(|r| vec![r]).collect()
        } else {
            vec![recipients]
        };
        for recipients in groups {
            let flow = self.act(Phase::Dot, "250 2.0.0 queued").await;
            if self.code[0] == b'2' && !recipients.is_empty() {
                self.note(|c| c.accepted.push((message.clone(), recipients)));
            } else if self.code[0] == b'5' {
                self.note(|c| c.refused.extend(recipients));
            }
            if flow == Flow::Over {
                return flow;
            }
        }
        Flow::On
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.input.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.input.drain(..=at).collect();
                let line = String::from_utf8_lossy(&line);
                return Some(line.trim_end_matches(['\r', '\n']).to_owned());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn fill(&mut self) -> bool {
        let start = self.input.len();
        let more = matches!(self.stream.read_buf(&mut self.input).await, Ok(n) if n > 0);
        if !self.encrypted {
            let new = &self.input[start..];
            self.note(|c| c.plain.extend_from_slice(new));
        }
        more
    }

    fn act<'a>(
        &'a mut self,
        phase: Phase,
        usual: &'a str,
    ) -> Pin<Box<dyn Future<Output = Flow> + Send + 'a>> {
        let act = self
            .script
            .lock()
            .unwrap()
            .acts
            .get_mut(&phase)
            .and_then(VecDeque::pop_front);
        Box::pin(self.perform(act.unwrap_or_else(|| say(usual))))
    }

    async fn perform(&mut self, act: Act) -> Flow {
        self.code = *b"000";
        if self.silent {
            return Flow::On;
        }
        let (words, flush, flow) = match act {
            Act::Say(words) => (words, true, Flow::On),
            Act::Defer(words) => (words, false, Flow::On),
            Act::SayAndClose(words) | Act::CutBody(_, words) | Act::BalkAt(_, words) => {
                (words, true, Flow::Over)
            }
            Act::SayWhen(told, words) => {
                told.notified().await;
                (words, true, Flow::On)
            }
            Act::Close => return Flow::Over,
            Act::Silence => {
                self.silent = true;
                return Flow::On;
            }
        };
        if let Some(code) = words.first_chunk() {
            self.code = *code;
        }
        self.deferred.extend_from_slice(&words);
        if flush {
            let words = std::mem::take(&mut self.deferred);
            if self.stream.write_all(&words).await.is_err() || self.stream.flush().await.is_err() {
                return Flow::Over;
            }
        }
        flow
    }
}
