//! A relay that is tried again after trouble, while another one works.

use std::time::Duration;

use pgmq_mail_tests::{Action, Phase, Sink};

use crate::World;

#[test]
fn while_a_relay_is_tried_again_the_others_go_on() {
    // Refuses at first; then takes connections and says nothing, as an overloaded host does.
    let first = Sink::scripted(|event| match (event.phase, event.connection) {
        (Phase::Connect, 0) => Action::ReplyAndDrop("421 4.3.2 Going down".to_owned()),
        _ => Action::Silence,
    });
    let spare = Sink::start();
    let mut world = World::new();
    world.relay("first", &first.url(), &[("tier", "1")]);
    world.relay("spare", &spare.url(), &[("tier", "2")]);
    let id = world.put("alice@example.test", "to the spare one", "");
    world.reaches(id, "sent");
    // The pause is over as soon as somebody is sent to try.
    pgmq_mail_tests::until("the first relay is tried again", crate::SOON, || {
        world.put("alice@example.test", "a try", "");
        std::thread::sleep(Duration::from_millis(20));
        first.connections() >= 2
    });
    let before = spare.count();
    let ids = world.put_many(50, "");
    for id in ids {
        world.reaches(id, "sent");
    }
    assert!(spare.count() >= before + 50);
}
