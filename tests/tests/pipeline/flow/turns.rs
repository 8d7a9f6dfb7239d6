//! Many queues with more mail than may be in flight: they take turns, and each gets all of its mail.

use std::collections::HashMap;

use pgmq_mail_tests::{Cluster, Sink, run_sql};

use crate::world::options;
use crate::{SOON, World};

const QUEUES: i32 = 150;
const EACH: i32 = 6;

#[test]
fn more_queues_than_may_be_in_flight_all_get_their_mail_once_and_soon() {
    let cluster = Cluster::with(&options().setting("pgmq_mail.max_in_flight", "40"));
    let sink = Sink::start();
    let mut world = World::on(&cluster);
    world.relay("main", &sink.url(), &[]);
    run_sql(
        &mut world.client,
        &format!(
            "INSERT INTO mail.queue (name, transport, default_sender)
             SELECT 'q' || n, 'smtp', 'app@example.test' FROM generate_series(1, {QUEUES}) n;
             SELECT count(mail.enqueue('a@q' || q || '.test', 'Mail ' || n, 'x', queue => 'q' || q))
             FROM generate_series(1, {EACH}) n, generate_series(1, {QUEUES}) q"
        ),
    );
    let count = usize::try_from(QUEUES * EACH).unwrap();
    let mails = sink.wait_for(count, SOON);
    let mut of_queue: HashMap<String, Vec<usize>> = HashMap::new();
    for (place, mail) in mails.iter().enumerate() {
        of_queue
            .entry(mail.recipients[0].clone())
            .or_default()
            .push(place);
    }
    assert_eq!(of_queue.len(), usize::try_from(QUEUES).unwrap());
    assert!(
        of_queue
            .values()
            .all(|places| places.len() == usize::try_from(EACH).unwrap())
    );
    // Nobody had all of its mail before others had any: the last queue's first is not among the last.
    let last_first = of_queue.values().map(|places| places[0]).max().unwrap();
    assert!(
        last_first < count - QUEUES as usize,
        "{last_first} of {count}"
    );
}
