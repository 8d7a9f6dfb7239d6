//! What a relay's words ask for beyond their code: rules as data, tried in order, the first that fits decides. Pure.

use std::time::Duration;

use mail_smtp::Reply;
use regex::{Regex, RegexBuilder};

/// No pattern may compile to more than this many octets.
const MAX_PATTERN: usize = 1 << 20;
/// The shortest time that any rule gives.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest that a text can ask for.
const LONGEST: Duration = Duration::from_hours(24);

/// What a rule does with the message that the reply is about, and with those that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The message is tried again then, whatever the first digit says.
    Retry,
    /// The relay gets no mail until then; the message goes elsewhere or waits, without an attempt counted.
    SuspendRelay,
    /// Mail for the recipient's domain waits until then; the message is tried again then.
    SuspendDomain,
    /// The message fails, whatever the first digit says.
    Fail,
    /// The message waits for a person.
    Hold,
}

/// One rule. A pattern that is not given fits everything.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name, for the record.
    pub name: String,
    /// The only relay that it is for.
    pub relay: Option<i32>,
    /// How the code begins: `4`, `45` or `451`.
    pub code: Option<String>,
    /// How the enhanced code begins: `4.7.` or `4.7.28`. A reply without one does not fit.
    pub status: Option<String>,
    /// Searched in the text; see [`pattern`].
    pub text: Option<Regex>,
    /// What to do.
    pub action: Action,
    /// For how long; `None`: as the text says, by its groups `n` (a number) and `unit` (of seconds, minutes or hours;
    /// seconds where there is none). Where it does not, the rule does not fit.
    pub duration: Option<Duration>,
}

/// Equal when they would decide the same.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        let key = |rule: &Self| {
            (
                rule.name.clone(),
                rule.relay,
                rule.code.clone(),
                rule.status.clone(),
                rule.text.as_ref().map(|text| text.as_str().to_owned()),
                rule.action,
                rule.duration,
            )
        };
        key(self) == key(other)
    }
}

/// What a rule decided about a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The rule's name.
    pub rule: String,
    /// What to do.
    pub action: Action,
    /// For how long; `None` where the action needs no time.
    pub duration: Option<Duration>,
    /// The reply said for how long, not the rule.
    pub by_reply: bool,
}

/// Compiles the pattern of a rule: a regular expression that ignores case.
///
/// # Errors
/// What is wrong with it, in words.
pub fn pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .case_insensitive(true)
        .size_limit(MAX_PATTERN)
        .build()
        .map_err(|error| error.to_string())
}

/// Whether a pattern has a group of that name.
///
/// # Errors
/// As [`pattern`].
pub fn has_group(text: &str, name: &str) -> Result<bool, String> {
    let pattern = pattern(text)?;
    Ok(pattern.capture_names().flatten().any(|group| group == name))
}

/// The first rule that fits a reply of a relay.
pub fn decide(rules: &[Rule], relay: i32, reply: &Reply) -> Option<Decision> {
    let code = reply.code.to_string();
    let status = reply
        .enhanced
        .map(|s| format!("{}.{}.{}", s.class, s.subject, s.detail));
    rules.iter().find_map(|rule| {
        let fits = rule.relay.is_none_or(|only| only == relay)
            && rule
                .code
                .as_ref()
                .is_none_or(|begin| code.starts_with(begin.as_str()))
            && rule
                .status
                .as_ref()
                .is_none_or(|begin| status.as_ref().is_some_and(|status| begins(status, begin)));
        if !fits {
            return None;
        }
        let found = match &rule.text {
            Some(text) => Some(text.captures(&reply.text)?),
            None => None,
        };
        let timed = !matches!(rule.action, Action::Fail | Action::Hold);
        let duration = match rule.duration {
            _ if !timed => None,
            Some(duration) => Some(duration),
            None => Some(asked_for(&found?)?),
        };
        Some(Decision {
            rule: rule.name.clone(),
            action: rule.action,
            duration: duration.map(|duration| duration.max(SHORTEST)),
            by_reply: timed && rule.duration.is_none(),
        })
    })
}

/// Whether an enhanced code is `begin` or goes on from it: 4.7.2 does not begin 4.7.28.
fn begins(status: &str, begin: &str) -> bool {
    status
        .strip_prefix(begin)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || begin.ends_with('.'))
}

