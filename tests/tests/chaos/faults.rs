//! What goes wrong.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgmq_mail_tests::{Cluster, Stop, until};

use crate::arena::{Arena, CONNECTIONS, IN_FLIGHT};
use crate::weather::Weather;
use pgmq_mail_tests::Dice;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    KillWorker,
    KillBackend,
    KillPostmaster,
    KillAll,
    Immediate,
    Fast,
    EndWorker,
    KillRelay,
    BadWeather,
    LongTransaction,
    Rewrite,
    Reconfigure,
    Pause,
    Update,
}

/// Crashes twice as often as the rest.
const FAULTS: &[Fault] = &[
    Fault::KillWorker,
    Fault::KillWorker,
    Fault::KillBackend,
    Fault::KillBackend,
    Fault::KillPostmaster,
    Fault::KillPostmaster,
    Fault::KillAll,
    Fault::KillAll,
    Fault::Immediate,
    Fault::Immediate,
    Fault::Fast,
    Fault::EndWorker,
    Fault::KillRelay,
    Fault::BadWeather,
    Fault::BadWeather,
    Fault::BadWeather,
    Fault::BadWeather,
    Fault::LongTransaction,
    Fault::Rewrite,
    Fault::Reconfigure,
    Fault::Pause,
    Fault::Update,
    Fault::Update,
];

impl Fault {
    pub fn random(dice: &mut Dice) -> Self {
        *dice.pick(FAULTS)
    }

    /// Whether everything in the server's memory is gone after it.
    pub fn is_crash(self) -> bool {
        matches!(
            self,
            Self::KillWorker
                | Self::KillBackend
                | Self::KillPostmaster
                | Self::KillAll
                | Self::Immediate
        )
    }

    pub fn ends_worker(self) -> bool {
        self.is_crash() || matches!(self, Self::Fast | Self::EndWorker)
    }

    pub fn strike(self, arena: &mut Arena, dice: &mut Dice) {
        match self {
            Self::KillWorker => kill_one(arena, "SELECT pid FROM mail.workers"),
            Self::KillBackend => kill_one(
                arena,
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'producer' ORDER BY random() LIMIT 1",
            ),
            Self::KillPostmaster => arena.cluster.restart(Stop::Orphan),
            Self::KillAll => arena.cluster.restart(Stop::Crash),
            Self::Immediate => arena.cluster.restart(Stop::Immediate),
            Self::Fast => arena.cluster.restart(Stop::Fast),
            Self::EndWorker => {
                arena.tell("SELECT pg_terminate_backend(pid) FROM mail.workers");
            }
            Self::KillRelay => {
                arena.relay.kill();
                pause(dice, 500);
                arena.relay.start();
            }
            Self::BadWeather => arena.relay.weather(Some(Weather::random(dice))),
            Self::LongTransaction => {
                let begin =
                    "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM mail.pending";
                arena.snapshot = arena
                    .try_connect()
                    .and_then(|mut client| client.batch_execute(begin).ok().map(|()| client));
            }
            Self::Rewrite => {
                let table =
                    dice.pick(&["mail.pending", "mail.lease", "mail.event", "mail.message"]);
                let how = dice.pick(&[
                    "VACUUM FULL",
                    "REINDEX TABLE",
                    "VACUUM (FREEZE)",
                    "TRUNCATE",
                ]);
                // Before 0.2.0 it was not refused, and lost what it was told to.
                if *how != "TRUNCATE" || arena.is_updated() {
                    arena.tell(&format!("{how} {table}"));
                }
            }
            Self::Reconfigure => {
                let connections = 1 + dice.below(CONNECTIONS);
                let concurrency = 1 + dice.below(IN_FLIGHT);
                arena.tell(&format!(
                    "UPDATE mail.relay SET max_connections = {connections}; UPDATE mail.queue SET concurrency = {concurrency}"
                ));
            }
            Self::Update => arena.update(),
            Self::Pause => {
                arena.tell("SELECT mail.pause('again'), mail.pause('once')");
                pause(dice, 300);
                arena.tell("SELECT mail.resume('again'), mail.resume('once')");
            }
        }
    }
}

/// Lets the rest of the world go on for a random time.
pub fn pause(dice: &mut Dice, longest: u64) {
    std::thread::sleep(Duration::from_millis(dice.below(longest)));
}

/// Kills a process of the server, which then ends all others and recovers.
fn kill_one(arena: &mut Arena, which: &str) {
    let Some(mut client) = arena.try_connect() else {
        return;
    };
    let Ok(Some(row)) = client.query_opt(which, &[]) else {
        return;
    };
    let pid: i32 = row.get(0);
    if kill(Pid::from_raw(pid), Signal::SIGKILL).is_err() {
        return; // it ended by itself
    }
    until("the server ends its sessions", Cluster::PATIENCE, || {
        client.simple_query("SELECT 1").is_err()
    });
    until("the server is back", Cluster::PATIENCE, || {
        arena.cluster.try_connect("postgres").is_ok()
    });
}
