//! What to report about a message's delivery (RFC 3461), as parameters of MAIL and RCPT. Pure; whatever is
//! written here is printable ASCII without spaces.

use std::fmt::Write;

/// The longest ENVID written, in its encoded form (RFC 3461 §4.4).
const MAX_ENVID: usize = 100;
/// The longest ORCPT written (RFC 3461 §4.2); a longer one is left out.
const MAX_ORCPT: usize = 500;

/// How much of the message a report of failure carries (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its headers.
    Headers,
}

/// What is to be reported about each recipient (RFC 3461 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Notify {
    /// Nothing is asked: the relay does what it always does.
    #[default]
    Unasked,
    /// Nothing.
    Never,
    /// Any of these; none is the same as [`Notify::Unasked`].
    On {
        /// That it was delivered.
        success: bool,
        /// That it could not be.
        failure: bool,
        /// That it takes longer than usual.
        delay: bool,
    },
}

/// What to ask of a relay that offers DSN; by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dsn {
    /// How much of the message a report of failure carries.
    pub ret: Option<Ret>,
    /// The name of this envelope, which reports repeat. What is not printable ASCII is replaced by `?`, and
    /// what its encoded form holds beyond 100 characters is left out (RFC 3461 §4.4).
    pub envid: Option<String>,
    /// What is to be reported.
    pub notify: Notify,
}

impl Notify {
    /// The parameter's value; empty: none is given.
    fn value(self) -> String {
        match self {
            Self::Unasked => String::new(),
            Self::Never => "NEVER".to_owned(),
            Self::On {
                success,
                failure,
                delay,
            } => {
                let all = [("SUCCESS", success), ("FAILURE", failure), ("DELAY", delay)];
                let asked = all
                    .iter()
                    .filter(|(_, asked)| *asked)
                    .map(|(name, _)| *name);
                asked.collect::<Vec<_>>().join(",")
            }
        }
    }
}

impl Dsn {
    /// Whether anything is asked for at all.
    pub fn is_asked(&self) -> bool {
        self.ret.is_some()
            || self.envid.as_ref().is_some_and(|id| !id.is_empty())
            || !self.notify.value().is_empty()
    }

    /// The parameters of MAIL, each with a space before it (RFC 3461 §4.3 and §4.4).
    pub(crate) fn write_mail(&self, out: &mut Vec<u8>) {
        match self.ret {
            Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
            Some(Ret::Headers) => out.extend_from_slice(b" RET=HDRS"),
            None => {}
        }
        if let Some(id) = self.envid.as_ref().filter(|id| !id.is_empty()) {
            out.extend_from_slice(b" ENVID=");
            out.extend_from_slice(envid(id).as_bytes());
        }
    }

    /// The parameters of RCPT for `address` (RFC 3461 §4.1 and §4.2, RFC 6533 §3), if anything is asked for.
    pub(crate) fn write_rcpt(&self, address: &str, out: &mut Vec<u8>) {
        if !self.is_asked() {
            return;
        }
        let notify = self.notify.value();
        if !notify.is_empty() {
            out.extend_from_slice(b" NOTIFY=");
            out.extend_from_slice(notify.as_bytes());
        }
        let original = if address.is_ascii() {
            format!("rfc822;{}", xtext(address))
        } else {
            format!("utf-8;{}", unitext(address))
        };
        if original.len() <= MAX_ORCPT {
            out.extend_from_slice(b" ORCPT=");
            out.extend_from_slice(original.as_bytes());
        }
    }
}

/// `text` in xtext (RFC 3461 §4): octets other than `!` to `~`, and `+` and `=`, become `+` and two
/// hexadecimal digits.
pub fn xtext(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            b'+' | b'=' => push_hex(&mut out, octet),
            b'!'..=b'~' => out.push(char::from(octet)),
            _ => push_hex(&mut out, octet),
        }
    }
    out
}

fn push_hex(out: &mut String, octet: u8) {
    // Writing to a String cannot fail.
    let _ = write!(out, "+{octet:02X}");
}

