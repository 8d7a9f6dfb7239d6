//! An SMTP server in the test's own process: records what it gets, or only counts it, and does
//! whatever a script says.

mod login;
mod perform;
mod script;
mod session;

use std::collections::HashMap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use crate::ask::SOON;
use crate::certificates::Certificates;
use crate::client::base64;
use crate::process::listen_somewhere;
use crate::wait::eventually;
pub(crate) use script::Script;
pub use script::{Action, Event, Phase};

/// One accepted mail.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The number of the connection that brought it, from 0.
    pub connection: usize,
    /// The reverse path.
    pub sender: String,
    /// What stood behind the reverse path, such as `SIZE=120 BODY=8BITMIME`.
    pub parameters: String,
    /// The forward paths that were accepted.
    pub recipients: Vec<String>,
    /// The message as sent, dots unstuffed.
    pub data: Vec<u8>,
    /// When its final dot was read.
    pub at: Instant,
}

impl Mail {
    /// The message as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }

    /// The value of a header, unfolded; the first of that name.
    pub fn header(&self, name: &str) -> Option<String> {
        let text = self.text();
        let head = text
            .split("\r\n\r\n")
            .next()?
            .replace("\r\n ", " ")
            .replace("\r\n\t", " ");
        head.split("\r\n").find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    }

    /// What stands below the headers.
    pub fn body(&self) -> String {
        self.text()
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default()
    }
}

pub(crate) struct State {
    pub(crate) extensions: Vec<String>,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) implicit_tls: bool,
    /// What AUTH PLAIN must send, and the two lines of AUTH LOGIN.
    pub(crate) credentials: Option<[String; 3]>,
    pub(crate) count_only: bool,
    pub(crate) script: RwLock<Option<Arc<Script>>>,
    pub(crate) stopped: AtomicBool,
    pub(crate) accepted: AtomicUsize,
    pub(crate) open: AtomicUsize,
    connections: AtomicUsize,
    most_open: AtomicUsize,
    mails: Mutex<Vec<Mail>>,
    arrival: Condvar,
    commands: Mutex<Vec<(usize, String)>>,
    /// Those that are open, by number.
    sockets: Mutex<HashMap<usize, TcpStream>>,
}

impl State {
    pub(crate) fn record(&self, mail: Mail) {
        lock(&self.mails).push(mail);
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.arrival.notify_all();
    }

    pub(crate) fn note(&self, connection: usize, command: &str) {
        lock(&self.commands).push((connection, command.to_owned()));
    }
}

/// How a [`Sink`] is set up.
pub struct SinkBuilder {
    state: State,
    port: u16,
}

impl SinkBuilder {
    /// The EHLO keywords (default: `PIPELINING`, `8BITMIME`, `ENHANCEDSTATUSCODES`, `SMTPUTF8`,
    /// `SIZE 52428800`). STARTTLS and AUTH come by themselves where they are set up.
    #[must_use]
    pub fn extensions(mut self, keywords: &[&str]) -> Self {
        self.state.extensions = keywords.iter().map(|&keyword| keyword.to_owned()).collect();
        self
    }

    /// Offers STARTTLS.
    #[must_use]
    pub fn starttls(mut self, certificates: &Certificates) -> Self {
        self.state.tls = Some(certificates.server());
        self
    }

    /// Speaks TLS from the first byte on (`smtps://`).
    #[must_use]
    pub fn smtps(mut self, certificates: &Certificates) -> Self {
        self.state.implicit_tls = true;
        self.starttls(certificates)
    }

    /// Offers AUTH PLAIN and LOGIN, and refuses MAIL without it.
    #[must_use]
    pub fn auth(mut self, user: &str, password: &str) -> Self {
        self.state.credentials = Some([
            base64(format!("\0{user}\0{password}").as_bytes()),
            base64(user.as_bytes()),
            base64(password.as_bytes()),
        ]);
        self
    }

    /// Keeps no mails and no commands, and counts only: for rates.
    #[must_use]
    pub fn count_only(mut self) -> Self {
        self.state.count_only = true;
        self
    }

