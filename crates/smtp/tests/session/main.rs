//! The session against a scripted server: what it says, and what it makes of what it hears.

#[path = "../support/mod.rs"]
mod support;

mod dialogue;
mod echo;
mod faults;
mod lmtp;
mod model;
mod oauth;
mod opening;
mod opportunistic;
mod patience;
mod pipelining;
mod steps;
mod tls;
mod transaction;
mod transcript;

use std::time::Duration;

use mail_smtp::{Endpoint, Message, Outcome, Reply, Session, Timeouts, TlsMode};
use support::{Script, Server};

/// Enough for what is to happen, on any machine.
fn patient() -> Timeouts {
    let ten = Duration::from_secs(10);
    Timeouts {
        connect: ten,
        greeting: ten,
        command: ten,
        envelope: ten,
        data_init: ten,
        data_block: ten,
        data_done: ten,
    }
}

/// For what is not to happen.
const SHORT: Duration = Duration::from_millis(100);

fn endpoint(server: &Server) -> Endpoint {
    Endpoint {
        host: "localhost".to_owned(),
        port: server.port,
        tls: TlsMode::Never,
        helo_name: "client.example".to_owned(),
        timeouts: patient(),
        ..Endpoint::default()
    }
}

/// A server that follows a script, and a session with it.
async fn session(script: Script) -> (Server, Session) {
    session_with(script, patient()).await
}

async fn session_with(script: Script, timeouts: Timeouts) -> (Server, Session) {
    let server = Server::start(script).await;
    let endpoint = Endpoint {
        timeouts,
        ..endpoint(&server)
    };
    let session = Session::connect(&endpoint).await.expect("a session");
    (server, session)
}

/// A message to so many recipients.
fn message(recipients: usize) -> Message {
    message_saying(recipients, "hi\r\n")
}

fn message_saying(recipients: usize, text: &str) -> Message {
    Message {
        from: "from@example.com".to_owned(),
        to: (0..recipients)
            .map(|i| format!("to{i}@example.com"))
            .collect(),
        data: format!("Subject: x\r\n\r\n{text}").into_bytes().into(),
        ..Message::default()
    }
}

/// Sends one message with none to follow.
async fn send(session: &mut Session, message: &Message) -> Outcome {
    session.send(message, || None).await.0
}

fn code(reply: Option<&Reply>) -> String {
    reply.map_or_else(|| "-".to_owned(), |reply| reply.code.to_string())
}

/// An outcome in words: verdict, phase and code per recipient.
fn brief(outcome: &Outcome) -> Vec<String> {
    match outcome {
        Outcome::Judged(results) => results
            .iter()
            .map(|r| format!("{:?} {:?} {}", r.verdict, r.phase, code(r.reply.as_ref())))
            .collect(),
        Outcome::NotTried(fault) => {
            vec![format!(
                "NotTried {:?} {}",
                fault.phase,
                code(fault.reply.as_ref())
            )]
        }
    }
}

/// What an outcome says to a person about its first recipient.
fn detail(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Judged(results) => results[0].detail.clone().unwrap_or_default(),
        Outcome::NotTried(fault) => fault.detail.clone(),
    }
}
