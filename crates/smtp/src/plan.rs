//! What to ask a relay for one message: which recipients can be asked for at all, with which parameters,
//! in which commands. Pure; whatever stands here never reaches the wire unless it is safe there.

use std::{borrow::Cow, io::Write};

use crate::{
    EnhancedCode, Extensions, Message, Phase, RecipientResult, Verdict,
    path::{Refusal, Role, wire_form},
};

/// At most this many commands in one write, so that their replies always fit the buffers between the two
/// sides and neither waits for the other to read (RFC 2920 §3.1).
const MAX_COMMANDS: usize = 102;
/// And at most about this many octets.
const MAX_OCTETS: usize = 32 * 1024;

/// One command of a mail transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Rset,
    Mail,
    /// The index in [`Message::to`].
    Rcpt(usize),
    Data,
}

impl Command {
    pub(crate) fn phase(self) -> Phase {
        match self {
            Self::Rset => Phase::Rset,
            Self::Mail => Phase::Mail,
            Self::Rcpt(_) => Phase::Rcpt,
            Self::Data => Phase::Data,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rset => "RSET",
            Self::Mail => "MAIL",
            Self::Rcpt(_) => "RCPT",
            Self::Data => "DATA",
        }
    }
}

/// The commands for one message, numbered from 0 (RSET) and 1 (MAIL) to [`Plan::data`].
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a parameter of its own"
)]
pub(crate) struct Plan {
    /// Per recipient: the result, where it needs no relay to know it.
    pub(crate) results: Vec<Option<RecipientResult>>,
    /// The reverse path, where it is not written as it is.
    from: Option<String>,
    /// The recipients to ask for, and their forward paths where they are not written as they are.
    wanted: Vec<(usize, Option<String>)>,
    size: bool,
    eight_bit: bool,
    utf8: bool,
    dsn: bool,
}

impl Plan {
    pub(crate) fn new(message: &Message, offered: &Extensions) -> Self {
        let ascii = message.data.is_ascii();
        let mut utf8 = !message.data.has_ascii_header();
        let mut from = None;
        let refusal = refuse_message(message, offered, ascii).or_else(|| {
            if message.from.is_empty() {
                return None;
            }
            match wire_form(Role::Sender, &message.from, offered) {
                Ok(written) => {
                    utf8 |= !written.is_ascii();
                    from = changed(written);
                    None
                }
                Err(refusal) => Some(refusal),
            }
        });
        let mut wanted = Vec::with_capacity(message.to.len());
        let results = message.to.iter().enumerate().map(|(i, address)| {
            let written = match &refusal {
                Some(refusal) => Err((Phase::Mail, refusal.clone())),
                None => wire_form(Role::Recipient, address, offered).map_err(|r| (Phase::Rcpt, r)),
            };
            match written {
                Ok(written) => {
                    utf8 |= !written.is_ascii();
                    wanted.push((i, changed(written)));
                    None
                }
                Err((phase, Refusal { status, detail })) => Some(RecipientResult {
                    status: Some(status),
                    ..RecipientResult::unasked(Verdict::Permanent, phase, detail)
                }),
            }
        });
        Self {
            results: results.collect(),
            from,
            wanted,
            size: offered.size,
            eight_bit: !ascii && offered.eight_bit_mime,
            utf8: utf8 && offered.smtputf8,
            dsn: offered.dsn && message.dsn.is_asked(),
        }
    }

    /// Whether no recipient is left to ask for.
    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The number of the last command, DATA.
    pub(crate) fn data(&self) -> usize {
        self.wanted.len() + 2
    }

    pub(crate) fn command(&self, number: usize) -> Command {
        match number {
            0 => Command::Rset,
            1 => Command::Mail,
            n => self
                .wanted
                .get(n - 2)
                .map_or(Command::Data, |(i, _)| Command::Rcpt(*i)),
        }
    }

    /// Appends the commands from `number` on to `out`, as many as may be sent before their replies are
    /// read, and gives the number after the last.
    pub(crate) fn write_group(
        &self,
        message: &Message,
        number: usize,
        pipelining: bool,
        out: &mut Vec<u8>,
    ) -> usize {
        let limit = if pipelining { MAX_COMMANDS } else { 1 };
        let start = out.len();
        let mut next = number;
        while next <= self.data() && next - number < limit && out.len() - start < MAX_OCTETS {
            self.write_command(next, message, out);
            next += 1;
        }
        next
    }

