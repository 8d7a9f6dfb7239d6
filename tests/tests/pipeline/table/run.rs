//! Runs a group of cases side by side and says what came out otherwise than it should.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgmq_mail_tests::{Action, Event, Phase, Sink};

use super::{Case, Mails, Mode};
use crate::{SOON, World, quoted};

/// The cases of a group that belong to this mode.
pub fn run(cases: &'static [Case], mode: Mode) {
    let mut world = World::new();
    let mut running: Vec<Running> = cases
        .iter()
        .filter(|case| case.only.is_none_or(|only| only == mode))
        .enumerate()
        .map(|(number, case)| Running::start(&mut world, number, case, mode))
        .collect();
    let deadline = Instant::now() + SOON;
    loop {
        let mut open = 0;
        for case in &mut running {
            open += usize::from(!case.goes_on(&mut world));
        }
        if open == 0 || Instant::now() > deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let complaints: Vec<String> = running
        .iter()
        .filter_map(|case| case.complaint(&mut world))
        .collect();
    assert!(
        complaints.is_empty(),
        "{mode:?}: {} of {} cases come out otherwise:\n\n{}",
        complaints.len(),
        running.len(),
        complaints.join("\n\n")
    );
}

/// A case on its way.
struct Running {
    case: &'static Case,
    sink: Sink,
    relay: String,
    /// Its messages so far.
    ids: Vec<i64>,
    seen: Arc<Mutex<usize>>,
}

impl Running {
    fn start(world: &mut World<'_>, number: usize, case: &'static Case, mode: Mode) -> Self {
        let seen = Arc::new(Mutex::new(0));
        let relay = format!("relay{number}");
        let sink = sink(case, mode, Arc::clone(&seen));
        let mut columns = vec![("max_connections", "1")];
        columns.extend(case.columns);
        world.relay(&relay, &sink.url(), &columns);
        let relays = format!("{{{relay}}}");
        let columns = [
            ("transport", "smtp"),
            ("relays", &relays),
            ("retry_base", "200 milliseconds"),
            ("retry_max", "1 second"),
        ];
        world.queue(&relay, &columns);
        if !case.queue.is_empty() {
            world.queue(&relay, case.queue);
        }
        let mut this = Self {
            case,
            sink,
            relay,
            ids: Vec::new(),
            seen,
        };
        match case.mails {
            Mails::AtOnce(count) => this.put(world, count),
            Mails::InTurn(_) | Mails::AfterClose(_) => this.put(world, 1),
        }
        this
    }

    /// Enqueues mails in one transaction.
    fn put(&mut self, world: &mut World<'_>, count: usize) {
        let to: Vec<String> = self
            .case
            .to
            .iter()
            .map(|name| format!("{name}@example.test"))
            .collect();
        let lines = if self.case.large { 130_000 } else { 1 };
        let from = self.ids.len() as i32 + 1;
        let query = "SELECT mail.enqueue($1, n::text, repeat(repeat('0123456', 9) || E'\\n', $2::int), queue => $3)
                     FROM generate_series($4::int, $5::int) AS n";
        let ids: Vec<i64> = world.all(
            query,
            &[
                &to.join(", "),
                &lines,
                &self.relay,
                &from,
                &(from + count as i32 - 1),
            ],
        );
        self.ids.extend(ids);
    }

    /// Enqueues the next mail when its time has come. True: the case has come to its end.
    fn goes_on(&mut self, world: &mut World<'_>) -> bool {
        let query =
            "SELECT bool_and(finished_at IS NOT NULL) FROM mail.messages WHERE id = ANY ($1)";
        if !world.one::<bool>(query, &[&self.ids]) {
            return false;
        }
        let (total, ready) = match self.case.mails {
            Mails::AtOnce(count) | Mails::InTurn(count) => (count, true),
            Mails::AfterClose(count) => (count, self.sink.open() == 0),
        };
        let over = self.ids.len() == total;
        if !over && ready {
            self.put(world, 1);
        }
        // A relay that takes mail is no longer in trouble.
        let up = "SELECT state = 'up' FROM mail.relay_stats WHERE relay = $1";
        let last_is_sent = self
            .case
            .ends
            .last()
            .is_some_and(|(state, _)| *state == "sent");
        over && (!last_is_sent || world.one(up, &[&self.relay]))
    }

    /// What is not as it should be.
    fn complaint(&self, world: &mut World<'_>) -> Option<String> {
        let mut wrong = Vec::new();
        let mut compare = |what: &str, is: String, should: String| {
            if is != should {
                wrong.push(format!("  {what}: {is}\n  not {should}"));
            }
        };
        let case = self.case;
        let ends: Vec<String> = world.all(
            "SELECT format('%s %s', state, attempts) FROM mail.messages WHERE id = ANY ($1) ORDER BY id",
            &[&self.ids],
        );
        let should = case.ends.iter().map(|(state, n)| format!("{state} {n}"));
        compare(
            "ends",
            ends.join(", "),
            should.collect::<Vec<_>>().join(", "),
        );
        let story = self.story(world);
        compare(
            "story",
            story.join("; "),
            told(&story, case.story).join("; "),
        );
        compare(
            "copies",
            format!("{:?}", self.copies()),
            format!("{:?}", case.copies),
        );
        let taken = self
            .sink
            .mails()
            .iter()
            .filter(|mail| !mail.recipients.is_empty())
            .count();
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        compare(
            "texts seen",
            seen.to_string(),
            case.seen.unwrap_or(taken).to_string(),
        );
        if let Some(connections) = case.connections {
            let is = self.sink.connections();
            compare("connections", is.to_string(), connections.to_string());
        }
        let trouble: Vec<String> = world.all(
            "SELECT format('%s after %s failures: %s', state, failures, last_error) FROM mail.relay_stats
             WHERE relay = $1 AND state <> 'up'",
            &[&self.relay],
        );
        if case.ends.last().is_some_and(|(state, _)| *state == "sent") {
            compare("trouble", trouble.join(", "), String::new());
        }
        (!wrong.is_empty()).then(|| {
            let events: Vec<String> = self.ids.iter().map(|id| world.story(*id)).collect();
            format!(
                "“{}”\n{}\n  events:\n{}\n  commands: {:?}",
                case.name,
                wrong.join("\n"),
                events.join("\n"),
                self.sink.commands()
            )
        })
    }

    /// The events as the table writes them.
    fn story(&self, world: &mut World<'_>) -> Vec<String> {
        let query = format!(
            "SELECT concat_ws(' ', CASE WHEN $2 THEN array_position($1, message_id) || ':' END,
                    CASE WHEN kind <> 'released' AND $3 THEN split_part(recipient, '@', 1) END, kind,
                    CASE WHEN kind <> 'released' THEN concat_ws(' ', code, phase) END)
             FROM mail.events WHERE message_id = ANY ($1) AND queue = {} ORDER BY message_id, id",
            quoted(&self.relay)
        );
        let several = (self.case.ends.len() > 1, self.case.to.len() > 1);
        world.all(&query, &[&self.ids, &several.0, &several.1])
    }

    /// How often each recipient's copy of each mail was accepted.
    fn copies(&self) -> Vec<usize> {
        let mails = self.sink.mails();
        let mut copies = Vec::new();
        for number in 1..=self.case.ends.len() {
            let subject = number.to_string();
            for name in self.case.to {
                let address = format!("{name}@example.test");
                let count = mails
                    .iter()
                    .filter(|mail| mail.header("Subject").as_deref() == Some(&subject))
                    .flat_map(|mail| &mail.recipients)
                    .filter(|recipient| **recipient == address)
                    .count();
                copies.push(count);
            }
        }
        copies
    }
}

