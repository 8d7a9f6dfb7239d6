//! From nothing to a session that takes mail: TCP, greeting, EHLO or HELO, STARTTLS, EHLO again, AUTH.
//!
//! Invariants: after STARTTLS nothing that was said before it counts (RFC 3207 §4.2), and a relay that
//! had said more than it was asked is not trusted at all; credentials go out inside TLS only, unless the
//! endpoint says `starttls=never`.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Endpoint, Extensions, Phase, RelayFault, Reply, TlsInfo, TlsMode, auth, tls,
    turn::quote,
    wire::{Broken, Stream, Wire},
};

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

/// Opens a session.
pub(crate) async fn open(endpoint: &Endpoint) -> Result<Opened, RelayFault> {
    let tcp = tcp(endpoint).await?;
    let hello = hello_name(endpoint, &tcp)?;
    let mut info = None;
    let stream = if endpoint.tls == TlsMode::Implicit {
        let (stream, tls) = tls::handshake(tcp, endpoint).await?;
        info = Some(tls);
        Stream::Tls(Box::new(stream))
    } else {
        Stream::Plain(tcp)
    };
    let mut wire = Wire::new(stream);
    greeting(&mut wire, endpoint).await?;
    let mut extensions = ehlo(&mut wire, &hello, endpoint).await?;
    let wants = matches!(
        endpoint.tls,
        TlsMode::StartTlsRequired | TlsMode::StartTlsOpportunistic
    );
    if wants && starttls(&mut wire, endpoint, &extensions).await? {
        let Stream::Plain(tcp) = wire.into_stream() else {
            return Err(fault(
                Phase::Tls,
                None,
                "TLS was already started".to_owned(),
            ));
        };
        let (stream, tls) = tls::handshake(tcp, endpoint).await?;
        info = Some(tls);
        wire = Wire::new(Stream::Tls(Box::new(stream)));
        extensions = ehlo(&mut wire, &hello, endpoint).await?;
    }
    if let Some(credentials) = &endpoint.credentials {
        if info.is_none() && endpoint.tls != TlsMode::Never {
            let detail = "credentials are not sent without TLS, which the relay does not give";
            return Err(fault(Phase::Auth, None, detail.to_owned()));
        }
        auth::authenticate(&mut wire, credentials, &extensions, &endpoint.timeouts).await?;
    }
    Ok(Opened {
        wire,
        extensions,
        tls: info,
    })
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
    let broken = |Broken { detail }| fault(phase, None, detail);
    if let Err(failure) = wire.write(patience, &format!("sending {name}")).await {
        let said = wire.farewell().await;
        return said.map_or_else(|| Err(broken(failure)), |reply| Err(closing(phase, reply)));
    }
    let reply = wire.read(patience, name).await.map_err(broken)?;
    if reply.code == 421 {
        Err(closing(phase, reply))
    } else {
        Ok(reply)
    }
}

fn closing(phase: Phase, reply: Reply) -> RelayFault {
    let detail = format!("the relay is closing the connection: {}", quote(&reply));
    fault(phase, Some(reply), detail)
}

/// Connects to the first address that answers.
async fn tcp(endpoint: &Endpoint) -> Result<TcpStream, RelayFault> {
    let Endpoint { host, port, .. } = endpoint;
    let patience = endpoint.timeouts.connect;
    let deadline = Instant::now() + patience;
    let resolved = match timeout_at(deadline, lookup_host((host.as_str(), *port))).await {
        Ok(Ok(addresses)) => Ok(addresses.collect::<Vec<_>>()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("timed out after {} s", patience.as_secs_f64())),
    };
    let tried = match resolved {
        Ok(addresses) => connect_any(&addresses, deadline).await,
        Err(error) => Err(format!("could not resolve the name: {error}")),
    };
    let stream = tried.and_then(|stream| match stream.set_nodelay(true) {
        Ok(()) => Ok(stream),
        Err(error) => Err(error.to_string()),
    });
    stream.map_err(|why| {
        fault(
            Phase::Connect,
            None,
            format!("could not connect to {host}:{port}: {why}"),
        )
    })
}

