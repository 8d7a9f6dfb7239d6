//! What must hold for any bytes. The fuzz targets and the tests on stable share it.

use std::time::Duration;

use mail_relay::{Action, RelayUrl, Rule, decide, has_group, pattern};
use mail_smtp::{Protocol, Reply, TlsMode};

/// Rules: the first line is a pattern, the rest what a relay says.
pub fn rule(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (pattern_text, said) = text.split_once('\n').unwrap_or((&text, ""));
    let Ok(compiled) = pattern(pattern_text) else {
        assert!(has_group(pattern_text, "n").is_err());
        return;
    };
    assert!(has_group(pattern_text, "n").is_ok());
    let timed = has_group(pattern_text, "n") == Ok(true);
    let fits = compiled.is_match(said);
    let reply = Reply {
        code: 450,
        enhanced: None,
        text: said.to_owned(),
    };
    for action in [
        Action::Retry,
        Action::SuspendRelay,
        Action::SuspendDomain,
        Action::Hold,
    ] {
        for duration in [None, Some(Duration::ZERO), Some(Duration::from_hours(1000))] {
            let rule = Rule {
                name: "any".to_owned(),
                relay: None,
                code: None,
                status: None,
                text: Some(compiled.clone()),
                action,
                duration,
            };
            let decision = decide(&[rule], 1, &reply);
            assert!(fits || decision.is_none());
            if action == Action::Hold || duration.is_some() {
                assert_eq!(decision.is_some(), fits);
            }
            let Some(decision) = decision else { continue };
            assert_eq!(decision.duration.is_some(), action != Action::Hold);
            assert!(!decision.by_reply || timed && duration.is_none());
            let time = decision.duration.unwrap_or(Duration::from_secs(1));
            assert!(time >= Duration::from_secs(1));
            assert!(!decision.by_reply || time <= Duration::from_hours(24));
        }
    }
}

/// URLs: a host that can be looked up, or the path of a socket; a refusal of one line.
pub fn url(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    for with_username in [false, true] {
        let url = match RelayUrl::parse(text, with_username) {
            Ok(url) => url,
            Err(error) => {
                let shown = error.to_string();
                assert!(!shown.contains(|c: char| c.is_control()), "{shown:?}");
                assert!(shown.chars().count() < 1000, "{shown}");
                continue;
            }
        };
        // Whoever gives credentials there shall not see them go.
        assert!(
            !text.contains('@') || text.contains(['/', '?', '%']),
            "{text}"
        );
        let of_name = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        assert!(
            !url.host.is_empty() && url.host.bytes().all(of_name),
            "{}",
            url.host
        );
        if let Some(socket) = &url.socket {
            assert!(socket.is_absolute(), "{}", socket.display());
            assert!(!socket.as_os_str().as_encoded_bytes().contains(&0));
            assert_eq!(
                (url.protocol, url.port, url.tls),
                (Protocol::Lmtp, 0, TlsMode::Never)
            );
        } else {
            assert_ne!(url.port, 0);
        }
    }
}
