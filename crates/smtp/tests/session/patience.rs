//! Every phase has a deadline of its own, and when it passes the connection is closed.

use std::time::Duration;

use mail_smtp::{AuthMechanism, Credentials, Endpoint, Phase, Session, Timeouts, TlsMode};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    time::{interval, timeout},
};

use crate::{
    SHORT, brief, detail, message, patient, send, session_with,
    support::{Act, Script, say},
};

/// A relay that says these words, one after each line it hears, and then nothing more. Tells when the
/// connection is closed.
async fn mute(words: &'static [&'static str]) -> (u16, oneshot::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, closed) = oneshot::channel();
    tokio::spawn(async move {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        for (i, line) in words.iter().enumerate() {
            if i > 0 {
                stream.read_line(&mut String::new()).await.unwrap();
            }
            let line = format!("{line}\r\n");
            stream.write_all(line.as_bytes()).await.unwrap();
        }
        let mut rest = vec![];
        let _ = stream.read_to_end(&mut rest).await;
        tell.send(()).unwrap();
    });
    (port, closed)
}

fn endpoint(port: u16, tls: TlsMode, timeouts: Timeouts) -> Endpoint {
    Endpoint {
        host: "127.0.0.1".to_owned(),
        port,
        tls,
        helo_name: "client.example".to_owned(),
        timeouts,
        ..Endpoint::default()
    }
}

/// Only one phase is impatient.
fn short(change: fn(&mut Timeouts)) -> Timeouts {
    let mut timeouts = patient();
    change(&mut timeouts);
    timeouts
}

#[tokio::test]
async fn silence_while_opening_ends_at_the_phase_s_own_deadline_and_closes_the_connection() {
    let connect = short(|t| t.connect = SHORT);
    let greeting = short(|t| t.greeting = SHORT);
    let command = short(|t| t.command = SHORT);
    for (words, tls, mechanism, timeouts, phase, says) in [
        (
            &[][..],
            TlsMode::Implicit,
            None,
            connect,
            Phase::Tls,
            "in the TLS handshake",
        ),
        (
            &[],
            TlsMode::Never,
            None,
            greeting,
            Phase::Greeting,
            "waiting for the reply to our connection (its greeting)",
        ),
        (
            &["220 hi"],
            TlsMode::Never,
            None,
            command,
            Phase::Ehlo,
            "waiting for the reply to EHLO",
        ),
        (
            &["220 hi", "500 what"],
            TlsMode::Never,
            None,
            command,
            Phase::Ehlo,
            "waiting for the reply to HELO",
        ),
        (
            &["220 hi", "250-x\r\n250 STARTTLS"],
            TlsMode::StartTlsRequired,
            None,
            command,
            Phase::StartTls,
            "waiting for the reply to STARTTLS",
        ),
        (
            &["220 hi", "250-x\r\n250 STARTTLS", "220 go"],
            TlsMode::StartTlsRequired,
            None,
            connect,
            Phase::Tls,
            "in the TLS handshake",
        ),
        (
            &["220 hi", "250-x\r\n250 AUTH PLAIN"],
            TlsMode::Never,
            Some(AuthMechanism::Plain),
            command,
            Phase::Auth,
            "waiting for the reply to AUTH",
        ),
        (
            &["220 hi", "250-x\r\n250 AUTH LOGIN", "334 x"],
            TlsMode::Never,
            Some(AuthMechanism::Login),
            command,
            Phase::Auth,
            "waiting for the reply to AUTH",
        ),
    ] {
        let (port, closed) = mute(words).await;
        let mut endpoint = endpoint(port, tls, timeouts);
        endpoint.credentials = mechanism.map(|mechanism| Credentials {
            username: "bob".to_owned(),
            secret: "correct horse".to_owned(),
            mechanism,
        });
        let fault = Session::connect(&endpoint).await.expect_err("a fault");
        assert_eq!(
            (fault.phase, fault.detail),
            (phase, format!("timed out after 0.1 s {says}"))
        );
        closed.await.unwrap();
    }
}

#[tokio::test]
async fn a_relay_that_takes_no_connection_times_out() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Until there is no more room to wait to be accepted.
    let mut waiting = vec![];
    while let Ok(stream) = timeout(SHORT, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    let timeouts = short(|t| t.connect = SHORT);
    let endpoint = endpoint(address.port(), TlsMode::Never, timeouts);
    let fault = Session::connect(&endpoint).await.expect_err("a fault");
    assert_eq!(fault.phase, Phase::Connect);
    let expected = format!("could not connect to {address}: timed out after 0.1 s");
    assert_eq!(fault.detail, expected);
}

#[tokio::test]
async fn a_reply_that_never_ends_does_not_stretch_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let relay = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        let mut ticks = interval(Duration::from_millis(10));
        while stream.write_all(b"220-and\r\n").await.is_ok() {
            ticks.tick().await;
        }
    });
    let timeouts = short(|t| t.greeting = SHORT);
    let endpoint = endpoint(port, TlsMode::Never, timeouts);
    let fault = Session::connect(&endpoint).await.expect_err("a fault");
    assert_eq!(fault.phase, Phase::Greeting);
    assert!(fault.detail.starts_with("timed out after 0.1 s"));
    relay.await.unwrap();
}

#[tokio::test]
async fn silence_after_rset_ends_at_its_own_deadline() {
    for pipelining in [true, false] {
        let script = Script::new(pipelining)
            .on(Phase::Data, say("451 later"))
            .on(Phase::Rset, Act::Silence);
        let (server, mut session) = session_with(script, short(|t| t.command = SHORT)).await;
        send(&mut session, &message(1)).await;
        let outcome = send(&mut session, &message(1)).await;
        assert_eq!(brief(&outcome), ["NotTried Rset -"]);
        let expected = "timed out after 0.1 s waiting for the reply to RSET";
        assert_eq!(detail(&outcome), expected);
        server.ended().await;
        assert!(!session.is_usable());
    }
}

#[tokio::test]
async fn silence_after_a_lone_dot_changes_no_verdict_and_ends_the_session() {
    let script = Script::new(true)
        .on(Phase::Rcpt, say("550 no"))
        .on(Phase::Dot, Act::Silence);
    let (server, mut session) = session_with(script, short(|t| t.data_done = SHORT)).await;
    let outcome = send(&mut session, &message(1)).await;
    assert_eq!(brief(&outcome), ["Permanent Rcpt 550"]);
    server.ended().await;
    assert!(!session.is_usable() && !session.maybe_accepted());
}
