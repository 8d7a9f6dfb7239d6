//! The smallest SMTP client that can show that a server works. The extension has its own; this one
//! shares no code with it on purpose.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// One connection. Every step panics on a reply that is not the expected one.
pub struct SmtpClient {
    stream: BufReader<Box<dyn Stream>>,
}

impl SmtpClient {
    /// Connects and says EHLO.
    #[track_caller]
    pub fn connect(port: u16) -> Self {
        let mut client = Self {
            stream: BufReader::new(Box::new(dial(port))),
        };
        client.expect(220);
        client.say("EHLO client.test", 250);
        client
    }

    /// Connects, goes on by STARTTLS and says EHLO again.
    #[track_caller]
    pub fn connect_tls(port: u16, config: Arc<ClientConfig>) -> Self {
        let tcp = dial(port);
        let plain = tcp.try_clone().expect("a socket can be shared");
        let mut client = Self {
            stream: BufReader::new(Box::new(plain)),
        };
        client.expect(220);
        client.say("EHLO client.test", 250);
        client.say("STARTTLS", 220);
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(config, name).expect("sound settings");
        client.stream = BufReader::new(Box::new(StreamOwned::new(session, tcp)));
        client.say("EHLO client.test", 250);
        client
    }

    /// Sends a command and returns the reply, which must have this code, or begin with this digit.
    #[track_caller]
    pub fn say(&mut self, command: &str, code: u16) -> String {
        self.write(format!("{command}\r\n").as_bytes());
        self.expect(code)
    }

    /// AUTH PLAIN.
    #[track_caller]
    pub fn login(&mut self, user: &str, password: &str) {
        let token = base64(format!("\0{user}\0{password}").as_bytes());
        self.say(&format!("AUTH PLAIN {token}"), 235);
    }

    /// Sends one mail, whose lines end with CRLF and none of which begins with a dot.
    #[track_caller]
    pub fn send(&mut self, from: &str, to: &str, data: &str) {
        self.say(&format!("MAIL FROM:<{from}>"), 250);
        self.say(&format!("RCPT TO:<{to}>"), 250);
        self.say("DATA", 354);
        self.write(data.as_bytes());
        self.say(".", 250);
    }

    /// Writes bytes as they are.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).expect("the server reads");
        stream.flush().expect("the server reads");
    }

    /// Reads one reply, which must have this code, or begin with this digit.
    #[track_caller]
    pub fn expect(&mut self, code: u16) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            let read = self
                .stream
                .read_line(&mut line)
                .expect("the server answers in time");
            assert!(read > 0, "the server closed the connection after {reply:?}");
            reply.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                break;
            }
        }
        assert!(
            reply.starts_with(&code.to_string()),
            "expected {code}: {reply}"
        );
        reply
    }
}

fn dial(port: u16) -> TcpStream {
    let tcp = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    tcp.set_nodelay(true).expect("a TCP socket");
    tcp.set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a TCP socket");
    tcp.set_write_timeout(Some(Duration::from_secs(20)))
        .expect("a TCP socket");
    tcp
}

/// RFC 4648 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |word, at| {
            word << 8 | u32::from(*chunk.get(at).unwrap_or(&0))
        });
        for place in 0..4 {
            if place <= chunk.len() {
                let digit = (word >> (18 - 6 * place)) & 63;
                text.push(char::from(ALPHABET[digit as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}
