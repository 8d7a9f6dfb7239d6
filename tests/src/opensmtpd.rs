//! A private OpenSMTPD. The package conflicts with Postfix's: it is unpacked, not installed.

use std::process::Command;
use std::time::Duration;

use crate::certificates::Certificates;
use crate::mail_server::{MailServer, Make, Setup, package};
use crate::mailbox::{DOMAIN, LOGIN, USERS};
use crate::process::{can_be_root, run};

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

/// Whether there is what it needs: the unpacked package, and root's rights.
pub(crate) fn is_available() -> bool {
    package(Make::OpenSmtpd).join("usr/sbin/smtpd").exists() && can_be_root()
}

/// Starts one.
pub(crate) fn start(certificates: &Certificates) -> MailServer {
    let setup = Setup::new(Make::OpenSmtpd, certificates);
    setup.write("etc/smtpd.conf", CONFIG);
    setup.write("etc/passwd", PASSWD);
    setup.write("etc/group", GROUP);
    setup.write("etc/mailname", "opensmtpd.test\n");
    let users = USERS.map(|user| format!("{user}@{DOMAIN} vmail\n"));
    setup.write("etc/users", &users.concat());
    let mut hash = Command::new("openssl");
    hash.args(["passwd", "-6", LOGIN.1]);
    let hash = run(&mut hash, Duration::from_secs(10)).stdout;
    let hash = String::from_utf8(hash).expect("crypt's alphabet is ASCII");
    setup.write("etc/credentials", &format!("{} {hash}", LOGIN.0));
    let shim = include_str!("../servers/opensmtpd.c");
    let shim = setup.folder.write("opensmtpd.c", shim);
    run(
        Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(setup.folder.path().join("etc/shim.so"))
            .arg(shim),
        Duration::from_mins(1),
    );
    setup.start_unpacked(include_str!("../servers/opensmtpd.sh"))
}