/// What should have been told, in the words of what was where a `*` leaves them open.
fn told(is: &[String], should: &[&str]) -> Vec<String> {
    should
        .iter()
        .enumerate()
        .map(|(n, line)| match (line.strip_suffix('*'), is.get(n)) {
            (Some(begin), Some(line)) if line.starts_with(begin) => line.clone(),
            _ => (*line).to_owned(),
        })
        .collect()
}

/// The relay of a case.
fn sink(case: &'static Case, mode: Mode, seen: Arc<Mutex<usize>>) -> Sink {
    let mut extensions = vec!["8BITMIME", "ENHANCEDSTATUSCODES", "SIZE 52428800"];
    if mode == Mode::Pipelined {
        extensions.push("PIPELINING");
    }
    let used = Mutex::new(vec![0; case.relay.len()]);
    let script = move |event: &Event<'_>| {
        if event.phase == Phase::Dot && !event.recipients.is_empty() {
            *seen.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut steps = case.relay.iter().zip(used.iter_mut());
        let step = steps.find(|(step, used)| {
            step.at == event.phase && event.command.contains(step.naming) && **used < step.times
        });
        step.map_or(Action::Accept, |(step, used)| {
            *used += 1;
            step.does.action()
        })
    };
    Sink::builder()
        .extensions(&extensions)
        .script(script)
        .start()
}
