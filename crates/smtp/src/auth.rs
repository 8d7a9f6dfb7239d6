//! SASL over SMTP (RFC 4954): PLAIN (RFC 4616), LOGIN, XOAUTH2 and OAUTHBEARER (RFC 7628). Secrets go to the
//! wire and nowhere else.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};

use crate::{
    AuthMechanism, Credentials, Endpoint, Extensions, Phase, RelayFault, Reply,
    connect::{Answer, exchange, fault},
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

/// What must not be told of an endpoint's credentials.
pub(crate) fn mask(endpoint: &Endpoint) -> Mask {
    let Some(credentials) = &endpoint.credentials else {
        return Mask::default();
    };
    let user = STANDARD.encode(&credentials.username);
    let messages = responses(credentials.mechanism, endpoint, credentials);
    let telling = messages.iter().filter(|message| **message != user);
    Mask::new(&credentials.secret, telling.map(String::as_str))
}

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
    let mut dialogue = Dialogue {
        wire,
        endpoint,
        mechanism,
    };
    let answer = dialogue
        .talk(responses(mechanism, endpoint, credentials))
        .await?;
    match answer.reply.code {
        200..=299 => Ok(()),
        334 if token => dialogue.token_refused(&answer.plain).await,
        334 => Err(dialogue.cancel(answer.reply, "").await),
        _ => Err(refused(answer.reply, "")),
    }
}

/// One exchange of challenges and responses.
struct Dialogue<'a> {
    wire: &'a mut Wire,
    endpoint: &'a Endpoint,
    mechanism: AuthMechanism,
}

impl Dialogue<'_> {
    /// Names the mechanism, with the first response where it has its place there and fits the line, and
    /// gives the others as they are asked for. Gives the answer to the last.
    async fn talk(&mut self, responses: Vec<String>) -> Result<Answer, RelayFault> {
        let alone = format!("AUTH {}", name(self.mechanism));
        let fits = |first: &&String| alone.len() + 1 + first.len() <= MAX_LINE;
        let initial = match self.mechanism {
            AuthMechanism::Login => None,
            _ => responses.first().filter(fits),
        };
        if let Some(first) = initial {
            self.wire
                .set_secret(&format!("{alone} {first}"), &format!("{alone} ***"));
        } else {
            self.wire.set_line(&alone);
        }
        let mut answer = self.exchange().await?;
        // With nothing to say, a relay asks for what has been said already: it does not know initial
        // responses. Those that speak XOAUTH2 mean a refusal by it.
        let unheard = answer.plain.trim().is_empty() && self.mechanism != AuthMechanism::XOAuth2;
        let told = usize::from(initial.is_some() && !unheard);
        for response in &responses[told.min(responses.len())..] {
            if answer.reply.code != 334 {
                break;
            }
            answer = self.respond(response).await?;
        }
        Ok(answer)
    }

    async fn respond(&mut self, response: &str) -> Result<Answer, RelayFault> {
        self.wire.set_secret(response, "***");
        self.exchange().await
    }

    async fn exchange(&mut self) -> Result<Answer, RelayFault> {
        let patience = self.endpoint.timeouts.command;
        exchange(self.wire, Phase::Auth, patience, "AUTH").await
    }

    /// The relay does not take the token and says why in a challenge; its final reply comes only after an
    /// answer to that (RFC 7628 §3.2.3). If it is content with that answer, so are we.
    async fn token_refused(&mut self, challenge: &str) -> Result<(), RelayFault> {
        let reason = reason(challenge, |text| self.wire.mask().text(text).into_owned());
        if !reason.is_empty() {
            self.wire.note(|| format!("the challenge says: {reason}"));
        }
        let acknowledgement = match self.mechanism {
            AuthMechanism::OAuthBearer => "AQ==",
            _ => "",
        };
        match self.respond(acknowledgement).await {
            Ok(Answer { reply, .. }) => match reply.code {
                200..=299 => Ok(()),
                334 => Err(self.cancel(reply, &reason).await),
                _ => Err(refused(reply, &reason)),
            },
            Err(mut fault) => {
                if !reason.is_empty() {
                    fault.detail =
                        format!("{}; before, the challenge said: {reason}", fault.detail);
                }
                Err(fault)
            }
        }
    }

    /// The relay asks for more than there is to say: the exchange is cancelled (RFC 4954 §4), since within
    /// it not even QUIT would be taken for a command.
    async fn cancel(&mut self, challenge: Reply, reason: &str) -> RelayFault {
        self.wire.set_line("*");
        match self.exchange().await {
            // What it says to that changes nothing.
            Ok(Answer { reply, .. }) if reply.code != 334 => {}
            _ => self.wire.give_up(),
        }
        let name = name(self.mechanism);
        let mut detail = format!(
            "the relay did not authenticate us: it goes on asking where {name} ends: {}",
            quote(&challenge)
        );
        if !reason.is_empty() {
            detail = format!("{detail} ({reason})");
        }
        fault(Phase::Auth, Some(challenge), detail)
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
/// else it holds; empty if it holds nothing. Of one line, and masked by `mask`.
fn reason(challenge: &str, mask: impl Fn(&str) -> String) -> String {
    let short = |text: &str| short(&mask(text));
    let challenge = challenge.trim();
    if challenge.is_empty() {
        return String::new();
    }
    let Ok(decoded) = LENIENT.decode(challenge) else {
        return short(challenge);
    };
    let text = String::from_utf8_lossy(&decoded);
    let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) else {
        return short(&text);
    };
    let field = |name: &str| match json.get(name)? {
        serde_json::Value::String(value) => Some(format!("{name} {}", short(value))),
        serde_json::Value::Number(value) => Some(format!("{name} {}", mask(&value.to_string()))),
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
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    proptest! {
        #[test]
        fn any_challenge_says_one_line_and_no_secret(
            secret in "[1-9][0-9]{8,16}|[a-z]{9,30}",
            pieces in vec(select(vec![
                "{", "}", "\"status\":", "\"scope\":", "\"", ",", "[", "\r\n", "\0", "\u{e9}", " ", "1.5", "null", "SECRET", "\"SECRET\"",
                "{\"status\":SECRET}", "{\"status\":\"SECRET\",\"scope\":SECRET}",
            ]), 0..8),
            encoded in any::<bool>(),
        ) {
            let text = pieces.concat().replace("SECRET", &secret);
            let challenge = if encoded { STANDARD.encode(&text) } else { text };
            let says = reason(&challenge, |text| text.replace(&secret, "***"));
            prop_assert!(!says.contains(&secret), "{says}");
            prop_assert!(!says.contains(char::is_control) && says.chars().count() < 450, "{says:?}");
        }
    }

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
            (String::new(), ""),
        ] {
            assert_eq!(reason(&challenge, str::to_owned), says);
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