/// An address in `utf-8-addr-xtext` (RFC 6533 §3), which is ASCII and needs no SMTPUTF8.
fn unitext(address: &str) -> String {
    let mut out = String::with_capacity(address.len() * 2);
    for c in address.chars() {
        if c.is_ascii_graphic() && !matches!(c, '+' | '=' | '\\') {
            out.push(c);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{{{:02X}}}", u32::from(c));
        }
    }
    out
}

/// An envelope's name as every relay takes it.
fn envid(id: &str) -> String {
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    let mut out = String::new();
    for c in id.chars().map(printable) {
        let encoded = xtext(c.encode_utf8(&mut [0; 4]));
        if out.len() + encoded.len() > MAX_ENVID {
            break;
        }
        out.push_str(&encoded);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mail(dsn: &Dsn) -> String {
        let mut out = vec![];
        dsn.write_mail(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn rcpt(dsn: &Dsn, address: &str) -> String {
        let mut out = vec![];
        dsn.write_rcpt(address, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_asked_writes_nothing() {
        let nothing = Notify::On {
            success: false,
            failure: false,
            delay: false,
        };
        for notify in [Notify::Unasked, nothing] {
            let dsn = Dsn {
                notify,
                envid: Some(String::new()),
                ret: None,
            };
            assert!(!dsn.is_asked());
            assert_eq!(mail(&dsn) + &rcpt(&dsn, "a@b"), "");
        }
    }

    #[test]
    fn what_is_asked_is_written_and_the_recipient_named() {
        let dsn = Dsn {
            ret: Some(Ret::Headers),
            envid: Some("order+7 =x".to_owned()),
            notify: Notify::On {
                success: true,
                failure: true,
                delay: false,
            },
        };
        assert_eq!(mail(&dsn), " RET=HDRS ENVID=order+2B7+20+3Dx");
        let expected = " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@c";
        assert_eq!(rcpt(&dsn, "a+b@c"), expected);
        let expected = r" NOTIFY=SUCCESS,FAILURE ORCPT=utf-8;j\x{FC}r\x{2B}g@c";
        assert_eq!(rcpt(&dsn, "jür+g@c"), expected);
        let never = Dsn {
            notify: Notify::Never,
            ..Dsn::default()
        };
        assert_eq!(mail(&never), "");
        assert_eq!(rcpt(&never, "a@b"), " NOTIFY=NEVER ORCPT=rfc822;a@b");
        let full = Dsn {
            ret: Some(Ret::Full),
            ..Dsn::default()
        };
        assert_eq!(mail(&full), " RET=FULL");
        assert_eq!(rcpt(&full, "a@b"), " ORCPT=rfc822;a@b");
        assert_eq!(rcpt(&full, &"x".repeat(600)), "");
    }

    #[test]
    fn an_envelope_name_is_cut_between_characters_and_made_printable() {
        assert_eq!(envid("a\u{0}b\r\nc é"), "a?b??c+20?");
        assert_eq!(envid(&"x".repeat(300)), "x".repeat(100));
        assert_eq!(envid(&format!("{}+", "x".repeat(98))), "x".repeat(98));
        assert_eq!(envid(&"+".repeat(50)), "+2B".repeat(33));
    }

    proptest! {
        #[test]
        fn xtext_is_printable_and_reads_back(text in any::<String>()) {
            let written = xtext(&text);
            prop_assert!(written.bytes().all(|b| b.is_ascii_graphic() && b != b'='));
            let (mut read, mut rest) = (vec![], written.as_str());
            while let Some(c) = rest.chars().next() {
                if c == '+' {
                    read.push(u8::from_str_radix(&rest[1..3], 16).unwrap());
                    rest = &rest[3..];
                } else {
                    read.push(c as u8);
                    rest = &rest[1..];
                }
            }
            prop_assert_eq!(read, text.as_bytes());
        }

        #[test]
        fn nothing_written_could_end_a_command(id in any::<String>(), address in any::<String>()) {
            let dsn = Dsn { ret: None, envid: Some(id), notify: Notify::Never };
            for part in [mail(&dsn), rcpt(&dsn, &address)] {
                prop_assert!(part.bytes().all(|b| (b' '..=b'~').contains(&b)));
                prop_assert_eq!(part.matches(' ').count(), part.matches(" ENVID=").count()
                    + part.matches(" NOTIFY=").count() + part.matches(" ORCPT=").count());
            }
        }
    }
}
