//! A small SMTP server on a thread of its own. Its behaviour can be changed while it runs.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// What the server does; everything off by default.
#[derive(Default)]
pub struct Behaviour {
    /// Greets further connections with 421 above so many open ones (0: no limit).
    pub max_open: AtomicUsize,
    /// Greets every connection with 421.
    pub refuse: AtomicBool,
    /// Says nothing after the final dot.
    pub hang_at_dot: AtomicBool,
    /// Says nothing to MAIL.
    pub hang_at_mail: AtomicBool,
    /// Does not greet before it is told to.
    pub hang_at_greeting: AtomicBool,
    pub greet: Notify,
    /// Offers no PIPELINING.
    pub plain: AtomicBool,
    /// Closes a connection, without a word, after so many messages (0: never).
    pub close_after: AtomicUsize,
    /// Instead answers the next MAIL with 421.
    pub politely: AtomicBool,
    /// Milliseconds that each final dot takes.
    pub delay: AtomicUsize,
    /// Milliseconds that the answer to a command takes that holds these words.
    pub slow: Mutex<Option<(&'static str, u64)>>,
    /// What is said to a command that holds these words (a final dot is the command `.`); `None`: nothing, for ever.
    pub answers: Mutex<Vec<(&'static str, Option<&'static str>)>>,
}

impl Behaviour {
    pub fn answer(&self, words: &'static str, with: Option<&'static str>) {
        let mut answers = self.answers.lock().unwrap();
        answers.retain(|(known, _)| *known != words);
        answers.push((words, with));
    }

    /// Takes so many milliseconds for the answer to a command that holds these words.
    pub fn slow_about(&self, words: &'static str, milliseconds: u64) {
        *self.slow.lock().unwrap() = Some((words, milliseconds));
    }

    fn pause_before(&self, command: &str) -> Option<Duration> {
        let slow = self.slow.lock().unwrap();
        let fits = slow.filter(|(words, _)| command.contains(words));
        fits.map(|(_, milliseconds)| Duration::from_millis(milliseconds))
    }

    fn answer_to(&self, command: &str) -> Answer {
        let answers = self.answers.lock().unwrap();
        let fits = |words: &str| match words {
            "." => command == ".",
            _ => command.contains(words),
        };
        match answers.iter().find(|(words, _)| fits(words)) {
            None => Answer::Usual,
            Some((_, Some(with))) => Answer::This(with),
            Some((_, None)) => Answer::Nothing,
        }
    }
}

enum Answer {
    Usual,
    This(&'static str),
    Nothing,
}

#[derive(Default)]
pub struct Seen {
    pub open: AtomicUsize,
    pub most_open: AtomicUsize,
    pub connections: AtomicUsize,
    /// Final dots that wait for their reply.
    pub at_work: AtomicUsize,
    pub most_at_work: AtomicUsize,
    pub refused: AtomicUsize,
    pub quits: AtomicUsize,
    /// Commands for a next message that came in the same read as a final dot.
    pub chained: AtomicUsize,
    /// Messages whose text was complete.
    pub bodies: AtomicUsize,
    pub messages: Mutex<Vec<String>>,
    /// When each was accepted.
    pub times: Mutex<Vec<Instant>>,
}

pub struct Sink {
    pub port: u16,
    pub does: Arc<Behaviour>,
    pub seen: Arc<Seen>,
}

impl Sink {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener)
    }

