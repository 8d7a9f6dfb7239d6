//! SASL over SMTP (RFC 4954): PLAIN (RFC 4616) and LOGIN. Secrets go to the wire and nowhere else.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    AuthMechanism, Credentials, Extensions, Phase, RelayFault, Timeouts,
    connect::{ask, fault},
    mask::Mask,
    turn::quote,
    wire::Wire,
};

/// The longest AUTH command with an initial response (RFC 4954 §4: the usual limit of a command line).
const MAX_LINE: usize = 500;

/// Logs in.
pub(crate) async fn authenticate(
    wire: &mut Wire,
    credentials: &Credentials,
    offered: &Extensions,
    timeouts: &Timeouts,
) -> Result<(), RelayFault> {
    let Credentials {
        username, secret, ..
    } = credentials;
    if username.contains('\0') || secret.contains('\0') {
        return Err(fault(
            Phase::Auth,
            None,
            "the credentials hold a NUL".to_owned(),
        ));
    }
    wire.set_mask(Mask::new(credentials));
    let (first, mut answers) = match choose(credentials.mechanism, offered)? {
        AuthMechanism::Login => {
            let answers = vec![STANDARD.encode(username), STANDARD.encode(secret)];
            ("AUTH LOGIN".to_owned(), answers)
        }
        AuthMechanism::Auto | AuthMechanism::Plain => {
            let response = STANDARD.encode(format!("\0{username}\0{secret}"));
            let whole = format!("AUTH PLAIN {response}");
            if whole.len() > MAX_LINE {
                ("AUTH PLAIN".to_owned(), vec![response])
            } else {
                (whole, vec![])
            }
        }
    };
    answers.reverse();
    let mut reply = ask(wire, Phase::Auth, &first, timeouts.command, "AUTH").await?;
    while reply.code == 334
        && let Some(answer) = answers.pop()
    {
        reply = ask(wire, Phase::Auth, &answer, timeouts.command, "AUTH").await?;
    }
    if reply.code / 100 == 2 {
        return Ok(());
    }
    let detail = format!("the relay refused to authenticate: {}", quote(&reply));
    Err(fault(Phase::Auth, Some(reply), detail))
}

/// PLAIN or LOGIN, as asked for and offered.
fn choose(wanted: AuthMechanism, offered: &Extensions) -> Result<AuthMechanism, RelayFault> {
    let offers = |name: &str| offered.auth.iter().any(|mechanism| mechanism == name);
    let may = |mechanism| wanted == AuthMechanism::Auto || wanted == mechanism;
    if may(AuthMechanism::Plain) && offers("PLAIN") {
        return Ok(AuthMechanism::Plain);
    }
    if may(AuthMechanism::Login) && offers("LOGIN") {
        return Ok(AuthMechanism::Login);
    }
    let wanted = match wanted {
        AuthMechanism::Auto => "PLAIN or LOGIN",
        AuthMechanism::Plain => "PLAIN",
        AuthMechanism::Login => "LOGIN",
    };
    let detail = if offered.auth.is_empty() {
        format!("the relay does not offer AUTH, {wanted} is needed")
    } else {
        format!(
            "the relay offers AUTH {}, {wanted} is needed",
            offered.auth.join(" ")
        )
    };
    Err(fault(Phase::Auth, None, detail))
}
