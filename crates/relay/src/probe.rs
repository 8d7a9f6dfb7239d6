//! One relay, tried on a person's behalf: a session of its own on a thread of its own, every line of it written down.
//! It knows nothing of the pool: no limit counts it, no rule decides about it, no connection is shared.
//!
//! Invariant: the conversation ends with a note that says in words what came of it.

use std::{
    convert::Infallible,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{self, RecvTimeoutError, TryRecvError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mail_smtp::{
    Endpoint, Message, Outcome, RecipientResult, Session, Timeouts, Transcript, TranscriptLine,
    Verdict, Who,
};
use tokio::sync::oneshot;

/// Nobody wants to watch for longer than this while nothing is said.
const LONGEST: Duration = Duration::from_secs(30);
/// How long [`Probe`]'s end may wait for its thread's.
const PATIENCE: Duration = Duration::from_millis(500);
const INTERNAL: &str = "internal error";

/// A trial that is under way. Dropping it ends it at once: the connection is closed without a word.
#[derive(Debug)]
pub struct Probe {
    transcript: Transcript,
    /// The thread ends when this is dropped.
    stop: Option<oneshot::Sender<Infallible>>,
    over: mpsc::Receiver<Vec<TranscriptLine>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Connects, is greeted, starts TLS and logs in as `endpoint` says, sends `message` if there is one, and says
    /// QUIT; no phase gets more than 30 s. `done` is called on the thread when [`Self::conversation`] has something
    /// to give, and must not block or panic. Signals are the caller's matter, as with [`crate::Pool::start`].
    ///
    /// # Errors
    /// When the thread or the runtime cannot be started.
    pub fn start(
        mut endpoint: Endpoint,
        message: Option<Message>,
        done: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        endpoint.timeouts = bounded(endpoint.timeouts);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let (sender, over) = mpsc::channel();
        let transcript = Transcript::new();
        let record = Record {
            began: Instant::now(),
            transcript: transcript.clone(),
            notes: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name("mail-probe".to_owned())
            .spawn(move || {
                let lines = catch_unwind(AssertUnwindSafe(|| {
                    runtime.block_on(async {
                        tokio::select! {
                            biased;
                            _ = stopped => None,
                            lines = converse(&endpoint, message.as_ref(), record) => Some(lines),
                        }
                    })
                }));
                // Waiting for a name that is being resolved would take as long as the resolver likes.
                runtime.shutdown_background();
                if let Ok(Some(lines)) = lines {
                    // Nobody listens any more where the trial was given up.
                    let _ = sender.send(lines);
                }
                drop(sender);
                done();
            })?;
        Ok(Self {
            transcript,
            stop: Some(stop),
            over,
            thread: Some(thread),
        })
    }

    /// The whole conversation, once it is over. To be asked until it has answered.
    pub fn conversation(&self) -> Option<Vec<TranscriptLine>> {
        match self.over.try_recv() {
            Ok(lines) => Some(lines),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                // A panic, which the thread has reported.
                let mut lines = self.transcript.lines();
                let elapsed = lines.last().map(|line| line.elapsed).unwrap_or_default();
                lines.push(TranscriptLine {
                    elapsed,
                    who: Who::Note,
                    text: INTERNAL.to_owned(),
                });
                Some(lines)
            }
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It ends at its next step. One that is kept by the file system is left to itself.
        let ended = match self.over.recv_timeout(PATIENCE) {
            Ok(_) | Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
        };
        if let Some(thread) = self.thread.take().filter(|_| ended) {
            // Its panics were caught.
            let _ = thread.join();
        }
    }
}

fn bounded(patience: Timeouts) -> Timeouts {
    Timeouts {
        connect: patience.connect.min(LONGEST),
        greeting: patience.greeting.min(LONGEST),
        command: patience.command.min(LONGEST),
        envelope: patience.envelope.min(LONGEST),
        data_init: patience.data_init.min(LONGEST),
        data_block: patience.data_block.min(LONGEST),
        data_done: patience.data_done.min(LONGEST),
    }
}

/// The conversation, and behind it what is to be said about it.
struct Record {
    began: Instant,
    transcript: Transcript,
    notes: Vec<TranscriptLine>,
}

impl Record {
    fn note(&mut self, text: &str) {
        self.notes.push(TranscriptLine {
            elapsed: self.began.elapsed(),
            who: Who::Note,
            text: text.to_owned(),
        });
    }

    fn lines(self) -> Vec<TranscriptLine> {
        let mut lines = self.transcript.lines();
        let same = |line: &TranscriptLine, note: &TranscriptLine| {
            line.who == Who::Note && line.text == note.text
        };
        for note in self.notes {
            // The session may have ended with the very words.
            if !lines.last().is_some_and(|line| same(line, &note)) {
                lines.push(note);
            }
        }
        lines
    }
}

async fn converse(
    endpoint: &Endpoint,
    message: Option<&Message>,
    mut record: Record,
) -> Vec<TranscriptLine> {
    let connected = Session::connect_recorded(endpoint, record.transcript.clone()).await;
    match (connected, message) {
        (Err(fault), _) => record.note(&fault.detail),
        (Ok(session), Some(message)) => send(session, message, &mut record).await,
        (Ok(session), None) => {
            session.quit().await;
            record.note("the relay takes mail, as far as can be told without sending any");
        }
    }
    record.lines()
}

async fn send(mut session: Session, message: &Message, record: &mut Record) {
    let (outcome, _) = session.send(&message, || None).await;
    session.quit().await;
    match outcome {
        Outcome::NotTried(fault) => record.note(&fault.detail),
        Outcome::Judged(results) => {
            for (recipient, result) in message.to.iter().zip(&results) {
                record.note(&format!("{recipient}: {}", judgement(result)));
            }
            record.note(verdict(&results));
        }
    }
}

/// What became of one recipient, in words.
fn judgement(result: &RecipientResult) -> String {
    let verdict = match result.verdict {
        Verdict::Delivered => "accepted",
        Verdict::Permanent => "refused",
        Verdict::Uncertain => "perhaps accepted",
        Verdict::Transient | Verdict::Untried => "not accepted for now",
    };
    let why = match (&result.reply, &result.detail) {
        (Some(reply), _) => format!("{} {}", reply.code, reply.text.replace('\n', " ")),
        (None, Some(detail)) => detail.clone(),
        (None, None) => return verdict.to_owned(),
    };
    format!("{verdict} ({})", why.trim_end())
}

/// What became of the message, in words.
fn verdict(results: &[RecipientResult]) -> &'static str {
    let any = |verdict| results.iter().any(|result| result.verdict == verdict);
    let all_delivered = results
        .iter()
        .all(|result| result.verdict == Verdict::Delivered);
    match (all_delivered, any(Verdict::Delivered)) {
        (true, _) => "the relay takes mail",
        (false, true) => "the relay takes mail, but not for all of these recipients",
        (false, false) if any(Verdict::Uncertain) => {
            "the relay may have accepted the message, but did not say so"
        }
        (false, false) => "the relay did not accept the message",
    }
}
