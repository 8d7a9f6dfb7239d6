//! What people are told of relays and domains while it lasts: the log, and the rows behind the views.

use std::time::Duration;

use mail_relay::Report;

use super::{delivery::Worker, store};
use crate::pg::Failure;

/// A pause that a rule asked for is no news if it is shorter: providers throttle like that all day.
const WORTH_TELLING: Duration = Duration::from_mins(1);
/// So many characters of a reply are kept.
const MOST_WORDS: usize = 2000;

impl Worker {
    fn relay_name(&self, id: i32) -> String {
        let name = self.configuration.relays.get(&id);
        name.map_or_else(|| format!("number {id}"), |name| format!("\"{name}\""))
    }

    /// Writes to the log what has begun or ended with a relay, and not again what is just going on. Before the worker
    /// takes note of it.
    pub(super) fn tell(&mut self, report: &Report) {
        match report {
            Report::RelayDown {
                relay, pause, rule, ..
            } => {
                let by_rule = rule.is_some();
                let known = self.probing.contains(relay) && self.told.get(relay) == Some(&by_rule);
                if known || (by_rule && *pause < WORTH_TELLING) {
                    return;
                }
                self.told.insert(*relay, by_rule);
                let name = self.relay_name(*relay);
                match rule {
                    None => pgrx::log!("pgmq_mail: relay {name} is down, see mail.relay_stats"),
                    Some(rule) => pgrx::log!(
                        "pgmq_mail: relay {name} is paused for {} s by reply rule \"{rule}\", see mail.relay_stats",
                        pause.as_secs()
                    ),
                }
            }
            Report::RelaySilent { relay, silence } => {
                self.told.insert(*relay, false);
                pgrx::log!(
                    "pgmq_mail: relay {} has said nothing for {} s",
                    self.relay_name(*relay),
                    silence.as_secs()
                );
            }
            Report::RelayUp { relay } if self.told.remove(relay).is_some() => {
                pgrx::log!("pgmq_mail: relay {} is up again", self.relay_name(*relay));
            }
            _ => {}
        }
    }

    /// Notes that mail for a domain waits.
    pub(super) fn write_paused_domain(&self, report: &Report) -> Result<(), Failure> {
        let Report::DomainPaused {
            domain,
            pause,
            relay,
            rule,
            words,
        } = report
        else {
            return Ok(());
        };
        let name = self.configuration.relays.get(relay);
        let name = name.map_or_else(|| format!("number {relay}"), Clone::clone);
        let words: String = words.replace('\0', "?").chars().take(MOST_WORDS).collect();
        store::domain_paused(domain, pause.as_secs_f64(), &name, rule, &words)
    }
}
