//! Maildirs, as the real mail servers deliver into them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wait::eventually;

/// The domain that the mail servers of the tests deliver for.
pub const DOMAIN: &str = "example.test";
/// Who has a mailbox there.
pub const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// Who may log in, and with what password.
pub const LOGIN: (&str, &str) = ("app", "s3cret pass");

/// The files in a maildir's `new`, oldest first.
pub(crate) fn mails(maildir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(maildir.join("new")) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    files
        .iter()
        .filter_map(|(_, path): &(_, PathBuf)| fs::read(path).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}

/// Waits until a maildir holds that many mails.
#[track_caller]
pub(crate) fn wait_for(maildir: &Path, count: usize) -> Vec<String> {
    let what = format!("{count} mails in {}", maildir.display());
    eventually(&what, Duration::from_secs(30), || {
        let mails = mails(maildir);
        (mails.len() >= count).then_some(mails)
    })
}
