//! Private mail servers, real ones: what those of all makes have in common.

use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::certificates::Certificates;
use crate::guard::{Folder, Guard};
use crate::mailbox::{self, DOMAIN};
use crate::process::{as_root, free_port, how_to_be_root, is_root, run, unprivileged};
use crate::{exim, opensmtpd, postfix};

/// Who made a mail server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// Installed from Debian's package.
    Postfix,
    /// From Debian's package, unpacked below `target`.
    OpenSmtpd,
    /// From Debian's package, unpacked below `target`.
    Exim,
}

impl Make {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postfix => "Postfix",
            Self::OpenSmtpd => "OpenSMTPD",
            Self::Exim => "Exim",
        }
    }

    /// Whether there is what it needs: the programs, and root's rights.
    pub fn is_available(self) -> bool {
        match self {
            Self::Postfix => postfix::is_available(),
            Self::OpenSmtpd => opensmtpd::is_available(),
            Self::Exim => exim::is_available(),
        }
    }

    /// Starts one; it answers on all its ports when this returns.
    pub fn start(self, certificates: &Certificates) -> MailServer {
        match self {
            Self::Postfix => postfix::start(certificates),
            Self::OpenSmtpd => opensmtpd::start(certificates),
            Self::Exim => exim::start(certificates),
        }
    }
}

/// A mail server with queue, configuration and mailboxes of its own, which delivers for
/// [`USERS`](crate::USERS) at [`DOMAIN`] and for nobody else: unknown recipients are refused at RCPT.
pub struct MailServer {
    make: Make,
    ports: Ports,
    _guard: Guard,
    folder: Folder,
}

impl MailServer {
    /// Who made it.
    pub fn make(&self) -> Make {
        self.make
    }

    /// Takes mail without a login; STARTTLS is offered, and AUTH under it.
    pub fn port(&self) -> u16 {
        self.ports.plain
    }

    /// Takes mail only under STARTTLS and after AUTH.
    pub fn submission(&self) -> u16 {
        self.ports.submission
    }

    /// Speaks TLS from the first byte, and takes mail only after AUTH.
    pub fn smtps(&self) -> u16 {
        self.ports.smtps
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
        let mut print = as_root("sh");
        print.args(["-c", r#"cat "$0"/log/*"#, self.folder.text()]);
        let output = run(&mut print, Duration::from_secs(5));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Where it listens on 127.0.0.1.
struct Ports {
    plain: u16,
    submission: u16,
    smtps: u16,
}

/// A mail server that is being set up.
pub(crate) struct Setup {
    make: Make,
    ports: Ports,
    pub(crate) folder: Folder,
}

impl Setup {
    /// A folder with the certificates in `etc` and with an empty `mail` and `log`, and ports that are free.
    pub(crate) fn new(make: Make, certificates: &Certificates) -> Self {
        let folder = Folder::new(&make.name().to_ascii_lowercase());
        certificates.write(&folder, "etc");
        let ports = Ports {
            plain: free_port(),
            submission: free_port(),
            smtps: free_port(),
        };
        let this = Self {
            make,
            ports,
            folder,
        };
        for name in ["mail", "log"] {
            this.writable(name);
        }
        this
    }

    /// Creates a folder that belongs to whom the delivered mail belongs to.
    fn writable(&self, name: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir(&path).expect("writable");
        if is_root() {
            let (uid, gid) = unprivileged();
            chown(path, Some(uid), Some(gid)).expect("root may");
        }
    }

    /// Writes a file in which `{…}` are filled in.
    pub(crate) fn write(&self, name: &str, template: &str) {
        let (uid, gid) = unprivileged();
        let text = template
            .replace("{folder}", self.folder.text())
            .replace("{domain}", DOMAIN)
            .replace("{uid}", &uid.to_string())
            .replace("{gid}", &gid.to_string())
            .replace("{port}", &self.ports.plain.to_string())
            .replace("{submission}", &self.ports.submission.to_string())
            .replace("{smtps}", &self.ports.smtps.to_string());
        self.folder.write(name, text);
    }

    /// Starts the server of an unpacked package in a root directory of its own (`servers/chroot.sh`),
    /// with the script `inside` for what is special about it.
    pub(crate) fn start_unpacked(self, inside: &str) -> MailServer {
        /// `$1` is the folder, `$2` how to become root, `$3` the unpacked package.
        const START: &str =
            r#"$2 sh "$1/chroot.sh" "$1" "$3" >"$1/log/output" 2>&1 </dev/null & server=$!"#;
        const STOP: &str = r#"$2 kill "$server"; wait "$server""#;

        self.folder
            .write("chroot.sh", include_str!("../servers/chroot.sh"));
        self.folder.write("inside.sh", inside);
        self.write(
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n",
        );
        self.write("etc/hosts", "127.0.0.1 localhost\n");
        self.write("etc/resolv.conf", "");
        let package = package(self.make);
        let guard = Guard::around(
            START,
            &format!("{STOP}; {}", Folder::removal()),
            &[
                self.folder.text(),
                how_to_be_root(),
                package.to_str().expect("a path in UTF-8"),
            ],
        );
        self.started(guard)
    }

    /// The server, once it listens on all its ports.
    pub(crate) fn started(self, guard: Guard) -> MailServer {
        let this = MailServer {
            make: self.make,
            ports: self.ports,
            _guard: guard,
            folder: self.folder,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        for port in [this.port(), this.submission(), this.smtps()] {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(
                    Instant::now() < deadline,
                    "{} does not listen:\n{}",
                    this.make.name(),
                    this.log()
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        this
    }
}

/// Where `scripts/install-deps` unpacks the package.
pub(crate) fn package(make: Make) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("it is in the workspace");
    root.join("target").join(make.name().to_ascii_lowercase())
}
