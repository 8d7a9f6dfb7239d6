//! One connection of the sink. Replies are gathered and written when the input is used up, as a fast
//! server does under PIPELINING (RFC 2920).

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Instant;

use memchr::{memchr, memmem};

use super::login::{Security, Tls};
use super::script::{Phase, address};
use super::{Mail, State};

pub(super) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// What the connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    Command,
    Data,
    /// AUTH PLAIN without an initial response.
    Plain,
    LoginUser,
    LoginPassword,
}

pub(super) struct Session<'a> {
    pub(super) state: &'a State,
    pub(super) number: usize,
    pub(super) socket: TcpStream,
    pub(super) stream: Box<dyn Stream>,
    pub(super) output: Vec<u8>,
    pub(super) expect: Expect,
    pub(super) security: Security,
    pub(super) envelope: Envelope,
    pub(super) mails: usize,
    /// What came with the final dot that is being answered.
    pub(super) offered: Option<Mail>,
    /// How much of the text that is coming in was searched for its end.
    searched: usize,
}

#[derive(Default)]
pub(super) struct Envelope {
    begun: bool,
    pub(super) sender: String,
    parameters: String,
    pub(super) recipients: Vec<String>,
    /// [`Phase::Body`] has been.
    midway: bool,
}

/// What was answered: the first digit decides how the session goes on.
pub(super) struct Answer {
    pub(super) digit: u8,
    pub(super) last: bool,
}

impl Answer {
    /// Nothing was said, and the session goes on.
    pub(super) const NONE: Self = Self {
        digit: 0,
        last: false,
    };

    pub(super) fn is(&self, digit: u8) -> bool {
        self.digit == digit
    }
}

pub(super) type Answered = io::Result<Answer>;

/// Speaks until one side leaves.
pub(super) fn serve(socket: TcpStream, number: usize, state: &State) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut session = Session {
        state,
        number,
        stream: Box::new(socket.try_clone()?),
        socket,
        output: Vec::with_capacity(4096),
        expect: Expect::Command,
        security: Security::default(),
        envelope: Envelope::default(),
        mails: 0,
        offered: None,
        searched: 0,
    };
    if state.implicit_tls {
        session.wrap()?;
    }
    let result = session.run();
    let _ = session.flush();
    let _ = session.socket.shutdown(Shutdown::Both);
    result
}