    pub fn on(listener: std::net::TcpListener) -> Self {
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (does, seen) = (Arc::<Behaviour>::default(), Arc::<Seen>::default());
        let sink = Self {
            port,
            does: Arc::clone(&does),
            seen: Arc::clone(&seen),
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let (does, seen) = (Arc::clone(&does), Arc::clone(&seen));
                    tokio::spawn(async move {
                        let open = seen.open.fetch_add(1, SeqCst) + 1;
                        let _ = serve(stream, &does, &seen, open).await;
                        seen.open.fetch_sub(1, SeqCst);
                    });
                }
            });
        });
        sink
    }

    pub fn messages(&self) -> usize {
        self.seen.messages.lock().unwrap().len()
    }

    pub fn wait(&self, what: &str, enough: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + super::PATIENCE;
        while !enough(&self.seen) {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

async fn forever() {
    std::future::pending::<()>().await;
}

async fn serve(
    stream: TcpStream,
    does: &Behaviour,
    seen: &Seen,
    open: usize,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    let max = does.max_open.load(SeqCst);
    let told = does.greet.notified();
    if does.hang_at_greeting.load(SeqCst) {
        told.await;
    }
    if does.refuse.load(SeqCst) || (max > 0 && open > max) {
        seen.refused.fetch_add(1, SeqCst);
        return stream
            .write_all(b"421 4.7.0 too many connections\r\n")
            .await;
    }
    seen.connections.fetch_add(1, SeqCst);
    seen.most_open.fetch_max(open, SeqCst);
    stream.write_all(b"220 sink\r\n").await?;
    let (mut line, mut count) = (String::new(), 0);
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        if let Some(pause) = does.pause_before(&line) {
            tokio::time::sleep(pause).await;
        }
        let ready = does.answer_to(&line);
        if matches!(ready, Answer::Nothing) {
            forever().await;
        }
        let reply: &[u8] = match verb.as_str() {
            _ if let Answer::This(words) = ready => words.as_bytes(),
            "EHLO" if does.plain.load(SeqCst) => b"250 sink\r\n",
            "EHLO" => b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
            "MAIL" => {
                if does.hang_at_mail.load(SeqCst) {
                    forever().await;
                }
                let after = does.close_after.load(SeqCst);
                if after > 0 && count >= after {
                    let _ = stream.write_all(b"421 4.3.2 enough\r\n").await;
                    return drain(&mut stream).await;
                }
                b"250 ok\r\n"
            }
            "RCPT" | "RSET" => b"250 ok\r\n",
            "DATA" => b"354 go\r\n",
            "QUIT" => {
                seen.quits.fetch_add(1, SeqCst);
                return stream.write_all(b"221 bye\r\n").await;
            }
            _ => b"500 what\r\n",
        };
        stream.write_all(reply).await?;
        if verb != "DATA" {
            continue;
        }
        let text = body(&mut stream).await?;
        seen.bodies.fetch_add(1, SeqCst);
        if !stream.buffer().is_empty() {
            seen.chained.fetch_add(1, SeqCst);
        }
        if does.hang_at_dot.load(SeqCst) {
            forever().await;
        }
        let at_work = seen.at_work.fetch_add(1, SeqCst) + 1;
        seen.most_at_work.fetch_max(at_work, SeqCst);
        let delay = does.delay.load(SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay as u64)).await;
        }
        seen.at_work.fetch_sub(1, SeqCst);
        let id = text
            .split("Message-ID: <")
            .nth(1)
            .and_then(|t| t.split('@').next())
            .unwrap_or("?");
        match does.answer_to(".") {
            Answer::Nothing => forever().await,
            Answer::This(words) => {
                stream.write_all(words.as_bytes()).await?;
                continue;
            }
            Answer::Usual => {}
        }
        seen.messages.lock().unwrap().push(id.to_owned());
        seen.times.lock().unwrap().push(Instant::now());
        count += 1;
        stream.write_all(b"250 2.0.0 taken\r\n").await?;
        let after = does.close_after.load(SeqCst);
        if after > 0 && count >= after && !does.politely.load(SeqCst) {
            stream.shutdown().await?;
            return drain(&mut stream).await;
        }
    }
}

/// Reads on until the other side closes, so that no reset destroys what was written.
async fn drain(stream: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    let _ = stream.shutdown().await;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn body(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut text = Vec::new();
    loop {
        let start = text.len();
        if stream.read_until(b'\n', &mut text).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if &text[start..] == b".\r\n" {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}
