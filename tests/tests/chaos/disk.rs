//! A disk that is full while mail is accepted, and while its end is to be recorded.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgmq_mail_tests::{ClusterOptions, Dice, SOON, eventually, seed, until};

use crate::arena::Arena;
use crate::verdict;

/// How much the file system holds, in megabytes.
const SIZE: u32 = 320;

/// What keeps the space from the server.
struct Filler(PathBuf);

impl Filler {
    fn new(arena: &Arena) -> Self {
        let folder = arena.cluster.data().parent().expect("it is in a folder");
        Self(folder.join("filler"))
    }

    /// Takes all space but so many kilobytes, piece by piece: the server takes some, too.
    fn grow(&self, left: u64) {
        let folder = self.0.parent().expect("it is in a folder");
        let file = fs::File::create(&self.0).expect("a file of its own");
        let mut size = 0;
        loop {
            let status = nix::sys::statvfs::statvfs(folder).expect("it is mounted");
            let free = status.blocks_available() as u64 * status.fragment_size() as u64;
            let piece = free.saturating_sub(left * 1024).min(1 << 20) as i64;
            if piece == 0 || nix::fcntl::posix_fallocate(&file, size, piece).is_err() {
                return;
            }
            size += piece;
        }
    }

    fn free(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_full_disk_loses_nothing() {
    let mut dice = Dice::new(seed());
    let options = ClusterOptions::new()
        .fsync(true)
        .disk(SIZE)
        .setting("min_wal_size", "32MB")
        .setting("max_wal_size", "48MB")
        .setting("shared_buffers", "16MB");
    let mut arena = Arena::with(&options, "");
    let filler = Filler::new(&arena);
    let stop = Arc::new(AtomicBool::new(false));
    let producers = arena.produce(&mut dice, &stop);
    for round in 0..6 {
        let before = arena.ledger.committed();
        until("mail is accepted", SOON, || {
            arena.ledger.committed() > before + 50
        });
        filler.grow(dice.below(4000));
        if round % 2 == 0 {
            // Nothing is accepted any more, or the server has even ended: either is PostgreSQL's way.
            let halted = || {
                let before = arena.ledger.committed();
                std::thread::sleep(Duration::from_millis(300));
                arena.ledger.committed() == before
            };
            until("the disk is full", 4 * SOON, halted);
        } else {
            std::thread::sleep(Duration::from_millis(dice.below(500)));
        }
        filler.free();
        arena.relay.collect();
        eventually("the server is back", 4 * SOON, || {
            arena.cluster.revive();
            arena.try_connect()
        });
    }
    stop.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.join().expect("no producer saw what must not be");
    }
    assert!(
        arena.cluster.log().contains("No space left on device"),
        "the disk was full"
    );
    eprintln!("{}", verdict::reach(&mut arena));
}
