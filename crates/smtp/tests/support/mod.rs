//! A scripted SMTP server: says what a test tells it to, phase by phase, and records what it hears.
//!
//! It knows nothing of the crate but its [`Phase`]s, so that other crates' tests can include it by path.

#![allow(dead_code, reason = "each test uses the part it needs")]

mod peer;
mod script;
pub mod tls;

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use peer::{Io, Peer};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};

pub use script::{Act, Script, defer, say, say_and_close};

/// What one connection brought.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Every line outside of messages, as it came; a final dot is `.`.
    pub commands: Vec<String>,
    /// Every message as it came, without its final dot.
    pub messages: Vec<Vec<u8>>,
    /// The recipients of every message that it took responsibility for, by 2yz after the final dot.
    pub accepted: Vec<(Vec<u8>, Vec<String>)>,
    /// The MAIL and RCPT commands that came to nothing by a 5yz: to themselves, to DATA or to the final dot.
    pub refused: Vec<String>,
    /// Everything that came outside of TLS.
    pub plain: Vec<u8>,
    /// It is over.
    pub closed: bool,
}

impl Connection {
    /// The commands' verbs since the first MAIL, `MAIL RCPT DATA .`.
    pub fn verbs(&self) -> String {
        let verbs = self
            .commands
            .iter()
            .filter_map(|line| line.split(' ').next());
        verbs
            .skip_while(|verb| *verb != "MAIL")
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// A running server; it ends with the runtime.
pub struct Server {
    pub port: u16,
    record: watch::Receiver<Vec<Connection>>,
}

/// Takes connections in.
struct Reception {
    sender: Arc<watch::Sender<Vec<Connection>>>,
    script: Arc<Mutex<Script>>,
}

impl Reception {
    fn new(script: Script) -> (Self, watch::Receiver<Vec<Connection>>) {
        let (sender, record) = watch::channel(vec![]);
        let (sender, script) = (Arc::new(sender), Arc::new(Mutex::new(script)));
        (Self { sender, script }, record)
    }

    fn welcome(&self, stream: Box<dyn Io>) {
        let mut id = 0;
        self.sender.send_modify(|connections| {
            id = connections.len();
            connections.push(Connection::default());
        });
        let (script, sender) = (Arc::clone(&self.script), Arc::clone(&self.sender));
        tokio::spawn(Peer::new(stream, script, sender, id).serve());
    }
}

impl Server {
    /// Listens on a port of its own.
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (reception, record) = Reception::new(script);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                reception.welcome(Box::new(stream));
            }
        });
        Self { port, record }
    }

    /// Listens on a Unix socket.
    pub fn start_at(path: &Path, script: Script) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (reception, record) = Reception::new(script);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                reception.welcome(Box::new(stream));
            }
        });
        Self { port: 0, record }
    }

    /// What has come so far.
    pub fn connections(&self) -> Vec<Connection> {
        self.record.borrow().clone()
    }

    /// The first connection.
    pub fn first(&self) -> Connection {
        self.connections().remove(0)
    }

    /// Waits until what has come so far is as expected.
    pub async fn until(&self, expected: impl FnMut(&Vec<Connection>) -> bool) {
        self.record.clone().wait_for(expected).await.unwrap();
    }

    /// Waits until the first connection is over, and gives it.
    pub async fn ended(&self) -> Connection {
        self.until(|connections| connections.first().is_some_and(|c| c.closed))
            .await;
        self.first()
    }
}
