//! SASL over SMTP (RFC 4954): PLAIN (RFC 4616), LOGIN, XOAUTH2 and OAUTHBEARER (RFC 7628). Secrets go to the
//! wire and nowhere else.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};

use crate::{
    AuthMechanism, Credentials, Endpoint, Extensions, Phase, RelayFault, Reply,
    connect::{exchange, fault},
    mask::Mask,
    turn::quote,
    wire::Wire,
};

/// The longest AUTH command with an initial response (RFC 4954 §4: the usual limit of a command line).
const MAX_LINE: usize = 500;

/// How a challenge is read: with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Logs in.
pub(crate) async fn authenticate(
    wire: &mut Wire,
    endpoint: &Endpoint,
    credentials: &Credentials,
    offered: &Extensions,
) -> Result<(), RelayFault> {
    let mechanism = choose(credentials.mechanism, offered)?;
    let token = matches!(
        mechanism,
        AuthMechanism::XOAuth2 | AuthMechanism::OAuthBearer
    );
    check(credentials, token)?;
    let responses = responses(mechanism, endpoint, credentials);
    wire.set_mask(Mask::new(credentials, &responses));
    let mut dialogue = Dialogue { wire, endpoint };
    let (mut reply, rest) = dialogue.begin(name(mechanism), responses).await?;
    if token && reply.code == 334 && rest.is_empty() {
        return Err(dialogue.token_refused(mechanism, &reply).await);
    }
    for response in rest {
        if reply.code != 334 {
            break;
        }
        reply = dialogue.respond(&response).await?;
        if token && reply.code == 334 {
            return Err(dialogue.token_refused(mechanism, &reply).await);
        }
    }
    if reply.code / 100 == 2 {
        return Ok(());
    }
    Err(refused(reply, ""))
}

/// One exchange of challenges and responses.
struct Dialogue<'a> {
    wire: &'a mut Wire,
    endpoint: &'a Endpoint,
}

impl Dialogue<'_> {
    /// Names the mechanism, with the first response where it has its place there and fits the line. Gives
    /// the reply, and the responses that are left.
    async fn begin(
        &mut self,
        name: &str,
        mut responses: Vec<String>,
    ) -> Result<(Reply, Vec<String>), RelayFault> {
        let alone = format!("AUTH {name}");
        let fits = |first: &String| name != "LOGIN" && alone.len() + 1 + first.len() <= MAX_LINE;
        if responses.first().is_some_and(fits) {
            let first = responses.remove(0);
            self.wire
                .set_secret(&format!("{alone} {first}"), &format!("{alone} ***"));
        } else {
            self.wire.set_line(&alone);
        }
        Ok((self.exchange().await?, responses))
    }

    async fn respond(&mut self, response: &str) -> Result<Reply, RelayFault> {
        self.wire.set_secret(response, "***");
        self.exchange().await
    }

    async fn exchange(&mut self) -> Result<Reply, RelayFault> {
        let patience = self.endpoint.timeouts.command;
        exchange(self.wire, Phase::Auth, patience, "AUTH").await
    }

    /// The relay does not take the token and says why in a challenge; its final reply comes only after an
    /// answer to that (RFC 7628 §3.2.3).
    async fn token_refused(&mut self, mechanism: AuthMechanism, challenge: &Reply) -> RelayFault {
        let reason = self.wire.mask().text(&reason(&challenge.text));
        self.wire.note(|| format!("the challenge says: {reason}"));
        let acknowledgement = match mechanism {
            AuthMechanism::OAuthBearer => "AQ==",
            _ => "",
        };
        match self.respond(acknowledgement).await {
            Ok(reply) => refused(reply, &reason),
            Err(mut fault) => {
                fault.detail = format!("{}; before, the challenge said: {reason}", fault.detail);
                fault
            }
        }
    }
}

fn refused(reply: Reply, reason: &str) -> RelayFault {
    let mut detail = format!("the relay refused to authenticate: {}", quote(&reply));
    if !reason.is_empty() {
        detail = format!("{detail} ({reason})");
    }
    fault(Phase::Auth, Some(reply), detail)
}

/// What a mechanism's dialogue cannot carry.
fn check(credentials: &Credentials, token: bool) -> Result<(), RelayFault> {
    let Credentials {
        username, secret, ..
    } = credentials;
    let bad = |c: char| c == '\0' || (token && c.is_control());
    if username.contains(bad) || secret.contains(bad) {
        let detail = "the credentials hold a control character";
        return Err(fault(Phase::Auth, None, detail.to_owned()));
    }
    Ok(())
}

