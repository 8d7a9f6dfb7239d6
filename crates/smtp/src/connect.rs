//! From nothing to a session that takes mail: connection, greeting, EHLO or HELO or LHLO, STARTTLS, EHLO
//! again, AUTH.
//!
//! Invariants: after STARTTLS nothing that was said before it counts (RFC 3207 §4.2), and a relay that
//! had said more than it was asked is not trusted at all; credentials go out inside TLS only, unless the
//! endpoint says `starttls=never`.

use std::time::Duration;

use crate::{
    Endpoint, Extensions, Phase, Protocol, RelayFault, Reply, TlsInfo, TlsMode, Transcript, auth,
    dial, hello,
    stream::Stream,
    tls,
    turn::quote,
    wire::{Broken, Wire},
};

/// How long the goodbye to a relay that did not suit us may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// A session ready for mail.
pub(crate) struct Opened {
    pub(crate) wire: Wire,
    pub(crate) extensions: Extensions,
    pub(crate) tls: Option<TlsInfo>,
}

/// Shorthand.
pub(crate) fn fault(phase: Phase, reply: Option<Reply>, detail: String) -> RelayFault {
    RelayFault {
        phase,
        reply,
        detail,
    }
}

/// Why no session came about.
struct Trouble {
    fault: RelayFault,
    /// It was TLS that failed: without, it might work.
    of_tls: bool,
}

impl From<RelayFault> for Trouble {
    fn from(fault: RelayFault) -> Self {
        Self {
            fault,
            of_tls: false,
        }
    }
}

impl Trouble {
    fn of_tls(fault: RelayFault) -> Self {
        Self {
            fault,
            of_tls: true,
        }
    }
}

/// Opens a session. Where TLS is only an opportunity and fails, once more without it.
pub(crate) async fn open(
    endpoint: &Endpoint,
    transcript: Option<&Transcript>,
) -> Result<Opened, RelayFault> {
    let first = match attempt(endpoint, endpoint.tls, transcript).await {
        Ok(opened) => return Ok(opened),
        Err(trouble) => trouble,
    };
    let optional = endpoint.tls == TlsMode::StartTlsOpportunistic && endpoint.credentials.is_none();
    if !(first.of_tls && optional) {
        return Err(first.fault);
    }
    if let Some(transcript) = transcript {
        transcript.note("once more without TLS");
    }
    let second = attempt(endpoint, TlsMode::Never, transcript).await;
    second.map_err(|Trouble { mut fault, .. }| {
        fault.detail = format!("{}; before, with TLS: {}", fault.detail, first.fault.detail);
        fault
    })
}

/// Opens a session, protected by `mode`.
async fn attempt(
    endpoint: &Endpoint,
    mode: TlsMode,
    transcript: Option<&Transcript>,
) -> Result<Opened, Trouble> {
    let socket = dial::connect(endpoint, transcript)
        .await
        .inspect_err(|fault| {
            if let Some(transcript) = transcript {
                transcript.note(&fault.detail);
            }
        })?;
    let hello = hello::name(endpoint, &socket)?;
    let mut wire = Wire::new(Stream::Plain(socket), transcript.cloned());
    wire.set_mask(auth::mask(endpoint));
    match negotiate(&mut wire, endpoint, mode, &hello).await {
        Ok((extensions, tls)) => Ok(Opened {
            wire,
            extensions,
            tls,
        }),
        Err(trouble) => {
            wire.note(|| trouble.fault.detail.clone());
            if trouble.fault.reply.as_ref().is_none_or(|r| r.code != 421) {
                wire.leave(GOODBYE).await;
            }
            Err(trouble)
        }
    }
}

/// Everything from the first octet to a session that takes mail.
async fn negotiate(
    wire: &mut Wire,
    endpoint: &Endpoint,
    mode: TlsMode,
    hello: &str,
) -> Result<(Extensions, Option<TlsInfo>), Trouble> {
    let mut info = None;
    if mode == TlsMode::Implicit {
        info = Some(encrypt(wire, endpoint).await?);
    }
    greeting(wire, endpoint).await?;
    let mut extensions = ehlo(wire, hello, endpoint).await?;
    let wants = matches!(
        mode,
        TlsMode::StartTlsRequired | TlsMode::StartTlsOpportunistic
    );
    if wants && starttls(wire, endpoint, &extensions).await? {
        info = Some(encrypt(wire, endpoint).await?);
        extensions = ehlo(wire, hello, endpoint).await?;
    }
    if info.is_some() {
        extensions.starttls = false; // it has been; a second offer means nothing (RFC 3207 §4.2)
    }
    if let Some(credentials) = &endpoint.credentials {
        if info.is_none() && endpoint.tls != TlsMode::Never {
            let detail = "credentials are not sent without TLS, which the relay does not give";
            return Err(fault(Phase::Auth, None, detail.to_owned()).into());
        }
        auth::authenticate(wire, endpoint, credentials, &extensions).await?;
    }
    Ok((extensions, info))
}

/// The TLS handshake.
async fn encrypt(wire: &mut Wire, endpoint: &Endpoint) -> Result<TlsInfo, Trouble> {
    let Some(socket) = wire.take_socket() else {
        let detail = "TLS was already started".to_owned();
        return Err(fault(Phase::Tls, None, detail).into());
    };
    let shaken = tls::handshake(socket, endpoint).await;
    let (stream, info) = shaken.map_err(|fault| {
        wire.give_up();
        Trouble::of_tls(fault)
    })?;
    wire.restart(stream);
    wire.note(|| format!("{} with {}", info.version, info.cipher));
    Ok(info)
}