impl Session<'_> {
    fn run(&mut self) -> io::Result<()> {
        if self.answer(Phase::Connect, "", "220 sink.test ESMTP")?.last {
            return Ok(());
        }
        let mut buffer = vec![0; 256 * 1024];
        let mut input = Vec::with_capacity(256 * 1024);
        loop {
            self.flush()?;
            let read = self.stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            input.extend_from_slice(&buffer[..read]);
            let mut at = 0;
            while let Some((end, next)) = self.next(&input[at..]) {
                let unit = &input[at..at + end];
                at += next;
                if self.handle(unit)?.last {
                    return Ok(());
                }
                if self.security.settle() {
                    at = input.len();
                }
            }
            input.drain(..at);
            if self.expect == Expect::Data && !input.is_empty() && self.midway()?.last {
                return Ok(());
            }
        }
    }

    /// The end of the next complete line or message, and the beginning of what follows it.
    fn next(&mut self, input: &[u8]) -> Option<(usize, usize)> {
        if self.expect != Expect::Data {
            return memchr(b'\n', input).map(|end| (end, end + 1));
        }
        if input.starts_with(b".\r\n") {
            return Some((0, 3));
        }
        let begin = std::mem::replace(&mut self.searched, input.len()).saturating_sub(4);
        memmem::find(&input[begin..], b"\r\n.\r\n").map(|end| (begin + end + 2, begin + end + 5))
    }

    fn handle(&mut self, unit: &[u8]) -> Answered {
        if self.expect == Expect::Data {
            return self.dot(unit);
        }
        let line = String::from_utf8_lossy(unit);
        let line = line.trim_end_matches('\r');
        if !self.state.count_only {
            self.state.note(self.number, line);
        }
        match self.expect {
            Expect::Plain => self.password(line, 0, line),
            Expect::LoginUser => {
                self.security.user_known = self.credential(1) == line;
                self.prompt(line, "334 UGFzc3dvcmQ6", Expect::LoginPassword)
            }
            Expect::LoginPassword => self.password(line, 2, line),
            Expect::Command | Expect::Data => self.command(line),
        }
    }

    fn command(&mut self, line: &str) -> Answered {
        let verb = line
            .split([' ', ':'])
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => self.ehlo(line),
            "HELO" => self.answer(Phase::Ehlo, line, "250 sink.test"),
            "STARTTLS" if self.security.tls == Tls::Off && self.state.tls.is_some() => {
                self.starttls(line)
            }
            "AUTH" if self.state.credentials.is_some() => self.auth(line),
            "MAIL" => self.mail(line),
            "RCPT" => self.rcpt(line),
            "DATA" => self.data(line),
            "RSET" => {
                self.envelope = Envelope::default();
                self.answer(Phase::Rset, line, "250 2.0.0 Ok")
            }
            "NOOP" => self.answer(Phase::Noop, line, "250 2.0.0 Ok"),
            "QUIT" => {
                let answer = self.answer(Phase::Quit, line, "221 2.0.0 Bye")?;
                Ok(Answer {
                    last: true,
                    ..answer
                })
            }
            _ => self.answer(Phase::Other, line, "500 5.5.2 What?"),
        }
    }

    fn ehlo(&mut self, line: &str) -> Answered {
        self.envelope = Envelope::default();
        let mut keywords = vec!["sink.test".to_owned()];
        keywords.extend(self.state.extensions.iter().cloned());
        if self.state.tls.is_some() && self.security.tls == Tls::Off {
            keywords.push("STARTTLS".to_owned());
        }
        if self.state.credentials.is_some() {
            keywords.push("AUTH PLAIN LOGIN".to_owned());
        }
        let last = keywords.len() - 1;
        let lines: Vec<String> = keywords
            .iter()
            .enumerate()
            .map(|(at, keyword)| format!("250{}{keyword}", if at == last { ' ' } else { '-' }))
            .collect();
        let reply = lines.join("\r\n");
        self.answer(Phase::Ehlo, line, &reply)
    }

    fn mail(&mut self, line: &str) -> Answered {
        if self.state.credentials.is_some() && !self.security.authenticated {
            return self.answer(Phase::Mail, line, "530 5.7.0 Authentication required");
        }
        if self.envelope.begun {
            return self.answer(Phase::Mail, line, "503 5.5.1 Nested MAIL");
        }
        let answer = self.answer(Phase::Mail, line, "250 2.1.0 Ok")?;
        if answer.is(b'2') {
            self.envelope.begun = true;
            if !self.state.count_only {
                self.envelope.sender.push_str(address(line));
                let parameters = line
                    .split_once("> ")
                    .map_or("", |(_, parameters)| parameters);
                self.envelope.parameters.push_str(parameters);
            }
        }
        Ok(answer)
    }

    fn rcpt(&mut self, line: &str) -> Answered {
        if !self.envelope.begun {
            return self.answer(Phase::Rcpt, line, "503 5.5.1 MAIL first");
        }
        let answer = self.answer(Phase::Rcpt, line, "250 2.1.5 Ok")?;
        if answer.is(b'2') {
            let recipient = if self.state.count_only {
                ""
            } else {
                address(line)
            };
            self.envelope.recipients.push(recipient.to_owned());
        }
        Ok(answer)
    }

    fn data(&mut self, line: &str) -> Answered {
        let usual = if self.envelope.recipients.is_empty() {
            "554 5.5.1 No valid recipients"
        } else {
            "354 Go ahead"
        };
        let answer = self.answer(Phase::Data, line, usual)?;
        if answer.is(b'3') {
            self.expect = Expect::Data;
        }
        Ok(answer)
    }

    /// Some of the message has come, and not its end: nothing is said here unless the script wants it.
    fn midway(&mut self) -> Answered {
        if std::mem::replace(&mut self.envelope.midway, true) {
            return Ok(Answer::NONE);
        }
        let action = self.action(Phase::Body, "", &self.envelope, &[]);
        let answer = self.perform(action, None)?;
        self.flush()?;
        Ok(answer)
    }

    /// The message has come, `data` being all of it before the final dot.
    fn dot(&mut self, data: &[u8]) -> Answered {
        let at = Instant::now();
        self.expect = Expect::Command;
        self.searched = 0;
        let envelope = std::mem::take(&mut self.envelope);
        let data = if self.state.count_only {
            Vec::new()
        } else {
            unstuff(data)
        };
        let action = self.action(Phase::Dot, "", &envelope, &data);
        self.offered = Some(Mail {
            connection: self.number,
            sender: envelope.sender,
            parameters: envelope.parameters,
            recipients: envelope.recipients,
            data,
            at,
        });
        let answer = self.perform(action, Some("250 2.0.0 Ok: queued"))?;
        self.offered = None;
        Ok(answer)
    }

    /// Accepts the mail that was offered at the final dot, if one was. This comes before the reply is
    /// written, so that a client that has it finds its mail here.
    pub(super) fn keep(&mut self) {
        let Some(mail) = self.offered.take() else {
            return;
        };
        self.mails += 1;
        if self.state.count_only {
            self.state.accepted.fetch_add(1, Ordering::Relaxed);
        } else {
            self.state.record(mail);
        }
    }
}

/// Takes the dots away that RFC 5321 §4.5.2 puts before lines that begin with one.
fn unstuff(data: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(data.len());
    let mut fresh = true;
    for &byte in data {
        if !(fresh && byte == b'.') {
            plain.push(byte);
        }
        fresh = byte == b'\n';
    }
    plain
}