/// Tries each address in turn, each with an equal share of what time is left.
async fn connect_any(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, String> {
    let mut failures = Vec::new();
    for (i, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        failures.push(match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => format!("{address}: {error}"),
            Err(_) => format!("{address}: timed out after {:.1} s", share.as_secs_f64()),
        });
    }
    if failures.is_empty() {
        return Err("the name has no address".to_owned());
    }
    Err(failures.join("; "))
}

/// The name to greet with; without one, our address (RFC 5321 §4.1.3).
fn hello_name(endpoint: &Endpoint, tcp: &TcpStream) -> Result<String, RelayFault> {
    let name = &endpoint.helo_name;
    if name.contains(|c: char| c.is_control() || c.is_whitespace() || !c.is_ascii()) {
        let detail = "the name given in EHLO holds a space, a control character or non-ASCII";
        return Err(fault(Phase::Ehlo, None, detail.to_owned()));
    }
    if !name.is_empty() {
        return Ok(name.clone());
    }
    Ok(match tcp.local_addr() {
        Ok(SocketAddr::V4(address)) => format!("[{}]", address.ip()),
        Ok(SocketAddr::V6(address)) => format!("[IPv6:{}]", address.ip()),
        Err(_) => "[127.0.0.1]".to_owned(),
    })
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

/// EHLO, or HELO where the server does not know it (RFC 5321 §3.2).
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
    let reply = ask(wire, Phase::Ehlo, &format!("EHLO {name}"), patience, "EHLO").await?;
    if reply.code / 100 == 2 {
        return Ok(Extensions::parse(&reply.text));
    }
    let reply = if reply.code / 100 == 5 {
        let reply = ask(wire, Phase::Ehlo, &format!("HELO {name}"), patience, "HELO").await?;
        if reply.code / 100 == 2 {
            return Ok(Extensions::default());
        }
        reply
    } else {
        reply
    };
    let detail = format!("the relay refused our EHLO: {}", quote(&reply));
    Err(fault(Phase::Ehlo, Some(reply), detail))
}

/// Whether a handshake is to follow (RFC 3207).
async fn starttls(
    wire: &mut Wire,
    endpoint: &Endpoint,
    offered: &Extensions,
) -> Result<bool, RelayFault> {
    let required = endpoint.tls == TlsMode::StartTlsRequired;
    if !offered.starttls {
        let missing = "the relay does not offer STARTTLS, which is required";
        return if required {
            Err(fault(Phase::StartTls, None, missing.to_owned()))
        } else {
            Ok(false)
        };
    }
    let patience = endpoint.timeouts.command;
    let reply = ask(wire, Phase::StartTls, "STARTTLS", patience, "STARTTLS").await?;
    if reply.code / 100 != 2 {
        if !required {
            return Ok(false);
        }
        let detail = format!("the relay refused STARTTLS: {}", quote(&reply));
        return Err(fault(Phase::StartTls, Some(reply), detail));
    }
    // Plain text behind the 220 would be taken for the relay's words inside TLS (CVE-2011-0411). All that
    // has come by now is looked at; what comes later is read by the handshake, which it makes fail.
    if wire.is_out_of_turn().await {
        let detail = format!(
            "the relay sent {} bytes in plain text after its reply to STARTTLS; someone may be injecting",
            wire.unread()
        );
        return Err(fault(Phase::StartTls, None, detail));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn every_address_is_tried_and_a_dead_one_named() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = gone.local_addr().unwrap();
        drop(gone);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let stream = connect_any(&[dead, alive], deadline).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        let failure = connect_any(&[dead, dead], deadline).await.unwrap_err();
        assert_eq!(failure.matches(&dead.to_string()).count(), 2, "{failure}");
        let failure = connect_any(&[], deadline).await.unwrap_err();
        assert_eq!(failure, "the name has no address");
    }
}