/// Sends one line and reads its reply. A 421 is a fault here already.
pub(crate) async fn ask(
    wire: &mut Wire,
    phase: Phase,
    line: &str,
    patience: Duration,
    name: &str,
) -> Result<Reply, RelayFault> {
    wire.set_line(line);
    let answer = exchange(wire, phase, patience, name).await?;
    Ok(answer.reply)
}

/// A reply, and its text before it was masked: for what it means, and not to be told.
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) plain: String,
}

/// Sends the line that was set and reads its reply. A 421 is a fault here already.
pub(crate) async fn exchange(
    wire: &mut Wire,
    phase: Phase,
    patience: Duration,
    name: &str,
) -> Result<Answer, RelayFault> {
    let broken = |Broken { detail }| fault(phase, None, detail);
    if let Err(failure) = wire.write(patience, &format!("sending {name}")).await {
        let said = wire.farewell().await;
        return said.map_or_else(|| Err(broken(failure)), |reply| Err(closing(phase, reply)));
    }
    wire.acknowledge_at_once();
    let reply = wire.read_plain(patience, name).await.map_err(broken)?;
    let plain = reply.text.clone();
    let reply = wire.heard(reply);
    if reply.code == 421 {
        Err(closing(phase, reply))
    } else {
        Ok(Answer { reply, plain })
    }
}

fn closing(phase: Phase, reply: Reply) -> RelayFault {
    let detail = format!("the relay is closing the connection: {}", quote(&reply));
    fault(phase, Some(reply), detail)
}

async fn greeting(wire: &mut Wire, endpoint: &Endpoint) -> Result<(), RelayFault> {
    let patience = endpoint.timeouts.greeting;
    let reply = wire
        .read(patience, "our connection (its greeting)")
        .await
        .map_err(|Broken { detail }| fault(Phase::Greeting, None, detail))?;
    if reply.code / 100 != 2 {
        let detail = format!("the relay does not welcome us: {}", quote(&reply));
        return Err(fault(Phase::Greeting, Some(reply), detail));
    }
    Ok(())
}

/// EHLO, or HELO where the server does not know it (RFC 5321 §3.2); LHLO in LMTP (RFC 2033 §4.1).
async fn ehlo(wire: &mut Wire, name: &str, endpoint: &Endpoint) -> Result<Extensions, RelayFault> {
    if wire.is_out_of_turn().await {
        let said = wire.farewell().await;
        let detail = "the relay spoke out of turn before EHLO".to_owned();
        return Err(match said {
            Some(reply) if reply.code == 421 => closing(Phase::Ehlo, reply),
            said => fault(Phase::Ehlo, said, detail),
        });
    }
    let patience = endpoint.timeouts.command;
    let verb = match endpoint.protocol {
        Protocol::Smtp => "EHLO",
        Protocol::Lmtp => "LHLO",
    };
    wire.set_line(&format!("{verb} {name}"));
    let Answer { reply, plain } = exchange(wire, Phase::Ehlo, patience, verb).await?;
    if reply.code / 100 == 2 {
        return Ok(Extensions::parse(&plain));
    }
    let reply = if reply.code / 100 == 5 && endpoint.protocol == Protocol::Smtp {
        let reply = ask(wire, Phase::Ehlo, &format!("HELO {name}"), patience, "HELO").await?;
        if reply.code / 100 == 2 {
            return Ok(Extensions::default());
        }
        reply
    } else {
        reply
    };
    let detail = format!("the relay refused our {verb}: {}", quote(&reply));
    Err(fault(Phase::Ehlo, Some(reply), detail))
}

/// Whether a handshake is to follow (RFC 3207).
async fn starttls(
    wire: &mut Wire,
    endpoint: &Endpoint,
    offered: &Extensions,
) -> Result<bool, Trouble> {
    let required = endpoint.tls == TlsMode::StartTlsRequired;
    if !offered.starttls {
        let missing = "the relay does not offer STARTTLS, which is required";
        return if required {
            Err(fault(Phase::StartTls, None, missing.to_owned()).into())
        } else {
            Ok(false)
        };
    }
    let patience = endpoint.timeouts.command;
    let reply = ask(wire, Phase::StartTls, "STARTTLS", patience, "STARTTLS")
        .await
        .map_err(Trouble::of_tls)?;
    match reply.code / 100 {
        2 => {}
        4 | 5 if !required => return Ok(false), // an answer in good order: this session can go on
        _ => {
            let detail = format!("the relay refused STARTTLS: {}", quote(&reply));
            let fault = fault(Phase::StartTls, Some(reply), detail);
            return Err(Trouble::of_tls(fault));
        }
    }
    // Plain text behind the 220 would be taken for the relay's words inside TLS (CVE-2011-0411). All that
    // has come by now is looked at; what comes later is read by the handshake, which it makes fail. One
    // that just hangs up is left to the handshake, too.
    if wire.is_out_of_turn().await && wire.unread() > 0 {
        let detail = format!(
            "the relay sent {} bytes in plain text after its reply to STARTTLS; someone may be injecting",
            wire.unread()
        );
        wire.give_up();
        return Err(fault(Phase::StartTls, None, detail).into());
    }
    Ok(true)
}