/// What the client says in turn, in base64.
fn responses(
    mechanism: AuthMechanism,
    endpoint: &Endpoint,
    credentials: &Credentials,
) -> Vec<String> {
    let Credentials {
        username, secret, ..
    } = credentials;
    let responses = match mechanism {
        AuthMechanism::Login => vec![username.clone(), secret.clone()],
        AuthMechanism::Auto | AuthMechanism::Plain => vec![format!("\0{username}\0{secret}")],
        AuthMechanism::XOAuth2 => {
            vec![format!("user={username}\x01auth=Bearer {secret}\x01\x01")]
        }
        AuthMechanism::OAuthBearer => {
            // A comma or an equals sign would end the name (RFC 5801 §4).
            let name = username.replace('=', "=3D").replace(',', "=2C");
            let Endpoint { host, port, .. } = endpoint;
            vec![format!(
                "n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer {secret}\x01\x01"
            )]
        }
    };
    responses.iter().map(|r| STANDARD.encode(r)).collect()
}

/// Why a token was refused, from a challenge: its JSON's `status` and `scope` (RFC 7628 §3.2.2), or what
/// else it holds. Of one line, and not masked.
fn reason(challenge: &str) -> String {
    let Ok(decoded) = LENIENT.decode(challenge.trim()) else {
        return short(challenge);
    };
    let text = String::from_utf8_lossy(&decoded);
    let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) else {
        return short(&text);
    };
    let field = |name: &str| match json.get(name)? {
        serde_json::Value::String(value) => Some(format!("{name} {}", short(value))),
        serde_json::Value::Number(value) => Some(format!("{name} {value}")),
        _ => None,
    };
    let fields: Vec<String> = ["status", "scope"].into_iter().filter_map(field).collect();
    if fields.is_empty() {
        short(&text)
    } else {
        fields.join(", ")
    }
}

fn short(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.trim().chars().take(200).map(clean).collect();
    format!("\"{text}\"")
}

fn name(mechanism: AuthMechanism) -> &'static str {
    match mechanism {
        AuthMechanism::Auto | AuthMechanism::Plain => "PLAIN",
        AuthMechanism::Login => "LOGIN",
        AuthMechanism::XOAuth2 => "XOAUTH2",
        AuthMechanism::OAuthBearer => "OAUTHBEARER",
    }
}

/// The mechanism that is asked for and offered.
fn choose(wanted: AuthMechanism, offered: &Extensions) -> Result<AuthMechanism, RelayFault> {
    let candidates: &[AuthMechanism] = match wanted {
        AuthMechanism::Auto => &[AuthMechanism::Plain, AuthMechanism::Login],
        _ => &[wanted],
    };
    let offers = |mechanism: &&AuthMechanism| offered.auth.iter().any(|m| m == name(**mechanism));
    if let Some(mechanism) = candidates.iter().find(offers) {
        return Ok(*mechanism);
    }
    let names: Vec<&str> = candidates.iter().map(|m| name(*m)).collect();
    let wanted = names.join(" or ");
    let detail = if offered.auth.is_empty() {
        format!("the relay does not offer AUTH, {wanted} is needed")
    } else {
        let offered = offered.auth.join(" ");
        format!("the relay offers AUTH {offered}, {wanted} is needed")
    };
    Err(fault(Phase::Auth, None, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_says_why_in_any_form() {
        let json = r#"{"status":"invalid_token","scope":"mail send","openid-configuration":"x"}"#;
        for (challenge, says) in [
            (
                STANDARD.encode(json),
                "status \"invalid_token\", scope \"mail send\"",
            ),
            (
                STANDARD.encode(json).trim_end_matches('=').to_owned(),
                "status \"invalid_token\", scope \"mail send\"",
            ),
            (STANDARD.encode(r#"{"status":401}"#), "status 401"),
            (STANDARD.encode("no\r\njson"), "\"no  json\""),
            (STANDARD.encode("[1]"), "\"[1]\""),
            ("*not base64*".to_owned(), "\"*not base64*\""),
            (String::new(), "\"\""),
        ] {
            assert_eq!(reason(&challenge), says);
        }
    }

    #[test]
    fn responses_are_as_the_mechanisms_want_them() {
        let endpoint = Endpoint {
            host: "mx.example".to_owned(),
            port: 587,
            ..Endpoint::default()
        };
        let credentials = Credentials {
            username: "a,b=c".to_owned(),
            secret: "token".to_owned(),
            mechanism: AuthMechanism::Auto,
        };
        for (mechanism, expected) in [
            (AuthMechanism::Plain, "\0a,b=c\0token"),
            (
                AuthMechanism::XOAuth2,
                "user=a,b=c\x01auth=Bearer token\x01\x01",
            ),
            (
                AuthMechanism::OAuthBearer,
                "n,a=a=2Cb=3Dc,\x01host=mx.example\x01port=587\x01auth=Bearer token\x01\x01",
            ),
        ] {
            let responses = responses(mechanism, &endpoint, &credentials);
            assert_eq!(responses, [STANDARD.encode(expected)]);
        }
    }
}
