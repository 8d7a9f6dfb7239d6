//! Which relay a message goes to: by the domains that relays serve, by tier, by weight. No I/O.
//!
//! A relay that names sender or recipient domains serves only these; and a message for which there are such relays goes
//! to no other. Of the tiers the lowest in which a relay is up takes the mail; within it, relays share by weight.

use std::rc::Rc;

use crate::{RelayConfig, relay::Relay};

impl RelayConfig {
    /// Whether a relay serves messages between these domains (in lower case). A domain is named as it is, or with all
    /// those below it as `.example.com`.
    pub fn serves(&self, sender: &str, recipient: &str) -> bool {
        fits(&self.sender_domains, sender) && fits(&self.recipient_domains, recipient)
    }

    /// How much it names of what it serves.
    fn precision(&self) -> usize {
        usize::from(!self.sender_domains.is_empty())
            + usize::from(!self.recipient_domains.is_empty())
    }
}

fn fits(named: &[String], domain: &str) -> bool {
    named.is_empty()
        || named.iter().any(|name| match name.strip_prefix('.') {
            Some(parent) => {
                domain == parent
                    || domain
                        .strip_suffix(parent)
                        .is_some_and(|rest| rest.ends_with('.'))
            }
            None => domain == name,
        })
}

/// Of `relays`, those that a message between these domains may take, by tier.
pub(crate) fn candidates(relays: &[Rc<Relay>], sender: &str, recipient: &str) -> Vec<Rc<Relay>> {
    let serving = relays
        .iter()
        .filter(|relay| relay.config.serves(sender, recipient));
    let precision = serving.clone().map(|relay| relay.config.precision()).max();
    let mut chosen: Vec<_> = serving
        .filter(|relay| Some(relay.config.precision()) == precision)
        .map(Rc::clone)
        .collect();
    chosen.sort_by_key(|relay| relay.config.tier);
    chosen
}

/// Of relays of one tier, the one whose turn it is: smooth weighted round-robin. Those of weight 0 only among themselves.
pub(crate) fn choose<'a>(relays: &[&'a Rc<Relay>]) -> Option<&'a Rc<Relay>> {
    let total: i64 = relays
        .iter()
        .map(|relay| i64::from(relay.config.weight))
        .sum();
    let mut best: Option<&Rc<Relay>> = None;
    for relay in relays {
        let weight = i64::from(relay.config.weight);
        if weight == 0 && total > 0 {
            continue;
        }
        relay.credit.set(relay.credit.get() + weight.max(1));
        if best.is_none_or(|best| relay.credit.get() > best.credit.get()) {
            best = Some(relay);
        }
    }
    let chosen = best?;
    let spent = if total > 0 {
        total
    } else {
        relays.len() as i64
    };
    chosen.credit.set(chosen.credit.get() - spent);
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use mail_smtp::Endpoint;

    use super::*;
    use crate::health::Health;

    fn relay(
        name: &str,
        tier: i32,
        weight: u32,
        senders: &[&str],
        recipients: &[&str],
    ) -> Rc<Relay> {
        let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let config = RelayConfig {
            tier,
            weight,
            sender_domains: own(senders),
            recipient_domains: own(recipients),
            ..RelayConfig::new(1, name, Endpoint::default())
        };
        Relay::new(config, Health::new(1))
    }

    fn names(relays: &[Rc<Relay>]) -> Vec<&str> {
        relays
            .iter()
            .map(|relay| relay.config.name.as_str())
            .collect()
    }

    #[test]
    fn relays_that_name_a_domain_go_before_those_that_serve_all() {
        let relays = [
            relay("second", 2, 1, &[], &[]),
            relay("first", 1, 1, &[], &[]),
            relay("from-a", 1, 1, &["a.test"], &[]),
            relay("to-b", 1, 1, &[], &["b.test", ".sub.test"]),
            relay("from-a-to-b", 3, 1, &["a.test"], &["b.test"]),
        ];
        for (sender, recipient, expected) in [
            ("x.test", "x.test", &["first", "second"][..]),
            ("a.test", "x.test", &["from-a"]),
            ("x.test", "b.test", &["to-b"]),
            ("a.test", "b.test", &["from-a-to-b"]),
            ("x.test", "sub.test", &["to-b"]),
            ("x.test", "deep.sub.test", &["to-b"]),
            ("x.test", "notsub.test", &["first", "second"]),
        ] {
            let found = candidates(&relays, sender, recipient);
            assert_eq!(names(&found), expected, "{sender} to {recipient}");
        }
    }

    #[test]
    fn weights_share_a_tier_evenly_in_time() {
        let relays = [
            relay("a", 1, 3, &[], &[]),
            relay("b", 1, 1, &[], &[]),
            relay("c", 1, 0, &[], &[]),
        ];
        let all: Vec<&Rc<Relay>> = relays.iter().collect();
        let order: String = (0..8)
            .map(|_| choose(&all).unwrap().config.name.clone())
            .collect();
        assert_eq!(order, "aabaaaba");
        assert_eq!(choose(&all[2..]).unwrap().config.name, "c");
        assert!(choose(&[]).is_none());
    }
}
