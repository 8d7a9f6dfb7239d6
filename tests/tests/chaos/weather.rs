//! A relay that is well at times.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgmq_mail_tests::{Action, Event, Phase, Sink};

use crate::ledger::Ledger;
use pgmq_mail_tests::Dice;

const PHASES: &[Phase] = &[
    Phase::Connect,
    Phase::Ehlo,
    Phase::Mail,
    Phase::Rcpt,
    Phase::Data,
    Phase::Body,
    Phase::Dot,
];

/// What the relay does, for how many in a hundred of its answers in a phase.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    phase: Phase,
    trouble: Trouble,
    chance: u64,
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Drop,
    Silence,
    Later,
    Never,
    AcceptAndDrop,
    AcceptSilently,
    Slow,
    Close421,
}

const TROUBLES: &[Trouble] = &[
    Trouble::Drop,
    Trouble::Silence,
    Trouble::Later,
    Trouble::Never,
    Trouble::AcceptAndDrop,
    Trouble::AcceptSilently,
    Trouble::Slow,
    Trouble::Close421,
];

impl Weather {
    pub fn random(dice: &mut Dice) -> Self {
        Self {
            phase: *dice.pick(PHASES),
            trouble: *dice.pick(TROUBLES),
            chance: *dice.pick(&[2, 10, 50, 100]),
        }
    }
}

/// The relay: a sink that can be killed, and comes back on the same port.
pub struct Relay {
    port: u16,
    sink: Option<Sink>,
    weather: Arc<Mutex<Option<Weather>>>,
    rolls: Arc<AtomicU64>,
    ledger: Arc<Ledger>,
}

impl Relay {
    pub fn new(ledger: Arc<Ledger>) -> Self {
        let mut relay = Self {
            port: 0,
            sink: None,
            weather: Arc::default(),
            rolls: Arc::default(),
            ledger,
        };
        relay.start();
        relay
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets it run, if it does not.
    pub fn start(&mut self) {
        if self.sink.is_some() {
            return;
        }
        let weather = Arc::clone(&self.weather);
        let rolls = Arc::clone(&self.rolls);
        let script = move |event: &Event<'_>| {
            let now = *weather.lock().unwrap_or_else(PoisonError::into_inner);
            let hit = now.filter(|now| {
                let mut dice = Dice::new(rolls.fetch_add(1, Ordering::Relaxed));
                now.phase == event.phase && dice.percent(now.chance)
            });
            hit.map_or(Action::Accept, |now| action(now.trouble, event.phase))
        };
        let sink = Sink::builder().port(self.port).script(script).start();
        self.port = sink.port();
        self.sink = Some(sink);
    }

    /// Ends it, with all its connections, in the middle of whatever it does.
    pub fn kill(&mut self) {
        self.collect();
        let Some(sink) = self.sink.take() else { return };
        sink.drop_connections();
        // What came in while it was ending is read from what is left of it.
        let rest = sink.stop();
        self.note(rest);
    }

    pub fn weather(&self, weather: Option<Weather>) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
        if let (None, Some(sink)) = (weather, &self.sink) {
            // Those that fell silent stay so.
            sink.drop_connections();
        }
    }

    /// Writes down what has come since the last time.
    pub fn collect(&self) {
        if let Some(sink) = &self.sink {
            let mails = sink.take();
            self.note(mails);
        }
    }

    fn note(&self, mails: Vec<pgmq_mail_tests::Mail>) {
        for mail in mails {
            let name = mail.header("Subject").unwrap_or_default();
            self.ledger.arrived(name, mail.at);
        }
    }
}

fn action(trouble: Trouble, phase: Phase) -> Action {
    let dot = phase == Phase::Dot;
    match trouble {
        Trouble::Drop => Action::Drop,
        Trouble::Silence => Action::Silence,
        Trouble::Later => Action::reply("451 4.3.0 Not now"),
        Trouble::Never => Action::reply("550 5.7.1 No"),
        Trouble::AcceptAndDrop if dot => Action::AcceptAndDrop,
        Trouble::AcceptSilently if dot => Action::AcceptSilently.then(Action::Silence),
        Trouble::Close421 => Action::ReplyAndDrop("421 4.3.2 Closing".to_owned()),
        Trouble::Slow | Trouble::AcceptAndDrop | Trouble::AcceptSilently => {
            Action::Accept.after(Duration::from_millis(30))
        }
    }
}
