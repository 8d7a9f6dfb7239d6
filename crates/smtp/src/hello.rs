//! The name that we greet a relay with (RFC 5321 §4.1.1.1, RFC 2033 §4.1).

use std::net::IpAddr;

use crate::{Endpoint, Phase, RelayFault, connect::fault, stream::Socket};

/// The name that a host's own name makes, for [`Endpoint::helo_name`]: itself if it is fully qualified. A
/// name without a dot says nothing to anyone else, and some relays refuse it: then it is empty, which stands
/// for our address.
pub fn qualified(host_name: &str) -> &str {
    let name = host_name.trim_end_matches('.');
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.contains('.') && name.chars().all(clean) && !name.starts_with('.') {
        name
    } else {
        ""
    }
}

/// The name to greet with; without one, our address (RFC 5321 §4.1.3).
pub(crate) fn name(endpoint: &Endpoint, socket: &Socket) -> Result<String, RelayFault> {
    let name = &endpoint.helo_name;
    if name.contains(|c: char| c.is_control() || c.is_whitespace() || !c.is_ascii()) {
        let detail = "the name given in EHLO holds a space, a control character or non-ASCII";
        return Err(fault(Phase::Ehlo, None, detail.to_owned()));
    }
    if !name.is_empty() {
        return Ok(name.clone());
    }
    let Socket::Tcp(tcp) = socket else {
        // A Unix socket has no address, and who listens there is on this host.
        return Ok("localhost".to_owned());
    };
    let address = tcp.local_addr().map(|address| address.ip());
    Ok(address.map_or_else(|_| "[127.0.0.1]".to_owned(), literal))
}

/// An address where a name is expected.
fn literal(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fully_qualified_name_of_the_host_is_given() {
        for name in ["mail.example.com", "a.b", "mx_1.example.com"] {
            assert_eq!(qualified(name), name);
        }
        assert_eq!(qualified("mail.example.com."), "mail.example.com");
        for name in [
            "",
            "vm",
            "localhost",
            "vm.",
            ".",
            ".vm",
            "my host.example",
            "vm.bücher",
        ] {
            assert_eq!(qualified(name), "", "{name}");
        }
    }

    #[test]
    fn addresses_are_written_as_literals() {
        for (address, expected) in [
            ("192.0.2.1", "[192.0.2.1]"),
            ("2001:db8::1", "[IPv6:2001:db8::1]"),
            ("::1", "[IPv6:::1]"),
            ("::ffff:192.0.2.1", "[192.0.2.1]"),
        ] {
            assert_eq!(literal(address.parse().unwrap()), expected);
        }
    }
}
