//! What a server says it can do (RFC 5321 §4.1.1.1). Pure.

/// At most so many mechanisms are remembered.
const MAX_MECHANISMS: usize = 64;

/// The extensions a server offered in its reply to EHLO; all absent after HELO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a keyword of its own"
)]
pub struct Extensions {
    /// Several commands may go out in one write (RFC 2920).
    pub pipelining: bool,
    /// MAIL takes SIZE= (RFC 1870).
    pub size: bool,
    /// The largest message accepted, in octets; `None` where the server names none.
    pub size_limit: Option<u64>,
    /// Octets beyond ASCII in the body (RFC 6152).
    pub eight_bit_mime: bool,
    /// Addresses and headers in UTF-8 (RFC 6531).
    pub smtputf8: bool,
    /// Replies carry enhanced codes (RFC 2034).
    pub enhanced_status_codes: bool,
    /// Delivery reports can be asked for (RFC 3461).
    pub dsn: bool,
    /// TLS may be started (RFC 3207).
    pub starttls: bool,
    /// SASL mechanisms in upper case, in the server's order (RFC 4954).
    pub auth: Vec<String>,
}

impl Extensions {
    /// Reads the text of a 250 reply to EHLO: its first line is the greeting, each further line one
    /// keyword, in any case, and its parameters. `AUTH=LOGIN`, as old servers write it, is understood. Of
    /// several sizes the smallest counts; what is no size names no limit.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines().skip(1) {
            let mut words = line
                .split(|c: char| c.is_ascii_whitespace() || c == '=')
                .filter(|word| !word.is_empty());
            let Some(keyword) = words.next() else {
                continue;
            };
            match keyword.to_ascii_uppercase().as_str() {
                "PIPELINING" => found.pipelining = true,
                "SIZE" => {
                    found.size = true;
                    let limit = words.next().and_then(size).into_iter();
                    found.size_limit = limit.chain(found.size_limit).min();
                }
                "8BITMIME" => found.eight_bit_mime = true,
                "SMTPUTF8" => found.smtputf8 = true,
                "ENHANCEDSTATUSCODES" => found.enhanced_status_codes = true,
                "DSN" => found.dsn = true,
                "STARTTLS" => found.starttls = true,
                "AUTH" => {
                    for mechanism in words.map(str::to_ascii_uppercase) {
                        let room = found.auth.len() < MAX_MECHANISMS;
                        if room && !found.auth.contains(&mechanism) {
                            found.auth.push(mechanism);
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// A limit in octets; zero is none (RFC 1870 §3).
fn size(word: &str) -> Option<u64> {
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    word.parse().ok().filter(|&n| digits && n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_known_in_any_case_and_unknown_ones_ignored() {
        let found = Extensions::parse(
            "mx greets you\npipelining\nSize 1000\n8bitmime\nsmtpUTF8\nEnhancedStatusCodes\ndsn\n\
             starttls\nauth plain Login\nAUTH=LOGIN CRAM-MD5\nCHUNKING\n\nX-FOO bar",
        );
        let all = Extensions {
            pipelining: true,
            size: true,
            size_limit: Some(1000),
            eight_bit_mime: true,
            smtputf8: true,
            enhanced_status_codes: true,
            dsn: true,
            starttls: true,
            auth: ["PLAIN", "LOGIN", "CRAM-MD5"].map(str::to_owned).to_vec(),
        };
        assert_eq!(found, all);
    }

    #[test]
    fn a_size_of_zero_or_none_is_no_limit() {
        let huge = format!("x\nSIZE {}", "9".repeat(40));
        for text in [
            "x\nSIZE",
            "x\nSIZE 0",
            "x\nSIZE many",
            "x\nSIZE -5",
            "x\nSIZE +5",
            "x\nSIZE 12kB",
            "x\nSIZE \u{fffd}",
            &huge,
        ] {
            let found = Extensions::parse(text);
            assert!(found.size && found.size_limit.is_none(), "{text}");
        }
        assert_eq!(Extensions::parse("x\nSIZE=77").size_limit, Some(77));
    }

    #[test]
    fn lines_that_come_twice_add_up_and_the_smallest_size_counts() {
        let found =
            Extensions::parse("x\nSIZE 20\nAUTH PLAIN\nSIZE 10\nSIZE\nAUTH login PLAIN\nSIZE 30");
        assert_eq!(found.size_limit, Some(10));
        assert_eq!(found.auth, ["PLAIN", "LOGIN"]);
    }

    #[test]
    fn odd_and_over_long_lines_are_passed_over() {
        let long = "A".repeat(60_000);
        let mechanisms: Vec<String> = (0..10_000).map(|n| format!("M{n}")).collect();
        let text = format!(
            "x\n{long}\n\tDSN \n=\n==STARTTLS\nPIPELINING-ISH\n8BITMIME\r\n SIZE  7 8\nAUTH {}",
            mechanisms.join(" ")
        );
        let found = Extensions::parse(&text);
        assert!(found.dsn && found.starttls && found.eight_bit_mime && !found.pipelining);
        assert_eq!(found.size_limit, Some(7));
        assert_eq!(found.auth, mechanisms[..MAX_MECHANISMS]);
    }

    #[test]
    fn the_greeting_line_is_not_a_keyword() {
        assert_eq!(Extensions::parse("PIPELINING"), Extensions::default());
        assert_eq!(Extensions::parse(""), Extensions::default());
    }
}
