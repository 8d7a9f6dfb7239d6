//! Cleaning up, even after a test process that was killed.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Runs a shell script when it is dropped, or when this process ends in whatever way: the script
/// waits in a process of its own for the end of a pipe that only we hold open. A shared server in a
/// `static`, which is never dropped, is ended like this too.
pub struct Guard {
    child: Child,
}

impl Guard {
    /// Starts the guard. `arguments` are `$1`, `$2`, … in the script.
    pub fn new(script: &str, arguments: &[&str]) -> Self {
        Self::around(":", script, arguments)
    }

    /// A guard whose shell runs `before` first: what that starts in the background is its child, and
    /// can be waited for in the `script`.
    pub fn around(before: &str, script: &str, arguments: &[&str]) -> Self {
        let child = Command::new("/bin/sh")
            .arg("-c")
            // An interrupt at the terminal is for the tests, not for what cleans up after them.
            .arg(format!(
                "trap '' INT HUP; {before}\ncat >/dev/null\n{script}"
            ))
            .arg("guard")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("/bin/sh starts");
        Self { child }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A temporary folder that others can enter, removed in the end unless `PGMQ_MAIL_KEEP` is set.
/// Its path is short: Unix sockets in it must fit into 107 bytes.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Creates an empty folder below `TMPDIR` (default `/tmp`).
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("pgmq-{name}-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a fresh folder can be created");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is, as text.
    pub fn text(&self) -> &str {
        self.path.to_str().expect("temporary paths are UTF-8")
    }

    /// Writes a file that everybody can read, creating the folders on the way, and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().expect("it is below the folder")).expect("writable");
        let mut file = fs::File::create(&path).expect("writable");
        file.write_all(content.as_ref()).expect("writable");
        file.set_permissions(fs::Permissions::from_mode(0o644))
            .expect("it is ours");
        path
    }

    /// The shell command that removes the folder `$1`, or that keeps it; `$2` is what makes a command
    /// run as root, if anything.
    pub(crate) fn removal() -> &'static str {
        if keep() { ":" } else { r#"$2 rm -rf "$1""# }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if keep() {
            eprintln!("kept {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn keep() -> bool {
    std::env::var_os("PGMQ_MAIL_KEEP").is_some()
}
