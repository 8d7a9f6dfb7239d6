//! The handle to the network thread.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::mpsc as std_mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::LocalSet,
    time::{Instant, sleep_until},
};

use crate::{
    Config, Job, Report, Settings,
    domain::Domain,
    hub::{Hub, STOPPING},
    ticket::{Reporter, Ticket},
};

/// What is left for tasks to end in once they were told that there is no more patience.
const LAST_MOMENT: Duration = Duration::from_millis(100);

enum Command {
    Submit(Vec<Job>),
    Configure(Config),
    Stop(Duration),
}

/// Connections to all relays, on a thread of their own. Dropping it is [`Pool::stop`] without grace.
#[derive(Debug)]
pub struct Pool {
    commands: UnboundedSender<Command>,
    thread: JoinHandle<()>,
    /// Ends when the thread does.
    ended: std_mpsc::Receiver<()>,
}

impl Pool {
    /// Starts the network thread: a current-thread tokio runtime. `report` is called on that thread
    /// for every [`Report`] and must not block or panic. Signals are the caller's matter: the thread,
    /// and those that it starts to resolve names, inherit the mask of blocked ones.
    ///
    /// # Errors
    /// When the thread or the runtime cannot be started.
    pub fn start(report: impl Fn(Report) + Send + 'static, settings: Settings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let (alive, ended) = std_mpsc::channel();
        let thread = thread::Builder::new()
            .name("mail-relay".to_owned())
            .spawn(move || {
                let _alive: std_mpsc::Sender<()> = alive;
                let reporter: Reporter = Rc::new(report);
                network(runtime, receiver, &reporter, settings);
            })?;
        Ok(Self {
            commands,
            thread,
            ended,
        })
    }

    /// Hands over jobs. Never blocks; the caller bounds what is in flight. Each ends in exactly one
    /// [`Report::Finished`], unless it is submitted after the thread ended.
    pub fn submit(&self, jobs: Vec<Job>) {
        self.command(Command::Submit(jobs));
    }

    /// Replaces the configuration. Unchanged relays keep their connections; changed ones finish what is
    /// in flight and connect anew, for which the old connections do not count; the waiting jobs of
    /// removed ones are returned.
    pub fn configure(&self, config: Config) {
        self.command(Command::Configure(config));
    }

    /// Ends the thread: jobs that wait are returned at once, those in flight get `grace` and are then
    /// abandoned: as uncertain if they may have been accepted, as returned otherwise. A further call
    /// can only shorten the grace.
    pub fn stop(&self, grace: Duration) {
        self.command(Command::Stop(grace));
    }

    /// Waits for the thread to end after [`Pool::stop`]. False if it did not in time; it is then left
    /// to itself.
    pub fn join(self, timeout: Duration) -> bool {
        drop(self.commands);
        match self.ended.recv_timeout(timeout) {
            Err(std_mpsc::RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(std_mpsc::RecvTimeoutError::Disconnected) => {
                // A panic of the thread has been dealt with and said by then.
                let _ = self.thread.join();
                true
            }
        }
    }

    fn command(&self, command: Command) {
        // The receiver is gone only once the thread has ended, with every job reported.
        let _ = self.commands.send(command);
    }
}

fn network(
    runtime: tokio::runtime::Runtime,
    mut commands: UnboundedReceiver<Command>,
    reporter: &Reporter,
    settings: Settings,
) {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let local = LocalSet::new();
        local.block_on(&runtime, serve(&mut commands, reporter, settings));
    }));
    if ended.is_err() {
        // A bug. The jobs at work were reported when they were dropped; those still to come must be, too.
        refuse(&mut commands, reporter);
    }
    // Waiting for a name that is being resolved would take as long as the resolver likes.
    runtime.shutdown_background();
}

/// After a panic of the hub: gives every job back until told to stop.
fn refuse(commands: &mut UnboundedReceiver<Command>, reporter: &Reporter) {
    while let Some(command) = commands.blocking_recv() {
        match command {
            Command::Submit(jobs) => give_back(jobs, reporter, "internal error"),
            Command::Configure(_) => {}
            Command::Stop(_) => return,
        }
    }
}

fn give_back(jobs: Vec<Job>, reporter: &Reporter, why: &str) {
    let now = Instant::now();
    for job in jobs {
        let domain = Domain::new(String::new(), None);
        Ticket::new(job, domain, Rc::clone(reporter), now).give_back(why);
    }
}

/// Sees to it that connection tasks that are dropped with the runtime start no others.
struct StopOnDrop(Rc<Hub>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stopping.set(true);
    }
}

async fn serve(commands: &mut UnboundedReceiver<Command>, reporter: &Reporter, settings: Settings) {
    let hub = Hub::new(Rc::clone(reporter), settings);
    let _guard = StopOnDrop(Rc::clone(&hub));
    let keeper = tokio::task::spawn_local(Rc::clone(&hub).keep());
    let grace = loop {
        match commands.recv().await {
            Some(Command::Submit(jobs)) => hub.submit(jobs).await,
            Some(Command::Configure(config)) => hub.configure(config),
            Some(Command::Stop(grace)) => break grace,
            None => break Duration::ZERO,
        }
    };
    keeper.abort();
    hub.stop();
    finish(&hub, commands, grace, reporter).await;
    commands.close();
    while let Some(command) = commands.recv().await {
        if let Command::Submit(jobs) = command {
            give_back(jobs, reporter, STOPPING);
        }
    }
}

/// Waits until the last connection ended, at most for the grace.
async fn finish(
    hub: &Hub,
    commands: &mut UnboundedReceiver<Command>,
    grace: Duration,
    reporter: &Reporter,
) {
    let mut deadline = Instant::now() + grace;
    let mut listening = true;
    while hub.tasks.get() > 0 {
        tokio::select! {
            biased;
            () = hub.quiet.notified() => {}
            () = sleep_until(deadline) => {
                if hub.abandoned.get() {
                    return;
                }
                hub.abandon();
                deadline = Instant::now() + LAST_MOMENT;
            }
            command = commands.recv(), if listening => match command {
                Some(Command::Submit(jobs)) => give_back(jobs, reporter, STOPPING),
                Some(Command::Stop(grace)) => deadline = deadline.min(Instant::now() + grace),
                Some(Command::Configure(_)) => {}
                None => listening = false,
            },
        }
    }
}
