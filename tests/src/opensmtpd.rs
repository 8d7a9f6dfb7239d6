//! A private OpenSMTPD.

use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::certificates::Certificates;
use crate::guard::{Folder, Guard};
use crate::mailbox::{self, DOMAIN, LOGIN, USERS};
use crate::process::{can_be_root, free_port, how_to_be_root, is_root, run, unprivileged};

const CONFIG: &str = r#"
pki test cert "/etc/server.pem"
pki test key "/etc/server.key"
table credentials file:/etc/credentials
table users file:/etc/users
listen on 127.0.0.1 port {port} tls pki test auth-optional <credentials>
listen on 127.0.0.1 port {submission} tls-require pki test auth <credentials>
listen on 127.0.0.1 port {smtps} smtps pki test auth <credentials>
action "inbox" maildir "/mail/%{rcpt.user}" virtual <users>
match from any for domain "{domain}" action "inbox"
"#;

const PASSWD: &str = "\
root:x:0:0:root:/:/bin/sh
opensmtpd:x:201:201::/var/lib/opensmtpd/empty:/bin/false
opensmtpq:x:202:202::/var/lib/opensmtpd/empty:/bin/false
vmail:x:{uid}:{gid}::/mail:/bin/sh
";

const GROUP: &str = "\
root:x:0:
opensmtpd:x:201:
opensmtpq:x:202:
vmail:x:{gid}:
";

/// `$1` is the folder, `$2` how to become root, `$3` the unpacked package.
const START: &str = r#"$2 sh "$1/run.sh" "$1" "$3" >"$1/log" 2>&1 </dev/null & server=$!"#;
const STOP: &str = r#"$2 kill "$server"; wait "$server""#;

/// An OpenSMTPD from Debian's package, which delivers for [`USERS`] at [`DOMAIN`] and for nobody
/// else. The package conflicts with Postfix's: it is unpacked, not installed.
pub struct OpenSmtpd {
    port: u16,
    submission: u16,
    smtps: u16,
    _guard: Guard,
    folder: Folder,
}

impl OpenSmtpd {
    /// Whether there is what it needs: the unpacked package, and root's rights.
    pub fn is_available() -> bool {
        package().join("usr/sbin/smtpd").exists() && can_be_root()
    }

    /// Starts one; it answers on all its ports when this returns.
    pub fn start(certificates: &Certificates) -> Self {
        let folder = Folder::new("opensmtpd");
        let (port, submission, smtps) = (free_port(), free_port(), free_port());
        let (uid, gid) = unprivileged();
        let filled = |text: &str| {
            text.replace("{domain}", DOMAIN)
                .replace("{uid}", &uid.to_string())
                .replace("{gid}", &gid.to_string())
                .replace("{port}", &port.to_string())
                .replace("{submission}", &submission.to_string())
                .replace("{smtps}", &smtps.to_string())
        };
        certificates.write(&folder, "etc");
        folder.write("etc/smtpd.conf", filled(CONFIG));
        folder.write("etc/passwd", filled(PASSWD));
        folder.write("etc/group", filled(GROUP));
        folder.write(
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n",
        );
        folder.write("etc/hosts", "127.0.0.1 localhost\n");
        folder.write("etc/resolv.conf", "");
        folder.write("etc/mailname", "opensmtpd.test\n");
        let users = USERS.map(|user| format!("{user}@{DOMAIN} vmail\n"));
        folder.write("etc/users", users.concat());
        let mut hash = Command::new("openssl");
        hash.args(["passwd", "-6", LOGIN.1]);
        let hash = run(&mut hash, Duration::from_secs(10)).stdout;
        let hash = String::from_utf8(hash).expect("crypt's alphabet is ASCII");
        folder.write("etc/credentials", format!("{} {hash}", LOGIN.0));
        let shim = folder.write("opensmtpd.c", include_str!("../servers/opensmtpd.c"));
        run(
            Command::new("cc")
                .args(["-shared", "-fPIC", "-O1", "-o"])
                .arg(folder.path().join("etc/shim.so"))
                .arg(shim),
            Duration::from_mins(1),
        );
        folder.write("run.sh", include_str!("../servers/opensmtpd.sh"));
        let mail = folder.path().join("mail");
        std::fs::create_dir(&mail).expect("writable");
        if is_root() {
            chown(&mail, Some(uid), Some(gid)).expect("root may");
        }

        let package = package();
        let guard = Guard::around(
            START,
            &format!("{STOP}; {}", Folder::removal()),
            &[
                folder.text(),
                how_to_be_root(),
                package.to_str().expect("a path in UTF-8"),
            ],
        );
        let this = Self {
            port,
            submission,
            smtps,
            _guard: guard,
            folder,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        for port in [port, submission, smtps] {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(
                    Instant::now() < deadline,
                    "OpenSMTPD does not listen:\n{}",
                    this.log()
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        this
    }

    /// Takes mail without a login; STARTTLS is offered, and AUTH under it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Takes mail only under STARTTLS and after AUTH.
    pub fn submission(&self) -> u16 {
        self.submission
    }

    /// Speaks TLS from the first byte, and takes mail only after AUTH.
    pub fn smtps(&self) -> u16 {
        self.smtps
    }

    /// What has been delivered to a user, oldest first.
    pub fn mailbox(&self, user: &str) -> Vec<String> {
        mailbox::mails(&self.folder.path().join("mail").join(user))
    }

    /// Waits until a user has that many mails.
    #[track_caller]
    pub fn wait_for(&self, user: &str, count: usize) -> Vec<String> {
        mailbox::wait_for(&self.folder.path().join("mail").join(user), count)
    }

    /// Its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

fn package() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("it is in the workspace");
    root.join("target/opensmtpd")
}