    fn write_command(&self, number: usize, message: &Message, out: &mut Vec<u8>) {
        match self.command(number) {
            Command::Rset => out.extend_from_slice(b"RSET"),
            Command::Data => out.extend_from_slice(b"DATA"),
            Command::Rcpt(i) => {
                let (_, changed) = &self.wanted[number - 2];
                let address = changed.as_ref().unwrap_or(&message.to[i]);
                write_path(b"RCPT TO:<", address, out);
                if self.dsn {
                    message.dsn.write_rcpt(address, out);
                }
            }
            Command::Mail => {
                write_path(
                    b"MAIL FROM:<",
                    self.from.as_ref().unwrap_or(&message.from),
                    out,
                );
                if self.size {
                    // Writing to a Vec cannot fail.
                    let _ = write!(out, " SIZE={}", message.data.len());
                }
                if self.eight_bit {
                    out.extend_from_slice(b" BODY=8BITMIME");
                }
                if self.utf8 {
                    out.extend_from_slice(b" SMTPUTF8");
                }
                if self.dsn {
                    message.dsn.write_mail(out);
                }
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn write_path(command: &[u8], address: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(command);
    out.extend_from_slice(address.as_bytes());
    out.push(b'>');
}

/// What is not to be written as it stood.
fn changed(written: Cow<'_, str>) -> Option<String> {
    match written {
        Cow::Borrowed(_) => None,
        Cow::Owned(changed) => Some(changed),
    }
}

/// Why no recipient of this message can be asked for.
fn refuse_message(message: &Message, offered: &Extensions, ascii: bool) -> Option<Refusal> {
    let size = message.data.len() as u64;
    if let Some(limit) = offered.size_limit.filter(|&limit| limit < size) {
        return Some(Refusal {
            status: EnhancedCode::permanent(3, 4), // too big for the system (RFC 3463 §3.4)
            detail: format!("message is {size} bytes, the relay accepts {limit}"),
        });
    }
    if !ascii && !offered.eight_bit_mime {
        let header = !offered.smtputf8 && !message.data.has_ascii_header();
        let (status, detail) = if header {
            // UTF-8 header message cannot be transferred (RFC 6531 section 4.2)
            let detail =
                "header holds characters beyond ASCII, and the relay does not offer SMTPUTF8";
            (EnhancedCode::permanent(6, 9), detail)
        } else {
            // conversion required but not supported (RFC 3463 section 3.7)
            let detail = "message holds bytes beyond ASCII, and the relay does not offer 8BITMIME";
            (EnhancedCode::permanent(6, 3), detail)
        };
        return Some(Refusal {
            status,
            detail: detail.to_owned(),
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Notify;

    fn message(from: &str, to: &[&str], data: &str) -> Message {
        Message {
            from: from.into(),
            to: to.iter().map(|&a| a.to_owned()).collect(),
            data: data.as_bytes().to_vec().into(),
            ..Message::default()
        }
    }

    fn written(message: &Message, offered: &Extensions) -> String {
        let plan = Plan::new(message, offered);
        let mut out = vec![];
        assert_eq!(
            plan.write_group(message, 1, true, &mut out),
            plan.data() + 1
        );
        String::from_utf8(out).unwrap()
    }

    fn everything() -> Extensions {
        Extensions::parse("x\nSIZE 1000\n8BITMIME\nSMTPUTF8\nPIPELINING")
    }

    #[test]
    fn parameters_are_given_only_where_offered_and_needed() {
        let all = everything();
        let none = Extensions::default();
        for (offered, from, data, expected) in [
            (&all, "a@b", "x: y\r\n\r\nhi", "MAIL FROM:<a@b> SIZE=10\r\n"),
            (&none, "", "x: y\r\n\r\nhi", "MAIL FROM:<>\r\n"),
            (
                &all,
                "",
                "x: y\r\n\r\né",
                "MAIL FROM:<> SIZE=10 BODY=8BITMIME\r\n",
            ),
            (
                &all,
                "",
                "x: é\r\n\r\n",
                "MAIL FROM:<> SIZE=9 BODY=8BITMIME SMTPUTF8\r\n",
            ),
            (&all, "é@b", "x", "MAIL FROM:<é@b> SIZE=1 SMTPUTF8\r\n"),
        ] {
            let written = written(&message(from, &["c@d"], data), offered);
            assert_eq!(written, format!("{expected}RCPT TO:<c@d>\r\nDATA\r\n"));
        }
    }

    #[test]
    fn reports_are_asked_for_only_where_they_are_offered() {
        let mut message = message("a@b", &["c@bücher.example", "é@d"], "x");
        message.dsn.envid = Some("e 1".into());
        message.dsn.notify = Notify::Never;
        let written_to = |offered: &str| written(&message, &Extensions::parse(offered));
        let plain = "MAIL FROM:<a@b> SMTPUTF8\r\nRCPT TO:<c@xn--bcher-kva.example>\r\n\
                     RCPT TO:<é@d>\r\nDATA\r\n";
        assert_eq!(written_to("x\nSMTPUTF8"), plain);
        let asked = "MAIL FROM:<a@b> SMTPUTF8 ENVID=e+201\r\n\
                     RCPT TO:<c@xn--bcher-kva.example> NOTIFY=NEVER ORCPT=rfc822;c@xn--bcher-kva.example\r\n\
                     RCPT TO:<é@d> NOTIFY=NEVER ORCPT=utf-8;\\x{E9}@d\r\nDATA\r\n";
        assert_eq!(written_to("x\nSMTPUTF8\nDSN"), asked);
    }

    #[test]
    fn long_lists_go_out_in_groups_and_without_pipelining_one_by_one() {
        let to = vec!["c@d"; 250];
        let message = message("a@b", &to, "x");
        let plan = Plan::new(&message, &Extensions::default());
        let mut out = vec![];
        assert_eq!(plan.write_group(&message, 1, true, &mut out), 103);
        assert_eq!(plan.write_group(&message, 103, true, &mut out), 205);
        assert_eq!(plan.write_group(&message, 205, true, &mut out), 253);
        assert_eq!((plan.command(252), plan.data()), (Command::Data, 252));
        assert_eq!(plan.write_group(&message, 1, false, &mut out), 2);
    }

    #[test]
    fn addresses_that_could_say_more_than_an_address_never_reach_the_wire() {
        for address in [
            "a@b\r\nRSET",
            "a@b\n",
            "a\0@b",
            "a@b> SIZE=1",
            "<a@b",
            "",
            "a\u{85}@b",
        ] {
            let bad = message("a@b", &["ok@d", address], "x");
            let plan = Plan::new(&bad, &everything());
            assert_eq!(plan.wanted, [(0, None)]);
            let result = plan.results[1].clone().unwrap();
            assert_eq!(
                (result.verdict, result.phase, result.status),
                (
                    Verdict::Permanent,
                    Phase::Rcpt,
                    Some(EnhancedCode::permanent(1, 3))
                )
            );
            if !address.is_empty() {
                let plan = Plan::new(&message(address, &["c@d"], "x"), &everything());
                let result = plan.results[0].clone().unwrap();
                assert_eq!(
                    (result.verdict, result.phase),
                    (Verdict::Permanent, Phase::Mail)
                );
            }
        }
    }

    #[test]
    fn what_the_relay_cannot_take_is_refused_without_talking() {
        let old = Extensions::parse("x\nSIZE 10");
        for (from, to, data, refused, detail) in [
            (
                "",
                ["a@b", "c@d"],
                "12345678901",
                [true, true],
                "5.3.4 message is 11 bytes, the relay accepts 10",
            ),
            (
                "",
                ["a@b", "c@d"],
                "a: b\r\n\r\né",
                [true, true],
                "5.6.3 message holds bytes beyond ASCII",
            ),
            (
                "",
                ["a@b", "c@d"],
                "a: é",
                [true, true],
                "5.6.9 header holds characters beyond ASCII",
            ),
            (
                "é@b",
                ["a@b", "c@d"],
                "x",
                [true, true],
                "5.6.7 sender address is not ASCII",
            ),
            (
                "",
                ["a@b", "é@d"],
                "x",
                [false, true],
                "5.6.7 recipient address is not ASCII",
            ),
        ] {
            let plan = Plan::new(&message(from, &to, data), &old);
            assert_eq!(
                plan.results.iter().map(Option::is_some).collect::<Vec<_>>(),
                refused
            );
            let last = plan.results[1].clone().unwrap();
            let last = format!("{} {}", last.status.unwrap(), last.detail.unwrap());
            assert!(last.starts_with(detail), "{last}");
        }
    }
}
