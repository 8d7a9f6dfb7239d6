//! From a relay's name to a connection with it: name resolution, TCP, Unix sockets.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};

use crate::{Endpoint, Phase, RelayFault, Transcript, connect::fault, stream::Socket};

/// Connects to the relay's socket, or to the first of its addresses that answers.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    transcript: Option<&Transcript>,
) -> Result<Socket, RelayFault> {
    let connected = match &endpoint.socket {
        Some(path) => unix(path, endpoint.timeouts.connect, transcript).await,
        None => tcp(endpoint, transcript).await,
    };
    connected.map_err(|why| {
        let detail = format!("could not connect to {}: {why}", name(endpoint));
        fault(Phase::Connect, None, detail)
    })
}

/// The relay as a person knows it.
fn name(endpoint: &Endpoint) -> String {
    let Endpoint { host, port, .. } = endpoint;
    match (&endpoint.socket, host.parse::<IpAddr>()) {
        (Some(path), _) if host.is_empty() => format!("\"{}\"", path.display()),
        (Some(path), _) => format!("{host} at \"{}\"", path.display()),
        (None, Ok(address)) => SocketAddr::new(address, *port).to_string(),
        (None, Err(_)) => format!("{host}:{port}"),
    }
}

fn note(transcript: Option<&Transcript>, text: impl FnOnce() -> String) {
    if let Some(transcript) = transcript {
        transcript.note(&text());
    }
}

async fn unix(
    path: &Path,
    patience: Duration,
    transcript: Option<&Transcript>,
) -> Result<Socket, String> {
    let connected = match timeout(patience, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => Ok(Socket::Unix(stream)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(timed_out(patience)),
    };
    note(transcript, || {
        let outcome = connected
            .as_ref()
            .map_or_else(String::as_str, |_| "connected");
        format!("\"{}\": {outcome}", path.display())
    });
    connected
}

async fn tcp(endpoint: &Endpoint, transcript: Option<&Transcript>) -> Result<Socket, String> {
    let patience = endpoint.timeouts.connect;
    let deadline = Instant::now() + patience;
    let target = (endpoint.host.as_str(), endpoint.port);
    let resolved = match timeout_at(deadline, lookup_host(target)).await {
        Ok(Ok(addresses)) => Ok(addresses.collect::<Vec<_>>()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(timed_out(patience)),
    };
    let addresses = resolved.map_err(|error| format!("could not resolve the name: {error}"))?;
    let stream = connect_any(&addresses, deadline, transcript)
        .await
        .map_err(|failures| describe(&failures, &name(endpoint)))?;
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    Ok(Socket::Tcp(stream))
}

/// Tries each address in turn, each with an equal share of what time is left.
async fn connect_any(
    addresses: &[SocketAddr],
    deadline: Instant,
    transcript: Option<&Transcript>,
) -> Result<TcpStream, Vec<(SocketAddr, String)>> {
    let mut failures = Vec::new();
    for (i, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        let failure = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                note(transcript, || format!("{address}: connected"));
                return Ok(stream);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => timed_out(share),
        };
        note(transcript, || format!("{address}: {failure}"));
        failures.push((*address, failure));
    }
    Err(failures)
}

fn timed_out(after: Duration) -> String {
    format!("timed out after {:.1} s", after.as_secs_f64())
}

/// Why no address answered; what `name` says already is not repeated.
fn describe(failures: &[(SocketAddr, String)], name: &str) -> String {
    match failures {
        [] => "the name has no address".to_owned(),
        [(address, failure)] if address.to_string() == name => failure.clone(),
        _ => {
            let each = |(address, failure): &(SocketAddr, String)| format!("{address}: {failure}");
            failures.iter().map(each).collect::<Vec<_>>().join("; ")
        }
    }
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
        let stream = connect_any(&[dead, alive], deadline, None).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        let failures = connect_any(&[dead, dead], deadline, None)
            .await
            .unwrap_err();
        let text = describe(&failures, "mx.example:25");
        assert_eq!(text.matches(&dead.to_string()).count(), 2, "{text}");
        let failures = connect_any(&[], deadline, None).await.unwrap_err();
        assert_eq!(
            describe(&failures, "mx.example:25"),
            "the name has no address"
        );
    }

    #[test]
    fn relays_are_named_as_they_are_reached() {
        let endpoint = |host: &str, socket: Option<&str>| {
            name(&Endpoint {
                host: host.to_owned(),
                socket: socket.map(Into::into),
                ..Endpoint::default()
            })
        };
        assert_eq!(endpoint("mx.example", None), "mx.example:25");
        assert_eq!(endpoint("::1", None), "[::1]:25");
        assert_eq!(endpoint("127.0.0.1", None), "127.0.0.1:25");
        assert_eq!(endpoint("", Some("/run/lmtp")), "\"/run/lmtp\"");
        assert_eq!(
            endpoint("local", Some("/run/lmtp")),
            "local at \"/run/lmtp\""
        );
    }
}