    /// Listens on a port of the test's choice.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// What to do at each step. The script runs on the connection's own thread and may block.
    #[must_use]
    pub fn script(self, script: impl Fn(&Event<'_>) -> Action + Send + Sync + 'static) -> Self {
        *self.state.script.write().expect("nobody else has it yet") = Some(Arc::new(script));
        self
    }

    /// Starts listening.
    pub fn start(self) -> Sink {
        let listener = match self.port {
            0 => listen_somewhere(),
            // A program that is just being started holds what was listened on before for a moment.
            port => eventually("the port can be listened on", SOON, || {
                TcpListener::bind(("127.0.0.1", port)).ok()
            }),
        };
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(self.state);
        let accepting = Arc::clone(&state);
        std::thread::spawn(move || accept(&listener, &accepting));
        Sink { port, state }
    }
}

/// The running server. It is silenced and its connections are closed when it is dropped.
pub struct Sink {
    port: u16,
    state: Arc<State>,
}

impl Sink {
    /// One that accepts everything.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// One that does what the script says.
    pub fn scripted(script: impl Fn(&Event<'_>) -> Action + Send + Sync + 'static) -> Self {
        Self::builder().script(script).start()
    }

    /// One that is set up further.
    pub fn builder() -> SinkBuilder {
        let extensions = [
            "PIPELINING",
            "8BITMIME",
            "ENHANCEDSTATUSCODES",
            "SMTPUTF8",
            "SIZE 52428800",
        ];
        SinkBuilder {
            port: 0,
            state: State {
                extensions: extensions.map(str::to_owned).to_vec(),
                tls: None,
                implicit_tls: false,
                credentials: None,
                count_only: false,
                script: RwLock::new(None),
                stopped: AtomicBool::new(false),
                accepted: AtomicUsize::new(0),
                open: AtomicUsize::new(0),
                connections: AtomicUsize::new(0),
                most_open: AtomicUsize::new(0),
                mails: Mutex::new(Vec::new()),
                arrival: Condvar::new(),
                commands: Mutex::new(Vec::new()),
                sockets: Mutex::default(),
            },
        }
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `url` of a relay for it.
    pub fn url(&self) -> String {
        let scheme = if self.state.implicit_tls {
            "smtps"
        } else {
            "smtp"
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// How many mails were accepted.
    pub fn count(&self) -> usize {
        self.state.accepted.load(Ordering::Relaxed)
    }

    /// The accepted mails in the order of their arrival.
    pub fn mails(&self) -> Vec<Mail> {
        lock(&self.state.mails).clone()
    }

    /// The accepted mails since the last call, in the order of their arrival.
    pub fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut *lock(&self.state.mails))
    }

    /// Ends it, and gives what it had accepted by then.
    pub fn stop(self) -> Vec<Mail> {
        self.end();
        self.take()
    }

    /// Forgets the mails and commands so far; the count goes on.
    pub fn forget(&self) {
        lock(&self.state.mails).clear();
        lock(&self.state.commands).clear();
    }

    /// Every command line, with the number of its connection.
    pub fn commands(&self) -> Vec<(usize, String)> {
        lock(&self.state.commands).clone()
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::Relaxed)
    }

    /// How many connections have been open at once.
    pub fn most_open(&self) -> usize {
        self.state.most_open.load(Ordering::Relaxed)
    }

    /// Waits until that many mails were accepted, and returns them all.
    #[track_caller]
    pub fn wait_for(&self, count: usize, timeout: Duration) -> Vec<Mail> {
        if self.state.count_only {
            crate::until("mails arrive", timeout, || self.count() >= count);
            return Vec::new();
        }
        let mails = lock(&self.state.mails);
        let waiting = self
            .state
            .arrival
            .wait_timeout_while(mails, timeout, |mails| mails.len() < count);
        let (mails, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        let have = mails.len();
        assert!(
            have >= count,
            "{have} of {count} mails arrived within {timeout:.1?}"
        );
        mails.clone()
    }

    /// Changes the script, for what comes next on every connection.
    pub fn set_script(&self, script: impl Fn(&Event<'_>) -> Action + Send + Sync + 'static) {
        *self
            .state
            .script
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(script));
    }

    /// Accepts everything again. Connections that fell silent stay so.
    pub fn clear_script(&self) {
        *self
            .state
            .script
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Closes every connection without a word, and goes on listening.
    pub fn drop_connections(&self) {
        for (_, socket) in lock(&self.state.sockets).drain() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Sink {
    /// Stops listening, and waits until no connection is served any more.
    fn end(&self) {
        self.state.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts, so that the port is free when this returns.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.drop_connections();
        let begin = Instant::now();
        while Arc::strong_count(&self.state) > 1 && begin.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_micros(200));
            self.drop_connections();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.end();
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for socket in listener.incoming() {
        if state.stopped.load(Ordering::Relaxed) {
            return;
        }
        let Ok(socket) = socket else { continue };
        let Ok(copy) = socket.try_clone() else {
            continue;
        };
        let number = state.connections.fetch_add(1, Ordering::Relaxed);
        lock(&state.sockets).insert(number, copy);
        let open = state.open.fetch_add(1, Ordering::Relaxed) + 1;
        state.most_open.fetch_max(open, Ordering::Relaxed);
        let state = Arc::clone(state);
        std::thread::spawn(move || {
            // An error is the other side's going away, which tests provoke all the time.
            let _ = session::serve(socket, number, &state);
            // Closes it: what the client still sends is turned away.
            lock(&state.sockets).remove(&number);
            state.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// A lock that outlives a panicking test thread.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