/// The time that a text names.
fn asked_for(found: &regex::Captures<'_>) -> Option<Duration> {
    let n: u64 = found.name("n")?.as_str().parse().ok()?;
    let unit = found.name("unit").map_or("s", |unit| unit.as_str());
    let seconds = match unit.as_bytes().first().map(u8::to_ascii_lowercase) {
        Some(b'm') => 60,
        Some(b'h') => 3600,
        _ => 1,
    };
    Some(Duration::from_secs(n.saturating_mul(seconds)).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use mail_smtp::EnhancedCode;

    use super::*;

    fn reply(code: u16, status: Option<(u8, u16, u16)>, text: &str) -> Reply {
        Reply {
            code,
            enhanced: status.map(|(class, subject, detail)| EnhancedCode {
                class,
                subject,
                detail,
            }),
            text: text.to_owned(),
        }
    }

    fn rule(name: &str, action: Action) -> Rule {
        Rule {
            name: name.to_owned(),
            relay: None,
            code: None,
            status: None,
            text: None,
            action,
            duration: Some(Duration::from_mins(1)),
        }
    }

    fn decided(rules: &[Rule], reply: &Reply) -> Option<(String, Option<u64>)> {
        decide(rules, 1, reply).map(|d| (d.rule, d.duration.map(|d| d.as_secs())))
    }

    #[test]
    fn the_first_rule_whose_patterns_all_fit_decides() {
        let rules = [
            Rule {
                relay: Some(2),
                ..rule("of another relay", Action::Fail)
            },
            Rule {
                code: Some("42".into()),
                ..rule("by code", Action::Retry)
            },
            Rule {
                status: Some("4.7.2".into()),
                ..rule("by status", Action::Retry)
            },
            Rule {
                code: Some("5".into()),
                text: Some(pattern("daily .*limit").unwrap()),
                ..rule("by text", Action::SuspendRelay)
            },
            Rule {
                code: Some("5".into()),
                status: Some("5.1.".into()),
                ..rule("class", Action::Hold)
            },
        ];
        for (reply, expected) in [
            (reply(421, None, "x"), Some(("by code", Some(60)))),
            (
                reply(451, Some((4, 7, 2)), "x"),
                Some(("by status", Some(60))),
            ),
            (reply(451, Some((4, 7, 28)), "x"), None),
            (reply(451, None, "4.7.2"), None),
            (
                reply(550, None, "5.4.5\nDAILY user sending LIMIT"),
                Some(("by text", Some(60))),
            ),
            (reply(550, Some((5, 1, 9)), "x"), Some(("class", None))),
            (reply(250, None, "daily limit"), None),
        ] {
            let expected = expected.map(|(name, seconds)| (name.to_owned(), seconds));
            assert_eq!(decided(&rules, &reply), expected, "{reply:?}");
        }
    }

    #[test]
    fn a_rule_without_a_duration_takes_it_from_the_text() {
        let again = Rule {
            duration: None,
            text: Some(pattern(r"again in (?<n>\d+)\s*(?<unit>[smh]\w*)?").unwrap()),
            ..rule("again", Action::Retry)
        };
        for (text, seconds) in [
            ("Greylisted, try again in 300 seconds", Some(300)),
            ("try again in 5 Minutes", Some(300)),
            ("try again in 2h", Some(7200)),
            ("try again in 45", Some(45)),
            ("try again in 99999999999 hours", Some(86_400)),
            ("try again in 99999999999999999999999", None),
            ("try again in a while", None),
        ] {
            let rules = std::slice::from_ref(&again);
            let decided = decided(rules, &reply(450, None, text));
            assert_eq!(decided.and_then(|(_, s)| s), seconds, "{text}");
        }
    }

    #[test]
    fn a_group_is_known_by_its_name_however_it_is_written() {
        for (pattern, has) in [
            (r"in (?<n>\d+) s", true),
            (r"in (?P<n>\d+) s", true),
            (r"in \(?<n>\d+ s", false),
            (r"in [(?<n>] s", false),
            (r"(?<no>\d+)(?<unit>n)", false),
        ] {
            assert_eq!(has_group(pattern, "n"), Ok(has), "{pattern}");
        }
        assert!(has_group("(?<n>", "n").is_err());
    }

    #[test]
    fn a_pattern_that_is_none_or_too_large_is_refused() {
        assert!(pattern("(").is_err());
        assert!(pattern(r"\w{1000}{1000}").is_err());
    }
}
