//! What is asked about a message's delivery (RFC 3461): the field `dsn` of the JSON form, and of the canonical content.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    content::Members,
    error::{Invalid, quoted},
    fields,
};

/// The longest `ENVID`, as it stands in the command (RFC 3461 §4.4).
const MAX_ENVELOPE_ID: usize = 100;

const MEMBERS: &str = "notify, return and envelope_id";

/// What mail libraries and the RFC call the members.
const ALIASES: &[(&str, &str)] = &[
    ("id", "envelope_id"),
    ("envid", "envelope_id"),
    ("ret", "return"),
];

/// What is to be reported about each recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DsnNotify {
    /// Nothing; stands alone.
    Never,
    /// That it was delivered.
    Success,
    /// That it could not be.
    Failure,
    /// That it takes longer than usual.
    Delay,
}

/// How much of the message a report of failure carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DsnReturn {
    /// All of it.
    Full,
    /// Its headers.
    Headers,
}

/// What is asked; by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dsn {
    /// What is to be reported, each once; empty: what the relay always reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<DsnNotify>,
    /// How much of the message a report carries.
    #[serde(default, rename = "return", skip_serializing_if = "Option::is_none")]
    pub ret: Option<DsnReturn>,
    /// The name of the envelope, which reports repeat: printable ASCII without spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope_id: Option<String>,
}

impl Dsn {
    /// Whether it is as [`read`] leaves it.
    pub(crate) fn is_canonical(&self) -> bool {
        (self.notify.len() < 2 || !self.notify.contains(&DsnNotify::Never))
            && self.envelope_id.as_deref().is_none_or(is_envelope_id)
    }
}

/// Reads the field as given. `None`: nothing is asked.
pub(crate) fn read(value: &RawValue) -> Result<Option<Dsn>, Invalid> {
    let members: Members<'_, &RawValue> = serde_json::from_str(fields::object("dsn", value)?.get())
        .map_err(|_| Invalid::bad("dsn", "\"dsn\" must be an object"))?;
    let mut dsn = Dsn::default();
    for (name, value) in &members.0 {
        match &**name {
            "notify" | "return" | "envelope_id" if value.get() == "null" => {}
            "notify" => dsn.notify = notify(value)?,
            "return" => dsn.ret = Some(ret(value)?),
            "envelope_id" => dsn.envelope_id = Some(envelope_id(value)?),
            _ => return Err(fields::unknown_member("dsn", name, MEMBERS, ALIASES)),
        }
    }
    Ok((dsn != Dsn::default()).then_some(dsn))
}

fn notify(value: &RawValue) -> Result<Vec<DsnNotify>, Invalid> {
    const FIELD: &str = "dsn.notify";
    const HINT: &str = "It is \"never\" alone, or any of \"success\", \"failure\" and \"delay\".";
    let mut all = Vec::new();
    for text in fields::list(FIELD, value)? {
        all.push(match text.to_ascii_lowercase().as_str() {
            "never" => DsnNotify::Never,
            "success" => DsnNotify::Success,
            "failure" => DsnNotify::Failure,
            "delay" => DsnNotify::Delay,
            _ => {
                let message = format!("\"{FIELD}\" cannot be {}", quoted(&text));
                return Err(Invalid::bad(FIELD, message).with_hint(HINT));
            }
        });
    }
    all.sort_unstable();
    all.dedup();
    let message = match *all {
        [] => "\"dsn.notify\" is empty",
        [DsnNotify::Never, _, ..] => "\"dsn.notify\" says \"never\" beside others",
        _ => return Ok(all),
    };
    Err(Invalid::bad(FIELD, message).with_hint(HINT))
}

fn ret(value: &RawValue) -> Result<DsnReturn, Invalid> {
    const FIELD: &str = "dsn.return";
    let text = fields::string(FIELD, value)?;
    match text.to_ascii_lowercase().as_str() {
        "full" => Ok(DsnReturn::Full),
        "headers" => Ok(DsnReturn::Headers),
        _ => {
            let message = format!("\"{FIELD}\" cannot be {}", quoted(&text));
            Err(Invalid::bad(FIELD, message).with_hint("It is \"full\" or \"headers\"."))
        }
    }
}

fn envelope_id(value: &RawValue) -> Result<String, Invalid> {
    const FIELD: &str = "dsn.envelope_id";
    let text = fields::string(FIELD, value)?;
    if is_envelope_id(&text) {
        return Ok(text.0.into_owned());
    }
    let message = format!(
        "invalid envelope identifier in \"{FIELD}\": {}",
        quoted(&text)
    );
    Err(Invalid::bad(FIELD, message).with_hint(
        "It consists of 1 to 100 printable ASCII characters without spaces; \"+\" and \"=\" count as three each.",
    ))
}

/// Narrower than RFC 3461 §4.4, which allows spaces: those are more often a mistake.
fn is_envelope_id(text: &str) -> bool {
    let encoded = text.len() + 2 * text.matches(['+', '=']).count();
    (1..=MAX_ENVELOPE_ID).contains(&encoded) && text.bytes().all(|b| b.is_ascii_graphic())
}
