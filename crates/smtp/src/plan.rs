//! What to ask a relay for one message: which recipients can be asked for at all, with which parameters,
//! in which commands. Pure; whatever stands here never reaches the wire unless it is safe there.

use std::io::Write;

use crate::{Extensions, Message, Phase, RecipientResult, Verdict};

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
pub(crate) struct Plan {
    /// Per recipient: the result, where it needs no relay to know it.
    pub(crate) results: Vec<Option<RecipientResult>>,
    /// The recipients to ask for.
    wanted: Vec<usize>,
    size: bool,
    eight_bit: bool,
    utf8: bool,
}

impl Plan {
    pub(crate) fn new(message: &Message, offered: &Extensions) -> Self {
        let ascii = message.data.is_ascii();
        let addresses = std::iter::once(&message.from).chain(&message.to);
        let utf8 = addresses.clone().any(|a| !a.is_ascii())
            || (!ascii && !headers(&message.data).is_ascii());
        let refusal = refuse_message(message, offered, ascii);
        let mut wanted = Vec::with_capacity(message.to.len());
        let results = message.to.iter().enumerate().map(|(i, address)| {
            let refused = refusal
                .clone()
                .map(|detail| (Phase::Mail, detail))
                .or_else(|| {
                    let detail = refuse_address("recipient", address, offered)?;
                    Some((Phase::Rcpt, detail))
                });
            if refused.is_none() {
                wanted.push(i);
            }
            refused.map(|(phase, detail)| RecipientResult {
                verdict: Verdict::Permanent,
                phase,
                reply: None,
                detail: Some(detail),
            })
        });
        Self {
            results: results.collect(),
            wanted,
            size: offered.size,
            eight_bit: !ascii && offered.eight_bit_mime,
            utf8: utf8 && offered.smtputf8,
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
                .map_or(Command::Data, |&i| Command::Rcpt(i)),
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
            self.write_command(self.command(next), message, out);
            next += 1;
        }
        next
    }

    fn write_command(&self, command: Command, message: &Message, out: &mut Vec<u8>) {
        match command {
            Command::Rset => out.extend_from_slice(b"RSET"),
            Command::Data => out.extend_from_slice(b"DATA"),
            Command::Rcpt(i) => {
                out.extend_from_slice(b"RCPT TO:<");
                out.extend_from_slice(message.to[i].as_bytes());
                out.push(b'>');
            }
            Command::Mail => {
                out.extend_from_slice(b"MAIL FROM:<");
                out.extend_from_slice(message.from.as_bytes());
                out.push(b'>');
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
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The octets before the first empty line.
fn headers(data: &[u8]) -> &[u8] {
    let mut end = 0;
    for line in data.split_inclusive(|&b| b == b'\n') {
        if matches!(line, b"\r\n" | b"\n") {
            break;
        }
        end += line.len();
    }
    &data[..end]
}

/// Why no recipient of this message can be asked for.
fn refuse_message(message: &Message, offered: &Extensions, ascii: bool) -> Option<String> {
    let size = message.data.len() as u64;
    if let Some(limit) = offered.size_limit.filter(|&limit| limit < size) {
        return Some(format!(
            "message is {size} bytes, the relay accepts {limit}"
        ));
    }
    if !ascii && !offered.eight_bit_mime {
        let detail = "message holds bytes beyond ASCII, and the relay does not offer 8BITMIME";
        return Some(detail.to_owned());
    }
    if message.from.is_empty() {
        return None;
    }
    refuse_address("sender", &message.from, offered)
}

/// Why an address cannot be sent to this relay, or to any.
fn refuse_address(role: &str, address: &str, offered: &Extensions) -> Option<String> {
    if address.is_empty() {
        Some(format!("{role} address is empty"))
    } else if address.contains(|c: char| c.is_control() || matches!(c, '<' | '>')) {
        Some(format!(
            "{role} address holds a control character or an angle bracket"
        ))
    } else if !address.is_ascii() && !offered.smtputf8 {
        Some(format!(
            "{role} address is not ASCII, and the relay does not offer SMTPUTF8"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(from: &str, to: &[&str], data: &str) -> Message {
        Message {
            from: from.into(),
            to: to.iter().map(|&a| a.to_owned()).collect(),
            data: data.as_bytes().to_vec().into(),
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
            assert_eq!(plan.wanted, [0]);
            let result = plan.results[1].clone().unwrap();
            assert_eq!(
                (result.verdict, result.phase),
                (Verdict::Permanent, Phase::Rcpt)
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
                "message is 11 bytes, the relay accepts 10",
            ),
            ("", ["a@b", "c@d"], "é", [true, true], "8BITMIME"),
            (
                "é@b",
                ["a@b", "c@d"],
                "x",
                [true, true],
                "sender address is not ASCII",
            ),
            (
                "",
                ["a@b", "é@d"],
                "x",
                [false, true],
                "recipient address is not ASCII",
            ),
        ] {
            let plan = Plan::new(&message(from, &to, data), &old);
            assert_eq!(
                plan.results.iter().map(Option::is_some).collect::<Vec<_>>(),
                refused
            );
            let last = plan.results[1].clone().and_then(|r| r.detail).unwrap();
            assert!(last.contains(detail), "{last}");
        }
    }
}
